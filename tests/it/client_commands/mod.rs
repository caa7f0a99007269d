//! CLIENT LIST, KILL, UNBLOCK, PAUSE and INFO respgate speak of respgate's clients, on all workers.

mod control;
mod errors;
mod failover;
mod isolation;
mod kill;
mod list;
mod many;
mod names;
mod outage;
mod permissions;
mod tenants;
mod unblock;
mod under_load;

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// respgate in front of a server, with all commands allowed.
struct Site {
    proxy: Proxy,
    server: Server,
}

impl Site {
    fn start(flavor: Flavor, workers: usize) -> Self {
        Self::at_level(flavor, workers, "allow")
    }

    fn at_level(flavor: Flavor, workers: usize, level: &str) -> Self {
        let server = Server::start(flavor);
        let proxy = start_proxy(&server, workers, level);
        Self { proxy, server }
    }

    /// A client with a name.
    fn named(&self, name: &str) -> Client {
        named(&self.proxy, name)
    }
}

fn start_proxy(server: &Server, workers: usize, level: &str) -> Proxy {
    Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), workers, &["--admin-commands", level])
}

fn named(proxy: &Proxy, name: &str) -> Client {
    let mut client = proxy.client();
    client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
    client
}

/// One line of CLIENT LIST.
#[derive(Clone, Debug)]
struct Line(String);

impl Line {
    fn field(&self, name: &str) -> &str {
        let fields = self.0.split(' ').filter_map(|field| field.split_once('='));
        fields.into_iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }
}

/// Returns the lines that CLIENT LIST with these words gives.
fn list(client: &mut Client, words: &[&str]) -> Vec<Line> {
    let reply = client.call(&[&["CLIENT", "LIST"], words].concat());
    let text = String::from_utf8(reply).expect("text");
    assert!(text.starts_with(['$', '=']), "{words:?}: {text}");
    let lines = text.lines().skip(1).map(|line| line.strip_prefix("txt:").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(|line| Line(line.to_owned())).collect()
}

/// Returns the names in the list, without empty ones, sorted.
fn names(client: &mut Client, words: &[&str]) -> Vec<String> {
    let mut names: Vec<String> =
        list(client, words).iter().map(|line| line.field("name").to_owned()).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names
}

fn id_of(client: &mut Client, name: &str) -> String {
    let lines = list(client, &["NAME", name]);
    assert_eq!(lines.len(), 1, "{name}: {lines:?}");
    lines[0].field("id").to_owned()
}

/// Begins to wait for an element of a list, and returns once the server has the command.
fn block(server: &Server, client: &mut Client, key: &str) {
    client.send_command(&["BLPOP", key, "0"]);
    let blocked = |server: &Server| server.info("clients", "blocked_clients");
    let before = blocked(server);
    if before == 0 {
        wait::until("the client to be blocked", || blocked(server) > 0);
    }
}
