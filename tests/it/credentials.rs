//! Credentials that clients bring, when the server no longer takes them.

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const WRONG: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// A server with a user `app`, whose clients bring its password themselves.
struct Stage {
    proxy: Proxy,
    server: Server,
}

impl Stage {
    fn set(flavor: Flavor, workers: usize, keys: &str) -> Self {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "app", "on", ">first", "~*", "&*", "+@all"]);
        let url = format!("redis://127.0.0.1:{}", server.port);
        let mut proxy = Proxy::start_file(workers, &format!("[upstreams.main]\nurl = \"{url}\"\n{keys}\n"));
        proxy.allow_log("lost a shared upstream connection");
        proxy.allow_log("lost a fan-in connection");
        proxy.allow_log("disconnects subscribers");
        Self { proxy, server }
    }

    fn client(&self, password: &str) -> Client {
        let mut client = self.proxy.client();
        client.expect(&["AUTH", "app", password], "+OK\r\n");
        client
    }

    fn change_password(&self) {
        self.server.run(&["ACL", "SETUSER", "app", "resetpass", ">second"]);
    }

    /// As a provider does when a token has expired.
    fn rotate(&self) {
        self.change_password();
        self.server.run(&["CLIENT", "KILL", "USER", "app"]);
    }

    fn connections_of_app(&self) -> Vec<String> {
        let list = self.server.run_text(&["CLIENT", "LIST"]);
        let own = list.lines().filter(|line| line.contains("user=app"));
        own.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
    }
}

/// A command that finds the connection lost may be told so. The next needs a new connection: it is answered with the
/// server's refusal, and the client is disconnected.
#[track_caller]
fn is_refused_and_closed(client: &mut Client, command: &[&str]) {
    let reply = wait::until_some("a refusal", wait::PATIENCE, || {
        let reply = client.call(command);
        reply.starts_with(b"-WRONGPASS").then_some(reply)
    });
    assert_eq!(reply, WRONG);
    assert_eq!(client.rest(), b"");
}

/// Each lane: the refusal is answered, and the client is disconnected, so that it comes back with the new password.
#[test]
fn a_client_whose_password_has_died_is_disconnected() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let stage = Stage::set(flavor, workers, "");
        let commands: [&[&str]; 4] =
            [&["GET", "k"], &["EVAL", "return 1", "0"], &["BLPOP", "none", "0.01"], &["SELECT", "3"]];
        let mut clients: Vec<_> = commands.iter().map(|_| stage.client("first")).collect();
        for (client, command) in clients.iter_mut().zip(commands) {
            client.call(command);
            client.expect(&["SELECT", "0"], "+OK\r\n");
        }
        stage.rotate();
        for (client, command) in clients.iter_mut().zip(commands) {
            is_refused_and_closed(client, command);
            let mut again = stage.client("second");
            assert!(!again.call(command).starts_with(b"-"), "{command:?}");
        }
        let closed = stage.proxy.metric("respgate_clients_closed_total", &["reason=\"credentials\""]);
        assert!((closed - 4.0).abs() < 0.1, "{closed} clients were closed");
    }
}

on_both_servers!(a_password_that_is_right_again_is_used_at_once);

/// The server takes a password again that it refused a moment ago: nobody is told of the former refusal.
fn a_password_that_is_right_again_is_used_at_once(flavor: Flavor) {
    let stage = Stage::set(flavor, 1, "");
    let mut client = stage.client("first");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    stage.rotate();
    is_refused_and_closed(&mut client, &["GET", "k"]);
    stage.server.run(&["ACL", "SETUSER", "app", "resetpass", ">first"]);
    stage.client("first").expect(&["GET", "k"], "$1\r\nv\r\n");
}

on_both_servers!(subscribers_whose_password_has_died_are_disconnected);

/// Subscribers are disconnected, as by the server itself, whether their connection is their own or shared.
fn subscribers_whose_password_has_died_are_disconnected(flavor: Flavor) {
    for pubsub in ["dedicated", "fan-in"] {
        let stage = Stage::set(flavor, 1, &format!("[tenants.all]\ndefault = true\npubsub = \"{pubsub}\""));
        let mut subscriber = stage.client("first");
        subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        let mut late = stage.client("first");
        stage.rotate();
        assert_eq!(subscriber.rest(), b"", "{pubsub}");
        let refusal = late.call(&["SUBSCRIBE", "news"]);
        assert_eq!(refusal, WRONG, "{pubsub}");
        assert_eq!(late.rest(), b"", "{pubsub}");
        let mut again = stage.client("second");
        again.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
}

on_both_servers!(commands_under_way_are_answered_first);

/// What waits on the connection when it is lost is answered, each command once, before the client is disconnected.
fn commands_under_way_are_answered_first(flavor: Flavor) {
    let stage = Stage::set(flavor, 1, "");
    let mut client = stage.client("first");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    stage.rotate();
    client.send("GET k\r\nGET k\r\nGET k\r\n");
    let rest = client.rest();
    assert!(rest.starts_with(WRONG), "{}", rest.escape_ascii());
}

on_both_servers!(a_wrong_password_does_not_disconnect);

/// A wrong password in AUTH is answered, and nothing else changes.
fn a_wrong_password_does_not_disconnect(flavor: Flavor) {
    let stage = Stage::set(flavor, 1, "");
    let mut client = stage.client("first");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    assert_eq!(client.call(&["AUTH", "app", "wrong"]), WRONG);
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    // Its own password is refused when it is sent again, and the session goes on as who it is.
    stage.change_password();
    stage.proxy.client().expect(&["AUTH", "app", "second"], "+OK\r\n");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    client.expect(&["AUTH", "app", "second"], "+OK\r\n");
    client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
    let mut stranger = stage.proxy.client();
    assert_eq!(stranger.call(&["HELLO", "3", "AUTH", "app", "wrong"]), WRONG);
    stranger.expect(&["PING"], "+PONG\r\n");
}

/// The server goes on serving a connection whose password was changed. So does respgate, however old it gets.
#[test]
fn a_session_outlives_its_password() {
    std::thread::scope(|scope| {
        for flavor in Flavor::ALL {
            // In the second, a shared connection must be closed before another can be opened.
            for keys in ["max-age = \"2s\"", "max-age = \"2s\"\nmax-connections = 3\nmax-leased = 2"] {
                scope.spawn(move || outlives_its_password(flavor, keys));
            }
        }
    });
}

fn outlives_its_password(flavor: Flavor, keys: &str) {
    let stage = Stage::set(flavor, 1, keys);
    let mut client = stage.client("first");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
    // Before any connection is old: one whose password was right when it was asked about ends up to two seconds later, and needs
    // the password then.
    stage.change_password();
    let kept = stage.connections_of_app();
    let refused = || stage.server.run_text(&["ACL", "LOG"]).matches("auth").count();
    wait::until("attempts with the old password", || refused() > 0);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < until {
        client.expect(&["GET", "k"], "$1\r\nv\r\n");
        client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let now = stage.connections_of_app();
    assert!(!now.is_empty() && now.iter().all(|id| kept.contains(id)), "{now:?} of {kept:?}");
}

on_both_servers!(a_session_outlives_the_end_of_all_passwords);

/// `CONFIG SET requirepass ""` ends no session, and none that is moved to another connection.
fn a_session_outlives_the_end_of_all_passwords(flavor: Flavor) {
    let pair = Pair::start(flavor);
    pair.server.run(&["CONFIG", "SET", "requirepass", "temporary"]);
    let mut client = pair.proxy.client();
    client.expect(&["AUTH", "temporary"], "+OK\r\n");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    let mut control = pair.server.client();
    control.expect(&["AUTH", "temporary"], "+OK\r\n");
    control.expect(&["CONFIG", "SET", "requirepass", ""], "+OK\r\n");
    for command in [&["GET", "k"][..], &["EVAL", "return 'v'", "0"], &["GET", "k"]] {
        client.expect(command, "$1\r\nv\r\n");
    }
    client.expect(&["SELECT", "4"], "+OK\r\n");
    client.expect(&["SET", "k", "w"], "+OK\r\n");
    client.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
}

on_both_servers!(the_database_stays_when_the_user_changes);

/// The server keeps the database when the user changes, whether or not the new user may SELECT.
fn the_database_stays_when_the_user_changes(flavor: Flavor) {
    let pair = Pair::start(flavor);
    pair.server.run(&["ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-select"]);
    pair.server.run(&["ACL", "SETUSER", "eve", "on", ">pw", "~*", "&*", "+@all"]);
    let sequences: [&[&[&str]]; 6] = [
        &[
            &["SELECT", "9"],
            &["AUTH", "bob", "pw"],
            &["SET", "k", "9"],
            &["GET", "k"],
            &["EVAL", "return redis.call('GET', 'k')", "0"],
            &["SELECT", "3"],
            &["GET", "k"],
            &["SELECT", "0"],
            &["GET", "k"],
            &["MULTI"],
            &["GET", "k"],
            &["SELECT", "9"],
            &["EXEC"],
            &["GET", "k"],
        ],
        // Who selects 9 as bob may not, even where others of bob's sessions are in 9.
        &[&["AUTH", "bob", "pw"], &["SELECT", "9"], &["SET", "k", "0"], &["GET", "k"]],
        &[
            &["AUTH", "eve", "pw"],
            &["SELECT", "8"],
            &["SET", "k", "8"],
            &["HELLO", "3", "AUTH", "bob", "pw"],
            &["GET", "k"],
            &["BLPOP", "none", "0.01"],
            &["AUTH", "eve", "pw"],
            &["GET", "k"],
            &["SELECT", "9"],
            &["GET", "k"],
        ],
        &[&["SELECT", "9"], &["AUTH", "bob", "pw"], &["RESET"], &["GET", "k"]],
        &[&["SELECT", "9"], &["AUTH", "bob", "wrong"], &["GET", "k"]],
        &[&["SELECT", "9"], &["AUTH", "bob", "pw"], &["AUTH", "bob", "pw"], &["GET", "k"]],
    ];
    for sequence in sequences {
        pair.compare(|client| {
            for command in sequence {
                client.call(command);
            }
        });
    }
}

/// respgate's own commands leave at most one entry each in `ACL LOG`, however many connections a user has.
#[test]
fn a_restricted_user_leaves_acl_log_empty() {
    for (flavor, workers) in [(Flavor::Valkey, 2), (Flavor::Redis, 1)] {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "-@all", "+get", "+set", "+blpop"]);
        let url = format!("redis://127.0.0.1:{}", server.port);
        let proxy = Proxy::start_file(
            workers,
            &format!(
                "[upstreams.main]\nurl = \"{url}\"\nping-interval = \"1s\"\nlease-idle-timeout = \"1s\"\nmax-age = \"1s\"\n"
            ),
        );
        let entries = || {
            let list = server.run_text(&["ACL", "LOG"]);
            let mut objects: Vec<String> = Vec::new();
            let mut words = list.split("\r\n");
            while let Some(word) = words.next() {
                if word == "object" {
                    objects.push(words.nth(1).unwrap_or_default().to_owned());
                }
            }
            objects
        };
        let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
        for client in &mut clients {
            client.expect(&["AUTH", "app", "pw"], "+OK\r\n");
            client.expect(&["SET", "k", "v"], "+OK\r\n");
            client.call(&["BLPOP", "none", "0.01"]);
        }
        let early = entries();
        for probe in &early {
            let once = early.iter().filter(|other| *other == probe).count() == 1;
            assert!(
                once && ["ping", "role", "client|setinfo", "client|capa", "client", "info"]
                    .contains(&probe.as_str()),
                "{early:?}"
            );
        }
        server.run(&["ACL", "LOG", "RESET"]);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(4);
        while std::time::Instant::now() < until {
            for client in &mut clients {
                client.expect(&["GET", "k"], "$1\r\nv\r\n");
                client.call(&["BLPOP", "none", "0.01"]);
            }
            std::thread::sleep(std::time::Duration::from_millis(1200));
        }
        assert_eq!(entries(), Vec::<String>::new(), "{flavor:?}: after {early:?}");
    }
}
