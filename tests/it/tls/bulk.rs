//! Much at once, with TLS on both sides: nothing is lost, cut or mixed up in what waits to be written.

use std::thread;
use std::time::Duration;

use super::*;
use crate::support::client::encode;
use crate::support::wait;

const MIB: usize = 1 << 20;

/// A server with TLS behind a listener with TLS.
struct Tunnel {
    proxy: Proxy,
    port: u16,
    certificates: Certificates,
    _server: Server,
}

impl Tunnel {
    fn start(workers: usize) -> Self {
        let certificates = Certificates::new();
        let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &[]);
        let upstream = format!(
            "url = \"rediss://127.0.0.1:{}\"\ntls-ca = \"{}\"",
            server.announced(),
            certificates.path("ca.pem")
        );
        let (proxy, port) = start(&certificates, workers, "", &upstream);
        Self { proxy, port, certificates, _server: server }
    }

    fn client(&self) -> Client {
        Tls::new(&self.certificates).client(self.port)
    }
}

/// Bytes that differ at every place and from every other value.
fn value(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

#[track_caller]
fn same(got: &[u8], expected: &[u8]) {
    let differs = got.iter().zip(expected).position(|(left, right)| left != right);
    assert!(got == expected, "{} of {} bytes, the first wrong one at {differs:?}", got.len(), expected.len());
}

#[test]
fn large_values_both_ways() {
    let tunnel = Tunnel::start(1);
    let mut client = tunnel.client();
    for (seed, length) in [(1, 1), (2, 16 * 1024), (3, 16 * 1024 + 1), (4, MIB), (5, 5 * MIB), (6, 20 * MIB)]
    {
        let bytes = value(seed, length);
        client.expect(&[b"SET".as_slice(), b"large", &bytes], "+OK\r\n");
        same(&client.call(&["GET", "large"]), &bulk(&bytes));
        // By the leased lane too.
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["GET", "large"], "+QUEUED\r\n");
        same(&client.call(&["EXEC"]), &[b"*1\r\n".as_slice(), &bulk(&bytes)].concat());
    }
}

#[test]
fn long_pipelines_of_several_clients() {
    const COMMANDS: usize = 3000;
    let tunnel = Tunnel::start(2);
    thread::scope(|scope| {
        for number in 0..4 {
            let tunnel = &tunnel;
            scope.spawn(move || {
                let mut client = tunnel.client();
                let bytes = |at: usize| value((number * COMMANDS + at) as u64, at % 700);
                let key = |at: usize| format!("p:{number}:{at}");
                let requests: Vec<u8> = (0..COMMANDS)
                    .flat_map(|at| {
                        let set = encode(&[b"SET".as_slice(), key(at).as_bytes(), &bytes(at)]);
                        [set, encode(&["GET", &key(at)])].concat()
                    })
                    .collect();
                client.send(&requests);
                for at in 0..COMMANDS {
                    client.expect_reply("+OK\r\n");
                    same(&client.reply(), &bulk(&bytes(at)));
                }
            });
        }
    });
}

/// Replies wait for a client that takes its time, within bounds, and come whole; others are not kept waiting.
#[test]
fn a_slow_reader() {
    const REPLIES: usize = 24;
    let tunnel = Tunnel::start(1);
    let (mut slow, mut other) = (tunnel.client(), tunnel.client());
    let bytes = value(7, MIB);
    slow.expect(&[b"SET".as_slice(), b"large", &bytes], "+OK\r\n");
    slow.send(encode(&["GET", "large"]).repeat(REPLIES));
    for _ in 0..20 {
        serves(&mut other);
        thread::sleep(Duration::from_millis(5));
    }
    let expected = bulk(&bytes);
    for _ in 0..REPLIES {
        same(&slow.reply(), &expected);
    }
    serves(&mut slow);
    wait::until("buffers to be empty", || tunnel.proxy.metric("respgate_buffered_bytes", &[]) == 0.0);
}

#[test]
fn two_hundred_clients_at_once() {
    let tunnel = Tunnel::start(2);
    let tls = Tls::new(&tunnel.certificates);
    let (tls, port) = (&tls, tunnel.port);
    thread::scope(|scope| {
        for number in 0..200 {
            scope.spawn(move || {
                let mut client = tls.client(port);
                let (key, bytes) = (format!("c:{number}"), value(number, 2000));
                client.expect(&[b"SET".as_slice(), key.as_bytes(), &bytes], "+OK\r\n");
                same(&client.call(&["GET", &key]), &bulk(&bytes));
            });
        }
    });
    assert_eq!(tunnel.proxy.metric("respgate_tls_handshakes_total", &["kind=\"full\""]), 200.0);
    let dials = tunnel.proxy.metric("respgate_upstream_connects_total", &[]);
    assert!(dials <= 8.0, "200 clients caused {dials} handshakes with the server");
}

/// What TLS has taken and the socket has not is written as soon as there is room, though nothing else happens then.
/// Where the sockets' buffers end is the kernel's affair: amounts rise in steps that are smaller than what TLS takes.
const STEP: usize = 48 * 1024;
const STEPS: std::ops::RangeInclusive<usize> = 45..=90;
/// For what is sent to get stuck.
const SETTLE: Duration = Duration::from_millis(15);

#[test]
fn no_reply_is_left_behind_within_tls() {
    let tunnel = Tunnel::start(1);
    let bytes = value(8, STEP);
    tunnel.client().expect(&[b"SET".as_slice(), b"large", &bytes], "+OK\r\n");
    for replies in STEPS {
        let mut client = tunnel.client();
        client.send(encode(&["GET", "large"]).repeat(replies));
        thread::sleep(SETTLE);
        for _ in 0..replies {
            same(&client.reply(), &bulk(&bytes));
        }
    }
}
