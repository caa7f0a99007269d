//! Whose a client is by what it cannot choose: its certificate, and its user on this machine.

use std::os::unix::fs::MetadataExt;

use rcgen::SanType;

use crate::support::certificates::Certificates;
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;

/// A tenant is known by the one command that it may not run.
fn tenants(rules: &[(&str, &str, &str)]) -> String {
    let table = |(name, rule, command): &(&str, &str, &str)| {
        format!("[tenants.{name}]\n{rule}\ncommands = [\"+@all\", \"-{command}\"]\n")
    };
    rules.iter().map(table).collect()
}

/// The client is of the tenant that may not run `forbidden`, and of none of the others.
#[track_caller]
fn belongs(client: &mut Client, forbidden: &str, all: &[&str]) {
    for command in all {
        let reply = client.call(&[*command, "k"]);
        let denied = reply.starts_with(b"-NOPERM ");
        assert_eq!(denied, *command == forbidden, "{command}: {}", reply.escape_ascii());
    }
}

#[test]
fn by_each_kind_of_name_in_a_certificate() {
    const ALL: [&str; 4] = ["get", "strlen", "exists", "ttl"];
    let certificates = Certificates::new();
    let uri = |text: &str| SanType::URI(text.try_into().expect("a URI"));
    certificates.client_named("shop", Vec::new());
    certificates.client_named("by-dns", vec![SanType::DnsName("Batch.Example".try_into().expect("a name"))]);
    certificates.client_named("by-uri", vec![uri("spiffe://example/other"), uri("spiffe://example/reports")]);
    certificates.client_named("Shop", vec![uri("spiffe://example/reports/more")]);
    for (flavor, workers, auth) in [(Flavor::Valkey, 2, "required"), (Flavor::Redis, 1, "optional")] {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all"]);
        let port = free_port();
        let proxy = Proxy::start_file(
            workers,
            &format!(
                "[listeners.secure]\naddress = \"127.0.0.1:{port}\"\n{}tls-client-ca = \"{}\"\n\
                 tls-client-auth = \"{auth}\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{}",
                certificates.pair("server"),
                certificates.path("ca.pem"),
                server.port,
                tenants(&[
                    ("shop", "certificates = [\"CN:shop\"]", ALL[0]),
                    ("batch", "certificates = [\"DNS:batch.example\"]", ALL[1]),
                    ("reports", "certificates = [\"URI:spiffe://example/reports\"]", ALL[2]),
                    ("others", "default = true\nusers = [\"ann\"]", ALL[3]),
                ]),
            ),
        );
        for (name, forbidden) in [("shop", ALL[0]), ("by-dns", ALL[1]), ("by-uri", ALL[2]), ("Shop", ALL[3])]
        {
            let mut client = Tls::named(&certificates, name).client(port);
            belongs(&mut client, forbidden, &ALL);
            // Nothing that the client says makes it another.
            client.expect(&["AUTH", "ann", "pw"], "+OK\r\n");
            belongs(&mut client, forbidden, &ALL);
            client.expect(&["RESET"], "+RESET\r\n");
            belongs(&mut client, forbidden, &ALL);
            client.expect(&["MULTI"], "+OK\r\n");
            assert!(client.call(&[forbidden, "k"]).starts_with(b"-NOPERM "));
            assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT "));
        }
        if auth == "optional" {
            belongs(&mut Tls::new(&certificates).client(port), ALL[3], &ALL);
        }
        belongs(&mut proxy.client(), ALL[3], &ALL);
    }
}

#[test]
fn by_the_user_at_the_other_end_of_a_unix_socket() {
    const ALL: [&str; 3] = ["get", "strlen", "exists"];
    let own = std::fs::metadata("/proc/self").expect("this process").uid();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("respgate.sock");
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let server = Server::start(flavor);
        let proxy = Proxy::start_file(
            workers,
            &format!(
                "[listeners.local]\naddress = \"unix:{}\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{}",
                socket.display(),
                server.port,
                tenants(&[
                    ("other", &format!("uids = [{}]", own + 1), ALL[0]),
                    ("mine", &format!("uids = [{own}]"), ALL[1]),
                    ("rest", "default = true", ALL[2]),
                ]),
            ),
        );
        let mut local = Client::connect_unix(&socket);
        belongs(&mut local, ALL[1], &ALL);
        let clients =
            |tenant: &str| proxy.metric("respgate_tenant_clients", &[&format!("tenant=\"{tenant}\"")]);
        assert_eq!((clients("mine"), clients("other")), (1.0, 0.0));
        belongs(&mut proxy.client(), ALL[2], &ALL);
    }
}
