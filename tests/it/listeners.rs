//! Where clients and servers are: TCP, unix sockets, and several of each in one process.

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

#[test]
fn unix_sockets_on_both_sides() {
    let server = Server::start(Flavor::Valkey);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("respgate.sock");
    let proxy = Proxy::start_file(
        2,
        &format!(
            "[listeners.local]\naddress = \"unix:{}\"\n[upstreams.main]\naddress = \"unix:{}\"\n",
            socket.display(),
            server.socket().display()
        ),
    );
    let mut client = Client::connect_unix(&socket);
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["BLPOP", "empty", "0.01"], "*-1\r\n");
    assert_eq!(server.run(&["GET", "k"]), b"$1\r\nv\r\n");
    proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
}

#[test]
fn two_listeners_and_two_upstreams() {
    let (one, two) = (Server::start(Flavor::Valkey), Server::start(Flavor::Redis));
    let ports = [free_port(), free_port()];
    let _proxy = Proxy::start_file(
        1,
        &format!(
            "[listeners.one]\naddress = \"127.0.0.1:{}\"\nupstream = \"main\"\n\
             [listeners.two]\naddress = \"127.0.0.1:{}\"\nupstream = \"other\"\n\
             [upstreams.main]\naddress = \"127.0.0.1:{}\"\n[upstreams.other]\naddress = \"127.0.0.1:{}\"\n",
            ports[0], ports[1], one.port, two.port
        ),
    );
    Client::connect(ports[0]).expect(&["SET", "k", "first"], "+OK\r\n");
    Client::connect(ports[1]).expect(&["SET", "k", "second"], "+OK\r\n");
    assert_eq!(one.run(&["GET", "k"]), b"$5\r\nfirst\r\n");
    assert_eq!(two.run(&["GET", "k"]), b"$6\r\nsecond\r\n");
}

/// `printf … | nc -N`: a client that has said all still gets its replies.
#[test]
fn a_client_that_ends_its_writes() {
    let pair = Pair::start(Flavor::Valkey);
    let mut client = pair.proxy.client();
    client.send("SET k v\r\nGET k\r\n");
    client.end_writes();
    assert_eq!(client.rest(), b"+OK\r\n$1\r\nv\r\n");
}
