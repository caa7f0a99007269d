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

/// Where a running respgate answers, and how to ask it.
#[derive(Debug)]
pub struct RunningRespgate {
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// The admin listener.
    pub admin: Option<SocketAddr>,
    /// The authorities of the admin listener's certificate; `None` speaks plain HTTP.
    pub admin_ca: Option<PathBuf>,
    /// The name in that certificate.
    pub admin_server_name: Option<String>,
    /// The file that holds the token for the admin listener.
    pub token_file: Option<PathBuf>,
    /// The configuration file of the running respgate, which names the socket or the listener.
    pub config: Option<PathBuf>,
}

/// Adds the arguments of [`RunningRespgate`]. `token` is the environment variable that names the token's file, and `admin` says
/// what happens without the admin listener's address.
pub(super) fn with_running_respgate(command: Command, token: &'static str, admin: &'static str) -> Command {
    command
        .arg(path_option("socket", "RESPGATE_CONTROL_SOCKET", "PATH", "Its control socket"))
        .arg(admin_option(admin))
        .arg(path_option(
            "admin-ca",
            "RESPGATE_ADMIN_CA",
            "FILE",
            "Speak TLS with the admin listener, and trust these authorities",
        ))
        .arg(
            Arg::new("admin-server-name")
                .long("admin-server-name")
                .value_name("NAME")
                .requires("admin-ca")
                .help("The name in its certificate; default: its IP address"),
        )
        .arg(path_option("token-file", token, "FILE", "The token for the admin listener"))
        .arg(path_option(
            "config",
            "RESPGATE_CONFIG",
            "FILE",
            "The file that it runs with, which names one of these",
        ))
}

/// Returns the values of the arguments that [`with_running_respgate`] adds.
pub(super) fn running_respgate(matches: &ArgMatches) -> RunningRespgate {
    RunningRespgate {
        socket: path(matches, "socket"),
        admin: admin(matches),
        admin_ca: path(matches, "admin-ca"),
        admin_server_name: matches.get_one("admin-server-name").cloned(),
        token_file: path(matches, "token-file"),
        config: path(matches, "config"),
    }
}

/// The admin listener of a running respgate.
fn admin_option(help: &'static str) -> Arg {
    Arg::new("admin")
        .long("admin")
        .env("RESPGATE_ADMIN")
        .hide_env(true)
        .value_name("ADDR")
        .value_parser(admin_address)
        .help(help)
}

/// Returns the value of [`admin_option`].
fn admin(matches: &ArgMatches) -> Option<SocketAddr> {
    matches.get_one::<Option<SocketAddr>>("admin").copied().flatten()
}

/// Returns the value of a [`path_option`]. An empty environment variable counts as unset.
fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// A file or a socket of a running respgate.
fn path_option(name: &'static str, env: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .env(env)
        .hide_env(true)
        .value_name(value)
        .value_parser(clap::value_parser!(PathBuf))
        .help(help)
}
