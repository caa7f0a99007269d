//! Every key of the schema is changed in a running respgate. A live one asks for no restart; any other is named.

use std::collections::BTreeSet;

use respgate::config::schema::{Reload, TABLES};

use super::{Live, ONE, TWO};
use crate::support::certificates::Certificates;
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// A key and another value than that of [`Scene::base`]. `DIR/` is the certificates' folder, `MAIN` the server's port, `PORT` a free
/// port, and `HASH` the hash of another password.
const VALUES: &[(&str, &str)] = &[
    ("workers", "2"),
    ("admin", "\"127.0.0.1:1\""),
    ("control-socket", "\"control.sock\""),
    ("control-token-file", "\"DIR/token\""),
    ("read-token-file", "\"DIR/token\""),
    ("drain-timeout", "\"7s\""),
    ("reload-interval", "\"7s\""),
    ("drain-delay", "\"7s\""),
    ("shutdown-endpoint", "true"),
    ("ready-needs-primary", "true"),
    ("upgrade-timeout", "\"7s\""),
    ("upgrade-drain-timeout", "\"7s\""),
    ("latency", "\"on\""),
    ("slow-log-threshold", "\"7s\""),
    ("slow-log-length", "7"),
    ("slow-log-arguments", "\"show\""),
    ("log.format", "\"human\""),
    ("log.level", "\"warn,respgate=info\""),
    ("limits.max-buffered", "\"100MiB\""),
    ("max-clients", "77"),
    ("connects-per-second", "77"),
    ("connects-burst", "77"),
    ("connects-exempt", "[\"10.0.0.0/8\"]"),
    ("max-request", "\"77MiB\""),
    ("max-bulk", "\"7MiB\""),
    ("max-args", "77"),
    ("max-inline", "\"7KiB\""),
    ("max-reply-buffer", "\"77MiB\""),
    ("max-pipeline", "77"),
    ("write-timeout", "\"7s\""),
    ("idle-timeout", "\"7m\""),
    ("transaction-timeout", "\"7m\""),
    ("first-command-timeout", "\"7m\""),
    ("command-timeout", "\"7m\""),
    ("slow-reader-soft", "\"7MiB\""),
    ("slow-reader-soft-time", "\"7m\""),
    ("keepalive", "\"7m\""),
    ("listeners.tls.address", "\"127.0.0.1:PORT\""),
    ("listeners.local.mode", "\"0770\""),
    ("listeners.tls.upstream", "\"other\""),
    ("listeners.tls.tenant", "\"shop\""),
    ("listeners.tls.proxy-protocol", "[\"10.0.0.0/8\"]"),
    ("listeners.tls.moving-endpoint", "\"cache.example\""),
    ("listeners.tls.admin-commands", "\"read-only\""),
    ("listeners.tls.tls-cert", "\"DIR/copy.crt\""),
    ("listeners.tls.tls-key", "\"DIR/copy.key\""),
    ("listeners.tls.tls-client-ca", "\"DIR/other-ca.pem\""),
    ("listeners.tls.tls-client-auth", "\"optional\""),
    ("listeners.tls.tls-crl", "\"DIR/revoked.pem\""),
    ("listeners.tls.tls-min-version", "\"1.3\""),
    ("listeners.tls.tls-handshake-timeout", "\"7s\""),
    ("tenants.shop.weight", "7"),
    ("users.shop.password-hash", "\"HASH\""),
    ("upstreams.other.url", "\"redis://127.0.0.1:MAIN/1\""),
    ("upstreams.other.database", "1"),
    ("upstreams.other.client-auth", "\"required\""),
    ("upstreams.other.pool", "\"session\""),
    ("upstreams.other.max-connections", "777"),
    ("upstreams.other.max-leased", "77"),
    ("upstreams.other.lease-timeout", "\"7s\""),
    ("upstreams.other.lease-idle-timeout", "\"7s\""),
    ("upstreams.other.ping-interval", "\"7s\""),
    ("upstreams.other.max-age", "\"7m\""),
    ("upstreams.other.reauth", "\"refresh\""),
    ("upstreams.other.replica-sampling", "false"),
    ("upstreams.other.connect-timeout", "\"7s\""),
    ("upstreams.other.response-timeout", "\"7s\""),
    ("upstreams.other.hold-timeout", "\"7s\""),
    ("upstreams.other.hold-buffer", "\"7MiB\""),
    ("upstreams.other.retry-reads", "false"),
    ("upstreams.other.retry-writes", "\"same-reply\""),
    ("upstreams.other.blocked-pop", "\"continue\""),
    ("upstreams.other.max-lag", "\"2s\""),
    ("upstreams.other.max-lag-bytes", "\"1MiB\""),
    ("upstreams.other.read-your-writes", "\"off\""),
    ("upstreams.other.reads-in-hold", "\"replica\""),
    ("upstreams.other.cross-slot-writes", "\"split\""),
    ("upstreams.other.availability-zone", "\"zone-2\""),
    ("upstreams.other.replicas", "[\"127.0.0.1:PORT\"]"),
    ("listeners.tls.reads", "\"prefer-replica\""),
];

/// The keys of users and tenants are changed elsewhere in this module and in the unit tests; those about where an upstream is, its
/// credentials and its TLS in the unit tests and in `control/reload_upstreams.rs`.
fn is_tested_elsewhere(table: &str, key: &str) -> bool {
    let place =
        ["address", "sentinels", "primary-name", "poll-interval", "sentinel-timeout", "switch", "nat"];
    let account = ["username", "password", "tls"];
    let of_upstreams = place.contains(&key)
        || account.iter().any(|start| key.starts_with(start))
        || key.starts_with("sentinel-");
    // A certificate needs its key: two keys change together.
    (table.is_empty() && key.starts_with("admin-tls"))
        || (matches!(table, "tenants.*" | "users.*") && !matches!(key, "weight" | "password-hash"))
        || (table == "upstreams.*" && of_upstreams)
}

/// A file with all tables, in which one key at a time has another value.
struct Scene {
    certificates: Certificates,
    folder: tempfile::TempDir,
    port: u16,
    next_port: u16,
    main: u16,
}

impl Scene {
    /// Each table with its lines.
    fn base(&self) -> Vec<(&'static str, Vec<String>)> {
        let line = |text: &str| text.to_owned();
        let pair = self.certificates.pair("server");
        let mut tls: Vec<String> = pair.lines().map(line).collect();
        tls.push(format!("address = \"127.0.0.1:{}\"", self.port));
        tls.push(format!("tls-client-ca = \"{}\"", self.certificates.path("ca.pem")));
        tls.push(line("upstream = \"main\""));
        let local = format!("address = \"unix:{}\"", self.folder.path().join("r.sock").display());
        vec![
            ("", vec![]),
            ("log", vec![]),
            ("limits", vec![]),
            ("listeners.tls", tls),
            ("listeners.local", vec![local, line("upstream = \"main\"")]),
            ("tenants.shop", vec![line("weight = 1")]),
            ("users.shop", vec![format!("password-hash = \"{ONE}\"")]),
            (
                "upstreams.main",
                vec![
                    format!("url = \"redis://127.0.0.1:{}\"", self.main),
                    line("client-auth = \"required\""),
                ],
            ),
            ("upstreams.other", vec![format!("url = \"redis://127.0.0.1:{}\"", self.main)]),
        ]
    }

    /// The file with `key` of `table` changed.
    fn text(&self, change: Option<(&str, &str, &str)>) -> String {
        let mut text = String::new();
        for (table, mut lines) in self.base() {
            if let Some((_, key, value)) = change.filter(|(changed, _, _)| *changed == table) {
                lines.retain(|line| !line.starts_with(&format!("{key} = ")));
                lines.push(format!("{key} = {value}"));
            }
            if !table.is_empty() {
                text.push_str(&format!("[{table}]\n"));
            }
            lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        }
        let port = self.next_port.to_string();
        text.replace("DIR/", &self.certificates.path(""))
            .replace("PORT", &port)
            .replace("HASH", TWO)
            .replace("MAIN", &self.main.to_string())
    }
}

#[test]
fn live_keys_ask_for_no_restart_and_the_others_do() {
    let certificates = Certificates::new();
    for (from, to) in [("server.crt", "copy.crt"), ("server.key", "copy.key")] {
        std::fs::copy(certificates.path(from), certificates.path(to)).expect("a copy");
    }
    std::fs::write(certificates.path("token"), "a token of 16 bytes\n").expect("a token");
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(Flavor::Valkey);
    let scene = Scene { certificates, folder, port: free_port(), next_port: free_port(), main: server.port };
    let mut live = Live::start_with_file(server, 1, &scene.text(None));
    live.upstream.clear();
    live.proxy.allow_log("");
    let mut missing: BTreeSet<String> = TABLES
        .iter()
        .flat_map(|table| table.keys().into_iter().map(|key| (table.path, key.name)))
        .filter(|(table, key)| !is_tested_elsewhere(table, key))
        .map(|(table, key)| format!("{table} {key}"))
        .collect();
    let restart = |live: &Live| {
        let keys = live.proxy.http("/readyz");
        let named =
            keys.lines().find_map(|line| line.split("needs a restart for ").nth(1).map(str::to_owned));
        named.unwrap_or_default()
    };
    let mut errors = Vec::new();
    for (name, value) in VALUES {
        // A limit may stand in two tables.
        let places: Vec<String> = match name.contains('.') || missing.contains(&format!(" {name}")) {
            true => vec![(*name).to_owned()],
            false => vec![format!("limits.{name}"), format!("listeners.tls.{name}")],
        };
        for place in places {
            let (table, key) = place.rsplit_once('.').unwrap_or(("", &place));
            let kind = table.split_once('.').map_or(table.to_owned(), |(kind, _)| format!("{kind}.*"));
            let declared = TABLES.iter().find(|table| table.path == kind).expect("a table");
            let declared = declared.keys().into_iter().find(|known| known.name == key).expect("a key");
            missing.remove(&format!("{kind} {key}"));
            let (ok, failed) = (live.counted("ok"), live.counted("failed"));
            live.replace(&scene.text(Some((table, key, value))));
            live.proxy.signal("HUP");
            wait::until(&place, || live.counted("ok") > ok || live.counted("failed") > failed);
            if live.counted("failed") > failed {
                errors.push(format!("{place}: {}", live.proxy.http("/readyz")));
                continue;
            }
            let expected = if declared.reload() == Reload::Live { "" } else { &*place };
            if restart(&live) != expected {
                errors.push(format!("{place}: restart for {:?}, expected {expected:?}", restart(&live)));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(missing.is_empty(), "keys without a test: {missing:?}");
}
