//! Files that a read would wait for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn put(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("its permissions");
    fs::rename(new, path).expect("a rename");
}

fn put_fifo(path: &Path) {
    let new = path.with_extension("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &new, rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
    fs::rename(new, path).expect("a rename");
}

/// A FIFO in the place of the configuration or of a password is told, and what replaces it is read.
#[test]
fn a_fifo_that_is_replaced_is_read_again() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "app", "on", ">first-secret", ">second-secret", "~*", "&*", "+@all"]);
        let folder = tempfile::tempdir().expect("a folder");
        let (file, password) = (folder.path().join("respgate.toml"), folder.path().join("password"));
        let configuration = |rate: u32| {
            format!(
                "reload-interval = \"100ms\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\nusername = \"app\"\n\
                 password-file = {password:?}\n[tenants.all]\ndefault = true\ncommands-per-second = {rate}\n",
                server.port
            )
        };
        put(&password, "first-secret");
        put(&file, &configuration(1000));
        let flags = ["--config", &*file.to_string_lossy()];
        let mut proxy = Proxy::launch(crate::support::port::free_port(), workers, &flags);
        proxy.allow_log("it is a FIFO");
        proxy.wait_until_ready();
        let reloads = |proxy: &Proxy, what: &str| {
            proxy.metric("respgate_reloads_total", &[&format!("kind=\"{what}\""), "outcome=\"ok\""])
        };
        for (what, path, next) in
            [("configuration", &file, configuration(2000)), ("password", &password, "second-secret".into())]
        {
            put_fifo(path);
            wait::until("the FIFO to be told", || proxy.http("/readyz").contains("it is a FIFO"));
            let before = reloads(&proxy, what);
            put(path, &next);
            wait::until("the file to be read again", || reloads(&proxy, what) > before);
            wait::until("the fault to be over", || !proxy.http("/readyz").contains("it is a FIFO"));
        }
        assert!(proxy.log().matches("it is a FIFO").count() <= 4, "{}", proxy.log());
        proxy.client().expect(&["PING"], "+PONG\r\n");
    }
}

/// A configuration from a shell's `<(...)` is in force, and never counts as changed.
#[test]
fn a_piped_configuration_is_not_followed() {
    let server = Server::start(Flavor::Valkey);
    let script = format!(
        "exec \"$@\" --config <(printf 'reload-interval = \"100ms\"\\n[upstreams.main]\\nurl = \"redis://127.0.0.1:{}\"\\n')",
        server.port
    );
    let port = crate::support::port::free_port();
    let proxy = Proxy::launch_under(&["bash", "-c", &script, "bash"], port, 1, &[]);
    proxy.wait_until_ready();
    proxy.signal("HUP");
    wait::until("the answer", || {
        proxy.log().contains("respgate cannot read this again: it came through a pipe")
    });
    assert!(!proxy.http("/readyz").contains("configuration"), "{}", proxy.http("/readyz"));
}
