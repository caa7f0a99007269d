//! `respgate ctl tap`: its command line.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

use crate::config::size::duration;

/// The name of the command.
pub(super) const NAME: &str = "tap";

/// The options whose values are texts, each with the name of its value and its help.
const TEXTS: [(&str, &str, &str); 5] = [
    ("tenant", "NAME", "Only commands of clients of this tenant"),
    ("client", "CLIENT", "Only commands of clients with this id, address or name"),
    ("user", "NAME", "Only commands of clients that act as this user"),
    ("command", "COMMAND", "Only this command, such as GET or \"CONFIG GET\""),
    ("key-prefix", "PREFIX", "Only commands whose first key begins with this"),
];

/// Returns the definition of the command.
pub(super) fn command() -> Command {
    let mut tap = Command::new(NAME).about("Show commands as they are answered, and where their time went");
    for (name, value, help) in TEXTS {
        tap = tap.arg(Arg::new(name).long(name).value_name(value).help(help));
    }
    tap.arg(
        Arg::new("sample")
            .long("sample")
            .value_name("1/N")
            .value_parser(sample)
            .help("Only one of N matching commands, chosen at random"),
    )
    .arg(
        Arg::new("duration")
            .long("duration")
            .value_name("TIME")
            .value_parser(seconds)
            .help("End after this time, 1h at most [default: 60s]"),
    )
    .arg(
        Arg::new("arguments")
            .long("arguments")
            .action(ArgAction::SetTrue)
            .help("Show keys and arguments; those that can hold a password are never shown"),
    )
}

/// Returns what the command line asks for, as the arguments of the request.
pub(super) fn arguments(matches: &ArgMatches) -> Map<String, Value> {
    let mut arguments = Map::new();
    for (name, ..) in TEXTS {
        if let Some(text) = matches.get_one::<String>(name) {
            arguments.insert(name.into(), text.clone().into());
        }
    }
    if let Some(sample) = matches.get_one::<u32>("sample") {
        arguments.insert("sample".into(), (*sample).into());
    }
    if let Some(seconds) = matches.get_one::<u64>("duration") {
        arguments.insert("seconds".into(), (*seconds).into());
    }
    if matches.get_flag("arguments") {
        arguments.insert("arguments".into(), "show".into());
    }
    arguments
}

fn sample(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").unwrap_or(text).parse().ok();
    number.filter(|number| *number > 0).ok_or_else(|| "write 1/N, as in 1/100".into())
}

fn seconds(text: &str) -> Result<u64, String> {
    let seconds = duration(text)?.as_secs();
    if (1..=3600).contains(&seconds) { Ok(seconds) } else { Err("write a time from 1s to 1h".into()) }
}
