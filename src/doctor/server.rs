//! Checks which server it is, and whether it serves commands.

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::words::quoted;
use crate::resp::control::ControlError;
use crate::resp::greeting::server_info;
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;

/// Queries the server's name and version, and whether it would serve a command.
///
/// # Errors
///
/// Returns the error if the connection fails.
pub(super) async fn examine(channel: &mut Channel, peer: &Peer) -> Result<Finding, ControlError> {
    let deadline = Instant::now() + peer.answer_timeout();
    let hello = channel.call(&[b"HELLO", b"2"], deadline).await?;
    let ping = channel.call(&[b"PING"], deadline).await?;
    let eta = match ping.error().map(|line| ServerError::of(line)) {
        Some(ServerError::Loading) => channel.call(&[b"INFO", b"persistence"], deadline).await?,
        _ => Value::Null,
    };
    Ok(judge(peer, &hello, &ping, eta.text().and_then(|info| field(info, "loading_eta_seconds"))))
}

/// Returns the value of a line `key:value` of INFO.
pub(super) fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim_end))
}

fn judge(peer: &Peer, hello: &Value, ping: &Value, loading_eta: Option<&str>) -> Finding {
    let credentials = peer.credentials.as_ref();
    let known = hello.error().is_none().then(|| server_info(hello));
    let name = known.as_ref().map_or_else(
        || "a server that does not say its version".to_owned(),
        |info| format!("{} {}", info.server, info.version),
    );
    if let Some(line) = ping.error() {
        let answer = quoted(line, credentials);
        let broken =
            |seen: String, remedy: &str| Finding::broken(Step::Server, format!("{name}: {seen}"), remedy);
        match ServerError::of(line) {
            ServerError::Loading => {
                let left = loading_eta.filter(|eta| eta.parse::<u64>().is_ok());
                let left = left.map(|eta| format!(", about {eta} s left")).unwrap_or_default();
                return broken(
                    format!("it has just started and still loads its data{left}"),
                    "wait; if it never ends, look at the server's log: it may run out of memory and start over",
                );
            }
            ServerError::MasterDown => {
                return broken(
                    "it is a replica whose link to its primary is down, and answers nobody".into(),
                    "see the role below; on it, INFO replication tells the state of the link",
                );
            }
            ServerError::Misconfigured => {
                return broken(
                    format!("it refuses writes because it cannot save its data ({answer})"),
                    "on the server: free disk space or fix the folder of its `dir` (its log says which), then BGSAVE; \
                     as a stopgap CONFIG SET stop-writes-on-bgsave-error no",
                );
            }
            ServerError::Busy => {
                return broken(
                    "a script runs for too long, and nothing else is answered".into(),
                    "SCRIPT KILL or FUNCTION KILL on the server ends it, unless it has already written",
                );
            }
            ServerError::NoPermission => {
                return Finding::warning(
                    Step::Server,
                    format!("{name}; the user may not PING ({answer})"),
                    "respgate watches its connections with PING: allow the user +ping",
                );
            }
            _ => {
                return broken(
                    format!("it answers PING with an error: {answer}"),
                    "look at the server's log",
                );
            }
        }
    }
    if hello.field("mode").and_then(Value::text) == Some("cluster") && !peer.in_cluster {
        return Finding::broken(
            Step::Server,
            format!("{name}, a node of a cluster"),
            "begin the url with redis-cluster://: as a single server, the node would answer commands for other nodes' slots \
             with MOVED",
        );
    }
    match hello.error() {
        Some(line) if ServerError::of(line) == ServerError::NoPermission => {
            Finding::ok(Step::Server, "answers; the user may not ask for its version")
        }
        Some(_) => Finding::warning(
            Step::Server,
            "answers, but does not know HELLO: it is older than Redis 6",
            "clients that use RESP3 are refused; upgrade the server, or set them to RESP2",
        ),
        None => Finding::ok(Step::Server, name)
            .fact("version", known.map(|info| info.version).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::doctor::peer::Kind;
    use crate::topology::Address;

    fn judged(mode: &'static str, ping: &'static [u8]) -> Finding {
        let peer = Peer::new(Kind::Server, Address::tcp("db", 6379));
        let text = |text: &'static str| Value::Text(text.into());
        let pairs = [("server", "valkey"), ("version", "8.0.1"), ("mode", mode)];
        let hello = Value::Array(pairs.into_iter().flat_map(|(k, v)| [text(k), text(v)]).collect());
        let ping = match ping {
            b"PONG" => text("PONG"),
            line => Value::Error(line.into()),
        };
        judge(&peer, &hello, &ping, Some("12"))
    }

    #[test]
    fn a_server_that_serves_no_commands_is_broken() {
        let ok = judged("standalone", b"PONG");
        assert_eq!((ok.level, &*ok.seen), (Level::Ok, "valkey 8.0.1"));
        for (line, expected) in [
            (&b"LOADING Redis is loading the dataset in memory"[..], "about 12 s left"),
            (b"MASTERDOWN Link with MASTER is down", "link to its primary is down"),
            (b"MISCONF Errors writing to the AOF file", "refuses writes"),
            (b"BUSY Redis is busy running a script", "script"),
        ] {
            let finding = judged("standalone", line);
            assert!(finding.level == Level::Broken && finding.seen.contains(expected), "{finding:?}");
        }
        assert_eq!(judged("standalone", b"NOPERM x").level, Level::Warning);
        assert!(judged("cluster", b"PONG").remedy.unwrap().contains("redis-cluster://"));
    }
}
