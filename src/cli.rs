//! The command line: flags, environment variables and subcommands.

mod ctl;
mod sentinel_proxy;
mod shared;

pub use ctl::Ctl;
pub use shared::RunningRespgate;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum};

use self::shared::{json, other, running_respgate, with_help, with_running_respgate};
use crate::config::flags::{Flag, Flags};
use crate::config::report::Place;

/// What the command line asks respgate to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the proxy.
    Run(Flags),
    /// Check the configuration and print what would run.
    Check(Flags),
    /// Hash the password read from standard input.
    HashPassword,
    /// Connect to everything that the configuration names, and explain what is wrong.
    Doctor {
        /// The flags that select the configuration.
        flags: Flags,
        /// Prints JSON instead of text if true.
        json: bool,
    },
    /// Show the state of a running respgate on one screen.
    Status {
        /// Where it is; without anything, at the usual address.
        at: RunningRespgate,
        /// Prints JSON instead of text if true.
        json: bool,
        /// The time between two looks; `None` looks once.
        watch: std::option::Option<Duration>,
    },
    /// Control a running respgate.
    Ctl(Ctl),
    /// Print the names of the manual pages, or one page.
    Man(std::option::Option<String>),
    /// Print the completions for a shell.
    Completions(Shell),
    /// The command line names no server: respgate prints [`GUIDANCE`].
    Nothing,
    /// The command line is that of redis-sentinel-proxy: respgate prints this text, which has the same as a respgate command.
    OfSentinelProxy(String),
}

/// A shell that can complete respgate's commands and options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash with bash-completion.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// The text for a user who types `respgate` without arguments.
pub const GUIDANCE: &str = "\
respgate needs to know where the server is. For example:

  respgate --upstream redis://db.example:6379
  respgate --upstream redis-sentinel://s1,s2,s3/0#mymaster --listen 127.0.0.1:6379
  respgate --config respgate.toml

Clients then connect to 127.0.0.1:6379, unless --listen says otherwise.
respgate --help explains every option.
";

const ABOUT: &str = "\
A Sentinel-aware proxy for Valkey and Redis: applications connect to respgate, and respgate keeps them connected to \
the primary, over few connections.";

const AFTER_HELP: &str = "\
Examples:
  A sidecar for an application that knows nothing of Sentinel:
    respgate --upstream redis-sentinel://s1,s2,s3/0#mymaster

  A server with a password, which comes from the environment:
    export RESPGATE_UPSTREAM_PASSWORD=...
    respgate --upstream redis://db.example:6379 --upstream-user app

  A managed server that requires TLS, for applications without TLS:
    respgate --upstream rediss://db.example:25061 --upstream-ca ca.crt

  Health and metrics for an orchestrator (/livez, /readyz, /metrics):
    respgate --config /etc/respgate.toml --admin 127.0.0.1:9121

  Find every error of a file before respgate uses it:
    respgate check --config /etc/respgate.toml

  Find out why something does not connect:
    respgate doctor --config /etc/respgate.toml

Every option has an environment variable: RESPGATE_LISTEN for --listen, \
RESPGATE_LOG_LEVEL for --log-level. An option wins over its variable, and both \
win over the file. Next to --config, --listen adds a listener; --upstream and \
the credentials are for the upstream named main, or for the file's only one.

Exit codes: 0 success, 64 wrong arguments or configuration, 69 doctor found
something broken, or status found respgate not ready, 71 the system refused
something, such as an address that is in use.";

/// One flag. Its environment variable is `RESPGATE_` followed by its name in capitals. `sets` names
/// the configuration key that the flag sets, written as in [`crate::config::schema`]; it is empty
/// for `--config`.
struct Option {
    name: &'static str,
    dashed: &'static str,
    env: &'static str,
    value: &'static str,
    heading: &'static str,
    sets: &'static str,
    help: &'static str,
}

macro_rules! option {
    ($name:literal, $env:literal, $value:literal, $heading:expr, $sets:literal, $help:literal) => {
        Option {
            name: $name,
            dashed: concat!("--", $name),
            env: concat!("RESPGATE_", $env),
            value: $value,
            heading: $heading,
            sets: $sets,
            help: $help,
        }
    };
}

const WHERE: &str = "Where to listen and connect";
const WHO: &str = "Credentials";
const TLS: &str = "TLS";
const BOUNDS: &str = "Limits";
const PROCESS: &str = "Process";

#[rustfmt::skip]
const OPTIONS: [Option; 20] = [
    option!("listen", "LISTEN", "ADDR", WHERE, "listeners.*.address",
        "Accept clients here: 127.0.0.1:6379, [::1]:6379, 0.0.0.0:6379 or unix:/path; may be repeated, or \
         separated by commas in RESPGATE_LISTEN [default: 127.0.0.1:6379]"),
    option!("upstream", "UPSTREAM", "URL", WHERE, "upstreams.*.url",
        "The server, the Sentinels that know it, or nodes of a cluster:\n\
         redis://[user:password@]host[:6379][/db]\n\
         redis-sentinel://s1[:26379],s2,s3[/db]#primary-name\n\
         redis-cluster://c1[:6379],c2\n\
         rediss://, rediss-sentinel:// and rediss-cluster:// with TLS\n\
         unix:/path[?db=N]\n\
         valkey in place of redis means the same; write / # ? % @ in a password as %2F %23 %3F %25 %40"),
    option!("config", "CONFIG", "FILE", WHERE, "",
        "A TOML file with any number of listeners and upstreams, and every other setting"),
    option!("availability-zone", "AVAILABILITY_ZONE", "ZONE", WHERE, "upstreams.*.availability-zone",
        "The availability zone in which respgate runs: reads go to replicas of the same zone if there are any"),
    option!("upstream-user", "UPSTREAM_USER", "USER", WHO, "upstreams.*.username",
        "The user as which respgate logs in to the server [default: the server's default user]"),
    option!("upstream-password-file", "UPSTREAM_PASSWORD_FILE", "FILE", WHO, "upstreams.*.password-file",
        "Holds the password; RESPGATE_UPSTREAM_PASSWORD may hold it instead"),
    option!("sentinel-user", "SENTINEL_USER", "USER", WHO, "upstreams.*.sentinel-username",
        "The user as which respgate logs in to the Sentinels [default: their default user]"),
    option!("sentinel-password-file", "SENTINEL_PASSWORD_FILE", "FILE", WHO, "upstreams.*.sentinel-password-file",
        "Holds the password; RESPGATE_SENTINEL_PASSWORD may hold it instead"),
    option!("upstream-ca", "UPSTREAM_CA", "PATH", TLS, "upstreams.*.tls-ca",
        "The authorities that may sign the server's certificate: a PEM file or a folder [default: the system's authorities]"),
    option!("upstream-server-name", "UPSTREAM_SERVER_NAME", "NAME", TLS, "upstreams.*.tls-server-name",
        "The name in the server's certificate [default: the host that is dialled]"),
    option!("tls-cert", "TLS_CERT", "FILE", TLS, "listeners.*.tls-cert",
        "Clients connect with TLS: the certificate chain, in PEM"),
    option!("tls-key", "TLS_KEY", "FILE", TLS, "listeners.*.tls-key", "Its private key, in PEM"),
    option!("tls-client-ca", "TLS_CLIENT_CA", "PATH", TLS, "listeners.*.tls-client-ca",
        "Clients must show a certificate that an authority in this file or folder signed"),
    option!("max-clients", "MAX_CLIENTS", "N", BOUNDS, "limits.max-clients",
        "Clients connected at once, for each listener [default: 10000]"),
    option!("admin-commands", "ADMIN_COMMANDS", "LEVEL", BOUNDS, "listeners.*.admin-commands",
        "deny, read-only or allow commands like CONFIG SET and SHUTDOWN [default: read-only on loopback and unix sockets without tenants, else deny]"),
    option!("workers", "WORKERS", "N", PROCESS, "workers",
        "Worker threads [default: 1 on one or two CPUs (by affinity and cgroup quota), else one for each CPU]"),
    option!("admin", "ADMIN", "ADDR", PROCESS, "admin",
        "Serve health and metrics here, as in 127.0.0.1:9121 [default: nowhere]"),
    option!("drain-timeout", "DRAIN_TIMEOUT", "TIME", PROCESS, "drain-timeout",
        "How long running commands may take to finish after SIGTERM, as in 5s or 2m [default: 30s]"),
    option!("log-format", "LOG_FORMAT", "FORMAT", PROCESS, "log.format",
        "human, json, or auto: human on a terminal [default: auto]"),
    option!("log-level", "LOG_LEVEL", "LEVEL", PROCESS, "log.level",
        "error, warn, info, debug, trace or off; by module: info,respgate::discovery=debug [default: info]"),
];

/// Returns each flag that sets a key: the flag with its dashes, its environment variable, and the key as
/// `listeners.*.address`.
pub fn keys_by_flag() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let setting = OPTIONS.iter().filter(|option| !option.sets.is_empty());
    setting.map(|option| (option.dashed, option.env, option.sets))
}

fn with_options(command: Command) -> Command {
    with_help(OPTIONS.iter().fold(command, |command, option| {
        command.arg(
            Arg::new(option.name)
                .long(option.name)
                .env(option.env)
                .hide_env(true)
                .value_name(option.value)
                .help_heading(option.heading)
                .help(option.help)
                .action(if option.name == "listen" { ArgAction::Append } else { ArgAction::Set }),
        )
    }))
}

fn watch_option() -> Arg {
    Arg::new("watch")
        .long("watch")
        .value_name("SECONDS")
        .num_args(0..=1)
        .default_missing_value("1")
        .value_parser(clap::value_parser!(u64).range(1..=3600))
        .help("Show it again every so many seconds [default: 1], until q or Ctrl-C")
}

fn man_command() -> Command {
    Command::new("man")
        .about("Print a manual page, or the names of all pages")
        .arg(Arg::new("page").value_name("PAGE").help("The name of a page, as in respgate.toml.5"))
        .after_help("As in: respgate man respgate.toml.5 | man -l -")
}

fn completions_command() -> Command {
    Command::new("completions")
        .about("Print the completions of respgate for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .help("The shell")
                .required(true)
                .value_parser(clap::value_parser!(Shell)),
        )
        .after_help("As in: source <(respgate completions bash)")
}

/// Returns the definition of the whole command line, for parsing and for `--help`.
pub fn command() -> Command {
    let check = Command::new("check")
        .about("Report every error of a configuration at once, and how to fix it")
        .override_usage("respgate check --config FILE [OPTIONS]")
        .after_help("Exit codes: 0 no error (there may be warnings), 64 at least one error.");
    let hash = Command::new("hash-password")
        .about("Hash the password on standard input, for password-hash of a user")
        .after_help("As in: printf %s \"$PASSWORD\" | respgate hash-password");
    let doctor = Command::new("doctor")
        .about("Connect to everything in the configuration, and explain what is wrong")
        .override_usage("respgate doctor --config FILE [--json] [OPTIONS]\n       respgate doctor --upstream URL [--json] [OPTIONS]")
        .arg(json())
        .after_help(
            "Exit codes: 0 clients are served (there may be warnings), 64 wrong arguments or configuration,\n\
             69 something is broken.",
        );
    let status = Command::new("status")
        .about("Show a running respgate in one screen, by its admin listener or its control socket")
        .override_usage(
            "respgate status [--admin ADDR | --config FILE | --socket PATH] [--watch [SECONDS]] [--json]\n       \
             respgate status --admin ADDR --admin-ca FILE --token-file FILE [--watch [SECONDS]] [--json]",
        );
    let usual = "Its admin listener [default: what FILE says, or 127.0.0.1:9121]";
    let status = with_running_respgate(status, "RESPGATE_READ_TOKEN_FILE", usual)
        .arg(watch_option())
        .arg(json())
        .after_help("Exit codes: 0 it is ready, 64 wrong arguments, 69 it is not ready, or does not answer.");
    with_options(Command::new("respgate"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .override_usage(
            "respgate --upstream URL [--listen ADDR] [OPTIONS]\n       \
             respgate --config FILE [OPTIONS]\n       \
             respgate check --config FILE [OPTIONS]\n       \
             respgate doctor --config FILE | --upstream URL [--json] [OPTIONS]\n       \
             respgate status [--admin ADDR | --config FILE] [--watch] [--json]\n       \
             respgate ctl --socket PATH | --config FILE ACTION\n       \
             respgate upgrade --socket PATH | --config FILE",
        )
        .after_help(AFTER_HELP)
        .max_term_width(100)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .arg(other("version", 'V', "Print the version").action(ArgAction::Version))
        .subcommand(with_options(check))
        .subcommand(hash)
        .subcommand(with_options(doctor))
        .subcommand(with_help(status))
        .subcommand(ctl::command())
        .subcommand(ctl::upgrade_command())
        .subcommand(with_help(man_command()))
        .subcommand(with_help(completions_command()))
}

/// Parses a command line. Its first word is the program's name.
///
/// # Errors
/// Returns clap's error, which also carries the texts of `--help` and `--version`.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let env = |name: &str| std::env::var(name).ok();
    let texts: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(text) = sentinel_proxy::from_arguments(&texts, &env) {
        return Ok(Invocation::OfSentinelProxy(text));
    }
    let matches = command().try_get_matches_from(words)?;
    match matches.subcommand() {
        Some(("check", matches)) => return Ok(Invocation::Check(flags(matches))),
        Some(("hash-password", _)) => return Ok(Invocation::HashPassword),
        _ => {}
    }
    if let Some(("doctor", matches)) = matches.subcommand() {
        return Ok(Invocation::Doctor { flags: flags(matches), json: matches.get_flag("json") });
    }
    if let Some(("status", matches)) = matches.subcommand() {
        return Ok(Invocation::Status {
            at: running_respgate(matches),
            json: matches.get_flag("json"),
            watch: matches.get_one::<u64>("watch").copied().map(Duration::from_secs),
        });
    }
    if let Some(("ctl", matches)) = matches.subcommand() {
        return Ok(Invocation::Ctl(ctl::parse(matches)));
    }
    if let Some(("upgrade", matches)) = matches.subcommand() {
        return Ok(Invocation::Ctl(ctl::parse_upgrade(matches)));
    }
    if let Some(("man", matches)) = matches.subcommand() {
        return Ok(Invocation::Man(matches.get_one("page").cloned()));
    }
    if let Some(("completions", matches)) = matches.subcommand()
        && let Some(shell) = matches.get_one("shell")
    {
        return Ok(Invocation::Completions(*shell));
    }
    let flags = flags(&matches);
    Ok(if flags.config.is_none() && flags.settings.is_empty() {
        sentinel_proxy::from_environment(&env).map_or(Invocation::Nothing, Invocation::OfSentinelProxy)
    } else {
        Invocation::Run(flags)
    })
}

/// Collects the flags. An empty environment variable counts as unset, because orchestrators often
/// cannot omit a variable.
fn flags(matches: &ArgMatches) -> Flags {
    let mut flags = Flags::default();
    for option in &OPTIONS {
        let from_env = matches.value_source(option.name) == Some(ValueSource::EnvVariable);
        let place = if from_env { Place::Env(option.env.into()) } else { Place::Flag(option.dashed) };
        for text in matches.get_many::<String>(option.name).unwrap_or_default() {
            let texts: Vec<&str> = match (from_env, option.name) {
                (true, "listen") => text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect(),
                (true, _) => Some(text.as_str()).filter(|text| !text.is_empty()).into_iter().collect(),
                (false, _) => vec![text],
            };
            for text in texts {
                if option.name == "config" {
                    flags.config = Some(PathBuf::from(text));
                } else {
                    flags.settings.push(Flag { name: option.name, place: place.clone(), text: text.into() });
                }
            }
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_fits_a_narrow_terminal() {
        let help = command().term_width(80).render_help().to_string();
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for option in &OPTIONS {
            assert!(help.contains(option.dashed));
        }
    }

    #[test]
    fn listen_repeats_and_others_do_not() {
        let Ok(Invocation::Run(flags)) = parsed("respgate --upstream redis://a --listen b --listen c") else {
            panic!("not a run")
        };
        let listen: Vec<_> = flags.settings.iter().filter(|flag| flag.name == "listen").collect();
        assert_eq!([&*listen[0].text, &*listen[1].text], ["b", "c"]);
        assert_eq!(listen[0].place, Place::Flag("--listen"));
        assert!(parsed("respgate --workers 1 --workers 2").is_err());
    }

    #[test]
    fn check_takes_the_same_flags() {
        let Ok(Invocation::Check(flags)) = parsed("respgate check --config x.toml --workers 2") else {
            panic!("not a check")
        };
        assert_eq!(flags.config, Some("x.toml".into()));
        assert_eq!(flags.settings[0].name, "workers");
    }

    #[test]
    fn doctor_takes_the_same_flags_and_one_more() {
        let Ok(Invocation::Doctor { flags, json }) = parsed("respgate doctor --upstream redis://a --json")
        else {
            panic!("not a doctor")
        };
        assert!(json && flags.settings[0].name == "upstream");
        assert!(parsed("respgate --json").is_err());
    }

    #[test]
    fn status_takes_an_address() {
        let line = "respgate status --admin 127.0.0.1:9 --admin-ca ca.pem --token-file token --json";
        let Ok(Invocation::Status { at, json, .. }) = parsed(line) else { panic!("not a status") };
        assert!(json && at.admin == Some("127.0.0.1:9".parse().unwrap()));
        assert_eq!((at.admin_ca, at.token_file), (Some("ca.pem".into()), Some("token".into())));
        assert!(parsed("respgate status --admin nonsense").is_err());
        for (line, seconds) in [("--watch", Some(1)), ("--watch 5", Some(5)), ("", None)] {
            let Ok(Invocation::Status { watch, .. }) = parsed(&format!("respgate status {line}")) else {
                panic!("not a status")
            };
            assert_eq!(watch, seconds.map(Duration::from_secs), "{line}");
        }
        assert!(parsed("respgate status --watch 0").is_err());
    }

    #[test]
    fn ctl_takes_an_action() {
        let Ok(Invocation::Ctl(ctl)) = parsed("respgate ctl --socket /run/x.sock log-level debug") else {
            panic!("not a control")
        };
        assert_eq!((ctl.at.socket, ctl.at.admin), (Some("/run/x.sock".into()), None));
        assert_eq!(ctl.action.name, "log-level");
        assert_eq!(ctl.action.arguments.get("level"), Some(&"debug".into()));
        assert!(parsed("respgate ctl --socket /run/x.sock").is_err());
        assert!(parsed("respgate ctl --socket /run/x.sock explode").is_err());
        assert!(parsed("respgate ctl --socket /run/x.sock log-level").is_err());
        let line =
            "respgate ctl --socket /run/x.sock tap --tenant shop --sample 1/10 --duration 2m --arguments";
        let Ok(Invocation::Ctl(ctl)) = parsed(line) else { panic!("not a control") };
        let asked =
            serde_json::json!({ "tenant": "shop", "sample": 10, "seconds": 120, "arguments": "show" });
        assert_eq!(
            (ctl.action.name.as_str(), serde_json::Value::Object(ctl.action.arguments)),
            ("tap", asked)
        );
        assert!(parsed("respgate ctl --socket /run/x.sock tap --duration 2h").is_err());
    }

    #[test]
    fn every_command_has_help() {
        for line in [
            "respgate -h",
            "respgate check --help",
            "respgate doctor -h",
            "respgate status --help",
            "respgate ctl -h",
            "respgate ctl drain -h",
            "respgate upgrade -h",
        ] {
            let shown = parsed(line).err().map(|error| error.kind());
            assert_eq!(shown, Some(clap::error::ErrorKind::DisplayHelp), "{line}");
        }
    }

    #[test]
    fn no_flag_takes_a_password() {
        for option in &OPTIONS {
            assert!(!option.name.ends_with("password"), "{}", option.name);
            assert_eq!(option.env, format!("RESPGATE_{}", option.name.to_uppercase().replace('-', "_")));
        }
    }
}
