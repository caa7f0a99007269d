//! Reads user names and passwords, and keeps their source, so that respgate can read them again when they rotate.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::files;
use crate::secret::{Credentials, Secret};

/// The longest file with a password or a user name, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file's content, without the newline at its end.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
    /// The first line of the output of a program. The list holds the program and its arguments.
    Command(Vec<String>),
}

/// Where a user's name comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// The configuration contains the name.
    Given(String),
    /// A file's content, without the newline at its end.
    File(PathBuf),
}

/// Where a password comes from, or the password itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// The password was part of a URL.
    Held(Secret),
    /// A source from which the password can be read again.
    Read(SecretSource),
}

/// Where a user's name and password come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialSource {
    /// The source of the user's name; `None` stands for the server's `default` user.
    pub username: Option<NameSource>,
    /// The source of the password.
    pub password: PasswordSource,
    /// The lifetime of a password that a program prints: respgate runs the program again before it ends.
    pub refresh: Duration,
}

/// The credentials with which respgate authenticates to servers, for itself or for one of its users.
#[derive(Clone, Debug)]
pub struct Account {
    /// The credentials as read with the configuration; `None` if a program prints the password.
    pub credentials: Option<Credentials>,
    /// The source from which to read them again.
    pub source: CredentialSource,
}

impl PartialEq for Account {
    /// Returns true if both have the same source. The credentials themselves do not count, because they may rotate.
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Account {}

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl CredentialSource {
    /// Returns the files that hold the user's name or the password.
    pub fn files(&self) -> Vec<PathBuf> {
        let name = match &self.username {
            Some(NameSource::File(path)) => Some(path.clone()),
            _ => None,
        };
        let password = match &self.password {
            PasswordSource::Read(SecretSource::File(path)) => Some(path.clone()),
            _ => None,
        };
        name.into_iter().chain(password).collect()
    }

    /// Returns the program that prints the password, and its arguments.
    pub fn command(&self) -> Option<&[String]> {
        match &self.password {
            PasswordSource::Read(SecretSource::Command(arguments)) => Some(arguments),
            _ => None,
        }
    }

    /// Reads the user's name and the password, unless a program prints the password.
    ///
    /// # Errors Returns a text that says what cannot be read, why, and what to do. It contains no part of the password.
    pub fn read(&self, env: Env<'_>) -> Result<Credentials, String> {
        let password = match &self.password {
            PasswordSource::Held(password) => password.clone(),
            PasswordSource::Read(source) => source.read(env)?,
        };
        self.with(password)
    }

    /// Returns the user with this password.
    ///
    /// # Errors Returns the reason if the user's name cannot be read.
    pub fn with(&self, password: Secret) -> Result<Credentials, String> {
        Ok(Credentials { username: self.name()?, password })
    }

    /// Reads the user's name.
    ///
    /// # Errors Returns the reason if it cannot be read.
    pub fn name(&self) -> Result<Option<String>, String> {
        match &self.username {
            None => Ok(None),
            Some(NameSource::Given(name)) => Ok(Some(name.clone())),
            Some(NameSource::File(path)) => read_name(path).map(Some),
        }
    }
}

impl SecretSource {
    /// Reads the password.
    ///
    /// # Errors Returns the reason why there is no password, and what to do. The text contains no part of it.
    pub fn read(&self, env: Env<'_>) -> Result<Secret, String> {
        match self {
            Self::File(path) => read_file(path, "password"),
            Self::Command(_) => Err("what a program prints is only known when it has been run".into()),
            Self::Env(name) => match env(name) {
                Some(value) if !value.is_empty() => Ok(Secret::new(value.into_vec())),
                _ => Err(format!("the environment variable {name} is not set")),
            },
        }
    }

    /// Returns a warning about a source that is readable but not safe.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::File(path) => {
                files::metadata(path).is_ok_and(|data| readable_by_all(data.mode())).then(|| {
                    format!("{} can be read by every user of this machine; chmod 600 it", path.display())
                })
            }
            Self::Env(_) | Self::Command(_) => None,
        }
    }
}

/// The shortest token for control, in bytes.
const SHORTEST_TOKEN: usize = 16;

/// The token that permits control, and the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlToken {
    /// The path of the file.
    pub path: PathBuf,
    /// The file's content, without the newline at its end.
    pub token: Secret,
}

impl ControlToken {
    /// Reads the token from its file.
    ///
    /// # Errors
    /// Returns a text that says what cannot be read, or that the token is too short, and what to do.
    pub fn read(path: PathBuf) -> Result<Self, String> {
        let token = read_file(&path, "token")?;
        if token.expose().len() < SHORTEST_TOKEN {
            return Err(format!(
                "{} holds fewer than {SHORTEST_TOKEN} bytes, which can be guessed; make a token with openssl rand -hex 32",
                path.display()
            ));
        }
        Ok(Self { path, token })
    }

    /// Returns a warning if every user of the machine can read the file.
    pub fn warning(&self) -> Option<String> {
        SecretSource::File(self.path.clone()).warning()
    }
}

/// Returns true if the permission bits let every user read.
pub fn readable_by_all(mode: u32) -> bool {
    mode & 0o004 != 0
}

fn read_name(path: &Path) -> Result<String, String> {
    let name = read_file(path, "user's name")?;
    let name =
        std::str::from_utf8(name.expose()).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    Ok(name.to_owned())
}

/// Returns the content of a file that holds one line. `what` names the content in error texts.
fn read_file(path: &Path, what: &str) -> Result<Secret, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot read {}: {why}", path.display());
    let file = files::open(path).map_err(|error| cannot(&error))?;
    let length = file.metadata().map_err(|error| cannot(&error))?.len();
    // Reserve the capacity at once, so that no reallocation leaves an unwiped copy behind.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(length.min(MAX_FILE)).unwrap_or(0) + 64));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is longer than 64KiB; it should hold one {what}", path.display()));
    }
    let trimmed = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Err(format!("{} is empty; it should hold the {what}", path.display()));
    }
    Ok(Secret::new(trimmed))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(content: &[u8]) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, content).unwrap();
        SecretSource::File(path).read(&|_| None).map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn one_newline_at_the_end_is_not_part_of_a_password() {
        assert_eq!(read(b"a b\n").as_deref(), Ok(&b"a b"[..]));
        assert_eq!(read(b"ab\r\n").as_deref(), Ok(&b"ab"[..]));
        assert_eq!(read(b" ab \n\n").as_deref(), Ok(&b" ab \n"[..]));
        assert_eq!(read(b"\xff").as_deref(), Ok(&b"\xff"[..]));
    }

    #[test]
    fn a_short_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "0123456789abcde\n").unwrap();
        assert!(ControlToken::read(path.clone()).is_err_and(|error| error.contains("fewer than 16 bytes")));
        fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(ControlToken::read(path).map(|read| read.token), Ok(Secret::new("0123456789abcdef")));
    }

    #[test]
    fn errors_name_their_cause() {
        assert!(read(b"\n").is_err_and(|error| error.contains("is empty")));
        assert!(read(&[b'x'; 64 * 1024 + 1]).is_err_and(|error| error.contains("longer than 64KiB")));
        assert!(read(&[b'x'; 64 * 1024]).is_ok());
        let absent = SecretSource::File("/nonexistent/password".into()).read(&|_| None);
        assert!(absent.is_err_and(|error| error.contains("cannot read /nonexistent/password")));
        let folder = SecretSource::File("/".into()).read(&|_| None);
        assert!(folder.is_err_and(|error| error.contains("cannot read /")));
        let unset = SecretSource::Env("NOPE".into()).read(&|_| None);
        assert!(unset.is_err_and(|error| error == "the environment variable NOPE is not set"));
    }
}
