//! Checks which node a Sentinel names as primary, and in which state the Sentinel sees that node.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::words::{list, milliseconds, quoted};
use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{self, BadReply, View};
use crate::resp::control::ControlError;
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;
use crate::topology::Address;

/// The greatest number of replicas to check.
const MAX_REPLICAS: usize = 16;

/// The answers of a Sentinel.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The primary that the Sentinel names and the Sentinels that it knows; addresses are as announced.
    pub(super) view: View,
    /// The Sentinel's own id.
    pub(super) id: Option<String>,
    /// The addresses of the Sentinels that it knows and has no connection to. The doctor does not connect to them.
    pub(super) lost: Vec<String>,
    /// The number of Sentinels that must find the primary down before a failover starts.
    pub(super) quorum: Option<usize>,
    /// The error of `SENTINEL CKQUORUM`, if it returns one.
    pub(super) no_quorum: Option<String>,
    /// The replicas that the Sentinel knows.
    pub(super) replicas: Vec<Replica>,
    /// The names of all primaries that the Sentinel knows; queried only if the configured name is unknown to it.
    pub(super) names: Vec<String>,
}

/// A replica as a Sentinel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// The replica's address, as announced.
    pub(super) address: Address,
    /// Why the replica could not take over; `None` if it could.
    pub(super) problem: Option<String>,
}

/// Queries a Sentinel on a connection that is logged in.
pub(super) async fn ask(
    channel: &mut Channel,
    peer: &Peer,
    config: &SentinelConfig,
) -> (Finding, Option<Answer>) {
    let begun = Instant::now();
    match query(channel, peer, config).await {
        Ok((answer, took)) => (judge(&answer, config, took), Some(answer)),
        Err(Refusal::Line(line)) => (refused(&line, peer), None),
        Err(Refusal::Control(error)) => {
            let seen = format!("asked for the primary, the Sentinel failed: {error}");
            let remedy = "look at its log, and whether the machine is overloaded or the process is stopped";
            let took = begun.elapsed().as_secs_f64() * 1000.0;
            (Finding::broken(Step::Sentinel, seen, remedy).fact("ms", took), None)
        }
        Err(Refusal::Malformed(what)) => {
            let remedy = "check that the port is a Sentinel's, 26379 by default";
            (Finding::broken(Step::Sentinel, what, remedy), None)
        }
    }
}

enum Refusal {
    Line(Vec<u8>),
    Control(ControlError),
    Malformed(&'static str),
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

/// Runs the proxy's queries and measures them, then further queries whose answers only people need.
async fn query(
    channel: &mut Channel,
    peer: &Peer,
    config: &SentinelConfig,
) -> Result<(Answer, Duration), Refusal> {
    let name = config.primary_name.as_bytes();
    let deadline = Instant::now() + peer.answer_timeout();
    let begun = Instant::now();
    channel.send(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name]);
    channel.send(&[b"SENTINEL", b"MASTER", name]);
    channel.send(&[b"SENTINEL", b"SENTINELS", name]);
    channel.flush(deadline).await?;
    let get = channel.reply(deadline).await?;
    let primary = channel.reply(deadline).await?;
    let sentinels = channel.reply(deadline).await?;
    let took = begun.elapsed();
    let announced = SentinelConfig { nat: HashMap::new(), ..config.clone() };
    let view = event::view(&get, &primary, &sentinels, &announced).map_err(|bad| match bad {
        BadReply::Error(line) => Refusal::Line(line.to_vec()),
        BadReply::Malformed(what) => Refusal::Malformed(what),
    })?;

    channel.send(&[b"SENTINEL", b"MYID"]);
    channel.send(&[b"SENTINEL", b"CKQUORUM", name]);
    channel.send(&[b"SENTINEL", b"REPLICAS", name]);
    channel.send(&[b"SENTINEL", b"MASTERS"]);
    channel.flush(deadline).await?;
    let id = event::own_id(&channel.reply(deadline).await?);
    let quorum_check = channel.reply(deadline).await?;
    let replicas = channel.reply(deadline).await?;
    let masters = channel.reply(deadline).await?;
    let answer = Answer {
        id,
        lost: sentinels.elements().unwrap_or_default().iter().take(MAX_REPLICAS).filter_map(lost).collect(),
        quorum: primary.field("quorum").and_then(Value::integer).and_then(|n| n.try_into().ok()),
        no_quorum: quorum_check
            .error()
            .filter(|line| ServerError::of(line) == ServerError::NoQuorum)
            .map(|line| quoted(line, None)),
        replicas: replicas
            .elements()
            .unwrap_or_default()
            .iter()
            .take(MAX_REPLICAS)
            .filter_map(replica)
            .collect(),
        names: masters.elements().unwrap_or_default().iter().filter_map(primary_name).take(20).collect(),
        view,
    };
    Ok((answer, took))
}

fn primary_name(entry: &Value) -> Option<String> {
    entry.field("name").and_then(Value::text).map(|name| name.chars().take(100).collect())
}

/// Returns the address of a Sentinel that another one finds down.
fn lost(entry: &Value) -> Option<String> {
    let text = |key| entry.field(key).and_then(Value::text);
    let flags = text("flags")?;
    let down = flags.split(',').any(|flag| flag == "disconnected" || flag == "s_down");
    let host: String = text("ip")?.chars().take(255).collect();
    down.then(|| format!("{host}:{}", text("port").unwrap_or_default()))
}

fn replica(entry: &Value) -> Option<Replica> {
    let text = |key| entry.field(key).and_then(Value::text);
    let port = entry.field("port").and_then(Value::integer).and_then(|port| port.try_into().ok())?;
    let host = text("ip").filter(|host| (1..=255).contains(&host.len()))?;
    let flags = text("flags").unwrap_or_default();
    let has = |flag: &str| flags.split(',').any(|word| word == flag);
    let problem = if has("s_down") || has("o_down") || has("disconnected") {
        Some("the Sentinel cannot reach it".to_owned())
    } else if text("master-link-status").is_some_and(|status| status != "ok") {
        Some("its link to the primary is down".to_owned())
    } else if text("slave-priority").is_some_and(|priority| priority == "0") {
        Some("its replica-priority is 0: it is never promoted".to_owned())
    } else {
        None
    };
    Some(Replica { address: Address::tcp(host, port), problem })
}

/// Returns the finding about an answer.
fn judge(answer: &Answer, config: &SentinelConfig, took: Duration) -> Finding {
    let name = &config.primary_name;
    let limit = config.timeout;
    let Some(claim) = &answer.view.claim else {
        let known = match &answer.names[..] {
            [] => "it watches no primary at all".to_owned(),
            names => format!("it knows {}", list(names.iter().map(|name| format!("{name:?}")))),
        };
        return Finding::broken(
            Step::Sentinel,
            format!("does not know a primary named {name:?}; {known}"),
            "correct the name: #name at the end of the URL, or primary-name; it is the one in `sentinel monitor`",
        );
    };
    let mut seen = format!("names {} as {name:?}, epoch {}", claim.address, claim.epoch);
    let has = |flag: &str| claim.flags.split(',').any(|word| word == flag);
    if took > limit {
        seen = format!("{seen}, but only after {}", milliseconds(took));
        let remedy = format!("respgate allows {}: raise sentinel-timeout", milliseconds(limit));
        return Finding::broken(Step::Sentinel, seen, remedy);
    }
    let finding = if has("o_down") || has("s_down") {
        let seen = format!("{seen}, and finds it down");
        let remedy = "if a failover is under way, it is over in seconds: run this again; if not, the Sentinel cannot \
                      reach the node, although others may";
        Finding::warning(Step::Sentinel, seen, remedy)
    } else if has("failover_in_progress") || claim.failover_state.as_deref().is_some_and(|it| it != "none") {
        let seen = format!("{seen}, and is leading a failover");
        Finding::warning(Step::Sentinel, seen, "wait until it is over, and run this again")
    } else {
        Finding::ok(Step::Sentinel, seen)
    };
    finding
        .fact("names", claim.address.to_string())
        .fact("epoch", claim.epoch)
        .fact("ms", took.as_secs_f64() * 1000.0)
}

fn refused(line: &[u8], peer: &Peer) -> Finding {
    let answer = quoted(line, peer.credentials.as_ref());
    match ServerError::of(line) {
        ServerError::NoPermission => Finding::broken(
            Step::Sentinel,
            format!("the user may not ask it for the primary ({answer})"),
            "on every Sentinel, allow that user +sentinel|get-master-addr-by-name +sentinel|master \
             +sentinel|sentinels +subscribe and the channels, &*",
        ),
        ServerError::UnknownCommand => Finding::broken(
            Step::Sentinel,
            "this is not a Sentinel but a data server",
            "check the port: Sentinels listen on 26379 by default, servers on 6379. For one server without Sentinels, \
             use a redis:// URL",
        ),
        _ => Finding::broken(
            Step::Sentinel,
            format!("asked for the primary, it answers with an error: {answer}"),
            "look at the Sentinel's log",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::event::Claim;
    use crate::doctor::finding::Level;

    fn answer(flags: &str) -> Answer {
        let claim = Claim {
            address: Address::tcp("10.0.0.5", 6379),
            epoch: 3,
            run_id: None,
            flags: flags.into(),
            failover_state: None,
        };
        Answer {
            view: View { claim: Some(claim), others: Vec::new(), total: 1 },
            id: None,
            lost: Vec::new(),
            quorum: Some(2),
            no_quorum: None,
            replicas: Vec::new(),
            names: vec!["cache".into()],
        }
    }

    fn config() -> SentinelConfig {
        SentinelConfig::new(vec![Address::tcp("s1", 26379)], "mymaster")
    }

    #[test]
    fn an_answer_is_judged() {
        let soon = Duration::from_millis(1);
        let ok = judge(&answer("master"), &config(), soon);
        assert_eq!((ok.level, &*ok.seen), (Level::Ok, "names 10.0.0.5:6379 as \"mymaster\", epoch 3"));
        assert_eq!(judge(&answer("master,o_down"), &config(), soon).level, Level::Warning);
        let late = judge(&answer("master"), &config(), Duration::from_secs(1));
        assert!(late.level == Level::Broken && late.remedy.unwrap().contains("500 ms"));
        let mut stranger = answer("");
        stranger.view.claim = None;
        let finding = judge(&stranger, &config(), soon);
        assert!(finding.level == Level::Broken && finding.seen.ends_with("it knows \"cache\""));
    }

    #[test]
    fn a_data_server_differs_from_a_forbidden_query() {
        let peer = Peer::new(super::super::peer::Kind::Sentinel, Address::tcp("s1", 6379));
        assert!(refused(b"ERR unknown command 'SENTINEL', with args", &peer).seen.contains("not a Sentinel"));
        assert!(refused(b"NOPERM x", &peer).remedy.unwrap().contains("+sentinel|master"));
    }

    #[test]
    fn replicas_that_could_not_take_over_are_found() {
        let entry = |flags: &'static str, link: &'static str, priority: &'static str| {
            let text = |text: &'static str| Value::Text(text.into());
            let pairs = [
                ("ip", "10.0.0.6"),
                ("port", "6379"),
                ("flags", flags),
                ("master-link-status", link),
                ("slave-priority", priority),
            ];
            replica(&Value::Array(pairs.into_iter().flat_map(|(k, v)| [text(k), text(v)]).collect())).unwrap()
        };
        assert_eq!(entry("slave", "ok", "100").problem, None);
        assert!(entry("slave,s_down,disconnected", "ok", "100").problem.unwrap().contains("cannot reach"));
        assert!(entry("slave", "err", "100").problem.unwrap().contains("link"));
        assert!(entry("slave", "ok", "0").problem.unwrap().contains("never promoted"));
    }
}
