//! A client certificate that authenticates as a user of respgate's own.

use std::fs;

use rcgen::SanType;

use super::*;
use crate::support::wait;

/// Of the password `secret`, with little work.
const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ";
const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

/// respgate with TLS on a port, and a configuration file that a test replaces.
struct Live {
    proxy: Proxy,
    port: u16,
    certificates: Certificates,
    server: Server,
    folder: tempfile::TempDir,
}

impl Live {
    fn start(workers: usize, users: &str) -> Self {
        let certificates = Certificates::new();
        certificates.client_named("shop", Vec::new());
        let dns = |name: &str| vec![SanType::DnsName(name.try_into().expect("a name"))];
        certificates.client_named("by-dns", dns("Batch.Example"));
        certificates.client_named("longer", dns("x.batch.example"));
        certificates.client_named("shopping", Vec::new());
        let server = Server::start(Flavor::Valkey);
        server.run(&["ACL", "SETUSER", "ann", "on", ">ann-secret", "~*", "&*", "+@all"]);
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let path = folder.path().join("respgate.toml");
        fs::write(&path, configuration(&certificates, port, &server, users)).expect("a file");
        let flags = ["--config", &*path.to_string_lossy()];
        let proxy = Proxy::launch(free_port(), workers, &flags);
        proxy.wait_until_ready();
        Self { proxy, port, certificates, server, folder }
    }

    fn client(&self, certificate: &str) -> Client {
        Tls::named(&self.certificates, certificate).client(self.port)
    }

    fn reload(&self, users: &str) {
        let counted =
            || self.proxy.metric("respgate_reloads_total", &["what=\"configuration\"", "outcome=\"ok\""]);
        let before = counted();
        let path = self.folder.path().join("respgate.toml");
        fs::write(path, configuration(&self.certificates, self.port, &self.server, users)).expect("a file");
        self.proxy.signal("HUP");
        wait::until("the configuration to be in force", || counted() > before);
    }
}

fn configuration(certificates: &Certificates, port: u16, server: &Server, users: &str) -> String {
    format!(
        "[listeners.secure]\naddress = \"127.0.0.1:{port}\"\n{}tls-client-ca = \"{}\"\ntls-client-auth = \"optional\"\n\
         [upstreams.main]\naddress = \"127.0.0.1:{}\"\nclient-auth = \"required\"\n{users}",
        certificates.pair("server"),
        certificates.path("ca.pem"),
        server.port
    )
}

/// A table of one user.
fn user(name: &str, keys: &str) -> String {
    format!("[users.{name}]\npassword-hash = \"{HASH}\"\n{keys}\n")
}

#[track_caller]
fn is(client: &mut Client, name: &str) {
    client.expect(&["ACL", "WHOAMI"], &format!("${}\r\n{name}\r\n", name.len()));
}

#[test]
fn a_certificate_is_a_user() {
    for workers in [1, 2] {
        let tables = [
            user("shop", "certificates = [\"CN:shop\"]"),
            user("batch", "certificates = [\"DNS:batch.example\"]\ntenant = \"reports\""),
            user("other", ""),
            "[tenants.reports]\nread-only = true\n".into(),
        ];
        let live = Live::start(workers, &tables.concat());
        let mut shop = live.client("shop");
        is(&mut shop, "shop");
        shop.expect(&["SET", "k", "v"], "+OK\r\n");
        assert!(shop.call(&["HELLO", "3"]).starts_with(b"%"), "HELLO needs no AUTH");
        let mut batch = live.client("by-dns");
        is(&mut batch, "batch");
        batch.expect(&["GET", "k"], "$1\r\nv\r\n");
        assert!(batch.call(&["SET", "k", "w"]).starts_with(b"-NOPERM"), "its tenant is the user's");
        // Other names, and parts of names, are no users.
        for certificate in ["client", "longer", "shopping"] {
            live.client(certificate).expect(&["PING"], NOAUTH);
        }
        Tls::new(&live.certificates).client(live.port).expect(&["PING"], NOAUTH);
        // AUTH is another user, and RESET begins anew.
        shop.expect(&["AUTH", "shop", "wrong"], WRONG);
        is(&mut shop, "shop");
        shop.expect(&["AUTH", "other", "secret"], "+OK\r\n");
        is(&mut shop, "other");
        shop.expect(&["RESET"], "+RESET\r\n");
        is(&mut shop, "shop");
        let mut plain = live.client("client");
        plain.expect(&["AUTH", "shop", "secret"], "+OK\r\n");
        is(&mut plain, "shop");
    }
}

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

#[test]
fn a_certificate_s_user_acts_as_another_of_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    fs::write(&password, "ann-secret").expect("a file");
    fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let keys = format!(
        "certificates = [\"CN:shop\"]\nupstream-username = \"ann\"\nupstream-password-file = {password:?}"
    );
    let live = Live::start(2, &user("shop", &keys));
    let mut shop = live.client("shop");
    shop.expect(&["SET", "k", "v"], "+OK\r\n");
    is(&mut shop, "shop");
    let list = live.server.run_text(&["CLIENT", "LIST"]);
    assert!(list.lines().any(|line| line.contains(" user=ann ") && line.contains(" cmd=set ")), "{list}");
}

#[test]
fn a_reload_ends_the_sessions_of_a_certificate() {
    for workers in [1, 2] {
        let other = user("other", "");
        let shop = |keys: &str| format!("{}{other}", user("shop", keys));
        let mut live = Live::start(workers, &shop("certificates = [\"CN:shop\", \"DNS:batch.example\"]"));
        live.proxy.allow_log("respgate.toml");
        let mut by_name = live.client("shop");
        let mut by_dns = live.client("by-dns");
        let mut by_password = live.client("shop");
        by_password.expect(&["AUTH", "shop", "secret"], "+OK\r\n");
        let mut moved = live.client("shop");
        moved.expect(&["AUTH", "other", "secret"], "+OK\r\n");
        for client in [&mut by_name, &mut by_dns] {
            is(client, "shop");
        }
        live.reload(&shop("certificates = [\"DNS:batch.example\"]"));
        assert_eq!(by_name.rest(), b"", "its name is gone");
        for client in [&mut by_dns, &mut by_password] {
            is(client, "shop");
        }
        live.client("shop").expect(&["PING"], NOAUTH);
        live.reload(&other);
        assert_eq!(by_dns.rest(), b"", "its user is gone");
        assert_eq!(by_password.rest(), b"");
        is(&mut moved, "other");
        live.reload(&shop("certificates = [\"CN:shop\"]"));
        is(&mut live.client("shop"), "shop");
    }
}
