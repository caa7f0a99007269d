//! Clients to respgate.

use tokio_rustls::rustls::ProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::*;
use crate::support::wait;

const HANDSHAKES: &str = "respgate_tls_handshakes_total";

#[test]
fn both_versions_with_the_full_chain() {
    let stage = Stage::start("");
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let stream = Tls::only(&stage.certificates, version).connect(stage.port);
        assert_eq!(stream.conn.protocol_version(), Some(spoken));
        assert_eq!(
            stream.conn.peer_certificates().map(<[_]>::len),
            Some(2),
            "the own one and the intermediate"
        );
        assert_eq!(stream.conn.alpn_protocol(), None);
        serves(&mut Client::over_tls(stream));
    }
    serves(&mut stage.proxy.client());
}

#[test]
fn a_floor_keeps_old_versions_out() {
    let mut stage = Stage::start("tls-min-version = \"1.3\"");
    stage.proxy.allow_log("has no TLS version or cipher in common");
    let refused = Tls::only(&stage.certificates, &TLS12).try_connect(stage.port).unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    wait::until("the count", || stage.failures("incompatible") == 1.0);
    serves(&mut Tls::only(&stage.certificates, &TLS13).client(stage.port));
}

#[test]
fn clients_that_come_back_resume() {
    let stage = Stage::start("");
    let counted =
        |kind: &str| stage.proxy.metric(HANDSHAKES, &["listener=\"secure\"", &format!("kind=\"{kind}\"")]);
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let tls = Tls::only(&stage.certificates, version);
        serves(&mut tls.client(stage.port));
        assert_eq!((counted("full"), counted("resumed")), (number as f64 + 1.0, number as f64 * 3.0));
        for _ in 0..3 {
            serves(&mut tls.client(stage.port));
        }
        assert_eq!((counted("full"), counted("resumed")), (number as f64 + 1.0, number as f64 * 3.0 + 3.0));
    }
}

#[test]
fn certificates_of_clients_required_or_optional() {
    for (auth, without) in [("required", false), ("optional", true)] {
        let mut stage =
            Stage::start(&format!("tls-client-ca = \"DIR/ca.pem\"\ntls-client-auth = \"{auth}\""));
        stage.proxy.allow_log("\"reason\":\"no_certificate\"");
        stage.proxy.allow_log("\"reason\":\"untrusted\"");
        serves(&mut Tls::named(&stage.certificates, "client").client(stage.port));
        let mut nobody = stage.tls().client(stage.port);
        nobody.send("PING\r\n");
        match nobody.try_reply() {
            Ok(reply) => assert!(without && reply == b"+PONG\r\n"),
            Err(error) => assert!(!without && error.to_string().contains("CertificateRequired"), "{error}"),
        }
        // One that does not count is refused either way.
        let mut foreign = Tls::named(&stage.certificates, "foreign").client(stage.port);
        foreign.send("PING\r\n");
        let error = foreign.try_reply().unwrap_err();
        assert!(error.to_string().contains("UnknownCA"), "{error}");
        assert_eq!(stage.failures("no_certificate"), f64::from(u8::from(!without)));
        assert_eq!(stage.failures("untrusted"), 1.0);
    }
}

#[test]
fn who_a_client_is_can_be_seen() {
    let certificates = Certificates::new();
    let server = Server::start(Flavor::Redis);
    let port = free_port();
    let toml = format!(
        "[log]\nlevel = \"info,respgate::session=debug\"\n[listeners.secure]\naddress = \"127.0.0.1:{port}\"\n\
         {}tls-client-ca = \"{}\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
        certificates.pair("server"),
        certificates.path("ca.pem"),
        server.port
    );
    let proxy = Proxy::start_file(1, &toml);
    let mut client = Tls::named(&certificates, "client").client(port);
    serves(&mut client);
    let said = |what: &str| {
        let log = proxy.log();
        log.lines()
            .any(|line| line.contains(what) && line.contains("\"certificate\":\"spiffe://example/app\""))
    };
    assert!(said("session began"), "{}", proxy.log());
    drop(client);
    wait::until("the end of the session in the log", || said("session ended"));
}
