//! `reauth = "refresh"`: connections that sessions hold are authenticated again when respgate's password changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const HEARD: &str = "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n";

/// A server with a user `app`, and respgate, which reads the user's password from a file.
struct Stage {
    proxy: Proxy,
    server: Server,
    folder: tempfile::TempDir,
}

impl Stage {
    fn start(flavor: Flavor, pubsub: &str) -> Self {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "app", "on", ">password-0", "~*", "&*", "+@all"]);
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder, "password-0");
        let toml = format!(
            "reload-interval = \"100ms\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\nusername = \"app\"\npassword-file = {:?}\n\
             reauth = \"refresh\"\n[tenants.all]\ndefault = true\npubsub = \"{pubsub}\"\n",
            server.port,
            folder.path().join("password")
        );
        let proxy = Proxy::start_file(1, &toml);
        Self { server, proxy, folder }
    }

    /// The server accepts another password, too, and respgate is told to use it.
    fn rotate(&self, password: &str) {
        self.server.run(&["ACL", "SETUSER", "app", &format!(">{password}")]);
        write(&self.folder, password);
    }

    fn refreshed(&self) -> f64 {
        self.proxy.metric("respgate_upstream_reauthenticated_total", &[])
    }

    fn wait_for_refreshed(&self, count: f64) {
        wait::until("connections to be authenticated again", || self.refreshed() >= count);
        assert_eq!(self.refreshed(), count);
    }

    /// The numbers of the server's connections that are subscribed, in transactions, or blocked.
    fn held(&self) -> Vec<String> {
        let list = self.server.run_text(&["CLIENT", "LIST"]);
        let of_app = list.lines().filter(|line| line.contains("user=app"));
        let field = |line: &str, name: &str| {
            line.split(' ').find_map(|field| field.strip_prefix(name)).map(str::to_owned)
        };
        // P: subscribed; x: in a transaction; b: blocked.
        let held =
            of_app.filter(|line| field(line, "flags=").is_some_and(|flags| flags.contains(['P', 'x', 'b'])));
        let id = |line: &str| field(line, "id=");
        let mut ids: Vec<String> = held.filter_map(id).collect();
        ids.sort();
        ids
    }
}

fn write(folder: &tempfile::TempDir, password: &str) {
    let (file, new) = (folder.path().join("password"), folder.path().join("new"));
    fs::write(&new, password).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("its permissions");
    fs::rename(new, file).expect("a rename");
}

fn in_resp3(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    assert!(client.call(&["HELLO", "3"]).starts_with(b"%"));
    client
}

on_both_servers!(held_connections_stay_and_are_authenticated_again);

/// Each kind of held connection is authenticated again as soon as the protocol allows it, and stays the same connection.
fn held_connections_stay_and_are_authenticated_again(flavor: Flavor) {
    let stage = Stage::start(flavor, "dedicated");
    let mut subscriber = in_resp3(&stage.proxy);
    subscriber.send_command(&["SUBSCRIBE", "news"]);
    subscriber.expect_reply(">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut old_subscriber = stage.proxy.client();
    old_subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut transaction = stage.proxy.client();
    transaction.expect(&["MULTI"], "+OK\r\n");
    transaction.expect(&["INCR", "k"], "+QUEUED\r\n");
    let mut popper = stage.proxy.client();
    popper.send_command(&["BLPOP", "queue", "0"]);
    let mut watcher = stage.proxy.client();
    watcher.expect(&["WATCH", "k"], "+OK\r\n");
    wait::until("the pop to block", || stage.server.info("clients", "blocked_clients") == 1);
    let before = stage.held();

    stage.rotate("password-1");
    // The RESP3 subscriber, and the watcher.
    stage.wait_for_refreshed(2.0);
    transaction.expect(&["GET", "k"], "+QUEUED\r\n");
    assert_eq!(stage.held(), before);
    transaction.expect(&["EXEC"], "*2\r\n:1\r\n$1\r\n1\r\n");
    stage.server.run(&["RPUSH", "queue", "job"]);
    popper.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    stage.server.run(&["PUBLISH", "news", "hello"]);
    subscriber.expect_reply(&HEARD.replacen('*', ">", 1));
    old_subscriber.expect_reply(HEARD);
    // What was in a transaction or blocked has followed. A RESP2 subscriber may not send AUTH, and is left alone.
    stage.wait_for_refreshed(4.0);
    assert_eq!(stage.held().iter().filter(|id| before.contains(id)).count(), 2, "the subscribers");
    watcher.expect(&["MULTI"], "+OK\r\n");
    watcher.expect(&["EXEC"], "*-1\r\n");
}

on_both_servers!(a_link_of_fan_in_is_authenticated_again);

fn a_link_of_fan_in_is_authenticated_again(flavor: Flavor) {
    let stage = Stage::start(flavor, "fan-in");
    let mut subscriber = stage.proxy.client();
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let before = stage.held();
    for number in 1..4 {
        stage.rotate(&format!("password-{number}"));
        stage.wait_for_refreshed(f64::from(number));
        stage.server.run(&["PUBLISH", "news", "hello"]);
        subscriber.expect_reply(HEARD);
    }
    assert_eq!(stage.held(), before);
}

/// A server that refuses the new password, for now, takes nothing from a session; later it accepts it.
#[test]
fn a_refused_password_is_tried_again_on_held_connections() {
    for (flavor, pubsub) in [(Flavor::Valkey, "dedicated"), (Flavor::Redis, "fan-in")] {
        let mut stage = Stage::start(flavor, pubsub);
        stage.proxy.allow_log("refuses respgate's own user or password");
        let mut subscriber = in_resp3(&stage.proxy);
        subscriber.send_command(&["SUBSCRIBE", "news"]);
        subscriber.expect_reply(">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        let before = stage.held();
        write(&stage.folder, "password-1");
        wait::until("a refusal", || stage.proxy.metric("respgate_upstream_auth_refused_total", &[]) > 0.0);
        stage.server.run(&["PUBLISH", "news", "hello"]);
        subscriber.expect_reply(&HEARD.replacen('*', ">", 1));
        stage.rotate("password-1");
        stage.wait_for_refreshed(1.0);
        assert_eq!(stage.held(), before);
        let all = [stage.proxy.log(), stage.proxy.http("/metrics")].concat();
        assert!(!all.contains("password-1"), "a password was printed");
    }
}

on_both_servers!(commands_get_their_own_replies_while_the_password_changes);

/// However often the password changes, every command of a session that holds its connection gets its own reply.
fn commands_get_their_own_replies_while_the_password_changes(flavor: Flavor) {
    let stage = Stage::start(flavor, "dedicated");
    let mut client = stage.proxy.client();
    client.expect(&["WATCH", "k"], "+OK\r\n");
    let (mut number, mut rotations) = (0, 0);
    while stage.refreshed() < 10.0 {
        rotations += 1;
        stage.rotate(&format!("password-{rotations}"));
        for _ in 0..50 {
            let sent: Vec<String> = (number..number + 20).map(|number| number.to_string()).collect();
            sent.iter().for_each(|text| client.send_command(&["ECHO", text]));
            for text in &sent {
                client.expect_reply(&format!("${}\r\n{text}\r\n", text.len()));
            }
            number += 20;
        }
        assert!(rotations < 500, "{} of 500 were noticed", stage.refreshed());
    }
}
