//! `respgate ctl`: controls a running respgate through its control socket, or through its admin listener with a token.

mod entries;

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value};

use crate::admin_client::{AdminClient, Answer, Endpoint};

/// Time that one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that the answer to `reload` may take: several upstreams may move.
const RELOAD_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that the answer to `upgrade` may take. The running respgate has its own limit, `upgrade-timeout`.
const UPGRADE_ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// An action, as the command line spells it.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionRequest {
    /// The name of the action.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// The outcome of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The running respgate did it. Holds the JSON answer.
    Done(Value),
    /// The running respgate refused it. Holds the reason.
    Refused(Refusal, String),
    /// No respgate answered. Holds the reason, and what to do.
    Unreachable(String),
}

/// The kinds of refusals, which have exit codes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The action or its arguments are wrong.
    Usage,
    /// The caller may not control this respgate.
    Permission,
    /// The action could not be done.
    Failed,
}

/// Asks a running respgate to do `action`.
pub fn perform(client: &AdminClient, action: &ActionRequest) -> Outcome {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Unreachable(format!("cannot start: {error}")),
    };
    let path = format!("/control/{}", action.name);
    let body = Value::Object(action.arguments.clone()).to_string();
    let limit = match action.name.as_str() {
        "reload" => RELOAD_ANSWER_TIMEOUT,
        "upgrade" => UPGRADE_ANSWER_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    match runtime.block_on(client.post(&path, body, limit)) {
        Ok(answer) => outcome(&answer),
        Err(error) => unreachable(&client.endpoint, &error),
    }
}

/// Runs a tap on a running respgate, and calls `show` with each line. Ends with the tap, or when `show` returns false.
pub fn tap(
    client: &AdminClient,
    action: &ActionRequest,
    json: bool,
    mut show: impl FnMut(&str) -> bool,
) -> Outcome {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Unreachable(format!("cannot start: {error}")),
    };
    let body = Value::Object(action.arguments.clone()).to_string();
    let streamed = client.post_for_lines("/control/tap", body, ANSWER_TIMEOUT, |line| {
        tap_line(line, json).is_none_or(|line| show(&line))
    });
    match runtime.block_on(streamed) {
        Ok(answer) if answer.status == StatusCode::OK => Outcome::Done(Value::Null),
        Ok(answer) => outcome(&answer),
        Err(error) => unreachable(&client.endpoint, &error),
    }
}

/// Returns a line of a tap as the user sees it, or `None` for one that only shows that the tap runs.
fn tap_line(line: &str, json: bool) -> Option<String> {
    let document: Value = serde_json::from_str(line).ok()?;
    let dropped = document.get("dropped").and_then(Value::as_u64);
    if dropped == Some(0) {
        return None;
    }
    Some(match (json, dropped, document.get("end").and_then(Value::as_str)) {
        (true, ..) => format!("{line}\n"),
        (_, Some(dropped), _) => {
            format!("({dropped} more commands were dropped: this tap is too slow for them)\n")
        }
        (_, _, Some(end)) => format!("(the tap ended: {end})\n"),
        _ => format!("{}\n", entries::command_line(&document)),
    })
}

fn unreachable(endpoint: &Endpoint, error: &std::io::Error) -> Outcome {
    Outcome::Unreachable(format!(
        "no respgate answers at {endpoint}: {error}; name its control socket with --socket (control-socket in its \
         file), or its admin listener with --admin and --token-file"
    ))
}

fn outcome(answer: &Answer) -> Outcome {
    let document: Option<Value> = serde_json::from_str(&answer.body).ok();
    let text = document.as_ref().and_then(|document| document.get("error")?.as_str().map(str::to_owned));
    match (answer.status, document, text) {
        (StatusCode::OK, Some(document), _) => Outcome::Done(document),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _, Some(why)) => {
            Outcome::Refused(Refusal::Permission, why)
        }
        (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, _, Some(why)) => {
            Outcome::Refused(Refusal::Usage, why)
        }
        (_, _, Some(why)) => Outcome::Refused(Refusal::Failed, why),
        (status, _, None) => {
            Outcome::Unreachable(format!("what answers is not a respgate with control: HTTP {status}"))
        }
    }
}

/// Returns a result as lines for people.
pub fn lines(document: &Value) -> String {
    match document.get("result") {
        Some(Value::Array(commands)) if commands.first().is_some_and(entries::is_command) => {
            commands.iter().map(|command| format!("{}\n", entries::command_line(command))).collect()
        }
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_object) => {
            items.iter().filter_map(Value::as_object).map(row).collect()
        }
        Some(Value::Object(fields)) => {
            fields.iter().map(|(name, value)| format!("{name}: {}\n", plain(value))).collect()
        }
        Some(value) => format!("{}\n", plain(value)),
        None => String::new(),
    }
}

/// The fields of a client that are printed first, in this order.
const FIRST: [&str; 12] =
    ["id", "addr", "name", "user", "tenant", "listener", "upstream", "age", "idle", "flags", "db", "cmd"];

/// Returns one entry of a list as a line of `key=value`.
fn row(fields: &Map<String, Value>) -> String {
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    let words: Vec<String> =
        first.chain(rest).map(|(name, value)| format!("{name}={}", plain(value))).collect();
    format!("{}\n", words.join(" "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answered(status: u16, body: &str) -> Outcome {
        outcome(&Answer { status: StatusCode::from_u16(status).expect("a status"), body: body.into() })
    }

    #[test]
    fn statuses_are_told_apart() {
        assert_eq!(answered(200, r#"{"result":"x"}"#), Outcome::Done(json!({ "result": "x" })));
        let why = || "no".to_owned();
        for (status, refusal) in [
            (400, Refusal::Usage),
            (404, Refusal::Usage),
            (401, Refusal::Permission),
            (403, Refusal::Permission),
            (409, Refusal::Failed),
        ] {
            assert_eq!(answered(status, r#"{"error":"no"}"#), Outcome::Refused(refusal, why()), "{status}");
        }
        assert!(matches!(answered(404, "<html>"), Outcome::Unreachable(_)));
        assert!(matches!(answered(200, "hello"), Outcome::Unreachable(_)));
    }

    #[test]
    fn results_are_readable() {
        assert_eq!(lines(&json!({ "result": "draining" })), "draining\n");
        let reload =
            json!({ "result": { "configuration": "changed", "needs-restart": ["workers", "admin"] } });
        assert_eq!(lines(&reload), "configuration: changed\nneeds-restart: workers, admin\n");
        let clients = json!({ "result": [{ "age": 3, "fd": 0, "id": 7 }, { "id": 8 }] });
        assert_eq!(lines(&clients), "id=7 age=3 fd=0\nid=8\n");
        assert_eq!(lines(&json!({ "result": [] })), "none\n");
    }
}
