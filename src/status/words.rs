//! The parts of the state as short texts, for both the text and the terminal.

use std::time::Duration;

use serde_json::Value;

use super::state::{list, printable, text, total};

/// Counts that should stay 0, each with its description.
static TROUBLE: [(&str, &str); 11] = [
    ("outcome_unknown", "writes whose outcome is unknown"),
    ("hold_expired", "commands failed because there was no primary"),
    ("cluster_redirects_failed", "redirected commands failed"),
    ("replica_reads_expired", "reads failed because no replica could serve them"),
    ("lease_timeouts", "sessions that got no lease in time"),
    ("clients_closed", "clients disconnected by respgate"),
    ("upstream_connect_errors", "connections to the server that failed"),
    ("upstream_connections_lost", "connections to the server that broke"),
    ("commands_resent", "requests sent again"),
    ("upstream_error_replies", "errors from the server"),
    ("commands_refused", "commands refused by respgate"),
];

/// Returns what an upstream does, with its primary.
pub(super) fn state(upstream: &Value) -> String {
    let primary = &upstream["primary"];
    let primary = if primary.is_null() {
        String::new()
    } else {
        format!(
            "primary {} (generation {})",
            text(&primary["address"]),
            number(total(&primary["generation"]))
        )
    };
    let reason = || text(&upstream["reason"]);
    match upstream["state"].as_str() {
        Some("serving") => primary,
        Some("no-primary") => format!("no primary: {}", reason()),
        _ if upstream["reason"].is_null() => format!("{}, {primary}", text(&upstream["state"])),
        _ => format!("{primary}: {}", reason()),
    }
}

/// Returns how the Sentinels agree; `None` for a fixed address.
pub(super) fn sentinels(upstream: &Value) -> Option<String> {
    let all = list(upstream, "sentinels");
    if all.is_empty() {
        return None;
    }
    let agreeing = all.iter().filter(|sentinel| sentinel["agrees"] == true).count();
    let others = all.iter().filter(|sentinel| sentinel["agrees"] != true).map(|sentinel| {
        let said = match sentinel["state"].as_str() {
            Some("answering") if sentinel["primary"].is_null() => "knows no primary".into(),
            Some("answering") => format!("names {}", text(&sentinel["primary"])),
            Some("failed") => "does not answer".into(),
            _ => "not heard yet".into(),
        };
        format!("; {} {said}", text(&sentinel["address"]))
    });
    Some(format!("{agreeing} of {} name the primary{}", all.len(), others.collect::<String>()))
}

/// Returns how much of the cluster is served, then each shard that does not serve; nothing if the upstream is none.
pub(super) fn cluster(upstream: &Value) -> Vec<String> {
    let cluster = &upstream["cluster"];
    if cluster.is_null() {
        return Vec::new();
    }
    let shards = list(cluster, "shards");
    let mut lines = vec![format!(
        "{} shards; {} of 16,384 slots are served; epoch {}",
        shards.len(),
        number(total(&cluster["slots_served"])),
        number(total(&cluster["epoch"]))
    )];
    let idle = shards.iter().filter(|shard| shard["state"] != "serving");
    lines.extend(idle.map(|shard| {
        let slots = number(total(&shard["slots"]));
        format!("shard {} with {slots} slots: {}", total(&shard["number"]), text(&shard["reason"]))
    }));
    lines
}

/// Returns each replica with its lag.
pub(super) fn replicas(upstream: &Value) -> Vec<String> {
    let all = list(&upstream["replication"], "replicas");
    let line = |replica: &Value| format!("{} {}{}", text(&replica["address"]), lag(replica), reads(replica));
    all.iter().map(line).collect()
}

/// Returns what a replica does for clients that read from replicas; nothing if none does.
fn reads(replica: &Value) -> String {
    let reads = &replica["reads"];
    match reads["serves"].as_bool() {
        Some(true) => format!(
            "; serves {} reads a second, {} outstanding",
            number(total(&reads["per_second"])),
            number(total(&reads["outstanding"]))
        ),
        Some(false) => format!("; serves no reads: {}", text(&reads["reason"])),
        None => String::new(),
    }
}

fn lag(replica: &Value) -> String {
    match (replica["link"].as_str(), replica["lag_bytes"].as_u64()) {
        (Some(link), _) if link != "connected" => format!("has no link ({})", text(&replica["link"])),
        (_, Some(0)) => "in sync".into(),
        (_, Some(bytes)) => {
            format!("{} bytes and {:.0} s behind", number(bytes as f64), total(&replica["lag_seconds"]))
        }
        _ => "lag unknown".into(),
    }
}

/// Returns the numbers of clients.
pub(super) fn clients(upstream: &Value) -> String {
    let clients = &upstream["clients"];
    format!(
        "{} connected, {} pinned, {} waiting for a primary",
        number(total(&clients["connected"])),
        number(total(&clients["pinned"])),
        number(total(&clients["held"]))
    )
}

/// Returns a pause and a switch that operators have ordered.
pub(super) fn orders(upstream: &Value) -> Vec<String> {
    let seconds = |value: &Value| format!("{:.0} s", total(value) / 1000.0);
    let waiting = number(total(&upstream["hold"]["clients"]));
    let mut lines = Vec::new();
    let switch = &upstream["switch"];
    if !switch.is_null() {
        let (to, by, since) = (text(&switch["to"]), text(&switch["by"]), seconds(&switch["elapsed_ms"]));
        lines.push(format!("switching to {to} for {since}, ordered by {by}; {waiting} clients wait"));
    }
    let pause = &upstream["pause"];
    if !pause.is_null() {
        let how = if pause["at_once"] == true { "paused at once" } else { "paused" };
        let (by, since) = (text(&pause["by"]), seconds(&pause["elapsed_ms"]));
        let end = seconds(&pause["ends_in_ms"]);
        lines.push(format!("{how} for {since}, ordered by {by}; ends in {end}; {waiting} clients wait"));
    }
    if let Some(to) = upstream["switched_to"].as_str() {
        lines.push(format!("switched to {} until the next start", printable(to)));
    }
    lines
}

/// Returns the rate of commands, and how many there were by lane.
pub(super) fn commands(upstream: &Value) -> String {
    let lanes = ["local", "shared", "leased"]
        .map(|lane| format!("{lane} {}", number(total(&upstream["figures"]["commands"][lane]))));
    format!(
        "{} a second now; since the start {}",
        number(total(&upstream["per_second"]["commands"])),
        lanes.join(", ")
    )
}

/// Returns the numbers of connections to the server.
pub(super) fn connections(upstream: &Value) -> String {
    format!(
        "{} shared, {} leased ({} idle); opened {}",
        number(total(&upstream["connections"]["shared"])),
        number(total(&upstream["connections"]["leased"])),
        number(total(&upstream["leases"]["idle"])),
        number(total(&upstream["figures"]["upstream_connects"])),
    )
}

/// Returns how many leases are in use, and why.
pub(super) fn leases(upstream: &Value) -> String {
    let leases = &upstream["leases"];
    let pins = upstream["pins"].as_object().into_iter().flatten();
    let pins: Vec<_> = pins
        .filter(|(_, count)| total(count) > 0.0)
        .map(|(reason, count)| format!("{} {reason}", number(total(count))))
        .collect();
    let why = if pins.is_empty() { String::new() } else { format!(": {}", pins.join(", ")) };
    format!(
        "{} of {} in use, {} waiting{why}",
        number(total(&leases["in_use"])),
        number(total(&leases["max"])),
        number(total(&leases["waiting"]))
    )
}

/// Returns how long commands took in the last second; `None` if respgate does not say.
pub(super) fn latency(upstream: &Value) -> Option<String> {
    let latency = upstream.get("latency")?;
    let time = |key: &str| latency[key].as_f64().map(milliseconds);
    Some(match (latency["measured"] == true, time("p50_ms"), time("p99_ms")) {
        (false, ..) => "not measured: latency is off".into(),
        (true, Some(p50), Some(p99)) => format!("p50 {p50}, p99 {p99} in the last second"),
        (true, ..) => "no commands in the last second".into(),
    })
}

/// Formats milliseconds with as many decimals as tell short times apart.
fn milliseconds(ms: f64) -> String {
    let decimals = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.decimals$} ms")
}

/// Returns the subscribers by fan-in; `None` if there are none.
pub(super) fn fan_in(upstream: &Value) -> Option<String> {
    let subscribers = total(&upstream["figures"]["fanin_subscribers"]);
    (subscribers > 0.0).then(|| {
        format!(
            "{} subscribers on {} connections, {} channels",
            number(subscribers),
            number(total(&upstream["connections"]["fan_in"])),
            number(total(&upstream["figures"]["fanin_channels"])),
        )
    })
}

/// Returns the counts that should be 0 and are not.
pub(super) fn trouble(upstream: &Value) -> Vec<String> {
    let counts = TROUBLE.iter().map(|(key, words)| (total(&upstream["figures"][key]), key, words));
    counts
        .filter(|(count, ..)| *count > 0.0)
        .map(|(count, key, words)| {
            let more = total(&upstream["per_second"][key]);
            let more = if more > 0.0 { format!(" ({} a second now)", number(more)) } else { String::new() };
            format!("{} {words}{more}", number(count))
        })
        .collect()
}

/// Returns a failover: its nodes, how long it lasted, and what it cost.
pub(super) fn failover(failover: &Value) -> String {
    let count = |key: &str| number(total(&failover[key]));
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    let served = match (failover["elapsed_ms"].as_u64(), failover["first_success_ms"].as_u64()) {
        (_, Some(ms)) => format!("served again after {:.2} s", seconds(ms)),
        (Some(ms), None) => format!("under way for {:.1} s", seconds(ms)),
        (None, None) => "not served again yet".into(),
    };
    let to = if failover["to"] == "" { "?".into() } else { text(&failover["to"]) };
    let lossless = if failover["lossless"] == true { "lossless, " } else { "" };
    let shard = failover["shard"].as_u64().map(|shard| format!("shard {shard}: ")).unwrap_or_default();
    format!(
        "{shard}{} -> {to}: {served}; {lossless}{} clients waited, {} writes unknown",
        text(&failover["from"]),
        count("clients_held"),
        count("unknown")
    )
}

/// Returns a tenant: its clients, its rate, and its limits.
pub(super) fn tenant(tenant: &Value) -> String {
    let limits = list(tenant, "limits").iter().map(|limit| {
        let max = number(total(&limit["max"]));
        let used = limit["used"].as_f64().map_or(max.clone(), |used| format!("{}/{max}", number(used)));
        format!(", {} {used}", text(&limit["limit"]))
    });
    format!(
        "{} clients, {} commands a second{}",
        number(total(&tenant["clients"])),
        number(total(&tenant["commands_per_second"])),
        limits.collect::<String>()
    )
}

/// Formats a number with thousands separators, as in `1,234,567`.
pub(super) fn number(value: f64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [number(0.0), number(999.0), number(1234.4), number(1e6)],
            ["0", "999", "1,234", "1,000,000"]
        );
    }
}
