//! What operators see of the reads from replicas, and what their orders and reloads do to the connections there.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Site, sent_to_replicas, wait_for_replica};
use crate::status::{assert_fits, document};
use crate::support::client::Client;
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::Flavor;
use crate::support::wait;

/// A respgate that reads from the replica of a site, and its files.
struct Watched {
    site: Site,
    proxy: Proxy,
    folder: tempfile::TempDir,
}

impl Watched {
    fn start(flavor: Flavor) -> Self {
        let (site, folder) = (Site::start(flavor), tempfile::tempdir().expect("a folder"));
        let text = text(&site, &folder, true, "");
        let mut proxy = Proxy::start_file(1, &text);
        // The configuration without replicas.
        proxy.allow_log("no replica serves reads");
        proxy.allow_log("chmod 600");
        Self { site, proxy, folder }
    }

    fn rewrite(&self, has_replicas: bool, keys: &str) {
        self.proxy.rewrite(&text(&self.site, &self.folder, has_replicas, keys));
    }

    fn order(&self, words: &[&str]) {
        let socket = self.folder.path().join("control.sock");
        let output = Command::new(binary()).arg("ctl").arg("--socket").arg(socket).args(words).output();
        let output = output.expect("respgate ctl");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// What `/status` says of the reads of the only replica.
    fn reads(&self) -> Value {
        let status = document(&self.proxy, "/status");
        assert_fits(&self.proxy, &status);
        let replicas = &status["upstreams"][0]["replication"]["replicas"];
        assert_eq!(replicas.as_array().map(Vec::len), Some(1), "{replicas}");
        replicas[0]["reads"].clone()
    }

    /// Reads until the connection to the replica is one that fits. Returns its id.
    fn read_until_connected(&self, reader: &mut Client, fits: impl Fn(&str) -> bool) -> String {
        wait::until_some("a connection to the replica", wait::PATIENCE, || {
            reader.expect(&["GET", "k"], "$1\r\nv\r\n");
            self.connection().filter(|now| fits(now))
        })
    }

    /// The server's id of the connection by which reads reach the replica; `None` if there is none.
    fn connection(&self) -> Option<String> {
        let list = self.site.replica.run_text(&["CLIENT", "LIST"]);
        let line = list.lines().find(|line| line.contains("cmd=get"))?;
        line.split(' ').find(|word| word.contains("id=")).map(str::to_owned)
    }
}

fn text(site: &Site, folder: &tempfile::TempDir, has_replicas: bool, keys: &str) -> String {
    let socket = folder.path().join("control.sock");
    let replicas = match has_replicas {
        true => format!("replicas = [\"127.0.0.1:{}\"]", site.replica.port),
        false => String::new(),
    };
    format!(
        "reload-interval = \"100ms\"\ncontrol-socket = {socket:?}\n\
         [tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n\
         [upstreams.main]\naddress = \"127.0.0.1:{}\"\n{replicas}\nmax-lag = \"500ms\"\n{keys}",
        site.primary.port
    )
}

on_both_servers!(what_operators_see_and_order);

fn what_operators_see_and_order(flavor: Flavor) {
    let watched = Watched::start(flavor);
    watched.site.primary.run(&["SET", "k", "v"]);
    let mut reader = watched.proxy.client();
    wait_for_replica(&watched.proxy, &mut reader, "k");
    the_state_of_the_replica_is_shown(&watched, &mut reader);
    orders_reach_the_connections(&watched, &mut reader);
    replicas_change_by_a_reload(&watched, &mut reader);
    credentials_change(&watched, &mut reader);
}

fn the_state_of_the_replica_is_shown(watched: &Watched, reader: &mut Client) {
    let Watched { site, proxy, .. } = watched;
    assert_eq!(proxy.metric("respgate_replica_serves", &[]), 1.0);
    assert_eq!(proxy.metric("respgate_replica_obstacle", &[]), 0.0);
    assert_eq!(proxy.metric("respgate_replica_connections", &[]), 1.0);
    assert_eq!(proxy.metric("respgate_replica_requests_total", &[]), sent_to_replicas(proxy));
    wait::until("the reads in /status", || watched.reads()["total"].as_u64() > Some(0));
    let reads = watched.reads();
    assert_eq!((&reads["serves"], &reads["connections"]), (&true.into(), &1.into()), "{reads}");

    // The replica still answers, and lacks a write that grows old.
    site.link.pause(true);
    site.primary.run(&["SET", "k", "v"]);
    wait::until("the replica to lag", || {
        reader.expect(&["GET", "k"], "$1\r\nv\r\n");
        proxy.metric("respgate_replica_obstacle", &["reason=\"lag-seconds\""]) == 1.0
    });
    assert_eq!(proxy.metric("respgate_replica_serves", &[]), 0.0);
    let reads = watched.reads();
    assert_eq!((&reads["serves"], &reads["obstacle"]), (&false.into(), &"lag-seconds".into()), "{reads}");
    let warnings = document(proxy, "/status")["warnings"].to_string();
    assert!(warnings.contains("no replica serves") && warnings.contains("s behind"), "{warnings}");
    site.link.pause(false);
    wait_for_replica(proxy, reader, "k");
}

fn orders_reach_the_connections(watched: &Watched, reader: &mut Client) {
    let proxy = &watched.proxy;
    let before = watched.read_until_connected(reader, |_| true);
    watched.order(&["reconnect", "main"]);
    // A reconnect replaces the connections to replicas, too.
    watched.read_until_connected(reader, |now| now != before);

    for kind in [&[][..], &["--at-once"]] {
        watched.order(&[&["pause", "main"], kind].concat());
        wait::until("the connection to close", || watched.connection().is_none());
        let sent = sent_to_replicas(proxy);
        reader.send_command(&["GET", "k"]);
        reader.expect_silence(Duration::from_millis(100));
        assert_eq!(sent_to_replicas(proxy), sent, "a read in a pause");
        watched.order(&["resume", "main"]);
        reader.expect_reply("$1\r\nv\r\n");
        wait_for_replica(proxy, reader, "k");
    }
}

fn replicas_change_by_a_reload(watched: &Watched, reader: &mut Client) {
    let proxy = &watched.proxy;
    watched.rewrite(false, "");
    wait::until("the replica to leave", || proxy.metric("respgate_replica_connections", &[]) == 0.0);
    let sent = sent_to_replicas(proxy);
    for _ in 0..20 {
        reader.expect(&["GET", "k"], "$1\r\nv\r\n");
    }
    assert_eq!(sent_to_replicas(proxy), sent);
    watched.rewrite(true, "");
    wait_for_replica(proxy, reader, "k");
}

/// Another user, and then another password: the replicas of the configuration stay, and their connections follow.
fn credentials_change(watched: &Watched, reader: &mut Client) {
    let Watched { site, proxy, folder } = watched;
    let password = |text: &str| {
        for server in [&site.primary, &site.replica] {
            server.run(&["ACL", "SETUSER", "app", "on", "~*", "+@all", &format!(">{text}")]);
        }
        let path: PathBuf = folder.path().join("password");
        let new = folder.path().join("new");
        std::fs::write(&new, text).expect("a password");
        std::fs::rename(new, &path).expect("a rename");
        format!("username = \"app\"\npassword-file = {path:?}\nreauth = \"reconnect\"\n")
    };
    let keys = password("first");
    watched.rewrite(true, &keys);
    let acts_as_app = || {
        let list = site.replica.run_text(&["CLIENT", "LIST"]);
        list.lines().any(|line| line.contains("cmd=get") && line.contains("user=app "))
    };
    wait::until("reads as the other user", || {
        reader.expect(&["GET", "k"], "$1\r\nv\r\n");
        acts_as_app()
    });
    let before = watched.read_until_connected(reader, |_| true);
    password("second");
    watched.read_until_connected(reader, |now| now != before);
    wait_for_replica(proxy, reader, "k");
}
