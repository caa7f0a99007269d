//! Recognises the arguments and environment variables of redis-sentinel-proxy, and writes the respgate command that does
//! the same.
//!
//! No password is printed, and no value of a flag that this file does not know: it may be one.

mod settings;

use std::net::SocketAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use settings::{Meaning, SETTINGS, Setting};

/// The value that most of the programs listen on by default.
const DEFAULT_LISTEN: &str = ":9999";
const DEFAULT_SENTINEL: &str = ":26379";
const DEFAULT_MASTER: &str = "mymaster";

/// Flags that respgate has too. They alone do not tell that the arguments are those of redis-sentinel-proxy.
const SHARED_FLAGS: [&str; 3] = ["listen", "config", "sentinel-user"];
/// Flags that are recognised with two dashes as well: Go takes both forms, and respgate has no such option.
const RECOGNISED_WITH_TWO_DASHES: [&str; 4] = ["sentinel", "sentinel-addr", "master", "resolve-retries"];
/// Variables that tell that the environment is that of redis-sentinel-proxy.
const TELLING_VARIABLES: [&str; 4] = ["SENTINEL", "MASTER", "RSP_SENTINEL", "RSP_MASTER"];
/// Beginnings of variables that always count. The others (`DEBUG`, `USERNAME`, …) are those of any program, and count
/// beside `SENTINEL` or `MASTER` only.
const OWN_PREFIXES: [&str; 2] = ["RSP_", "SENTINEL_"];

/// Characters of a name that stay as they are behind the `#` of a URL.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One setting that was given.
struct Given {
    /// The flag with its dash, or the variable.
    shown: String,
    setting: Option<&'static Setting>,
    value: Option<String>,
    is_variable: bool,
}

/// Returns the respgate command for arguments and variables of redis-sentinel-proxy, with an explanation. Returns `None`
/// if these are not such arguments. The first of `words` is the program's name.
pub(super) fn from_arguments(words: &[String], env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let flags = flags(words.get(1..)?);
    let known = |flag: &&Parsed| setting(&flag.given).is_some();
    let telling = flags.iter().filter(known).any(|flag| {
        let name = flag.given.shown.trim_start_matches('-');
        match flag.dashes {
            1 => !SHARED_FLAGS.contains(&name) || has_telling_variable(env),
            _ => RECOGNISED_WITH_TWO_DASHES.contains(&name),
        }
    });
    telling.then(|| command(flags.into_iter().map(|flag| flag.given).collect(), env))
}

/// Returns the same for variables alone.
pub(super) fn from_environment(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    has_telling_variable(env).then(|| command(Vec::new(), env))
}

fn has_telling_variable(env: &dyn Fn(&str) -> Option<String>) -> bool {
    TELLING_VARIABLES.iter().any(|name| env(name).is_some_and(|value| !value.is_empty()))
}

/// A flag, and its number of dashes.
struct Parsed {
    given: Given,
    dashes: usize,
}

fn setting(given: &Given) -> Option<&'static Setting> {
    given.setting
}

/// Reads the flags as Go does: `-flag value`, `-flag=value`, with one dash or two, up to the first word that is no flag.
fn flags(words: &[String]) -> Vec<Parsed> {
    let mut flags = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        let dashes = word.len() - name.len();
        if name.is_empty() || !(1..=2).contains(&dashes) {
            break;
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let setting = SETTINGS.iter().find(|setting| setting.flag == name);
        let value = match (value, setting) {
            (Some(value), _) => Some(value),
            (None, Some(setting)) if setting.is_switch => None,
            (None, Some(_)) => words.next().cloned(),
            // A flag of another fork: it may have a value.
            (None, None) => words.next_if(|word| !word.starts_with('-')).cloned(),
        };
        let given = Given { shown: format!("-{name}"), setting, value, is_variable: false };
        flags.push(Parsed { given, dashes });
    }
    flags
}

fn variables(env: &dyn Fn(&str) -> Option<String>) -> Vec<Given> {
    let any = ["SENTINEL", "MASTER"].iter().any(|name| env(name).is_some_and(|value| !value.is_empty()));
    let counts = |name: &str| any || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let named =
        SETTINGS.iter().flat_map(|setting| setting.variables.iter().map(move |name| (setting, *name)));
    let given = named.filter(|(_, name)| counts(name)).filter_map(|(setting, name)| {
        let value = env(name).filter(|value| !value.is_empty())?;
        Some(Given { shown: name.to_owned(), setting: Some(setting), value: Some(value), is_variable: true })
    });
    given.collect()
}

/// The parts of the command.
#[derive(Default)]
struct Written {
    exports: Vec<String>,
    listen: Option<String>,
    sentinels: Option<String>,
    master: Option<String>,
    options: Vec<String>,
    notes: Vec<String>,
}

fn command(flags: Vec<Given>, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut written = Written::default();
    let mut seen: Vec<Meaning> = Vec::new();
    // A flag wins over its variable.
    for given in flags.iter().chain(&variables(env)) {
        let Some(setting) = given.setting else {
            written.notes.push(format!(
                "{}: not translated; respgate does not know this flag of redis-sentinel-proxy",
                given.shown
            ));
            continue;
        };
        if setting.is_switch && given.value.as_deref().is_some_and(is_false) {
            continue;
        }
        let repeats = !matches!(setting.meaning, Meaning::Nothing(_) | Meaning::Key(_));
        if repeats && seen.contains(&setting.meaning) {
            continue;
        }
        seen.push(setting.meaning);
        written.add(given, setting.meaning);
    }
    written.show()
}

/// Returns true for the values that Go reads as false.
fn is_false(text: &str) -> bool {
    ["0", "f", "F", "false", "FALSE", "False"].contains(&text)
}

impl Written {
    fn add(&mut self, given: &Given, meaning: Meaning) {
        let shown = &given.shown;
        let value = given.value.clone().unwrap_or_default();
        match meaning {
            Meaning::Listen => self.listen = Some(value),
            // Neither an address nor a name has an @, so a password may be before it.
            Meaning::Sentinels if value.contains('@') => {
                self.sentinels = Some("HOST:26379".to_owned());
                self.notes.push(format!(
                    "{shown}: put the Sentinels in the place of HOST:26379, without a password"
                ));
            }
            Meaning::Sentinels => self.sentinels = Some(value),
            Meaning::Master => self.master = Some(value),
            Meaning::Option(_) if value == "0" => {
                self.notes.push(format!("{shown} 0: no counterpart; respgate's own default applies"));
            }
            Meaning::Option(option) => self.options.push(format!("{option} {}", quoted(&value))),
            Meaning::Secret(variable) if given.is_variable => {
                self.exports.push(format!("export {variable}=\"${shown}\""));
            }
            Meaning::Secret(variable) => {
                let file = if variable.contains("SENTINEL") { "sentinel" } else { "upstream" };
                self.exports.push(format!("export {variable}=..."));
                self.notes.push(format!(
                    "{shown}: put its value in the place of the dots, or give a file with it: --{file}-password-file FILE"
                ));
            }
            Meaning::Debug => self.options.push("--log-level debug".to_owned()),
            Meaning::Key(key) => {
                self.notes.push(format!("{shown}: set {key} in a configuration file; no option sets it"));
            }
            Meaning::Nothing(why) => self.notes.push(format!("{shown}: no counterpart; {why}")),
        }
    }

    fn show(mut self) -> String {
        let mut or_default = |given: Option<String>, flag: &str, default: &str| {
            given.filter(|value| !value.is_empty()).unwrap_or_else(|| {
                self.notes.push(format!("-{flag}: not given; the command has the usual default, {default}"));
                default.to_owned()
            })
        };
        let listen = or_default(self.listen, "listen", DEFAULT_LISTEN);
        let sentinels = or_default(self.sentinels, "sentinel", DEFAULT_SENTINEL);
        let master = or_default(self.master, "master", DEFAULT_MASTER);
        let listen = listen_address(&listen).unwrap_or_else(|| {
            self.notes
                .push("-listen: respgate needs an IP address; put it in the place of IP:PORT".to_owned());
            "IP:PORT".to_owned()
        });
        let url = format!("redis-sentinel://{}#{}", hosts(&sentinels), utf8_percent_encode(&master, KEPT));
        let mut line = format!("respgate --listen {listen} --upstream '{}'", url.replace('\'', ""));
        for option in &self.options {
            line.push(' ');
            line.push_str(option);
        }
        let commands: String = self.exports.iter().chain([&line]).map(|line| format!("  {line}\n")).collect();
        let notes: String = self.notes.iter().map(|note| format!("{note}\n")).collect();
        let gap = if notes.is_empty() { "" } else { "\n" };
        format!(
            "These are the settings of redis-sentinel-proxy, so respgate has not started. The same with respgate:\n\n\
             {commands}{gap}{notes}\n\
             docs/migration.md lists the counterpart of each setting.\n"
        )
    }
}

/// Returns the address for `--listen`, which takes an IP address and a port. `None` if `text` names a host.
fn listen_address(text: &str) -> Option<String> {
    if text.parse::<SocketAddr>().is_ok() {
        return Some(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    match host {
        "" => Some(format!("0.0.0.0:{port}")),
        "localhost" => Some(format!("127.0.0.1:{port}")),
        _ => None,
    }
}

/// Returns the Sentinels as a URL names them. Go connects to the own machine if the host is empty.
fn hosts(sentinels: &str) -> String {
    let hosts = sentinels.split(',').map(str::trim).filter(|host| !host.is_empty());
    let hosts = hosts.map(|host| match host.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => host.to_owned(),
    });
    hosts.collect::<Vec<_>>().join(",")
}

/// Returns the text as one word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
