//! Finding the primary, and saying why when there is none.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::deployment::{Deployment, Plan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(through_sentinels);

fn through_sentinels(flavor: Flavor) {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(flavor) });
    let proxy = Proxy::start_with(&deployment.url(), 2, &[]);
    proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
    assert_eq!(deployment.primary.run(&["GET", "k"]), b"$1\r\nv\r\n");
}

#[test]
fn one_sentinel_is_enough_to_ask() {
    let mut deployment = Deployment::start(&Plan::new(Flavor::Valkey));
    deployment.wait_until_redundant();
    deployment.sentinels.truncate(2);
    let dead = free_port();
    let url =
        format!("redis-sentinel://127.0.0.1:{dead},127.0.0.1:{}/0#mymaster", deployment.sentinels[0].port);
    let mut proxy = Proxy::start(&url);
    proxy.allow_log(&dead.to_string());
    proxy.client().expect(&["PING"], "+PONG\r\n");
}

#[test]
fn all_sentinels_gone_is_no_reason_to_stop() {
    let mut deployment = Deployment::start(&Plan::new(Flavor::Valkey));
    let mut proxy = Proxy::start(&deployment.url());
    proxy.allow_log("entinel");
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    deployment.sentinels.clear();
    for _ in 0..30 {
        client.expect(&["GET", "k"], "$1\r\nv\r\n");
        proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Starts respgate at this URL and waits for the reason in its log; it must go on running.
fn complains(url: &str, reasons: &[&str]) -> Proxy {
    let mut proxy = Proxy::launch(free_port(), 1, &["--upstream", url]);
    proxy.allow_log("");
    for reason in reasons {
        wait::until(&format!("`{reason}` in the log or at /readyz"), || {
            proxy.log().contains(reason) || proxy.http("/readyz").contains(reason)
        });
    }
    assert!(proxy.http("/readyz").starts_with("HTTP/1.1 503"));
    assert!(proxy.http("/livez").starts_with("HTTP/1.1 200"));
    proxy
}

#[test]
fn an_unknown_name() {
    let deployment = Deployment::start(&Plan::new(Flavor::Valkey));
    complains(&deployment.url().replace("#mymaster", "#nosuch"), &["nosuch"]);
}

#[test]
fn unreachable_sentinels() {
    let port = free_port();
    complains(&format!("redis-sentinel://127.0.0.1:{port}/0#mymaster"), &[&port.to_string()]);
}

#[test]
fn a_wrong_password() {
    let server = Server::start_with(Flavor::Valkey, &["--requirepass", "secret"]);
    let url = format!("redis://default:wrong-guess@127.0.0.1:{}", server.port);
    let proxy = complains(&url, &["WRONGPASS"]);
    assert!(!proxy.log().contains("wrong-guess"), "the password is in the log");
}

/// A node that is named but says it is a replica gets no command.
#[test]
fn a_replica_is_not_written_to() {
    let primary = Server::start(Flavor::Valkey);
    let replica =
        Server::start_with(Flavor::Valkey, &["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let proxy = complains(&format!("redis://127.0.0.1:{}", replica.port), &["replica"]);
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    proxy.wait_until_ready();
    proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
}

/// The server comes after respgate: clients wait for it within the hold, and no restart is needed.
#[test]
fn a_server_that_comes_later() {
    let deployment = Deployment::start(&Plan::new(Flavor::Valkey));
    deployment.primary.signal("STOP");
    let mut proxy = Proxy::launch(free_port(), 1, &["--upstream", &deployment.url()]);
    proxy.allow_log("");
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    client.send("SET k v\r\n");
    client.expect_silence(Duration::from_millis(200));
    deployment.primary.signal("CONT");
    client.expect_reply("+OK\r\n");
}

#[test]
fn sentinels_with_a_password() {
    let plan = Plan { password: Some("apple"), sentinel_password: Some("pear"), ..Plan::new(Flavor::Valkey) };
    let deployment = Deployment::start(&plan);
    let hosts: Vec<String> =
        deployment.sentinels.iter().map(|sentinel| format!("\"127.0.0.1:{}\"", sentinel.port)).collect();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    for (name, text) in [("server", "apple\n"), ("sentinel", "pear\n")] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a password file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its permissions");
    }
    let path = folder.path().display();
    let proxy = Proxy::start_file(
        1,
        &format!(
            "[upstreams.main]\nsentinels = [{}]\nprimary-name = \"mymaster\"\n\
             password-file = \"{path}/server\"\nsentinel-password-file = \"{path}/sentinel\"\n",
            hosts.join(", ")
        ),
    );
    proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
    assert!(!proxy.log().contains("apple") && !proxy.log().contains("pear"));
}
