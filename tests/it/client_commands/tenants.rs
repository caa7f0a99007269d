//! Clients of a tenant see and affect the clients of their tenant, at every level, and nobody else.

use super::{block, id_of, list, names};
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

on_both_servers!(tenants_neither_see_nor_affect_each_other, workers: [1, 2]);

fn tenants_neither_see_nor_affect_each_other(flavor: Flavor, workers: usize) {
    let server = Server::start(flavor);
    let ports: [u16; 3] = std::array::from_fn(|_| free_port());
    let listener = |name: &str, port: u16, keys: &str| {
        format!("[listeners.{name}]\naddress = \"127.0.0.1:{port}\"\n{keys}\n")
    };
    let toml = [
        listener("red", ports[0], "tenant = \"red\"\nadmin-commands = \"deny\""),
        listener("blue", ports[1], "tenant = \"blue\"\nadmin-commands = \"allow\""),
        listener("all", ports[2], "admin-commands = \"allow\""),
        // Policies that confine a tenant to keys, or to reading, do not concern its own clients.
        "[tenants.red]\nkey-prefixes = [\"red:\"]\n[tenants.blue]\nread-only = true\n".to_owned(),
        format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n", server.port),
    ]
    .concat();
    let _proxy = Proxy::start_file(workers, &toml);
    let connect = |port: u16, name: &str| {
        let mut client = Client::connect(port);
        client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
        client
    };
    let mut direct = server.client();
    direct.expect(&["CLIENT", "SETNAME", "direct"], "+OK\r\n");
    let (mut red, mut blue) = (connect(ports[0], "red-1"), connect(ports[1], "blue-1"));
    let (mut worker, mut operator) = (connect(ports[0], "red-worker"), connect(ports[2], "operator"));
    block(&server, &mut worker, "red:q");

    assert_eq!(names(&mut red, &[]), ["red-1", "red-worker"]);
    assert_eq!(names(&mut blue, &[]), ["blue-1"]);
    assert_eq!(names(&mut operator, &[]), ["blue-1", "direct", "operator", "red-1", "red-worker"]);
    let direct_id = list(&mut operator, &["NAME", "direct"])[0].field("id").to_owned();
    let (worker_id, red_id) = (id_of(&mut red, "red-worker"), id_of(&mut red, "red-1"));
    let blue_id = id_of(&mut blue, "blue-1");
    let worker_addr = list(&mut red, &["NAME", "red-worker"])[0].field("addr").to_owned();

    // The other tenant's clients do not exist, whatever names them.
    for id in [&*worker_id, &red_id, &direct_id] {
        assert!(list(&mut blue, &["ID", id]).is_empty());
        blue.expect(&["CLIENT", "UNBLOCK", id], ":0\r\n");
        blue.expect(&["CLIENT", "KILL", "ID", id], ":0\r\n");
    }
    blue.expect(&["CLIENT", "KILL", &worker_addr], "-ERR No such client\r\n");
    blue.expect(&["CLIENT", "KILL", "USER", "default"], ":0\r\n");
    blue.expect(&["CLIENT", "KILL", "TYPE", "normal"], ":0\r\n");
    blue.expect(&["CLIENT", "KILL", "NOT-ID", &blue_id, "SKIPME", "no"], ":0\r\n");
    assert!(list(&mut blue, &["NAME", "red-worker"]).is_empty());
    assert!(list(&mut blue, &["FLAGS", "b"]).is_empty());
    let info = String::from_utf8(blue.call(&["INFO", "respgate"])).expect("text");
    assert!(!info.contains("respgate_clients"), "{info}");

    // Its own are reached at the level `deny`.
    red.expect(&["CLIENT", "UNBLOCK", &worker_id, "ERROR"], ":1\r\n");
    worker.expect_reply("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    red.expect(&["CLIENT", "KILL", "TYPE", "normal"], ":1\r\n");
    assert!(worker.rest().is_empty());
    blue.expect(&["PING"], "+PONG\r\n");
    assert_eq!(names(&mut operator, &[]), ["blue-1", "direct", "operator", "red-1"]);
    // A client without a tenant reaches all.
    operator.expect(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"], ":2\r\n");
    assert!(red.rest().is_empty() && blue.rest().is_empty());
    direct.expect(&["PING"], "+PONG\r\n");
}

/// A rule of the tenant's `commands` still denies.
#[test]
fn a_tenants_rules_apply() {
    let server = Server::start(Flavor::Valkey);
    let port = free_port();
    let _proxy = Proxy::start_file(
        1,
        &format!(
            "[listeners.app]\naddress = \"127.0.0.1:{port}\"\ntenant = \"t\"\n[tenants.t]\ncommands = [\"+@all\", \"-@dangerous\"]\n\
             [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
            server.port
        ),
    );
    let reply = String::from_utf8(Client::connect(port).call(&["CLIENT", "LIST"])).expect("text");
    assert!(reply.starts_with("-NOPERM") && reply.contains("commands of tenant 't'"), "{reply}");
}
