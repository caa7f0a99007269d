//! A reload that moves, adds and removes upstreams.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::load::{Load, increments, is_blocked};
use super::switch::{promote, replica_of, wait_for_link};
use super::{Controlled, expect};
use crate::support::certificates::{By, Certificates};
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Only an ordered reload reads the file.
const KEYS: &str = "reload-interval = \"1h\"\n";

fn upstream(name: &str, lines: &str) -> String {
    format!("[upstreams.{name}]\n{lines}\n")
}

fn at(server: &Server) -> String {
    format!("url = \"redis://127.0.0.1:{}\"\n", server.port)
}

/// Returns the number of respgate's connections to a server.
fn connections(server: &Server) -> usize {
    server.run_text(&["CLIENT", "LIST"]).matches("lib-name=respgate").count()
}

with_one_and_two_workers!(an_upstream_moves_as_the_file_says);

/// To a promoted replica, to another port of the same node with TLS, and to another user: clients at work notice nothing. What
/// cannot take over changes nothing.
fn an_upstream_moves_as_the_file_says(workers: usize) {
    let certificates = Certificates::new();
    certificates.server("next", By::Intermediate, &["127.0.0.1"]);
    let server = Server::start(Flavor::Valkey);
    let first = upstream("main", &at(&server));
    let mut controlled = Controlled::with_file(server, workers, KEYS, &first);
    // Discovery logs what is wrong with a target.
    controlled.proxy.allow_log("\"upstream\":\"main (");
    controlled.proxy.allow_log("respgate cannot use the new version");
    controlled.proxy.allow_log("control: refused");
    let port = controlled.server.port.to_string();
    let next = Server::start_tls(Flavor::Valkey, &certificates, "next", &["--replicaof", "127.0.0.1", &port]);
    wait_for_link(&next);
    let mut load = Load::start(&controlled);

    // Another server with other data is refused, and nothing of that file is in force.
    let unrelated = Server::start(Flavor::Valkey);
    let wrong = upstream("main", &format!("{}hold-timeout = \"9s\"", at(&unrelated)));
    let refusal = "upstream 'main' stays where it is, because 127.0.0.1:";
    expect(&controlled.reload(KEYS, &wrong), 1, refusal);
    expect(&controlled.on_socket(&["reload"]), 1, "its data is not that of the present server");
    let ready = controlled.proxy.http("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains(refusal), "{ready}");
    let refused = "respgate cannot use the new version and keeps the former one";
    assert_eq!(controlled.proxy.log().matches(refused).count(), 1, "the same refusal is logged once");
    assert_eq!(connections(&unrelated), 0);
    expect(&controlled.reload(KEYS, &first), 0, "configuration: unchanged\n");
    assert!(!controlled.proxy.http("/readyz").contains(refusal), "the refusal is over");

    // A promoted replica takes over.
    expect(&controlled.on_socket(&["pause", "main"]), 0, "commands-under-way: 0\n");
    promote(&next, &controlled.server);
    let before = increments(&controlled.server);
    let moved = upstream("main", &at(&next));
    expect(&controlled.reload(KEYS, &moved), 0, "configuration: changed\nneeds-restart: none\n");
    load.expect_served_by(&next);
    // It blocks again, and moves along with each of the following switches.
    load.blocked.send_command(&["BLPOP", "queue", "0"]);
    assert_eq!(increments(&controlled.server), before, "a command was sent to the former server");
    assert_eq!(connections(&controlled.server), 0);
    let ready = controlled.proxy.http("/readyz");
    assert!(!ready.contains("until the next start"), "{ready}");
    assert!(ready.contains(&format!("primary 127.0.0.1:{}\n", next.port)), "{ready}");

    // The same node at another port, with TLS. Its certificates are listed.
    let url = format!(
        "url = \"rediss://127.0.0.1:{}\"\ntls-ca = {:?}\n",
        next.tls_port.expect("TLS"),
        certificates.path("ca.pem")
    );
    expect(&controlled.reload(KEYS, &upstream("main", &url)), 0, "configuration: changed\n");
    let reads_certificates = || {
        let metrics = controlled.proxy.http("/metrics");
        let mut followed = metrics.lines().filter(|line| line.starts_with("respgate_reload_failed"));
        followed.any(|line| line.contains("\"certificates\"") && line.contains("\"upstreams.main\""))
    };
    assert!(reads_certificates(), "the files of TLS are followed");

    // Another user, whose password must be right.
    next.run(&["ACL", "SETUSER", "app", "on", ">s3cret-of-app", "~*", "&*", "+@all"]);
    let password = controlled.file("password");
    fs::write(&password, "wrong\n").expect("the password");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("the mode");
    let as_app = upstream("main", &format!("{url}username = \"app\"\npassword-file = {password:?}\n"));
    expect(&controlled.reload(KEYS, &as_app), 1, "WRONGPASS");
    fs::write(&password, "s3cret-of-app\n").expect("the password");
    expect(&controlled.on_socket(&["reload"]), 0, "configuration: changed\n");
    assert!(next.run_text(&["CLIENT", "LIST"]).contains("user=app"), "respgate's user");

    // Back to plain text and to the default user, and on without any of the former files.
    expect(&controlled.reload(KEYS, &moved), 0, "configuration: changed\n");
    assert!(!reads_certificates(), "no file of TLS is followed any longer");
    assert_eq!(controlled.proxy.metric("respgate_upstream_switches_total", &[]), 4.0);
    // A message that comes while a session is between its connections is lost, as in a failover.
    wait::until("the end of the former connections", || {
        !next.run_text(&["CLIENT", "LIST"]).contains("user=app")
    });
    load.expect_pushed_to(&next);
    load.finish(&next, "a file that moves its upstream");
    assert!(!controlled.proxy.log().contains("s3cret"), "a password in the log");
}

#[test]
fn a_replica_is_refused_and_an_upstream_that_never_had_a_primary_is_not() {
    let server = Server::start(Flavor::Valkey);
    let replica = replica_of(&server, &[]);
    let main = upstream("main", &at(&server));
    let mut controlled = Controlled::with_file(server, 2, KEYS, &main);
    controlled.proxy.allow_log("");
    expect(&controlled.reload(KEYS, &upstream("main", &at(&replica))), 1, "says that it is a replica");
    // A new upstream with a wrong address is corrected.
    let nobody = format!("url = \"redis://127.0.0.1:{}\"\n", free_port());
    let port = free_port();
    let listener = format!("[listeners.b]\naddress = \"127.0.0.1:{port}\"\nupstream = \"other\"\n");
    let with = |other: &str| format!("{main}{listener}{}", upstream("other", other));
    expect(&controlled.reload(KEYS, &with(&nobody)), 0, "configuration: changed\n");
    let mut waiting = Client::connect(port);
    waiting.send_command(&["SET", "k", "v"]);
    let other = Server::start(Flavor::Redis);
    expect(&controlled.reload(KEYS, &with(&at(&other))), 0, "configuration: changed\n");
    waiting.expect_reply("+OK\r\n");
    assert_eq!(other.run_text(&["GET", "k"]), "$1\r\nv\r\n");
    // Now it has served, and its data counts.
    let empty = Server::start(Flavor::Redis);
    expect(&controlled.reload(KEYS, &with(&at(&empty))), 1, "upstream 'other' stays where it is");
    waiting.expect(&["GET", "k"], "$1\r\nv\r\n");
}

with_one_and_two_workers!(upstreams_come_and_go_under_load);

/// An added upstream serves at once. A removed one lets its clients finish, and leaves nothing behind.
fn upstreams_come_and_go_under_load(workers: usize) {
    let server = Server::start(Flavor::Valkey);
    let other = Server::start(Flavor::Redis);
    let main = upstream("main", &at(&server));
    let keys = format!("{KEYS}drain-timeout = \"2s\"\n");
    let controlled = Controlled::with_file(server, workers, &keys, &main);
    let load = Load::start(&controlled);
    let port = free_port();
    let with_other = format!(
        "{main}{}[listeners.b]\naddress = \"127.0.0.1:{port}\"\nupstream = \"extra\"\n",
        upstream("extra", &at(&other)),
    );
    let descriptors = controlled.proxy.descriptors();
    let is_shown = |path: &str| controlled.proxy.http(path).contains("extra");

    for round in 0..4 {
        expect(&controlled.reload(&keys, &with_other), 0, "configuration: changed\nneeds-restart: none\n");
        let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(port)).collect();
        other.run(&["DEL", "n"]);
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(&["INCR", "n"], &format!(":{}\r\n", number + 1));
        }
        assert!(is_shown("/metrics") && is_shown("/status") && is_shown("/readyz"));
        let (mut blocked, mut answered, mut subscriber) =
            (Client::connect(port), Client::connect(port), Client::connect(port));
        answered.send_command(&["BLPOP", "soon", "0"]);
        is_blocked(&other);
        blocked.send_command(&["BLPOP", "never", "0"]);
        wait::until("two blocked clients", || {
            other.run_text(&["CLIENT", "LIST"]).matches("cmd=blpop").count() == 2
        });
        subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");

        // The listener leads to the other upstream from now on.
        let leads_to_main =
            with_other.replace("\"extra\"", "\"main\"").replace(&upstream("extra", &at(&other)), "");
        expect(&controlled.reload(&keys, &leads_to_main), 0, "configuration: changed\n");
        let mut new = Client::connect(port);
        new.expect(&["SET", "new", &round.to_string()], "+OK\r\n");
        assert_eq!(controlled.server.run_text(&["GET", "new"]), format!("$1\r\n{round}\r\n"));
        // Idle and subscribed clients are disconnected at once, and blocked ones when they have their reply, or after drain-timeout.
        clients.iter_mut().for_each(|client| assert_eq!(client.rest(), b""));
        assert_eq!(subscriber.rest(), b"");
        other.run(&["RPUSH", "soon", "x"]);
        assert_eq!(answered.rest(), b"*2\r\n$4\r\nsoon\r\n$1\r\nx\r\n");
        assert_eq!(blocked.rest(), b"");
        wait::until("the end of the connections", || connections(&other) == 0);
        wait::until("the end of the metrics", || !is_shown("/metrics"));
        assert!(!is_shown("/status") && !is_shown("/status/history") && !is_shown("/readyz"));
        drop((new, clients));
        expect(&controlled.reload(&keys, &main), 0, "configuration: changed\n");
    }
    wait::until_some("the descriptors", Duration::from_secs(10), || {
        (controlled.proxy.descriptors() <= descriptors + 2).then_some(())
    });
    load.finish(&controlled.server, "upstreams that come and go");
}

#[test]
fn an_upstream_in_use_cannot_be_removed() {
    let server = Server::start(Flavor::Valkey);
    let main = upstream("main", &at(&server));
    let mut controlled = Controlled::with_file(server, 1, KEYS, &main);
    controlled.proxy.allow_log("respgate cannot use the new version");
    controlled.proxy.allow_log("control: refused");
    let renamed = format!(
        "{}[listeners.b]\naddress = \"127.0.0.1:{}\"\nupstream = \"main\"\n",
        main.replace(".main]", ".other]"),
        free_port()
    );
    expect(&controlled.reload(KEYS, &renamed), 1, "main");
    controlled.proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
}
