//! Where passwords come from. The source is kept, so that a password can be read again when it rotates.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::secret::Secret;

/// The longest password file.
const MAX_FILE: u64 = 64 * 1024;

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file's content, without the newline at its end.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl SecretSource {
    /// Reads the password.
    ///
    /// # Errors
    /// Why there is none and what to do; never a part of it.
    pub fn read(&self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Secret, String> {
        match self {
            Self::File(path) => read_file(path),
            Self::Env(name) => match env(name) {
                Some(value) if !value.is_empty() => Ok(Secret::new(value.into_vec())),
                _ => Err(format!("the environment variable {name} is not set")),
            },
        }
    }

    /// What is doubtful about a source that can be read.
    pub fn doubt(&self) -> Option<String> {
        match self {
            Self::File(path) => {
                std::fs::metadata(path).is_ok_and(|data| readable_by_all(data.mode())).then(|| {
                    format!("{} can be read by every user of this machine; chmod 600 it", path.display())
                })
            }
            Self::Env(_) => None,
        }
    }
}

/// Whether permission bits let everybody read.
pub fn readable_by_all(mode: u32) -> bool {
    mode & 0o004 != 0
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot read {}: {why}", path.display());
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let length = file.metadata().map_err(|error| cannot(&error))?.len();
    // The capacity is reserved at once, so that no reallocation leaves an unwiped copy behind.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(length.min(MAX_FILE)).unwrap_or(0) + 64));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is longer than 64KiB; it should hold one password", path.display()));
    }
    let trimmed = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Err(format!("{} is empty; it should hold the password", path.display()));
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
    fn faults_say_why() {
        assert!(read(b"\n").is_err_and(|fault| fault.contains("is empty")));
        assert!(read(&[b'x'; 64 * 1024 + 1]).is_err_and(|fault| fault.contains("longer than 64KiB")));
        assert!(read(&[b'x'; 64 * 1024]).is_ok());
        let absent = SecretSource::File("/nonexistent/password".into()).read(&|_| None);
        assert!(absent.is_err_and(|fault| fault.contains("cannot read /nonexistent/password")));
        let folder = SecretSource::File("/".into()).read(&|_| None);
        assert!(folder.is_err_and(|fault| fault.contains("cannot read /")));
        let unset = SecretSource::Env("NOPE".into()).read(&|_| None);
        assert!(unset.is_err_and(|fault| fault == "the environment variable NOPE is not set"));
    }
}
