//! A client that authenticated as a user of the server may use the commands only if the server's ACL lets that user.

use super::{block, id_of, list, names};
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(the_servers_acl_decides_about_its_users, workers: [1, 2]);

/// `admin` may all, `app` none of these commands. One listener has a tenant, in which clients need no level.
fn the_servers_acl_decides_about_its_users(flavor: Flavor, workers: usize) {
    let server = Server::start_with(flavor, &["--requirepass", "secret"]);
    server.run(&["ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all"]);
    let denied = ["-client|list", "-client|kill", "-client|unblock", "-info"];
    server.run(&[&["ACL", "SETUSER", "app", "on", ">app", "~*", "&*", "+@all"], &denied[..]].concat());
    let ports = [free_port(), free_port()];
    let toml = format!(
        "[listeners.plain]\naddress = \"127.0.0.1:{}\"\nadmin-commands = \"allow\"\n\
         [listeners.shop]\naddress = \"127.0.0.1:{}\"\ntenant = \"shop\"\n[tenants.shop]\n\
         [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nclient-auth = \"required\"\n",
        ports[0], ports[1], server.port
    );
    let _proxy = Proxy::start_file(workers, &toml);
    let connect = |port: u16, user: &str, name: &str| {
        let mut client = Client::connect(port);
        client.expect(&["AUTH", user, user], "+OK\r\n");
        client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
        client
    };
    let (mut admin, mut app) = (connect(ports[0], "admin", "admin"), connect(ports[0], "app", "app"));
    let mut worker = connect(ports[0], "app", "worker");
    block(&server, &mut worker, "q");
    let worker_id = id_of(&mut admin, "worker");
    let (mut mate, mut colleague) =
        (connect(ports[1], "app", "mate"), connect(ports[1], "admin", "colleague"));

    let refused = |client: &mut Client, words: &[&str]| {
        let reply = String::from_utf8(client.call(words)).expect("text");
        assert!(reply.starts_with("-NOPERM ") && !reply.contains("respgate"), "{words:?}: {reply}");
    };
    for client in [&mut app, &mut mate] {
        for words in [
            &["CLIENT", "LIST"][..],
            &["CLIENT", "LIST", "ID", &worker_id],
            &["CLIENT", "KILL", "ID", &worker_id],
            &["CLIENT", "KILL", "TYPE", "normal"],
            &["CLIENT", "KILL", "127.0.0.1:1"],
            &["CLIENT", "UNBLOCK", &worker_id],
            &["INFO", "respgate"],
        ] {
            refused(client, words);
        }
    }
    assert_eq!(names(&mut admin, &[]), ["admin", "app", "colleague", "mate", "worker"]);
    assert_eq!(names(&mut colleague, &[]), ["colleague", "mate"]);
    assert!(admin.call(&["INFO", "respgate"]).starts_with(b"$"));

    // Who asks needs the permission, not who is blocked.
    admin.expect(&["CLIENT", "UNBLOCK", &worker_id, "ERROR"], ":1\r\n");
    worker.expect_reply("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    admin.expect(&["CLIENT", "KILL", "NAME", "worker"], ":1\r\n");
    assert!(worker.rest().is_empty());

    // A change of the ACL holds at once, in both directions.
    server.run(&["ACL", "SETUSER", "app", "+client|list"]);
    assert_eq!(names(&mut mate, &[]), ["colleague", "mate"]);
    server.run(&["ACL", "SETUSER", "app", "-client|list"]);
    refused(&mut mate, &["CLIENT", "LIST"]);
    server.run(&["ACL", "SETUSER", "app", "+client|kill"]);
    app.expect(&["CLIENT", "KILL", "NAME", "nobody"], ":0\r\n");
}

on_both_servers!(the_level_decides_about_clients_of_respgates_own_user);

/// A client that did not authenticate acts as respgate's own user, whose ACL the operator confines for other reasons.
fn the_level_decides_about_clients_of_respgates_own_user(flavor: Flavor) {
    let server = Server::start(flavor);
    server.run(&[
        "ACL",
        "SETUSER",
        "gate",
        "on",
        ">secret",
        "~*",
        "&*",
        "+@all",
        "-client|list",
        "-client|kill",
    ]);
    let url = format!("redis://gate:secret@127.0.0.1:{}", server.port);
    let mut proxy = Proxy::start_with(&url, 1, &["--admin-commands", "allow"]);
    proxy.allow_log("holds a password");
    let (mut client, mut other) = (super::named(&proxy, "me"), super::named(&proxy, "other"));
    assert_eq!(names(&mut client, &[]), ["me", "other"]);
    client.expect(&["CLIENT", "KILL", "NAME", "other"], ":1\r\n");
    assert!(other.rest().is_empty());
}

on_both_servers!(a_permission_waits_for_the_primary);

/// Without a server there is nobody to ask: the command waits as others do.
fn a_permission_waits_for_the_primary(flavor: Flavor) {
    let mut server = Server::start_with(flavor, &["--requirepass", "secret"]);
    let port = free_port();
    let toml = format!(
        "[listeners.app]\naddress = \"127.0.0.1:{port}\"\nadmin-commands = \"allow\"\n\
         [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nclient-auth = \"required\"\n",
        server.port
    );
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("no primary");
    let mut client = Client::connect(port);
    client.expect(&["AUTH", "secret"], "+OK\r\n");
    client.expect(&["CLIENT", "SETNAME", "me"], "+OK\r\n");
    server.crash();
    wait::until("the hold", || proxy.http("/readyz").starts_with("HTTP/1.1 503"));
    client.send_command(&["CLIENT", "LIST", "NAME", "me"]);
    server.restart(&["--requirepass", "secret"]);
    let reply = String::from_utf8(client.reply()).expect("text");
    assert!(reply.starts_with('$') && reply.contains(" name=me "), "{reply}");
    assert_eq!(list(&mut client, &["NAME", "me"]).len(), 1);
}
