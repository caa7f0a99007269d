//! The keys of a user and its password: respgate's own at an upstream and at Sentinels, and those of one of its users.

use std::path::Path;
use std::time::Duration;

use super::super::document::Section;
use super::super::report::Report;
use super::super::setting::Setting;
use super::entry::Entry;
use super::kinds::{CommandLine, File};
use super::part::Part;
use crate::rotation::source::{NameSource, SecretSource};

/// A user's name and password, from whichever keys give them.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The source of the name.
    pub username: Setting<NameSource>,
    /// The source of the password.
    pub password: Setting<SecretSource>,
    /// Interval at which respgate runs the password program.
    pub refresh: Setting<Duration>,
}

table! {
    /// The keys that give a user's name and password. Of those that say the same thing, one may be there.
    CredentialKeys, CredentialDefaults {
        /// The user that respgate authenticates as.
        username: String, "username", Live, default "the server's default user", example "\"app\"";
        /// The file that holds the user's name, on its first and only line. respgate reads it again when it changes.
        username_file: File, "username-file", Live, default "none", example "\"user\"", aside "instead of `username`";
        /// The file that holds the password, on its first and only line.
        ///
        /// respgate reads the file again when it changes, however it is replaced, and uses the new password for new connections.
        password_file: File, "password-file", Live, default "none", example "\"password\"";
        /// The name of an environment variable that holds the password. respgate reads it once, at its start.
        password_env: String, "password-env", Live, default "none", example "\"APP_PASSWORD\"",
            aside "instead of `password-file`";
        /// The program that prints the password on its first line, and its arguments.
        ///
        /// It suits the tokens of cloud providers, which expire. respgate runs the program as its own user, without a shell, for at
        /// most 10 s: every `password-refresh`, before it connects with an older password, and when the server refuses the
        /// password. What the program writes to standard error is
        /// logged if it fails.
        password_command: CommandLine, "password-command", Live, default "none",
            example "[\"/usr/local/bin/token\", \"--region\", \"eu-west-1\"]", aside "instead of `password-file`";
        /// The interval at which `password-command` runs, less up to a tenth. At least `"1s"`.
        password_refresh: Duration = Duration::from_secs(600), "password-refresh", Live, aside "with `password-command`";
    }
}

impl Part for Credentials {
    const ENTRIES: &'static [Entry] = CredentialKeys::ENTRIES;

    fn read(section: &Section<'_>, prefix: &str, folder: &Path, report: &mut Report) -> Self {
        let typed = CredentialKeys::read(section, prefix, folder, report);
        let username = typed.username.map(NameSource::Given);
        let [file, env] = ["file", "env"].map(|end| format!("{prefix}password-{end}"));
        let password = typed.password_file.map(SecretSource::File);
        let password =
            only_one(password, typed.password_env.map(SecretSource::Env), "password", &file, report);
        let command = typed.password_command.map(SecretSource::Command);
        Self {
            username: only_one(
                username,
                typed.username_file.map(NameSource::File),
                "name",
                &format!("{prefix}username"),
                report,
            ),
            password: only_one(password, command, "password", &format!("{file} or {env}"), report),
            refresh: typed.password_refresh,
        }
    }
}

/// Returns one of two keys that set the same value. Both together are an error. `first_key` is the
/// name of the first.
fn only_one<T>(
    first: Setting<T>,
    second: Setting<T>,
    what: &str,
    first_key: &str,
    report: &mut Report,
) -> Setting<T> {
    match (&first, second.place()) {
        (Setting::Given(..), Some(place)) => {
            report.error(place, format!("{first_key} gives the {what} too; leave one out"));
            Setting::Invalid
        }
        (Setting::Absent, _) => second,
        _ => first,
    }
}
