//! Certificates and authorities that change while clients work.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::support::certificates::By;
use crate::support::wait;

const RELOADS: &str = "respgate_reloads_total";

/// The listener's certificate and key in a folder that is swapped as Kubernetes swaps a secret's: `..data` is a symbolic
/// link, and the files are links through it.
struct Secret<'a> {
    certificates: &'a Certificates,
    folder: tempfile::TempDir,
}

impl<'a> Secret<'a> {
    fn new(certificates: &'a Certificates, name: &str) -> Self {
        let secret = Self { certificates, folder: tempfile::tempdir().expect("a folder") };
        secret.swap("first", [name, name]);
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), secret.folder.path().join(file)).expect("a link");
        }
        secret
    }

    /// The certificate and the key of these names take the place of the present ones, both at once.
    fn swap(&self, version: &str, [chain, key]: [&str; 2]) {
        let version = self.folder.path().join(version);
        fs::create_dir(&version).expect("a folder");
        fs::copy(self.certificates.path(&format!("{chain}.crt")), version.join("tls.crt")).expect("a chain");
        fs::copy(self.certificates.path(&format!("{key}.key")), version.join("tls.key")).expect("a key");
        let link = self.folder.path().join("..data_tmp");
        symlink(&version, &link).expect("a link");
        fs::rename(link, self.folder.path().join("..data")).expect("a swap");
    }

    fn keys(&self) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        format!("tls-cert = \"{}\"\ntls-key = \"{}\"\n", path("tls.crt"), path("tls.key"))
    }
}

fn replace(path: &str, by: &str) {
    let new = Path::new(path).with_extension("new");
    fs::copy(by, &new).expect("a copy");
    fs::rename(new, path).expect("a rename");
}

/// The listener `secure` with these keys, files looked at ten times a second.
fn proxy(listener: &str, upstream: &str) -> (Proxy, u16) {
    let port = free_port();
    let toml = format!(
        "reload-interval = \"100ms\"\n[listeners.secure]\naddress = \"127.0.0.1:{port}\"\n{listener}\n\
         [upstreams.main]\n{upstream}\n"
    );
    (Proxy::start_file(2, &toml), port)
}

fn shown(tls: &Tls, port: u16) -> Vec<u8> {
    let stream = tls.connect(port);
    stream.conn.peer_certificates().expect("a chain")[0].to_vec()
}

/// Every handshake sees the old certificate or the new one, connections stay, and no client has an error.
#[test]
fn a_renewal_under_load() {
    let certificates = Certificates::new();
    certificates.server("renewed", By::Intermediate, &["localhost"]);
    let secret = Secret::new(&certificates, "server");
    let server = Server::start(Flavor::Valkey);
    let (mut proxy, port) = proxy(&secret.keys(), &format!("address = \"127.0.0.1:{}\"", server.port));
    proxy.allow_log("respgate cannot use the new version");
    let tls = Tls::new(&certificates);
    let first = shown(&tls, port);
    let reloads = |outcome: &str| {
        let labels =
            ["kind=\"certificates\"", "name=\"listeners.secure\"", &format!("outcome=\"{outcome}\"")];
        proxy.metric(RELOADS, &labels)
    };

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Half of them stay, half come anew for each command; a fault is a panic.
        let workers: Vec<_> = (0..6)
            .map(|number| {
                let (tls, done) = (&tls, &done);
                scope.spawn(move || {
                    let mut client = tls.client(port);
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        if number % 2 == 1 {
                            client = tls.client(port);
                        }
                        count += 1;
                        client.expect(&["INCR", &format!("counter:{number}")], &format!(":{count}\r\n"));
                    }
                    count
                })
            })
            .collect();
        // A pair that does not match changes nothing, and is told.
        secret.swap("broken", ["renewed", "server"]);
        wait::until("the fault to be counted", || reloads("failed") == 1.0);
        assert_eq!(shown(&tls, port), first);
        assert!(proxy.http("/readyz").contains("is not the key of the first certificate"));
        secret.swap("second", ["renewed", "renewed"]);
        wait::until("the new certificate", || shown(&tls, port) != first);
        wait::until("the renewal to be counted", || reloads("ok") == 1.0);
        assert!(!proxy.http("/readyz").contains("is not the key"));
        done.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().expect("a client without an error") > 0);
        }
    });
}

/// Who was let in by an authority of the past is not let in again, not even by a ticket.
#[test]
fn other_authorities_for_clients() {
    let certificates = Certificates::new();
    let trusted = certificates.path("trusted.pem");
    fs::copy(certificates.path("ca.pem"), &trusted).expect("a copy");
    let server = Server::start(Flavor::Valkey);
    let listener = format!("{}tls-client-ca = \"{trusted}\"\n", certificates.pair("server"));
    let (mut proxy, port) = proxy(&listener, &format!("address = \"127.0.0.1:{}\"", server.port));
    proxy.allow_log("\"reason\":\"untrusted\"");
    let client = Tls::resuming(&certificates, "client");
    let foreign = Tls::named(&certificates, "foreign");
    let mut open = client.client(port);
    serves(&mut open);
    serves(&mut client.client(port));
    replace(&trusted, &certificates.path("other-ca.pem"));
    let refused = |tls: &Tls| {
        tls.try_connect(port).map_or(true, |stream| {
            let mut client = Client::over_tls(stream);
            client.send("PING\r\n");
            client.try_reply().is_err()
        })
    };
    wait::until("the other authority to count", || !refused(&foreign));
    assert!(refused(&client), "neither by certificate nor by ticket");
    serves(&mut open);
}

/// The server's certificate and the authority that respgate trusts change together; open connections are replaced.
#[test]
fn another_authority_of_the_server() {
    let certificates = Certificates::new();
    certificates.server("moved", By::Other, &["localhost"]);
    let trusted = certificates.path("trusted.pem");
    fs::copy(certificates.path("ca.pem"), &trusted).expect("a copy");
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &[]);
    let upstream = format!(
        "url = \"rediss://localhost:{}\"\ntls-ca = \"{trusted}\"\nreauth = \"reconnect\"",
        server.announced()
    );
    let (proxy, port) = proxy(&certificates.pair("server"), &upstream);
    let connects = || proxy.metric("respgate_upstream_connects_total", &[]);
    let mut client = Tls::new(&certificates).client(port);
    serves(&mut client);
    // Both count while the server changes.
    let before = connects();
    replace(&trusted, &certificates.path("both-ca.pem"));
    wait::until("the connection to be replaced", || {
        serves(&mut client);
        connects() > before
    });
    let (chain, key) = (certificates.path("moved.crt"), certificates.path("moved.key"));
    let pair = ["CONFIG", "SET", "tls-cert-file", &chain, "tls-key-file", &key];
    assert_eq!(server.run_text(&pair), "+OK\r\n");
    let before = connects();
    replace(&trusted, &certificates.path("other-ca.pem"));
    wait::until("the connection to be replaced again", || {
        serves(&mut client);
        connects() > before
    });
    serves(&mut Tls::new(&certificates).client(port));
}
