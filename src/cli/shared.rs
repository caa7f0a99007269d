//! Arguments that several commands of respgate have.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Replaces clap's `help` subcommand and flags with respgate's own text. Subcommands inherit this
/// setting.
pub(super) fn with_help(command: Command) -> Command {
    command.disable_help_flag(true).arg(other("help", 'h', "Print this help").action(ArgAction::Help))
}

pub(super) fn other(name: &'static str, short: char, help: &'static str) -> Arg {
    Arg::new(name).long(name).short(short).help(help).help_heading("Other")
}

pub(super) fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .help("One JSON document on stdout, for machines")
        .help_heading("Other")
        .action(ArgAction::SetTrue)
}

/// Parses the address of the admin listener. An empty environment variable counts as unset.
fn admin_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "write an IP address and a port, as in 127.0.0.1:9121".into())
}

/// The admin listener of a running respgate.
pub(super) fn admin_option(help: &'static str) -> Arg {
    Arg::new("admin")
        .long("admin")
        .env("RESPGATE_ADMIN")
        .hide_env(true)
        .value_name("ADDR")
        .value_parser(admin_address)
        .help(help)
}

/// Returns the value of [`admin_option`].
pub(super) fn admin(matches: &ArgMatches) -> Option<SocketAddr> {
    matches.get_one::<Option<SocketAddr>>("admin").copied().flatten()
}

/// Returns the value of a [`path_option`]. An empty environment variable counts as unset.
pub(super) fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// A file or a socket of a running respgate.
pub(super) fn path_option(
    name: &'static str,
    env: &'static str,
    value: &'static str,
    help: &'static str,
) -> Arg {
    Arg::new(name)
        .long(name)
        .env(env)
        .hide_env(true)
        .value_name(value)
        .value_parser(clap::value_parser!(PathBuf))
        .help(help)
}
