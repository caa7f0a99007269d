//! Formats the state of a running respgate on one screen. Does no I/O.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::state::Status;
use crate::metrics::declared::{self, About};

/// Number of failovers that are shown for each upstream.
const FAILOVERS: usize = 3;

/// Metrics that should stay 0, each with its description on the screen.
static TROUBLE: [(&About, &str); 9] = [
    (&declared::OUTCOME_UNKNOWN.about, "writes whose outcome is unknown"),
    (&declared::HOLD_EXPIRED.about, "commands failed because there was no primary"),
    (&declared::LEASE_TIMEOUTS.about, "sessions that got no lease in time"),
    (&declared::CLIENTS_CLOSED.about, "clients disconnected by respgate"),
    (&declared::UPSTREAM_CONNECT_ERRORS.about, "connections to the server that failed"),
    (&declared::UPSTREAM_CONNECTIONS_LOST.about, "connections to the server that broke"),
    (&declared::COMMANDS_RESENT.about, "requests sent again"),
    (&declared::UPSTREAM_ERROR_REPLIES.about, "errors from the server"),
    (&declared::COMMANDS_REFUSED.about, "commands refused by respgate"),
];

impl Status {
    /// Returns the text for people.
    pub fn screen(&self) -> String {
        show(self)
    }
}

/// Returns the screen.
fn show(status: &Status) -> String {
    let mut text = String::new();
    let version = status.now.text(declared::BUILD_INFO.about.name, "version").unwrap_or_default();
    let state = if status.ready { "ready" } else { "NOT READY" };
    let _ = writeln!(text, "respgate {version}, admin {}: {state}", status.address);
    for line in status.readiness.iter().filter(|line| !line.starts_with("upstream ")) {
        let _ = writeln!(text, "  {}", printable(line));
    }
    for upstream in status.now.values_of("upstream") {
        show_upstream(&mut text, status, &upstream);
    }
    text
}

fn show_upstream(text: &mut String, status: &Status, upstream: &str) {
    let labels = [("upstream", upstream)];
    let now = |metric: &About, more: &[(&str, &str)]| status.now.sum(metric.name, &[&labels, more].concat());
    let rate = |metric: &About, more: &[(&str, &str)]| {
        let risen = now(metric, more) - status.earlier.sum(metric.name, &[&labels, more].concat());
        risen.max(0.0) / status.elapsed.as_secs_f64().max(0.001)
    };
    let prefix = format!("upstream {upstream}: ");
    let primary = status.readiness.iter().find_map(|line| line.strip_prefix(&prefix));
    let _ = writeln!(text, "\nupstream {}: {}", printable(upstream), printable(primary.unwrap_or("unknown")));
    let mut row = |name: &str, words: String| {
        let _ = writeln!(text, "  {name:<12} {words}");
    };

    row(
        "clients",
        format!(
            "{} connected, {} pinned, {} waiting for a primary",
            number(now(&declared::CLIENTS.about, &[])),
            number(now(&declared::CLIENTS_PINNED.about, &[])),
            number(now(&declared::CLIENTS_HELD.about, &[])),
        ),
    );
    let lanes = ["local", "shared", "leased"].map(|lane| {
        let lane_label = [("lane", lane)];
        format!("{lane} {}", number(now(&declared::COMMANDS.about, &lane_label)))
    });
    row(
        "commands",
        format!(
            "{} a second now; since the start {}",
            number(rate(&declared::COMMANDS.about, &[])),
            lanes.join(", ")
        ),
    );
    row(
        "connections",
        format!(
            "{} shared, {} leased ({} idle); opened {}",
            number(now(&declared::UPSTREAM_CONNECTIONS.about, &[("lane", "shared")])),
            number(now(&declared::UPSTREAM_CONNECTIONS.about, &[("lane", "leased")])),
            number(now(&declared::UPSTREAM_CONNECTIONS_IDLE.about, &[])),
            number(now(&declared::UPSTREAM_CONNECTS.about, &[])),
        ),
    );
    let subscribers = now(&declared::FANIN_SUBSCRIBERS.about, &[]);
    if subscribers > 0.0 {
        row(
            "fan-in",
            format!(
                "{} subscribers on {} connections, {} channels",
                number(subscribers),
                number(now(&declared::UPSTREAM_CONNECTIONS.about, &[("lane", "fan-in")])),
                number(now(&declared::FANIN_CHANNELS.about, &[])),
            ),
        );
    }
    let trouble: Vec<String> = TROUBLE
        .iter()
        .filter(|(metric, _)| now(metric, &[]) > 0.0)
        .map(|(metric, words)| {
            let more = rate(metric, &[]);
            let more = if more > 0.0 { format!(" ({} a second now)", number(more)) } else { String::new() };
            format!("{} {words}{more}", number(now(metric, &[])))
        })
        .collect();
    match trouble.split_first() {
        None => row("trouble", "none since the start".into()),
        Some((first, others)) => {
            row("trouble", format!("since the start: {first}"));
            others.iter().for_each(|line| row("", format!("                 {line}")));
        }
    }
    let failovers: Vec<&Value> =
        status.failovers.iter().filter(|failover| failover["upstream"] == upstream).collect();
    if failovers.is_empty() {
        row("failovers", "none since the start".into());
    }
    for (index, failover) in failovers.iter().rev().take(FAILOVERS).enumerate() {
        row(if index == 0 { "failovers" } else { "" }, printable(&failover_words(failover)));
    }
}

fn failover_words(failover: &Value) -> String {
    let text = |key: &str| failover[key].as_str().unwrap_or("?").to_owned();
    let count = |key: &str| failover[key].as_u64().unwrap_or(0);
    let served = match failover["first_success_ms"].as_u64() {
        Some(ms) => format!("served again after {:.2} s", Duration::from_millis(ms).as_secs_f64()),
        None => "not served again yet".into(),
    };
    let lossless = if failover["lossless"] == true { "lossless, " } else { "" };
    format!(
        "{} -> {}: {served}; {lossless}{} clients waited, {} writes unknown",
        text("from"),
        text("to"),
        count("clients_held"),
        count("unknown")
    )
}

/// Formats a number with thousands separators, as in `1,234,567`.
fn number(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::Samples;
    use super::*;
    use serde_json::json;

    fn status(metrics: &str) -> Status {
        Status {
            address: "127.0.0.1:9121".parse().unwrap(),
            ready: true,
            readiness: vec!["upstream main: primary 10.0.0.5:6379".into()],
            earlier: Samples::parse("respgate_commands_total{upstream=\"main\",lane=\"shared\"} 1000\n"),
            now: Samples::parse(&format!(
                "respgate_build_info{{version=\"1.2.3\"}} 1\nrespgate_clients{{upstream=\"main\"}} 12\n\
                 respgate_commands_total{{upstream=\"main\",lane=\"shared\"}} 3000\n{metrics}"
            )),
            elapsed: Duration::from_secs(1),
            failovers: Vec::new(),
        }
    }

    #[test]
    fn a_quiet_one() {
        let expected = "\
respgate 1.2.3, admin 127.0.0.1:9121: ready

upstream main: primary 10.0.0.5:6379
  clients      12 connected, 0 pinned, 0 waiting for a primary
  commands     2,000 a second now; since the start local 0, shared 3,000, leased 0
  connections  0 shared, 0 leased (0 idle); opened 0
  trouble      none since the start
  failovers    none since the start
";
        assert_eq!(status("").screen(), expected);
    }

    #[test]
    fn one_with_fan_in() {
        let metrics = "respgate_fanin_subscribers{upstream=\"main\"} 2000\n\
                       respgate_fanin_channels{upstream=\"main\"} 7\n\
                       respgate_upstream_connections{upstream=\"main\",lane=\"fan-in\"} 2\n";
        let screen = status(metrics).screen();
        assert!(
            screen.contains("  fan-in       2,000 subscribers on 2 connections, 7 channels\n"),
            "{screen}"
        );
    }

    #[test]
    fn a_troubled_one() {
        let mut status = status("respgate_outcome_unknown_total{upstream=\"main\"} 4\n");
        status.ready = false;
        status.readiness.insert(0, "draining".into());
        status.failovers = vec![json!({
            "upstream": "main", "from": "10.0.0.5:6379", "to": "10.0.0.6:6379", "first_success_ms": 1250,
            "lossless": true, "clients_held": 12, "unknown": 0,
        })];
        let screen = status.screen();
        for expected in [
            "NOT READY\n  draining\n",
            "trouble      since the start: 4 writes whose outcome is unknown (4 a second now)\n",
            "failovers    10.0.0.5:6379 -> 10.0.0.6:6379: served again after 1.25 s; lossless, 12 clients waited, 0 writes",
        ] {
            assert!(screen.contains(expected), "{screen}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [number(0.0), number(999.0), number(1234.4), number(1e6)],
            ["0", "999", "1,234", "1,000,000"]
        );
    }
}
