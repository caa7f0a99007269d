//! `respgate ctl clients`, `kill` and `upstream-clients`.

use std::process::{Command, Output};

use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};

struct Controlled {
    proxy: Proxy,
    server: Server,
    ports: [u16; 2],
    folder: tempfile::TempDir,
}

impl Controlled {
    fn start(workers: usize) -> Self {
        let server = Server::start(Flavor::Valkey);
        let folder = tempfile::tempdir().expect("a folder");
        let ports = [free_port(), free_port()];
        let toml = format!(
            "control-socket = {:?}\n\
             [listeners.shop]\naddress = \"127.0.0.1:{}\"\ntenant = \"shop\"\n\
             [listeners.plain]\naddress = \"127.0.0.1:{}\"\n[tenants.shop]\n\
             [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
            folder.path().join("control.sock").display().to_string(),
            ports[0],
            ports[1],
            server.port
        );
        Self { proxy: Proxy::start_file(workers, &toml), server, ports, folder }
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let socket = self.folder.path().join("control.sock");
        Command::new(binary())
            .arg("ctl")
            .arg("--socket")
            .arg(socket)
            .args(words)
            .output()
            .expect("respgate ctl")
    }

    #[track_caller]
    fn done(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn client(&self, listener: usize, name: &str) -> Client {
        let mut client = Client::connect(self.ports[listener]);
        client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
        client
    }
}

with_one_and_two_workers!(clients_are_listed_and_disconnected);

fn clients_are_listed_and_disconnected(workers: usize) {
    let mut site = Controlled::start(workers);
    site.proxy.allow_log("control: refused");
    let [one, two] = ["shop-1", "shop-2"].map(|name| site.client(0, name));
    let (mut plain, mut other) = (site.client(1, "plain"), site.client(1, "other"));
    let all = site.done(&["clients"]);
    assert_eq!(all.lines().filter(|line| line.contains("name=")).count(), 4, "{all}");
    let line = all.lines().find(|line| line.contains("name=shop-1")).expect("a line");
    assert!(line.starts_with("id=") && line.contains(" tenant=shop listener=shop upstream=main"), "{line}");
    let json: serde_json::Value =
        serde_json::from_str(&site.done(&["--json", "clients", "--tenant", "shop"])).expect("JSON");
    assert_eq!(json["result"].as_array().expect("a list").len(), 2, "{json}");
    assert!(json["result"][0]["id"].is_u64(), "{json}");

    let id = String::from_utf8(plain.call(&["CLIENT", "ID"])).expect("text");
    let id = id.trim().trim_start_matches(':').to_owned();
    assert_eq!(site.done(&["kill", "--session", &id]), "disconnected: 1\n");
    assert!(plain.rest().is_empty());
    assert_eq!(site.done(&["kill", "--session", &id]), "disconnected: 0\n");
    assert_eq!(site.done(&["kill", "--tenant", "shop", "--user", "nobody"]), "disconnected: 0\n");
    assert_eq!(site.done(&["kill", "--tenant", "shop"]), "disconnected: 2\n");
    [one, two].into_iter().for_each(|mut client| assert!(client.rest().is_empty()));
    let info = String::from_utf8(other.call(&["CLIENT", "INFO"])).expect("text");
    let addr = info.split(" addr=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    assert_eq!(site.done(&["kill", "--address", addr]), "disconnected: 1\n");
    assert!(other.rest().is_empty());
    assert_eq!(site.ctl(&["kill"]).status.code(), Some(64), "whom?");
    assert_eq!(site.ctl(&["kill", "--session", "x"]).status.code(), Some(64));

    let on_server = site.done(&["upstream-clients"]);
    assert!(on_server.contains("lib-name=respgate"), "{on_server}");
    let direct = site.server.run_text(&["CLIENT", "LIST"]);
    assert!(on_server.lines().count() + 1 >= direct.lines().filter(|line| line.starts_with("id=")).count());
    assert!(site.done(&["upstream-clients", "main"]).contains("lib-name=respgate"));
    assert_eq!(site.ctl(&["upstream-clients", "nothing"]).status.code(), Some(1));
}
