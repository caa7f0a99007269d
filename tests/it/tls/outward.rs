//! respgate to servers.

use super::*;
use crate::support::certificates::By;
use crate::support::wait;

/// Options of a server that asks clients for certificates.
const ASKS: [&str; 2] = ["--tls-auth-clients", "yes"];

fn url(server: &Server) -> String {
    format!("url = \"rediss://127.0.0.1:{}\"", server.announced())
}

fn ca(certificates: &Certificates, name: &str) -> String {
    format!("tls-ca = \"{}\"", certificates.path(name))
}

on_both_servers!(a_server_that_proves_its_name);

fn a_server_that_proves_its_name(flavor: Flavor) {
    let certificates = Certificates::new();
    let server = Server::start_tls(flavor, &certificates, "server", &[]);
    let upstream = format!("{}\n{}", url(&server), ca(&certificates, "ca.pem"));
    let (proxy, port) = start(&certificates, 2, "", &upstream);
    serves(&mut proxy.client());
    let mut client = Tls::new(&certificates).client(port);
    serves(&mut client);
    client.expect(&["BLPOP", "nothing", "0.01"], "*-1\r\n");
    assert_eq!(server.run(&["GET", "k"]), b"$1\r\nv\r\n");
}

#[test]
fn a_server_that_wants_a_certificate() {
    let certificates = Certificates::new();
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &ASKS);
    let upstream = format!("{}\n{}", url(&server), ca(&certificates, "ca.pem"));
    refused(&upstream, "wants a client certificate");
    let with = format!("{upstream}\n{}", certificates.pair("client"));
    let proxy = Proxy::start_file(1, &format!("[upstreams.main]\n{with}"));
    serves(&mut proxy.client());
}

#[test]
fn a_name_that_is_set() {
    let certificates = Certificates::new();
    certificates.server("named", By::Root, &["node.internal"]);
    let server = Server::start_tls(Flavor::Redis, &certificates, "named", &[]);
    let upstream = format!("{}\n{}", url(&server), ca(&certificates, "ca.pem"));
    refused(&upstream, "not for 127.0.0.1");
    let address = format!("127.0.0.1:{}", server.announced());
    for name in [
        "tls-server-name = \"node.internal\"".to_owned(),
        format!("tls-server-name = \"wrong\"\ntls-server-names = {{ \"{address}\" = \"node.internal\" }}"),
    ] {
        let proxy = Proxy::start_file(1, &format!("[upstreams.main]\n{upstream}\n{name}\n"));
        serves(&mut proxy.client());
    }
}

#[test]
fn servers_that_are_not_who_they_should_be() {
    let certificates = Certificates::new();
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &[]);
    refused(
        &format!("{}\n{}", url(&server), ca(&certificates, "other-ca.pem")),
        "that no authority trusted here has signed",
    );
    certificates.server_with("old", By::Root, &["127.0.0.1"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let server = Server::start_tls(Flavor::Valkey, &certificates, "old", &[]);
    refused(&format!("{}\n{}", url(&server), ca(&certificates, "ca.pem")), "that has expired");
}

/// A new connection that fails for a certificate takes none along that was made before.
#[test]
fn a_wrong_authority_costs_no_open_connection() {
    let certificates = Certificates::new();
    let swap = |name: &str| {
        std::fs::copy(certificates.path(name), certificates.path("swapped.pem")).unwrap();
    };
    swap("ca.pem");
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &[]);
    let upstream = format!("{}\n{}\nhold-timeout = \"2s\"", url(&server), ca(&certificates, "swapped.pem"));
    let toml = format!("reload-interval = \"100ms\"\n[upstreams.main]\n{upstream}\n");
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("keeps the open ones");
    let mut open = proxy.client();
    serves(&mut open);
    let replaced = || {
        let labels = ["kind=\"certificates\"", "outcome=\"ok\""];
        proxy.metric("respgate_reloads_total", &labels)
    };
    swap("other-ca.pem");
    wait::until("the other authority", || replaced() == 1.0);
    let refused = proxy.client().call(&["BLPOP", "nothing", "0.01"]);
    assert!(refused.starts_with(b"-ERR respgate: no primary"), "{}", refused.escape_ascii());
    serves(&mut open);
    assert!(proxy.log().contains("keeps the open ones"));
    swap("ca.pem");
    wait::until("the right authority", || replaced() == 2.0);
    proxy.client().expect(&["BLPOP", "nothing", "0.01"], "*-1\r\n");
}

#[test]
fn a_port_of_the_other_kind() {
    let certificates = Certificates::new();
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &[]);
    let ca = ca(&certificates, "ca.pem");
    refused(&format!("url = \"rediss://127.0.0.1:{}\"\n{ca}", server.port), "without TLS");
    refused(&format!("url = \"redis://127.0.0.1:{}\"", server.announced()), "if its port speaks TLS");
}

/// The system's authorities, which a variable moves to where the test has them; and others in their place.
#[test]
fn authorities_of_the_system() {
    let certificates = Certificates::new();
    let swap = |name: &str| {
        std::fs::copy(certificates.path(name), certificates.path("bundle.pem")).unwrap();
    };
    swap("other-ca.pem");
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &[]);
    let toml = format!("reload-interval = \"100ms\"\n[upstreams.main]\n{}\n", url(&server));
    let variable = format!("SSL_CERT_FILE={}", certificates.path("bundle.pem"));
    let mut proxy = Proxy::launch_file(&["env", &variable], 1, &toml);
    proxy.allow_log("that no authority trusted here has signed");
    wait::until("its authority to be missing", || proxy.log().contains("no authority trusted here"));
    swap("ca.pem");
    proxy.wait_until_ready();
    serves(&mut proxy.client());
}

/// Nobody is served through it; the log and the client's error say why.
#[track_caller]
fn refused(upstream: &str, words: &str) {
    let toml = format!("[upstreams.main]\n{upstream}\nhold-timeout = \"300ms\"\n");
    let mut proxy = Proxy::launch_file(&[], 1, &toml);
    proxy.allow_log("\"WARN\"");
    wait::until("the reason in the log", || proxy.log().lines().any(|line| line.contains(words)));
    let mut client = proxy.client();
    let reply = String::from_utf8(client.call(&["GET", "k"])).expect("text");
    assert!(reply.starts_with("-ERR respgate: ") && reply.contains(words), "{reply}");
}
