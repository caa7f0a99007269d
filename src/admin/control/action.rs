//! The actions that control asks for, and how a request spells them.

use serde_json::{Map, Value};

use super::clients::ClientAction;
use crate::logs::is_filter;

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
pub const ACTION_NAMES: [&str; 8] =
    ["reload", "log-level", "clients", "kill", "upstream-clients", "drain", "upgrade", "shutdown"];

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
                Self::Clients(ClientAction::parse(name, &mut arguments)?)
            }
            "drain" => Self::Drain,
            "upgrade" => Self::Upgrade,
            "shutdown" => Self::Shutdown,
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
}
