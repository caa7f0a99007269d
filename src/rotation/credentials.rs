//! Keeps a [`Login`] up to date.

use std::time::Duration;

use tokio::time::Instant;

use super::login::Login;
use super::source::{Account, CredentialSource};
use super::{Source, Tally, command, follow};
use crate::net::backoff::Backoff;
use crate::secret::Credentials;

/// The shortest and the longest time between two runs of a program that fails, or whose password a server refuses.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Returns a login with the credentials that are known already; [`keep`] updates it from then on.
pub fn begin(account: &Account) -> Login {
    match &account.credentials {
        Some(known) => Login::new(Some(known.clone())),
        None => Login::awaited("password-command has not ended yet"),
    }
}

/// Replaces the credentials in `login` whenever `source` changes. Returns at once if the source cannot change.
pub async fn keep(login: Login, source: CredentialSource, interval: Duration, tally: Tally) {
    if source.command().is_some() {
        return refresh(&login, &source, &tally).await;
    }
    let files = source.files();
    if files.is_empty() {
        return;
    }
    let read = move || source.read(&|name| std::env::var_os(name));
    let adopt = |credentials| {
        login.replace(credentials);
    };
    follow(Source::new(files, read), interval, tally, adopt).await;
}

/// Runs the program at once, then again after `refresh` less a random tenth, and soon after a server has refused the
/// password that it printed.
async fn refresh(login: &Login, source: &CredentialSource, tally: &Tally) {
    let mut pace = Backoff::new(AGAIN_MIN, AGAIN_MAX.min(source.refresh));
    loop {
        let started = Instant::now();
        let mut failed = false;
        let wait = match obtain(source).await {
            Ok(credentials) => {
                let first = login.newest().is_err();
                match login.replace(credentials) {
                    true if !first => tally.replaced(),
                    _ => tally.cleared(),
                }
                login.note_run(Some(source.refresh));
                source.refresh.mul_f64(1.0 - 0.1 * fastrand::f64())
            }
            Err(why) => {
                login.still_awaited(&format!("there is no password yet: {why}"));
                tally.refused(&why);
                login.note_run(None);
                failed = true;
                Duration::ZERO
            }
        };
        // Both the run after a failure and the run after a refusal wait for the backoff. It restarts only after a
        // password has lasted for its whole lifetime without a refusal.
        let retry_delay = pace.next_delay();
        let wait = if failed { retry_delay } else { wait };
        tokio::select! {
            () = tokio::time::sleep_until(started + wait.max(AGAIN_MIN)) => if !failed { pace.reset() },
            () = async {
                login.refresh_requested().await;
                tokio::time::sleep_until(started + retry_delay).await;
            } => {}
        }
    }
}

/// Runs the program of `source` once.
///
/// # Errors Returns the reason if there is no password.
pub async fn obtain(source: &CredentialSource) -> Result<Credentials, String> {
    let password = command::password(source.command().unwrap_or_default()).await?;
    source.with(password)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::rotation::source::{NameSource, PasswordSource, SecretSource};

    fn source(password: SecretSource, refresh: Duration) -> CredentialSource {
        CredentialSource {
            username: Some(NameSource::Given("app".into())),
            password: PasswordSource::Read(password),
            refresh,
        }
    }

    async fn until(login: &Login, password: &[u8]) {
        let has = |newest: &super::super::login::Newest| matches!(newest, Ok(Some(known)) if known.password.expose() == password);
        login.subscribe().wait_for(has).await.unwrap();
    }

    #[tokio::test]
    async fn a_password_s_file_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "one\n").unwrap();
        let source = source(SecretSource::File(path.clone()), Duration::MAX);
        let login = Login::new(source.read(&|_| None).ok());
        let tally = Tally::new("password", "test");
        let kept = tokio::spawn(keep(login.clone(), source, Duration::from_millis(5), tally.clone()));
        until(&login, b"one").await;
        fs::write(&path, "two\n").unwrap();
        until(&login, b"two").await;
        fs::write(&path, "").unwrap();
        while tally.outcomes().refused == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(&login, b"two").await;
        kept.abort();
    }

    /// A program that prints the number of its runs, or fails while a file named `broken` exists.
    fn program(folder: &std::path::Path) -> SecretSource {
        let script = folder.join("token");
        let text = "#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit 1\n[ ! -e broken ] || { echo expired >&2; exit 1; }\necho x >> runs\nwc -l < runs\n";
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        // The shell runs the script: to execute a file that another thread's child still holds open for writing would
        // fail.
        SecretSource::Command(vec!["sh".into(), script.display().to_string()])
    }

    #[tokio::test]
    async fn a_program_is_run_in_time_and_when_its_password_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let login = Login::awaited("not run yet");
        let tally = Tally::new("password", "test");
        let source = source(program(folder.path()), Duration::from_millis(1100));
        let kept = tokio::spawn({
            let (login, tally) = (login.clone(), tally.clone());
            async move { keep(login, source, Duration::ZERO, tally).await }
        });
        until(&login, b"1").await;
        until(&login, b"2").await;
        fs::write(folder.path().join("broken"), "").unwrap();
        while tally.outcomes().error.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(&login, b"2").await;
        assert!(tally.outcomes().error.unwrap().contains("expired"));
        fs::remove_file(folder.path().join("broken")).unwrap();
        until(&login, b"3").await;
        assert_eq!(tally.outcomes().error, None);
        kept.abort();
    }

    #[tokio::test]
    async fn a_refused_password_is_refreshed_at_a_bounded_pace() {
        let folder = tempfile::tempdir().unwrap();
        let login = Login::awaited("not run yet");
        let source = source(program(folder.path()), Duration::from_secs(3600));
        let kept = tokio::spawn(keep(login.clone(), source, Duration::ZERO, Tally::new("password", "test")));
        until(&login, b"1").await;
        let refused = login.newest().unwrap().unwrap();
        for _ in 0..1000 {
            login.refused(&"db:1", &refused, b"WRONGPASS x");
        }
        until(&login, b"2").await;
        let runs = fs::read_to_string(folder.path().join("runs")).unwrap();
        assert_eq!(runs.lines().count(), 2);
        kept.abort();
    }
}
