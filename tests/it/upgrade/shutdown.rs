//! drain-delay and the HTTP shutdown.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn start(keys: &str) -> (Server, Proxy) {
    let server = Server::start(Flavor::Valkey);
    let toml = format!("{keys}\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n", server.port);
    let proxy = Proxy::start_file(1, &toml);
    (server, proxy)
}

fn is_not_ready(proxy: &Proxy) -> bool {
    let answer = proxy.http("/readyz");
    answer.starts_with("HTTP/1.1 503") && answer.contains("draining\n")
}

#[test]
fn clients_are_accepted_during_the_delay() {
    let (_server, mut proxy) = start("drain-delay = \"60s\"");
    let mut before = proxy.client();
    before.expect(&["SET", "k", "v"], "+OK\r\n");
    proxy.signal("TERM");
    wait::until("503 of /readyz", || is_not_ready(&proxy));
    before.expect(&["GET", "k"], "$1\r\nv\r\n");
    let mut during = proxy.client();
    during.expect(&["GET", "k"], "$1\r\nv\r\n");
    proxy.signal("TERM");
    assert_eq!(before.rest(), b"");
    assert_eq!(during.rest(), b"");
    assert!(proxy.wait_for_exit().success());
    assert!(proxy.log().contains("drain-delay ends"));
}

#[test]
fn the_delay_ends_by_itself() {
    let (_server, mut proxy) = start("drain-delay = \"300ms\"");
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    proxy.signal("TERM");
    assert_eq!(client.rest(), b"");
    assert!(proxy.wait_for_exit().success());
    assert!(Client::try_connect(proxy.address()).is_err());
}

/// Sends a request to the admin listener, and returns the answer.
fn request(proxy: &Proxy, method: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.admin)).expect("the admin listener");
    let request =
        format!("{method} /shutdown HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

const HOST: &str = "Host: 127.0.0.1:9121\r\n";

#[test]
fn http_ends_respgate_if_the_file_says_so() {
    let (server, mut proxy) = start("shutdown-endpoint = true");
    proxy.allow_log("shutdown-endpoint: refused");
    let mut client = proxy.client();
    client.send("BLPOP jobs 0\r\n");
    wait::until("a blocked client", || server.info("clients", "blocked_clients") == 1);
    for (method, headers, status) in [
        ("GET", HOST.to_owned(), "405"),
        ("POST", "Host: evil.example\r\n".to_owned(), "403"),
        ("POST", format!("{HOST}Origin: https://evil.example\r\n"), "403"),
    ] {
        let answer = request(&proxy, method, &headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {headers}: {answer}");
    }
    assert!(proxy.http("/readyz").starts_with("HTTP/1.1 200"), "nothing was shut down");
    assert!(request(&proxy, "POST", HOST).starts_with("HTTP/1.1 200"));
    wait::until("503 of /readyz", || is_not_ready(&proxy));
    server.run(&["RPUSH", "jobs", "last"]);
    client.expect_reply("*2\r\n$4\r\njobs\r\n$4\r\nlast\r\n");
    assert_eq!(client.rest(), b"");
    assert!(proxy.wait_for_exit().success());
}

#[test]
fn http_does_not_end_respgate_by_default() {
    let (_server, proxy) = start("");
    assert!(request(&proxy, "POST", HOST).starts_with("HTTP/1.1 405"));
    assert!(proxy.http("/readyz").starts_with("HTTP/1.1 200"));
}
