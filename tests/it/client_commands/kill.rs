//! CLIENT KILL disconnects respgate's clients, and never its connections to the server.

use super::{Site, block, id_of, list, names};
use crate::support::client::Client;
use crate::support::servers::Flavor;
use crate::support::wait;

fn is_closed(mut client: Client) -> bool {
    client.rest().is_empty()
}

on_both_servers!(each_form_disconnects, workers: [1, 2]);

fn each_form_disconnects(flavor: Flavor, workers: usize) {
    let site = Site::start(flavor, workers);
    let mut asker = site.named("asker");
    let kill = |asker: &mut Client, words: &[&str], reply: &str| {
        asker.expect(&[&["CLIENT", "KILL"], words].concat(), reply);
    };
    let victim = site.named("victim");
    let addr = list(&mut asker, &["NAME", "victim"])[0].field("addr").to_owned();
    kill(&mut asker, &[&addr], "+OK\r\n");
    assert!(is_closed(victim), "by address");
    kill(&mut asker, &[&addr], "-ERR No such client\r\n");

    let victim = site.named("victim");
    let id = id_of(&mut asker, "victim");
    kill(&mut asker, &["ID", &id], ":1\r\n");
    assert!(is_closed(victim), "by id");
    kill(&mut asker, &["ID", &id], ":0\r\n");

    for filter in [
        &["NAME", "victim"][..],
        &["USER", "default", "NAME", "victim"],
        &["TYPE", "normal", "SKIPME", "yes"],
        &["NOT-NAME", "asker"],
        &["DB", "0"],
        &["SKIPME", "yes", "LADDR", &format!("127.0.0.1:{}", site.proxy.port)],
    ] {
        let mut victim = site.named("victim");
        victim.expect(&["GET", "k"], "$-1\r\n");
        kill(&mut asker, filter, ":1\r\n");
        assert!(is_closed(victim), "{filter:?}");
        wait::until("the client to be gone", || names(&mut asker, &[]) == ["asker"]);
    }
    assert_eq!(site.proxy.metric("respgate_clients_closed_total", &["reason=\"killed\""]), 8.0);

    // A client may end itself, after it has its reply.
    kill(&mut asker, &["SKIPME", "no", "NAME", "asker"], ":1\r\n");
    assert!(is_closed(asker));
}

on_both_servers!(busy_clients_are_disconnected, workers: [1, 2]);

/// Blocked, subscribed, watching and monitoring clients; respgate's connections to the server stay.
fn busy_clients_are_disconnected(flavor: Flavor, workers: usize) {
    let site = Site::start(flavor, workers);
    let mut asker = site.named("asker");
    asker.expect(&["SET", "k", "v"], "+OK\r\n");
    let mut blocked = site.named("blocked");
    block(&site.server, &mut blocked, "q");
    let mut watching = site.named("watching");
    watching.expect(&["WATCH", "k"], "+OK\r\n");
    let mut monitoring = site.named("monitoring");
    monitoring.expect(&["MONITOR"], "+OK\r\n");
    let mut subscriber = site.named("subscriber");
    subscriber.send_command(&["SUBSCRIBE", "a"]);
    subscriber.reply();
    asker.expect(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"], ":3\r\n");
    assert!(is_closed(blocked) && is_closed(watching));
    // It ends, behind what it showed.
    monitoring.rest();
    assert_eq!(names(&mut asker, &["TYPE", "pubsub"]), ["subscriber"]);
    asker.expect(&["CLIENT", "KILL", "TYPE", "pubsub"], ":1\r\n");
    assert!(is_closed(subscriber));
    asker.expect(&["GET", "k"], "$1\r\nv\r\n");
    for count in ["respgate_upstream_connections_lost_total", "respgate_upstream_connections_replaced_total"]
    {
        assert_eq!(site.proxy.metric(count, &[]), 0.0, "{count}");
    }
    // What the blocked client asked for reaches nobody any more.
    wait::until("the server to forget the blocked client", || {
        site.server.info("clients", "blocked_clients") == 0
    });
    asker.expect(&["LPUSH", "q", "1"], ":1\r\n");
    asker.expect(&["LLEN", "q"], ":1\r\n");
}

on_both_servers!(levels_decide);

fn levels_decide(flavor: Flavor) {
    let deny = Site::at_level(flavor, 1, "deny");
    let mut client = deny.proxy.client();
    let refused = |client: &mut Client, words: &[&str]| {
        let reply = String::from_utf8(client.call(&[&["CLIENT"], words].concat())).expect("text");
        assert!(reply.starts_with("-NOPERM ") && reply.contains("(respgate: admin-commands = \""), "{reply}");
    };
    for words in [&["LIST"][..], &["KILL", "ID", "1"], &["UNBLOCK", "1"], &["PAUSE", "1"], &["UNPAUSE"]] {
        refused(&mut client, words);
    }
    let info = String::from_utf8(client.call(&["INFO", "respgate"])).expect("text");
    assert!(info.contains("respgate_version:") && !info.contains("respgate_clients:"), "{info}");
    let read_only = Site::at_level(flavor, 1, "read-only");
    let mut client = read_only.named("me");
    assert_eq!(names(&mut client, &[]), ["me"]);
    for words in [&["KILL", "ID", "1"][..], &["UNBLOCK", "1"], &["PAUSE", "1"], &["UNPAUSE"]] {
        refused(&mut client, words);
    }
}
