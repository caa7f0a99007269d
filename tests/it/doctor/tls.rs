//! The TLS step: which certificate was shown, what is wrong with it, and what else a port may speak.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::{Diagnosis, HEALTHY, examine, examine_url};
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};

/// An authority, and a folder for what it issues.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Example CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("its file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_string_lossy().into_owned()
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, names: &[&str], until: i32) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("its file");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("its key");
    }

    /// A server with this certificate on a second port.
    fn serve(&self, flavor: Flavor, name: &str, clients: &str) -> (Server, u16) {
        let port = free_port();
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let (ca, tls_port) = (self.path("ca.pem"), port.to_string());
        let options = [
            ["--tls-port", &tls_port],
            ["--tls-cert-file", &certificate],
            ["--tls-key-file", &key],
            ["--tls-ca-cert-file", &ca],
            ["--tls-auth-clients", clients],
        ];
        (Server::start_with(flavor, options.as_flattened()), port)
    }

    fn examine(&self, port: u16) -> Diagnosis {
        examine(&["--upstream", &format!("rediss://127.0.0.1:{port}"), "--upstream-ca", &self.path("ca.pem")])
    }
}

#[test]
fn certificates() {
    let authority = Authority::new();
    authority.issue("good", &["localhost", "127.0.0.1"], 2999);
    authority.issue("named", &["db.example"], 2999);
    authority.issue("old", &["127.0.0.1"], 2021);
    for flavor in Flavor::ALL {
        let (_server, port) = authority.serve(flavor, "good", "no");
        let diagnosis = authority.examine(port);
        assert_eq!(diagnosis.code, HEALTHY, "{:#}", diagnosis.document);
        diagnosis.says(
            "primary",
            "tls",
            &["ok: TLS 1.3; the certificate is for localhost, 127.0.0.1", "certificate 1: "],
        );
        diagnosis.says("primary", "role", &["ok: a primary"]);
    }
    let (plain, port) = authority.serve(Flavor::Valkey, "good", "no");
    let other = Authority::new();
    other.examine(port).is_broken(
        "primary",
        "tls",
        &["CN=Example CA", "among the trusted", "--upstream-ca (tls-ca)"],
    );

    // The other protocol, either way.
    examine_url(&format!("redis://127.0.0.1:{port}")).is_broken(
        "primary",
        "login",
        &["speaks TLS", "rediss://"],
    );
    authority.examine(plain.port).is_broken("primary", "tls", &["speaks plain text", "tls-port"]);

    let (_server, port) = authority.serve(Flavor::Valkey, "named", "no");
    let words =
        ["is for db.example, not for 127.0.0.1", "(tls-server-name) to \"db.example\"", "certificate 1: "];
    authority.examine(port).is_broken("primary", "tls", &words);
    let (_server, port) = authority.serve(Flavor::Valkey, "old", "no");
    authority.examine(port).is_broken("primary", "tls", &["expired on 2021-01-01", "renew"]);
    let (_server, port) = authority.serve(Flavor::Valkey, "good", "yes");
    authority.examine(port).is_broken("primary", "login", &["client certificate", "tls-cert"]);
}
