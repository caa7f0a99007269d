//! `respgate ctl`: its command line.

mod tap;

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value as Json};

use super::shared::{RunningRespgate, json, running_respgate, with_help, with_running_respgate};
use crate::config::Value;
use crate::ctl::ActionRequest;

/// A request of `respgate ctl` to a running respgate.
#[derive(Debug)]
pub struct Ctl {
    /// Where it is.
    pub at: RunningRespgate,
    /// Prints JSON instead of text if true.
    pub json: bool,
    /// The action.
    pub action: ActionRequest,
}

/// The actions, each with its help.
const ACTIONS: [(&str, &str); 13] = [
    ("reload", "Read the configuration file now, and say what has changed and what needs a restart"),
    ("log-level", "Log by another level from now on, until a restart"),
    ("slow-log", "Show the newest slow commands, the newest first, and where their time went"),
    ("clients", "List the clients of respgate: all, or those of a tenant, a user or an address"),
    ("kill", "Disconnect clients: one by its id, or those of a tenant, a user or an address"),
    ("upstream-clients", "Show the server's own list of clients, in which respgate's connections are"),
    ("pause", "Hold the commands to an upstream, as in a failover, until resume or the deadline"),
    ("resume", "End the pause of an upstream"),
    ("reconnect", "Open new connections to an upstream and close the present ones; clients do not notice"),
    ("switch", "Move an upstream to another address; its clients wait for a moment"),
    ("drain", "Accept no new clients, and let running commands finish; /readyz then answers 503"),
    ("upgrade", "Start the program anew with the same arguments, and let it take over the listeners"),
    ("shutdown", "Drain, then end the process"),
];

/// Returns the definition of the command.
pub(super) fn command() -> Command {
    let mut ctl = with_endpoint(Command::new("ctl"))
        .about("Control a running respgate, by its control socket or its admin listener")
        .override_usage(
            "respgate ctl --socket PATH ACTION\n       \
             respgate ctl --admin ADDR --token-file FILE ACTION\n       \
             respgate ctl --config FILE ACTION",
        )
        .subcommand_required(true);
    for (name, help) in ACTIONS {
        let mut action = Command::new(name).about(help);
        if name == "log-level" {
            action = action.arg(Arg::new("level").value_name("LEVEL").required(true).help(
                "error, warn, info, debug, trace or off, or by module: info,respgate::discovery=debug",
            ));
        }
        if matches!(name, "pause" | "resume" | "reconnect" | "switch") {
            action = action.arg(
                Arg::new("upstream")
                    .value_name("UPSTREAM")
                    .required(true)
                    .help("Its name in the configuration"),
            );
        }
        action = match name {
            "clients" | "kill" => action.args(client_options()),
            "upstream-clients" => {
                action.arg(Arg::new("upstream").value_name("UPSTREAM").help("Its name, if there are several"))
            }
            "pause" => action.args(pause_options()),
            "switch" => action.args(switch_options()),
            _ => action,
        };
        ctl = ctl.subcommand(with_help(action));
    }
    with_help(ctl.subcommand(with_help(tap::command())))
}

/// Returns the definition of `respgate upgrade`, a short form of `respgate ctl upgrade`.
pub(super) fn upgrade_command() -> Command {
    with_help(
        with_endpoint(Command::new("upgrade"))
            .about("Replace a running respgate without a dropped connection")
            .override_usage(
                "respgate upgrade --config FILE | --socket PATH | --admin ADDR --token-file FILE [--json]",
            ),
    )
}

/// Adds the arguments that name the running respgate.
fn with_endpoint(command: Command) -> Command {
    with_running_respgate(command, "RESPGATE_CONTROL_TOKEN_FILE", "Its admin listener").arg(json()).after_help(
        "Exit codes: 0 done, 1 it could not be done, 64 wrong arguments, 69 no respgate answers, 77 not permitted.",
    )
}

/// Reads what the command line of `respgate upgrade` asks for.
pub(super) fn parse_upgrade(matches: &ArgMatches) -> Ctl {
    request(matches, "upgrade", serde_json::Map::new())
}

/// The options that name clients.
const CLIENT_TEXTS: [(&str, &str, &str); 3] = [
    ("tenant", "NAME", "Of this tenant"),
    ("user", "NAME", "Of this user"),
    ("address", "IP:PORT", "With this address, as `clients` shows it"),
];

fn client_options() -> Vec<Arg> {
    let session = Arg::new("session").long("session").value_name("ID").value_parser(clap::value_parser!(u64));
    let mut options = vec![session.help("With this id, as `clients` and CLIENT ID show it")];
    options.extend(
        CLIENT_TEXTS.map(|(name, value, help)| Arg::new(name).long(name).value_name(value).help(help)),
    );
    options
}

fn pause_options() -> [Arg; 3] {
    let flag = |name: &'static str, help| Arg::new(name).long(name).help(help).action(ArgAction::SetTrue);
    [
        flag("drain", "Let blocked commands, subscriptions and open transactions go on (default)"),
        flag("at-once", "Have sessions give up their leased connections too").conflicts_with("drain"),
        Arg::new("deadline")
            .long("deadline")
            .value_name("TIME")
            .value_parser(|text: &str| <Duration as Value>::from_text(text))
            .help("When the pause ends by itself, as in 20s; default: nine tenths of hold-timeout"),
    ]
}

/// The options of `switch` that hold a text. The paths are made absolute, because respgate may have another folder.
const SWITCH_TEXTS: [(&str, &str, &str); 4] = [
    ("username", "NAME", "respgate's own user there; default: the present one"),
    ("password-file", "FILE", "The file with its password, which respgate reads"),
    ("ca", "FILE", "The authorities that sign its certificate; default: the present ones, or the system's"),
    ("server-name", "NAME", "The name in its certificate"),
];

fn switch_options() -> Vec<Arg> {
    let url = Arg::new("url").value_name("URL").required(true).help("Where it is from now on");
    let copied = Arg::new("data-copied").long("data-copied").action(ArgAction::SetTrue);
    let copied = copied.help("The data was copied, or is not needed: do not ask for one replication history");
    let texts =
        SWITCH_TEXTS.map(|(name, value, help)| Arg::new(name).long(name).value_name(value).help(help));
    [url, copied].into_iter().chain(texts).collect()
}

/// Reads the arguments of an action on an upstream.
fn upstream_arguments(name: &str, action: &ArgMatches, arguments: &mut Map<String, Json>) {
    let text = |name: &str| action.get_one::<String>(name).cloned();
    let Some(upstream) = text("upstream") else { return };
    arguments.insert("upstream".into(), upstream.into());
    if name == "pause" {
        if action.get_flag("at-once") {
            arguments.insert("at-once".into(), true.into());
        }
        if let Some(deadline) = action.get_one::<Duration>("deadline") {
            arguments.insert("deadline-seconds".into(), deadline.as_secs_f64().into());
        }
    }
    if name == "switch" {
        arguments.extend(text("url").map(|url| ("url".to_owned(), url.into())));
        for (name, value, _) in SWITCH_TEXTS {
            let given = text(name).map(|text| match std::path::absolute(&text) {
                Ok(path) if value == "FILE" => path.display().to_string(),
                _ => text,
            });
            arguments.extend(given.map(|text| (name.to_owned(), text.into())));
        }
        if action.get_flag("data-copied") {
            arguments.insert("data-copied".into(), true.into());
        }
    }
}

/// Reads what the command line asks for.
pub(super) fn parse(matches: &ArgMatches) -> Ctl {
    let (name, action) = matches.subcommand().unwrap_or(("", matches));
    let mut arguments = Map::new();
    if name == "log-level"
        && let Some(level) = action.get_one::<String>("level")
    {
        arguments.insert("level".into(), level.clone().into());
    }
    if matches!(name, "pause" | "resume" | "reconnect" | "switch") {
        upstream_arguments(name, action, &mut arguments);
    }
    if matches!(name, "clients" | "kill") {
        let texts = CLIENT_TEXTS.map(|(option, ..)| (option, action.get_one::<String>(option)));
        arguments.extend(
            texts.into_iter().filter_map(|(option, text)| Some((option.into(), text?.clone().into()))),
        );
        if let Some(session) = action.get_one::<u64>("session") {
            arguments.insert("session".into(), (*session).into());
        }
    }
    if name == "upstream-clients"
        && let Some(upstream) = action.get_one::<String>("upstream")
    {
        arguments.insert("upstream".into(), upstream.clone().into());
    }
    if name == tap::NAME {
        arguments = tap::arguments(action);
    }
    request(matches, name, arguments)
}

fn request(matches: &ArgMatches, name: &str, arguments: serde_json::Map<String, serde_json::Value>) -> Ctl {
    Ctl {
        at: running_respgate(matches),
        json: matches.get_flag("json"),
        action: ActionRequest { name: name.to_owned(), arguments },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::control::ACTION_NAMES;

    #[test]
    fn every_action_of_control_has_a_subcommand() {
        assert_eq!(ACTIONS.map(|(name, _)| name), ACTION_NAMES);
    }
}
