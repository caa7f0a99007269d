//! Formats the state of a running respgate as text. Does no I/O.

use std::fmt::Write;

use serde_json::Value;

use super::state::{Status, list, text};
use super::words;

/// Number of failovers that are shown for each upstream.
pub(super) const FAILOVERS: usize = 3;

impl Status {
    /// Returns the text for people.
    pub fn screen(&self) -> String {
        let mut screen = String::new();
        let process = &self.document()["process"];
        let state = if self.ready() { "ready" } else { "NOT READY" };
        let _ = writeln!(screen, "respgate {}, admin {}: {state}", text(&process["version"]), self.endpoint);
        for warning in self.list("warnings") {
            let _ = writeln!(
                screen,
                "  {:<12} {}: {}",
                text(&warning["severity"]),
                text(&warning["subject"]),
                text(&warning["text"])
            );
        }
        self.list("upstreams").iter().for_each(|upstream| show_upstream(&mut screen, upstream));
        let tenants = self.list("tenants");
        if !tenants.is_empty() {
            let _ = writeln!(screen, "\ntenants");
        }
        for tenant in tenants {
            let _ = writeln!(screen, "  {:<12} {}", text(&tenant["name"]), words::tenant(tenant));
        }
        screen
    }
}

fn show_upstream(screen: &mut String, upstream: &Value) {
    let _ = writeln!(screen, "\nupstream {}: {}", text(&upstream["name"]), words::state(upstream));
    for (name, line) in rows(upstream) {
        let _ = writeln!(screen, "  {name:<12} {line}");
    }
}

/// Returns the rows about an upstream, each with its name; rows that continue one have none.
pub(super) fn rows(upstream: &Value) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    add(&mut rows, "orders", words::orders(upstream));
    rows.extend(words::sentinels(upstream).map(|line| ("sentinels", line)));
    add(&mut rows, "cluster", words::cluster(upstream));
    add(&mut rows, "replicas", words::replicas(upstream));
    rows.push(("clients", words::clients(upstream)));
    rows.push(("commands", words::commands(upstream)));
    rows.extend(words::latency(upstream).map(|line| ("latency", line)));
    rows.push(("connections", words::connections(upstream)));
    rows.push(("leases", words::leases(upstream)));
    rows.extend(words::fan_in(upstream).map(|line| ("fan-in", line)));
    let trouble = words::trouble(upstream);
    let since = |(at, line): (usize, String)| {
        let prefix = if at == 0 { "since the start: " } else { "                 " };
        format!("{prefix}{line}")
    };
    let trouble: Vec<_> = trouble.into_iter().enumerate().map(since).collect();
    add_or(&mut rows, "trouble", trouble, "none since the start");
    let under_way = Some(&upstream["failover"]).filter(|failover| !failover.is_null());
    let failovers = under_way.into_iter().chain(list(upstream, "failovers")).take(FAILOVERS);
    add_or(&mut rows, "failovers", failovers.map(words::failover).collect(), "none since the start");
    rows
}

fn add(rows: &mut Vec<(&'static str, String)>, name: &'static str, lines: Vec<String>) {
    rows.extend(lines.into_iter().enumerate().map(|(at, line)| (if at == 0 { name } else { "" }, line)));
}

fn add_or(rows: &mut Vec<(&'static str, String)>, name: &'static str, lines: Vec<String>, nothing: &str) {
    add(rows, name, if lines.is_empty() { vec![nothing.to_owned()] } else { lines });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin_client::Endpoint;
    use serde_json::json;

    pub(in crate::status) fn status(change: impl FnOnce(&mut Value)) -> Status {
        let mut document = json!({
            "process": { "version": "1.2.3", "ready": true, "draining": false, "uptime_seconds": 75, "workers": 2 },
            "warnings": [],
            "upstreams": [{
                "name": "main", "state": "serving", "reason": null,
                "primary": { "address": "10.0.0.5:6379", "generation": 2 },
                "sentinels": [], "replication": { "replicas": [] },
                "clients": { "connected": 12, "pinned": 1, "held": 0 },
                "pins": { "blocking": 1, "watch": 0 },
                "connections": { "shared": 2, "leased": 1, "fan_in": 0 },
                "leases": { "in_use": 1, "idle": 0, "max": 8, "waiting": 0 },
                "hold": { "active": false, "clients": 0 },
                "latency": { "measured": true, "p50_ms": 0.415, "p99_ms": 12.287 },
                "failover": null, "failovers": [],
                "figures": { "commands": { "shared": 3000 }, "upstream_connects": 4, "outcome_unknown": 0 },
                "per_second": { "commands": { "shared": 2000.0 }, "outcome_unknown": 0.0 },
            }],
            "tenants": [],
        });
        change(&mut document);
        Status::new(Endpoint::Admin("127.0.0.1:9121".parse().unwrap()), document).unwrap()
    }

    #[test]
    fn a_quiet_one() {
        let expected = "\
respgate 1.2.3, admin 127.0.0.1:9121: ready

upstream main: primary 10.0.0.5:6379 (generation 2)
  clients      12 connected, 1 pinned, 0 waiting for a primary
  commands     2,000 a second now; since the start local 0, shared 3,000, leased 0
  latency      p50 0.41 ms, p99 12.3 ms in the last second
  connections  2 shared, 1 leased (0 idle); opened 4
  leases       1 of 8 in use, 0 waiting: 1 blocking
  trouble      none since the start
  failovers    none since the start
";
        assert_eq!(status(|_| {}).screen(), expected);
    }

    #[test]
    fn a_cluster() {
        let screen = status(|document| {
            document["upstreams"][0]["cluster"] = json!({ "epoch": 1234, "slots_served": 10_923, "shards": [
                { "number": 1, "state": "serving", "reason": null, "slots": 10_923 },
                { "number": 2, "state": "no-primary", "reason": "refused\u{1b}", "slots": 5461 },
            ] });
        })
        .screen();
        let expected = "
  cluster      2 shards; 10,923 of 16,384 slots are served; epoch 1,234
               shard 2 with 5,461 slots: refused\u{fffd}
";
        assert!(screen.contains(expected), "{screen}");
    }

    #[test]
    fn what_operators_have_ordered() {
        let screen = status(|document| {
            let upstream = &mut document["upstreams"][0];
            upstream["hold"]["clients"] = 34.into();
            upstream["pause"] =
                json!({ "at_once": true, "by": "uid 0", "elapsed_ms": 12_400, "ends_in_ms": 23_600 });
            upstream["switch"] = json!({ "to": "new:6379", "by": "uid 1\u{1b}", "elapsed_ms": 900 });
            upstream["switched_to"] = "other:6379".into();
        })
        .screen();
        let expected = "
  orders       switching to new:6379 for 1 s, ordered by uid 1\u{fffd}; 34 clients wait
               paused at once for 12 s, ordered by uid 0; ends in 24 s; 34 clients wait
               switched to other:6379 until the next start
";
        assert!(screen.contains(expected), "{screen}");
    }

    #[test]
    fn a_troubled_one() {
        let screen = status(|document| {
            document["process"]["ready"] = false.into();
            document["warnings"] =
                json!([{ "severity": "critical", "subject": "upstream main", "text": "no\u{1b}[31m majority" }]);
            document["tenants"] = json!([{
                "name": "shop", "clients": 3, "commands_per_second": 12.6,
                "limits": [{ "limit": "connections", "max": 10, "used": 3.0 }, { "limit": "max-request", "max": 5, "used": null }],
            }]);
            let upstream = &mut document["upstreams"][0];
            upstream["state"] = "no-primary".into();
            upstream["reason"] = "no majority".into();
            upstream["latency"] = json!({ "measured": false, "p50_ms": null, "p99_ms": null });
            upstream["primary"] = Value::Null;
            upstream["figures"]["outcome_unknown"] = 4.into();
            upstream["per_second"]["outcome_unknown"] = 4.0.into();
            upstream["figures"]["fanin_subscribers"] = 2000.into();
            upstream["sentinels"] = json!([
                { "address": "s1:26379", "state": "answering", "primary": "10.0.0.5:6379", "agrees": true },
                { "address": "s2:26379", "state": "failed", "primary": null, "agrees": false },
            ]);
            upstream["replication"]["replicas"] = json!([
                { "address": "10.0.0.6:6379", "link": "connected", "lag_bytes": 0, "lag_seconds": 0.0 },
                { "address": "10.0.0.7:6379", "link": "connected", "lag_bytes": 5000, "lag_seconds": 12.4 },
                { "address": "r3:6379", "link": null, "lag_bytes": null,
                  "reads": { "serves": true, "per_second": 1200.4, "outstanding": 3 } },
                { "address": "r4:6379", "link": "connected", "lag_bytes": 0,
                  "reads": { "serves": false, "reason": "its link to the primary is down" } },
            ]);
            upstream["failover"] = json!({ "from": "10.0.0.5:6379", "to": "", "elapsed_ms": 900, "first_success_ms": null });
            upstream["failovers"] = json!([{
                "from": "10.0.0.5:6379", "to": "10.0.0.6:6379", "first_success_ms": 1250, "lossless": true,
                "clients_held": 12, "unknown": 0,
            }]);
        })
        .screen();
        for expected in [
            "NOT READY\n  critical     upstream main: no\u{fffd}[31m majority\n",
            "upstream main: no primary: no majority\n",
            "sentinels    1 of 2 name the primary; s2:26379 does not answer\n",
            "replicas     10.0.0.6:6379 in sync\n               10.0.0.7:6379 5,000 bytes and 12 s behind\n",
            "r3:6379 lag unknown; serves 1,200 reads a second, 3 outstanding\n",
            "r4:6379 in sync; serves no reads: its link to the primary is down\n",
            "fan-in       2,000 subscribers on 0 connections, 0 channels\n",
            "latency      not measured: latency is off\n",
            "trouble      since the start: 4 writes whose outcome is unknown (4 a second now)\n",
            "failovers    10.0.0.5:6379 -> ?: under way for 0.9 s; 0 clients waited, 0 writes unknown\n",
            "10.0.0.5:6379 -> 10.0.0.6:6379: served again after 1.25 s; lossless, 12 clients waited, 0 writes unknown\n",
            "tenants\n  shop         3 clients, 13 commands a second, connections 3/10, max-request 5\n",
        ] {
            assert!(screen.contains(expected), "{expected}{screen}");
        }
    }
}
