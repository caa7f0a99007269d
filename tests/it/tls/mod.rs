//! TLS with real servers, real Sentinels and real clients, and with peers that do it wrong.

mod bad_input;
mod bulk;
mod inward;
mod outward;
mod programs;
mod rotation;
mod sentinels;
mod server_users;
mod users;

use crate::support::certificates::Certificates;
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;

/// How respgate counts handshakes that failed.
const FAILURES: &str = "respgate_tls_handshake_failures_total";

/// A listener with TLS, named `secure`, beside the plain one; one worker; and a server behind them.
struct Stage {
    proxy: Proxy,
    /// Where TLS is spoken.
    port: u16,
    certificates: Certificates,
    _server: Server,
}

impl Stage {
    /// The listener shows `server.crt`. `listener`: more of its keys; `DIR/` in them is the certificates' folder.
    fn start(listener: &str) -> Self {
        let certificates = Certificates::new();
        let server = Server::start(Flavor::Valkey);
        let upstream = format!("address = \"127.0.0.1:{}\"", server.port);
        let (proxy, port) = start(&certificates, 1, listener, &upstream);
        Self { proxy, port, certificates, _server: server }
    }

    /// A client that trusts the listener and shows no certificate.
    fn tls(&self) -> Tls {
        Tls::new(&self.certificates)
    }

    fn failures(&self, reason: &str) -> f64 {
        self.proxy.metric(FAILURES, &["listener=\"secure\"", &format!("reason=\"{reason}\"")])
    }
}

/// respgate with the listener `secure`, whose port is given back.
fn start(certificates: &Certificates, workers: usize, listener: &str, upstream: &str) -> (Proxy, u16) {
    let port = free_port();
    let toml = format!(
        "[listeners.secure]\naddress = \"127.0.0.1:{port}\"\n{}{listener}\n[upstreams.main]\n{upstream}\n",
        certificates.pair("server")
    );
    (Proxy::start_file(workers, &toml.replace("DIR/", &certificates.path(""))), port)
}

#[track_caller]
fn serves(client: &mut Client) {
    client.expect(&["PING"], "+PONG\r\n");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
}
