//! A server that authenticates respgate by its certificate (`tls-auth-clients-user`, Valkey 8.1 and later).

use super::*;
use crate::support::servers::spawn;
use std::process::{Command, Stdio};

/// A server that takes the common name of a client's certificate for a user, with the user `client`; `None` if the
/// server is too old for that and refuses the directive.
fn stage() -> Option<(Server, Certificates)> {
    let certificates = Certificates::new();
    let server = Server::start_tls(Flavor::Valkey, &certificates, "server", &["--tls-auth-clients", "yes"]);
    let set = server.run_text(&["CONFIG", "SET", "tls-auth-clients-user", "CN"]);
    let version = server.version();
    if version.contains("8.0.") {
        assert!(set.starts_with("-ERR Unknown option"), "{version}: {set}");
        return None;
    }
    assert_eq!(set, "+OK\r\n", "{version}");
    let rules = ["on", ">client-secret", "~app:*", "&*", "+@all", "-@admin"];
    server.run(&[&["ACL", "SETUSER", "client"][..], &rules].concat());
    server.run(&["ACL", "SETUSER", "other", "on", ">other-secret", "~*", "&*", "+@all"]);
    Some((server, certificates))
}

fn upstream(server: &Server, certificates: &Certificates, certificate: &str) -> String {
    format!(
        "[upstreams.main]\nurl = \"rediss://127.0.0.1:{}\"\ntls-ca = \"{}\"\n{}",
        server.announced(),
        certificates.path("ca.pem"),
        certificates.pair(certificate)
    )
}

#[test]
fn the_certificate_is_the_user() {
    let Some((server, certificates)) = stage() else { return };
    for workers in [1, 2] {
        server.run(&["CONFIG", "RESETSTAT"]);
        let proxy = Proxy::start_file(workers, &upstream(&server, &certificates, "client"));
        let mut client = proxy.client();
        client.expect(&["ACL", "WHOAMI"], "$6\r\nclient\r\n");
        client.expect(&["SET", "app:k", "v"], "+OK\r\n");
        assert!(client.call(&["SET", "k", "v"]).starts_with(b"-NOPERM"));
        client.expect(&["BLPOP", "app:nothing", "0.01"], "*-1\r\n");
        assert!(client.call(&["BLPOP", "nothing", "0.01"]).starts_with(b"-NOPERM"));
        let info = String::from_utf8(client.call(&["CLIENT", "INFO"])).expect("text");
        assert!(info.contains(" user=client "), "{info}");
        let mut third = proxy.client();
        assert!(third.call(&["HELLO", "3"]).starts_with(b"%"));
        third.expect(&["ACL", "WHOAMI"], "$6\r\nclient\r\n");
        let stats = server.run_text(&["INFO", "commandstats"]);
        assert!(!stats.contains("cmdstat_auth"), "respgate sent AUTH: {stats}");
        // A client can still be another user.
        client.expect(&["AUTH", "other", "other-secret"], "+OK\r\n");
        client.expect(&["ACL", "WHOAMI"], "$5\r\nother\r\n");
        client.expect(&["SET", "k", "v"], "+OK\r\n");
        client.expect(&["RESET"], "+RESET\r\n");
        client.expect(&["ACL", "WHOAMI"], "$6\r\nclient\r\n");
    }
}

/// A certificate that names no user is the default user, who may have a password.
#[test]
fn a_certificate_that_names_no_user() {
    let Some((server, certificates)) = stage() else { return };
    certificates.client_named("nobody", Vec::new());
    server.run(&["CONFIG", "SET", "requirepass", "secret"]);
    let mut known = Proxy::start_file(1, &upstream(&server, &certificates, "client"));
    known.allow_log("\"WARN\"");
    known.client().expect(&["ACL", "WHOAMI"], "$6\r\nclient\r\n");
    let mut proxy = Proxy::start_file(2, &upstream(&server, &certificates, "nobody"));
    proxy.allow_log("\"WARN\"");
    let mut client = proxy.client();
    client.expect(&["GET", "app:k"], "-NOAUTH Authentication required.\r\n");
    client.expect(&["AUTH", "client", "client-secret"], "+OK\r\n");
    client.expect(&["ACL", "WHOAMI"], "$6\r\nclient\r\n");
}

#[test]
fn doctor_says_who_it_is() {
    let Some((server, certificates)) = stage() else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), upstream(&server, &certificates, "client")).expect("the configuration");
    let mut command = Command::new(crate::support::proxy::binary());
    command.args(["doctor", "--config", &file.path().to_string_lossy()]).stdout(Stdio::piped());
    let output = spawn(&mut command, "run `cargo build`").wait_with_output().expect("its output");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the certificate is user \"client\""), "{text}");
}
