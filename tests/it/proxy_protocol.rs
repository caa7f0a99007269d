//! Behind a load balancer that says where clients come from.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};

use crate::support::certificates::Certificates;
use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;
use crate::support::wait;

const V1: &str = "PROXY TCP4 192.0.2.7 10.0.0.1 12345 6379\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\x0a\0\0\x01\x30\x39\x18\xeb";

const FILE: &str = "[listeners.behind]\naddress = \"127.0.0.1:PORT\"\nproxy-protocol = [\"127.0.0.0/8\"]\n\
                    [upstreams.main]\nurl = \"URL\"\n\
                    [tenants.far]\nnetworks = [\"192.0.2.0/24\"]\n[tenants.near]\nnetworks = [\"127.0.0.0/8\"]\n";

fn line(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).into_owned()
}

#[test]
fn a_client_is_where_its_proxy_says() {
    let port = free_port();
    let mut pair = Pair::start_file(Flavor::Valkey, &FILE.replace("PORT", &port.to_string()));
    let client = || Client::connect(port);
    let mut v1 = client();
    v1.send(format!("{V1}CLIENT INFO\r\n"));
    let info = line(&v1.reply());
    assert!(info.contains(" addr=192.0.2.7:12345 laddr=10.0.0.1:6379 "), "{info}");
    let mut v2 = client();
    v2.send(V2);
    let info = line(&v2.call(&["CLIENT", "INFO"]));
    assert!(info.contains(" addr=192.0.2.8:12345 "), "{info}");
    assert_eq!(pair.proxy.metric("respgate_tenant_clients", &["far"]), 2.0);
    // A health check of the proxy's own.
    let mut local = client();
    local.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0PING\r\n".as_slice());
    local.expect_reply("+PONG\r\n");
    assert_eq!(pair.proxy.metric("respgate_tenant_clients", &["near"]), 1.0);
    pair.proxy.allow_log("PROXY header");
    let mut without = client();
    without.send("PING\r\n");
    assert_eq!(without.rest(), b"");
    wait::until("the log to say why", || pair.proxy.log().contains("first bytes are not a PROXY header"));
    // One that stays silent keeps nobody waiting, and has a deadline.
    let mut silent = client();
    v1.expect(&["PING"], "+PONG\r\n");
    assert_eq!(silent.rest(), b"");
}

/// The header stands before the handshake, in one piece with it or not; what follows the header is the client's TLS.
#[test]
fn a_header_before_the_handshake() {
    let certificates = Certificates::new();
    let server = Server::start(Flavor::Valkey);
    for workers in [1, 2] {
        let port = free_port();
        let mut proxy = Proxy::start_file(
            workers,
            &format!(
                "[listeners.secure]\naddress = \"127.0.0.1:{port}\"\nproxy-protocol = [\"127.0.0.0/8\"]\n{}\
                 [upstreams.main]\naddress = \"127.0.0.1:{}\"\n\
                 [tenants.far]\nnetworks = [\"192.0.2.0/24\"]\n",
                certificates.pair("server"),
                server.port
            ),
        );
        let tls = Tls::new(&certificates);
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
        for header in [V1.as_bytes(), V2] {
            let mut whole = Client::over_tls(tls.try_over(connect(), header).expect("a handshake"));
            let mut socket = connect();
            for byte in header.chunks(1) {
                socket.write_all(byte).expect("a byte of the header");
            }
            let mut pieces = Client::over_tls(tls.try_over(socket, b"").expect("a handshake"));
            for client in [&mut whole, &mut pieces] {
                let info = line(&client.call(&["CLIENT", "INFO"]));
                assert!(info.contains(" addr=192.0.2."), "{info}");
                assert_eq!(client.call(&["SET", "k", &"v".repeat(100_000)]), b"+OK\r\n");
            }
            assert_eq!(proxy.metric("respgate_tenant_clients", &["far"]), 2.0);
            drop((whole, pieces));
            wait::until("them to have left", || proxy.metric("respgate_tenant_clients", &["far"]) == 0.0);
        }
        proxy.allow_log("PROXY header");
        assert!(tls.try_over(connect(), b"").is_err(), "one without is closed");
        proxy.allow_log("speaks without TLS");
        let mut plain = Client::connect(port);
        plain.send(V1);
        plain.send("PING\r\n");
        assert!(plain.reply().starts_with(b"-ERR respgate: this port speaks TLS"));
    }
}
