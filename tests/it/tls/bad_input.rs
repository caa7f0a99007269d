//! Clients that do it wrong: each is told why as far as that is possible, logged with the cause, and counted, and
//! nobody else notices.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::*;
use crate::support::wait;

const STRICT: &str = "tls-client-ca = \"DIR/ca.pem\"\ntls-client-auth = \"optional\"\ntls-crl = \"DIR/revoked.pem\"\n\
                      tls-handshake-timeout = \"1s\"";

/// A listener with every demand, and a client that must not notice anything.
struct Trial {
    stage: Stage,
    other: Client,
}

impl Trial {
    fn start() -> Self {
        let mut stage = Stage::start(STRICT);
        // Every test says which lines it expects.
        stage.proxy.allow_log("\"WARN\"");
        let other = Tls::named(&stage.certificates, "client").client(stage.port);
        Self { stage, other }
    }

    /// Raw bytes to the TLS port.
    fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.stage.port)).expect("a connection");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("a limit");
        stream.write_all(bytes).expect("a write");
        stream
    }

    /// `fault` does something wrong and gives the address that it came from. It must be counted once under `reason`,
    /// and the first of its kind must be logged.
    #[track_caller]
    fn expect(&mut self, reason: &str, words: &str, fault: impl FnOnce(&Self) -> String) {
        let before = self.stage.failures(reason);
        let peer = fault(self);
        serves(&mut self.other);
        wait::until("the count", || self.stage.failures(reason) >= before + 1.0);
        assert_eq!(self.stage.failures(reason), before + 1.0);
        if before == 0.0 {
            wait::until("the log line", || logged(&self.stage.proxy, &[&peer, reason, words]));
        }
        serves(&mut self.stage.tls().client(self.stage.port));
    }
}

fn logged(proxy: &Proxy, words: &[&str]) -> bool {
    proxy.log().lines().any(|line| line.contains("\"WARN\"") && words.iter().all(|word| line.contains(word)))
}

fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn name(stream: &TcpStream) -> String {
    stream.local_addr().expect("an address").to_string()
}

#[test]
fn plain_text_on_a_tls_port() {
    let mut trial = Trial::start();
    for bytes in [&b"*1\r\n$4\r\nPING\r\n"[..], b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
        trial.expect("plaintext", "speaks without TLS to a TLS port", |trial| {
            let stream = trial.raw(bytes);
            let peer = name(&stream);
            let answer = String::from_utf8(rest(stream)).expect("text");
            assert!(answer.starts_with("-ERR respgate: this port speaks TLS"), "{answer}");
            assert!(answer.ends_with("\r\n"), "{answer}");
            peer
        });
    }
}

/// What watches over a port connects and leaves: that is counted, and nothing to write home about.
#[test]
fn port_checks() {
    let trial = Trial::start();
    for _ in 0..3 {
        drop(trial.raw(b""));
    }
    wait::until("the count", || trial.stage.failures("port_check") == 3.0);
    assert!(!logged(&trial.stage.proxy, &["TLS"]), "{}", trial.stage.proxy.log());
}

#[test]
fn a_handshake_that_breaks_off() {
    let mut trial = Trial::start();
    let hello = trial.stage.tls().hello();
    for length in [1, 3, 5, 6, 43, hello.len() - 1, hello.len()] {
        trial.expect("closed", "left in the middle of the TLS handshake", |trial| {
            let stream = trial.raw(&hello[..length]);
            let peer = name(&stream);
            // Half of them only say that they have said all.
            if length % 2 == 0 {
                drop(stream);
            } else {
                stream.shutdown(Shutdown::Write).expect("a half-close");
                rest(stream);
            }
            peer
        });
    }
}

#[test]
fn what_is_no_handshake() {
    let mut trial = Trial::start();
    let mut hello = trial.stage.tls().hello();
    // The length of the session's number: 255 bytes.
    hello[43] = 0xff;
    for bytes in [&b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff"[..], &[0x16; 300], &hello] {
        trial.expect("protocol", "TLS", |trial| {
            let stream = trial.raw(bytes);
            let peer = name(&stream);
            let answer = rest(stream);
            assert!(matches!(answer.first(), None | Some(0x15)), "an alert: {}", answer.escape_ascii());
            peer
        });
    }
}

/// Whoever dawdles is cut off in time, and keeps nobody waiting meanwhile.
#[test]
fn a_slow_handshake() {
    let mut trial = Trial::start();
    trial.expect("timeout", "did not finish the TLS handshake within 1s", |trial| {
        let started = Instant::now();
        let slow = trial.raw(&trial.stage.tls().hello()[..20]);
        let peer = name(&slow);
        let mut served = 0;
        while started.elapsed() < Duration::from_millis(400) {
            serves(&mut trial.stage.tls().client(trial.stage.port));
            served += 1;
        }
        assert!(served >= 2, "{served} clients while one dawdled");
        rest(slow);
        assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
        peer
    });
}

#[test]
fn certificates_that_do_not_count() {
    let mut trial = Trial::start();
    for (certificate, reason, words, alert) in [
        ("expired", "expired", "that has expired", "CertificateExpired"),
        ("foreign", "untrusted", "that no authority trusted here has signed", "UnknownCA"),
        ("revoked", "revoked", "that its authority has revoked", "CertificateRevoked"),
    ] {
        trial.expect(reason, words, |trial| {
            let stream = Tls::named(&trial.stage.certificates, certificate).connect(trial.stage.port);
            let peer = name(&stream.sock);
            let mut client = Client::over_tls(stream);
            client.send("PING\r\n");
            let error = client.try_reply().unwrap_err().to_string();
            assert!(error.contains(alert), "{error}");
            peer
        });
    }
}

#[test]
fn garbage_after_the_handshake() {
    let mut trial = Trial::start();
    let closed =
        |trial: &Trial| trial.stage.proxy.metric("respgate_clients_closed_total", &["reason=\"tls\""]);
    let garbage = [b"PING\r\n\r\n".as_slice(), &[0x17, 3, 3, 0, 32, 1, 2, 3], &[0x99; 64]];
    for (number, bytes) in garbage.into_iter().enumerate() {
        let mut stream = trial.stage.tls().connect(trial.stage.port);
        let peer = name(&stream.sock);
        // An answer: the handshake is over for respgate, too.
        stream.write_all(b"PING\r\n").expect("a write");
        stream.read_exact(&mut [0; 7]).expect("a reply");
        stream.sock.write_all(bytes).expect("a write");
        stream.sock.write_all(&[0; 64]).expect("a write");
        wait::until(&format!("count {number}"), || closed(&trial) == number as f64 + 1.0);
        if number == 0 {
            wait::until("the log line", || logged(&trial.stage.proxy, &[&peer, "protocol", "TLS"]));
        }
        rest(stream.sock);
        serves(&mut trial.other);
    }
}

/// A client that has said all, and says so as TLS has it, still gets its replies.
#[test]
fn a_client_that_ends_its_writes() {
    let trial = Trial::start();
    let mut client = trial.stage.tls().client(trial.stage.port);
    client.send("SET k v\r\nGET k\r\nBLPOP nothing 0.2\r\n");
    client.end_writes();
    let rest = client.rest();
    assert!(rest.starts_with(b"+OK\r\n$1\r\nv\r\n"), "{}", rest.escape_ascii());
}

#[test]
fn tls_on_a_plain_port() {
    let trial = Trial::start();
    let proxy = &trial.stage.proxy;
    let closed = || proxy.metric("respgate_clients_closed_total", &["reason=\"tls\""]);
    let mut other = proxy.client();
    let hello = trial.stage.tls().hello();
    for (number, cut) in [hello.len(), 1, 2, 100].into_iter().enumerate() {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).expect("a connection");
        let peer = name(&stream);
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("a limit");
        stream.write_all(&hello[..cut]).expect("a write");
        if cut == 1 {
            std::thread::sleep(Duration::from_millis(20));
            // It may have been told already.
            let _ = stream.write_all(&hello[cut..]);
        }
        let answer = String::from_utf8_lossy(&rest(stream)).into_owned();
        assert!(answer.starts_with("-ERR respgate: this port speaks plain text"), "{answer}");
        wait::until("the count", || closed() == number as f64 + 1.0);
        if number == 0 {
            let words = [&peer, "on_plain_port", "\"listener\":\"main\"", "speaks TLS to a port without"];
            wait::until("the log line", || logged(proxy, &words));
        }
        serves(&mut other);
    }
    let error = trial.stage.tls().try_connect(proxy.port).unwrap_err();
    assert!(error.to_string().contains("InvalidContentType"), "{error}");
    // What only looks like it is answered as ever.
    other.expect(&["ECHO", "\x16\x03\x01"], "$3\r\n\x16\x03\x01\r\n");
}
