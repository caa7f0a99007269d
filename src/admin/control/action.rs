//! The actions that control asks for, and how a request spells them.

use std::time::Duration;

use serde_json::{Map, Value};

use super::clients::ClientAction;
use crate::logs::is_filter;
use crate::operator::{DataProof, Pause, SwitchRequest};

/// Length of the longest request body, in bytes.
pub(in crate::admin) const LONGEST_BODY: usize = 16 * 1024;

/// One action, with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::admin) enum Action {
    /// Read the configuration file now.
    Reload,
    /// Log by this filter from now on.
    LogLevel(String),
    /// List clients, disconnect some, or show the server's list.
    Clients(ClientAction),
    /// Hold the commands to this upstream, until the deadline at the latest.
    Pause { upstream: String, pause: Pause, deadline: Option<Duration> },
    /// End the pause of this upstream.
    Resume { upstream: String },
    /// Replace the connections to this upstream.
    Reconnect { upstream: String },
    /// Move this upstream to another address.
    Switch { upstream: String, to: SwitchRequest, proof: DataProof },
    /// Return the newest slow commands.
    SlowLog,
    /// Accept no new clients, and end each session once it has no unanswered command.
    Drain,
    /// Start a new process that takes over the listening sockets, then drain and end this one.
    Upgrade,
    /// Drain, then end the process.
    Shutdown,
}

/// Why a request names no action.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::admin) enum ActionError {
    /// The path names no action.
    #[error("no such action: {0:?}; there are {list}", list = ACTION_NAMES.join(", "))]
    Unknown(String),
    /// The body is not a JSON object.
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    /// An argument is missing or has a wrong value.
    #[error("{0}")]
    Argument(String),
}

/// The names of all actions, as paths and command lines spell them.
pub const ACTION_NAMES: [&str; 13] = [
    "reload",
    "log-level",
    "slow-log",
    "clients",
    "kill",
    "upstream-clients",
    "pause",
    "resume",
    "reconnect",
    "switch",
    "drain",
    "upgrade",
    "shutdown",
];

impl Action {
    /// Parses the action's name and its arguments: `body` is a JSON object, or empty.
    ///
    /// # Errors
    /// Returns what is wrong, and what to write.
    pub(in crate::admin) fn parse(name: &str, body: &[u8]) -> Result<Self, ActionError> {
        if !ACTION_NAMES.contains(&name) {
            return Err(ActionError::Unknown(name.to_owned()));
        }
        let mut arguments = match body {
            [] => Map::new(),
            _ => serde_json::from_slice(body).map_err(|error| ActionError::NotJson(error.to_string()))?,
        };
        let action = match name {
            "reload" => Self::Reload,
            "clients" | "kill" | "upstream-clients" => {
                Self::Clients(ClientAction::parse(name, &mut arguments).map_err(ActionError::Argument)?)
            }
            "slow-log" => Self::SlowLog,
            "drain" => Self::Drain,
            "upgrade" => Self::Upgrade,
            "shutdown" => Self::Shutdown,
            "pause" => Self::Pause {
                upstream: upstream(name, &mut arguments)?,
                pause: if flag(name, "at-once", &mut arguments)? { Pause::AtOnce } else { Pause::Drained },
                deadline: deadline(&mut arguments)?,
            },
            "resume" => Self::Resume { upstream: upstream(name, &mut arguments)? },
            "reconnect" => Self::Reconnect { upstream: upstream(name, &mut arguments)? },
            "switch" => Self::Switch {
                upstream: upstream(name, &mut arguments)?,
                to: SwitchRequest {
                    url: text(name, "url", &mut arguments)?
                        .ok_or_else(|| missing(name, "url", "redis://new.example:6379"))?,
                    username: text(name, "username", &mut arguments)?,
                    password_file: text(name, "password-file", &mut arguments)?,
                    ca: text(name, "ca", &mut arguments)?,
                    server_name: text(name, "server-name", &mut arguments)?,
                },
                proof: match flag(name, "data-copied", &mut arguments)? {
                    true => DataProof::Stated,
                    false => DataProof::Replication,
                },
            },
            _ => {
                let level = match arguments.remove("level") {
                    Some(Value::String(level)) if is_filter(&level) => level,
                    Some(Value::String(level)) => {
                        return Err(ActionError::Argument(format!(
                            "{level:?} is not a log level; write error, warn, info, debug, trace or off, or by module \
                             info,respgate::discovery=debug"
                        )));
                    }
                    _ => {
                        return Err(ActionError::Argument(
                            r#"log-level needs "level", as in "debug""#.into(),
                        ));
                    }
                };
                Self::LogLevel(level)
            }
        };
        match arguments.keys().next() {
            Some(unknown) => Err(ActionError::Argument(format!("{name} has no argument {unknown:?}"))),
            None => Ok(action),
        }
    }
}

/// The longest deadline of a pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

fn missing(name: &str, argument: &str, example: &str) -> ActionError {
    ActionError::Argument(format!("{name} needs {argument:?}, as in {example:?}"))
}

/// Takes the name of the upstream out.
fn upstream(name: &str, arguments: &mut Map<String, Value>) -> Result<String, ActionError> {
    text(name, "upstream", arguments)?.ok_or_else(|| missing(name, "upstream", "main"))
}

/// Takes a text out, if it is there.
fn text(
    name: &str,
    argument: &str,
    arguments: &mut Map<String, Value>,
) -> Result<Option<String>, ActionError> {
    match arguments.remove(argument) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(ActionError::Argument(format!("{argument:?} of {name} is a text"))),
    }
}

/// Takes a truth value out; false if it is not there.
fn flag(name: &str, argument: &str, arguments: &mut Map<String, Value>) -> Result<bool, ActionError> {
    match arguments.remove(argument) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(ActionError::Argument(format!("{argument:?} of {name} is true or false"))),
    }
}

/// Takes the deadline of a pause out, if it is there.
fn deadline(arguments: &mut Map<String, Value>) -> Result<Option<Duration>, ActionError> {
    let Some(value) = arguments.remove("deadline-seconds") else { return Ok(None) };
    let deadline = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match deadline.filter(|deadline| !deadline.is_zero() && *deadline <= LONGEST_PAUSE) {
        Some(deadline) => Ok(Some(deadline)),
        None => Err(ActionError::Argument(
            r#""deadline-seconds" of pause is a number above 0 and up to 86400 (a day)"#.into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, body: &str) -> String {
        Action::parse(name, body.as_bytes()).expect_err("an error").to_string()
    }

    #[test]
    fn every_action_is_parsed_by_its_name() {
        for name in ACTION_NAMES {
            let body = match name {
                "log-level" => r#"{"level":"info,respgate::discovery=debug"}"#,
                "kill" => r#"{"session":1}"#,
                "pause" | "resume" | "reconnect" => r#"{"upstream":"main"}"#,
                "switch" => r#"{"upstream":"main","url":"redis://new.example"}"#,
                _ => "",
            };
            assert!(Action::parse(name, body.as_bytes()).is_ok(), "{name}");
        }
    }

    #[test]
    fn wrong_requests_are_explained() {
        assert!(error("explode", "").contains("there are reload, log-level, "));
        assert!(error("reload", "[]").contains("not a JSON object"));
        assert!(error("reload", "{").contains("not a JSON object"));
        assert_eq!(error("reload", r#"{"soon":1}"#), r#"reload has no argument "soon""#);
        assert!(error("log-level", "").contains(r#"needs "level""#));
        assert!(error("log-level", r#"{"level":"loud"}"#).starts_with(r#""loud" is not a log level"#));
        assert!(error("log-level", r#"{"level":7}"#).contains(r#"needs "level""#));
    }

    #[test]
    fn wrong_orders_for_upstreams_are_explained() {
        for name in ["pause", "resume", "reconnect", "switch"] {
            assert!(error(name, "").contains(r#"needs "upstream", as in "main""#), "{name}");
            assert_eq!(error(name, r#"{"upstream":1}"#), format!("\"upstream\" of {name} is a text"));
        }
        for seconds in ["0", "-1", "1e9", "\"1\"", "null"] {
            let body = format!(r#"{{"upstream":"main","deadline-seconds":{seconds}}}"#);
            assert!(error("pause", &body).contains("a number above 0"), "{seconds}");
        }
        assert!(error("pause", r#"{"upstream":"main","at-once":"yes"}"#).contains("true or false"));
        assert!(error("resume", r#"{"upstream":"main","at-once":true}"#).contains("has no argument"));
        assert!(error("switch", r#"{"upstream":"main"}"#).contains(r#"needs "url""#));
    }

    #[test]
    fn a_switch_is_read_with_all_its_arguments() {
        let body = br#"{"upstream":"main","url":"rediss://h","username":"u","password-file":"/p","ca":"/c","data-copied":true}"#;
        let Ok(Action::Switch { upstream, to, proof }) = Action::parse("switch", body) else {
            panic!("no switch");
        };
        assert_eq!((upstream.as_str(), proof), ("main", DataProof::Stated));
        assert_eq!((to.username.as_deref(), to.ca.as_deref()), (Some("u"), Some("/c")));
        assert!(!format!("{to:?}").contains("rediss"), "the URL may hold a password");
    }
}
