//! The configuration changes while clients are served; what cannot is said.

mod each_key;
mod listeners;
mod settings;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Hashes that cost next to nothing to check.
const ONE: &str =
    "$argon2id$v=19$m=8,t=1,p=1$eipjufj/L5rBcHFaOg4GVw$d1WEEWzcbAjZbwGbglzFQJK/2ZF2W69YQD8EabPEHhE";
const TWO: &str =
    "$argon2id$v=19$m=8,t=1,p=1$8KsQft92cMM1GjjuahDbzQ$GIr9CS/xGEY7ZSSZXO9JT2yx65jSLfZl8kwGU8xxv38";
const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// respgate with a configuration file that is replaced while it runs, in front of a server.
struct Live {
    proxy: Proxy,
    server: Server,
    /// The file is a link into `..data`, which is a link to a folder of one version, as Kubernetes mounts it.
    folder: tempfile::TempDir,
    upstream: String,
    version: u32,
}

impl Live {
    fn start(workers: usize, tables: &str) -> Self {
        Self::start_in_front(Server::start(Flavor::Valkey), workers, "", tables)
    }

    /// `keys`: more of the upstream's.
    fn start_in_front(server: Server, workers: usize, keys: &str, tables: &str) -> Self {
        let upstream = format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n{keys}\n", server.port);
        let text = format!("{upstream}{tables}");
        Self { upstream, ..Self::start_with_file(server, workers, &text) }
    }

    /// With a whole file of the test's own.
    fn start_with_file(server: Server, workers: usize, text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("respgate.toml");
        symlink("..data/respgate.toml", &path).expect("a link");
        publish(folder.path().into(), 0, text);
        let proxy = Proxy::launch(free_port(), workers, &["--config", &path.to_string_lossy()]);
        proxy.wait_until_ready();
        Self { proxy, server, folder, upstream: String::new(), version: 0 }
    }

    /// Puts another file in its place.
    fn replace(&mut self, tables: &str) {
        self.version += 1;
        publish(self.folder.path().into(), self.version, &format!("{}{tables}", self.upstream));
    }

    fn counted(&self, outcome: &str) -> f64 {
        // The whole label, since a folder's random name may hold any two letters.
        let outcome = format!("outcome=\"{outcome}\"");
        self.proxy.metric("respgate_reloads_total", &["kind=\"configuration\"", &outcome])
    }

    /// As `replace`, and has it read at once; returns when it is in force.
    fn reload(&mut self, tables: &str) {
        let before = self.counted("ok");
        self.replace(tables);
        self.proxy.signal("HUP");
        wait::until("the configuration to be in force", || self.counted("ok") > before);
    }

    /// Something is logged, once; the log comes a little later than what it tells of.
    #[track_caller]
    fn says_once(&self, text: &str) {
        wait::until(text, || self.logged(text) > 0);
        assert_eq!(self.logged(text), 1, "{}", self.proxy.log());
    }

    fn logged(&self, text: &str) -> usize {
        self.proxy.log().lines().filter(|line| line.contains(text)).count()
    }
}

fn publish(folder: PathBuf, version: u32, text: &str) {
    let data = format!("v{version}");
    fs::create_dir(folder.join(&data)).expect("a folder");
    fs::write(folder.join(&data).join("respgate.toml"), text).expect("the configuration");
    symlink(&data, folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("another version");
}

fn user(name: &str, hash: &str) -> String {
    format!("[users.{name}]\npassword-hash = \"{hash}\"\n")
}

with_one_and_two_workers!(users_come_and_go_and_only_the_removed_lose_their_sessions);

fn users_come_and_go_and_only_the_removed_lose_their_sessions(workers: usize) {
    let server = Server::start(Flavor::Valkey);
    let mut live = Live::start_in_front(
        server,
        workers,
        "client-auth = \"required\"",
        &[user("gone", ONE), user("stays", ONE)].concat(),
    );
    let logged_in = |name: &str, password: &str| {
        let mut client = live.proxy.client();
        client.expect(&["AUTH", name, password], "+OK\r\n");
        client
    };
    let mut stays: Vec<_> = (0..3).map(|_| logged_in("stays", "one")).collect();
    let [mut idle, mut blocked, mut subscribed] = [(); 3].map(|()| logged_in("gone", "one"));
    let mut nobody = live.proxy.client();
    nobody.expect(&["PING"], "-NOAUTH Authentication required.\r\n");
    blocked.send_command(&["BLPOP", "nothing", "0"]);
    subscribed.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    wait::until("a client to be blocked", || live.server.info("clients", "blocked_clients") == 1);

    live.reload(&[user("stays", TWO), user("new", ONE)].concat());
    for client in [&mut idle, &mut blocked, &mut subscribed] {
        assert_eq!(client.rest(), b"", "a removed user's session ends, and nothing is said");
    }
    assert_eq!(live.proxy.metric("respgate_clients_closed_total", &["removed"]), 3.0);
    wait::until("the blocked client to be gone", || live.server.info("clients", "blocked_clients") == 0);
    for client in &mut stays {
        client.expect(&["SET", "k", "v"], "+OK\r\n");
        client.expect(&["AUTH", "stays", "one"], WRONG);
        client.expect(&["GET", "k"], "$1\r\nv\r\n");
        client.expect(&["AUTH", "stays", "two"], "+OK\r\n");
    }
    nobody.expect(&["AUTH", "gone", "one"], WRONG);
    nobody.expect(&["AUTH", "new", "one"], "+OK\r\n");
    live.says_once("user gone removed; user stays: password; user new added");
    assert!(!live.proxy.log().contains("argon2"));

    // Without any, nobody gets in; whether the server would know them, a restart decides.
    live.proxy.allow_log("need a restart");
    live.reload("");
    assert_eq!(nobody.rest(), b"");
    live.proxy.client().expect(&["AUTH", "stays", "two"], WRONG);
    live.says_once("need a restart");
}

/// Whom the server takes a user for changes while its session lives, also with replies under way.
#[test]
fn a_user_s_credentials_at_the_server_change_under_its_session() {
    let server = Server::start(Flavor::Valkey);
    for (name, rules) in [("reader", "-set"), ("writer", "-get")] {
        server.run(&["ACL", "SETUSER", name, "on", &format!(">{name}"), "~*", "&*", "+@all", rules]);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let password = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, name).expect("a password");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path.display().to_string()
    };
    let paths = ["reader", "writer"].map(password);
    let acts = |at: usize| {
        let name = ["reader", "writer"][at];
        format!(
            "{}upstream-username = \"{name}\"\nupstream-password-file = \"{}\"\n",
            user("app", ONE),
            paths[at]
        )
    };
    let keys = "client-auth = \"required\"\nmax-connections = 10\nmax-leased = 1\nlease-timeout = \"1m\"";
    let mut live = Live::start_in_front(server, 1, keys, &user("app", ONE));
    let mut client = live.proxy.client();
    client.expect(&["AUTH", "app", "one"], "+OK\r\n");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    live.server.run(&["CLIENT", "PAUSE", "300", "ALL"]);
    client.send_command(&["GET", "k"]);
    wait::until("a command to be under way", || {
        live.proxy.metric("respgate_commands_total", &["shared"]) >= 2.0
    });
    live.reload(&acts(0));
    client.send_command(&["SET", "k", "denied"]);
    client.expect_reply("$1\r\nv\r\n");
    assert!(client.reply().starts_with(b"-NOPERM "), "who it is from the next command on");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    live.reload(&acts(1));
    client.expect(&["SET", "k", "w"], "+OK\r\n");
    assert!(client.call(&["GET", "k"]).starts_with(b"-NOPERM "), "no connection of the former is used");
    assert!(live.proxy.http("/metrics").contains("of=\"users.app\""));
    // Also what waits for a connection goes out as who the session is when it gets one.
    let mut blocked = live.proxy.client();
    blocked.expect(&["AUTH", "app", "one"], "+OK\r\n");
    blocked.send_command(&["BLPOP", "list", "0"]);
    wait::until("the lease to be taken", || live.server.info("clients", "blocked_clients") == 1);
    client.send_command(&["EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "k"]);
    wait::until("a wait for a lease", || live.proxy.metric("respgate_lease_waits_total", &[]) == 1.0);
    live.reload(&acts(0));
    live.server.run(&["RPUSH", "list", "x"]);
    blocked.expect_reply("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    let reply = client.reply();
    assert!(reply.starts_with(b"-") && !reply.starts_with(b"-ERR respgate"), "{}", reply.escape_ascii());
    live.reload(&user("app", ONE));
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(!live.proxy.http("/metrics").contains("of=\"users.app\""));
    wait::until("four changes", || live.logged("user app: upstream credentials") == 4);
}

/// Also one that takes nothing of what it is owed hears nothing more.
#[test]
fn a_removed_user_s_subscriptions_by_fan_in_end_at_once() {
    let server = Server::start(Flavor::Valkey);
    let tables = "[tenants.all]\ndefault = true\npubsub = \"fan-in\"\n";
    let with = |users: &str| format!("{users}{tables}");
    let both = [user("gone", ONE), user("stays", ONE)].concat();
    let mut live = Live::start_in_front(server, 1, "client-auth = \"required\"", &with(&both));
    let mut subscriber = live.proxy.client();
    subscriber.expect(&["AUTH", "gone", "one"], "+OK\r\n");
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let large = "x".repeat(1_000_000);
    wait::until("messages to wait for the client", || {
        live.server.run(&["PUBLISH", "news", &large]);
        live.proxy.metric("respgate_buffered_bytes", &[]) > 4_000_000.0
    });
    live.reload(&with(&user("stays", ONE)));
    wait::until("nobody to be subscribed", || live.server.run_text(&["PUBSUB", "CHANNELS"]) == "*0\r\n");
}

#[test]
fn limits_and_policies_change_under_live_sessions() {
    for (workers, pubsub) in [(1, "dedicated"), (2, "fan-in")] {
        let shop = |keys: &str| {
            let own = "[tenants.shop]\ndefault = true\nover-limit = \"reject\"";
            format!("{own}\npubsub = \"{pubsub}\"\n{keys}\n")
        };
        let mut live = Live::start(workers, &shop("commands-per-second = 1\ncommands-burst = 40"));
        let mut clients: Vec<_> = (0..4).map(|_| live.proxy.client()).collect();
        let all = |clients: &mut [Client], command: &[&str], reply: &str| {
            clients.iter_mut().for_each(|client| client.expect(command, reply));
        };
        let refused = |client: &mut Client| {
            let said = (0..60).map(|_| client.call(&["SET", "k", "v"])).find(|reply| reply[0] == b'-');
            String::from_utf8(said.expect("a limit")).expect("text")
        };
        assert!(refused(&mut clients[0]).contains("commands-per-second limit of 1;"));

        // Faster, at once; and slower again.
        live.reload(&shop("commands-per-second = 1000000"));
        (0..50).for_each(|_| all(&mut clients, &["SET", "k", "v"], "+OK\r\n"));
        live.reload(&shop("commands-per-second = 2\ncommands-burst = 2"));
        assert!(refused(&mut clients[1]).contains("commands-per-second limit of 2;"));

        // A policy holds from the next command on, and for what an open transaction holds.
        live.reload(&shop(""));
        clients[0].expect(&["MULTI"], "+OK\r\n");
        clients[0].expect(&["SET", "k", "from a transaction"], "+QUEUED\r\n");
        clients[1].expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
        clients[2].expect(&["SUBSCRIBE", "ours:a"], "*3\r\n$9\r\nsubscribe\r\n$6\r\nours:a\r\n:1\r\n");
        live.reload(&shop("commands = [\"+@all\", \"-set\"]\nchannel-prefixes = [\"ours:\"]"));
        clients[0].expect(&["EXEC"], "-EXECABORT Transaction discarded because of previous errors.\r\n");
        assert!(clients[0].call(&["SET", "k", "denied"]).starts_with(b"-NOPERM "));
        clients[0].expect(&["GET", "k"], "$1\r\nv\r\n");
        assert_eq!(clients[1].rest(), b"", "it may listen no longer");
        live.server.run(&["PUBLISH", "ours:a", "x"]);
        clients[2].expect_reply("*3\r\n$7\r\nmessage\r\n$6\r\nours:a\r\n$1\r\nx\r\n");

        // A lower count lets nobody in, and nobody is put out.
        let (mut own, connected) = ([clients.remove(0)], "respgate_tenant_clients");
        live.reload(&shop("connections = 1"));
        assert!(
            live.proxy.client().reply().starts_with(b"-ERR max number of clients reached for tenant 'shop'")
        );
        all(&mut own, &["SET", "k", "v"], "+OK\r\n");
        wait::until("one to have left", || live.proxy.metric(connected, &["shop"]) == 3.0);

        // The same clients are another tenant's when theirs is gone, full as that may be.
        live.reload("[tenants.rest]\ndefault = true\nread-only = true\nconnections = 1\n");
        assert!(own[0].call(&["SET", "k", "denied"]).starts_with(b"-NOPERM "));
        assert_eq!(live.proxy.metric(connected, &["rest"]), 3.0);
        assert!(!live.proxy.http("/metrics").contains("tenant=\"shop\""));
        live.reload("");
        all(&mut own, &["SET", "k", "v"], "+OK\r\n");
        assert!(!live.proxy.http("/metrics").contains("tenant=\""));
        live.server.run(&["PUBLISH", "ours:a", "y"]);
        clients[1].expect_reply("*3\r\n$7\r\nmessage\r\n$6\r\nours:a\r\n$1\r\ny\r\n");
    }
}

/// What nobody counted counts for its tenant from its first version on.
#[test]
fn leases_count_for_a_tenant_that_comes_later() {
    let mut live = Live::start(1, "");
    let [mut blocked, mut subscribed, mut transaction, mut other] = [(); 4].map(|()| live.proxy.client());
    blocked.send_command(&["BLPOP", "list", "0"]);
    subscribed.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    transaction.expect(&["MULTI"], "+OK\r\n");
    wait::until("a client to be blocked", || live.server.info("clients", "blocked_clients") == 1);
    live.reload("[tenants.shop]\ndefault = true\nblocked = 1\nsubscribed = 1\ntransactions = 1\n");
    let leases = |kind: &str| live.proxy.metric("respgate_tenant_leases", &[&format!("kind=\"{kind}\"")]);
    for (kind, count) in [("leased", 3.0), ("blocked", 1.0), ("subscribed", 1.0), ("transactions", 1.0)] {
        wait::until(kind, || leases(kind) == count);
    }
    for command in [&["BLPOP", "list", "0"][..], &["SUBSCRIBE", "a"], &["MULTI"]] {
        assert!(other.call(command).starts_with(b"-ERR respgate: tenant 'shop' is at its "), "{command:?}");
    }
    live.server.run(&["RPUSH", "list", "x"]);
    blocked.expect_reply("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    transaction.expect(&["EXEC"], "*0\r\n");
    wait::until("two to have ended", || leases("leased") == 1.0);
    other.expect(&["MULTI"], "+OK\r\n");
}

/// Commands that wait for a rate wait by the new one, whoever's their clients are by then.
#[test]
fn delayed_commands_do_not_wait_for_a_rate_of_the_past() {
    let shop = |per_second: u32| {
        let limits = "commands-burst = 1\nmax-delay = \"10m\"";
        format!("[tenants.shop]\ndefault = true\ncommands-per-second = {per_second}\n{limits}\n")
    };
    let mut live = Live::start(2, "");
    for next in [&shop(100_000), "[tenants.other]\ndefault = true\n", ""] {
        live.reload(&shop(1));
        let mut clients: Vec<_> = (0..50).map(|_| live.proxy.client()).collect();
        let delayed = || live.proxy.metric("respgate_tenant_delayed_total", &["\"shop\""]);
        let before = delayed();
        clients.iter_mut().for_each(|client| client.send_command(&["PING"]));
        wait::until("most of them to wait", || delayed() > before + 30.0);
        live.reload(next);
        // The last first: by the rate of the past it would wait for longer than anybody waits here.
        clients.iter_mut().rev().for_each(|client| client.expect_reply("+PONG\r\n"));
    }
}

#[test]
fn a_faulty_file_changes_nothing_and_is_said_until_it_is_mended() {
    let mut live = Live::start(1, "[tenants.shop]\ndefault = true\n");
    live.proxy.allow_log("respgate cannot use the new version");
    let mut client = live.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    // Line 4 and 5 of the file; the policy between them is right, and has no effect.
    let faulty = "[tenants.shop]\nweight = 0\nread-only = true\ncommand-per-second = 5\n";
    live.replace(faulty);
    live.proxy.signal("HUP");
    let fault = |live: &Live| live.proxy.metric("respgate_reload_failed", &["kind=\"configuration\""]);
    wait::until("the fault to be seen", || fault(&live) == 1.0);
    let ready = live.proxy.http("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    for (line, key) in [(5, "weight: is 0; "), (7, "command-per-second: unknown key; did you mean")] {
        let said = format!("respgate.toml:{line}: tenants.shop.{key}");
        assert!(
            ready.contains("respgate cannot use the newest configuration") && ready.contains(&said),
            "{ready}"
        );
        live.says_once(&said.replace('"', "\\\""));
    }
    // Asked again, the same is not said twice.
    let seen = live.logged("SIGHUP");
    live.proxy.signal("HUP");
    wait::until("another look", || live.logged("SIGHUP") > seen);
    client.expect(&["SET", "k", "w"], "+OK\r\n");
    // What was in force is in the file again: that is no new version.
    live.replace("[tenants.shop]\ndefault = true\n");
    live.proxy.signal("HUP");
    wait::until("the fault to be over", || fault(&live) == 0.0);
    assert_eq!(live.counted("ok"), 0.0);
    // Another one without a word: the file is looked at every second.
    live.replace("[tenants.shop]\ndefault = true\nread-only = true\n");
    wait::until("the mended file to be used", || live.counted("ok") == 1.0);
    assert!(client.call(&["SET", "k", "denied"]).starts_with(b"-NOPERM "));
    assert_eq!(live.counted("failed"), 1.0);
    live.says_once("respgate cannot use the new version");
}

#[test]
fn what_needs_a_restart_is_said_by_name() {
    let mut live = Live::start(1, "[tenants.shop]\ndefault = true\n");
    live.proxy.allow_log("need a restart");
    live.proxy.allow_log("holds a password, and every user of this machine can read the file");
    let mut client = live.proxy.client();
    let policy = "[tenants.shop]\ndefault = true\nread-only = true\n";
    let waiting =
        |live: &Live| live.proxy.metric("respgate_reload_restart_needed", &["kind=\"configuration\""]);
    live.proxy.allow_log("no primary");
    let former = live.upstream.clone();
    live.upstream.push_str("pool = \"session\"\n");
    live.reload(&format!(
        "{policy}[limits]\nmax-clients = 7\n[log]\nformat = \"json\"\n[upstreams.other]\nurl = \"redis://:from-a-url@127.0.0.1:1\"\n"
    ));
    assert!(client.call(&["SET", "k", "denied"]).starts_with(b"-NOPERM "), "what can change at once has");
    let keys = "log.format, upstreams.main.pool";
    live.says_once(keys);
    assert_eq!(waiting(&live), 2.0);
    let ready = live.proxy.http("/readyz");
    assert!(ready.contains(&format!("the newest configuration needs a restart for {keys}\n")), "{ready}");
    live.upstream = former;
    live.reload(policy);
    assert_eq!(waiting(&live), 0.0);
    // The file may also have been looked at before respgate was asked to.
    let seen = live.logged("nothing has changed");
    live.proxy.signal("HUP");
    wait::until("a look at what has not changed", || live.logged("nothing has changed") > seen);
    assert!(!live.proxy.log().contains("from-a-url"));
}

#[test]
fn rates_are_shared_as_the_newest_file_says() {
    let mut live = Live::start(1, "");
    let shop = |per_second: u32, shared: &str| {
        format!("[tenants.shop]\ndefault = true\ncommands-per-second = {per_second}\n{shared}\n")
    };
    let shared = |live: &Live| live.proxy.metric("respgate_rates_shared", &["main"]) == 1.0;
    let key = ["GET", "__respgate:limit:{shop}:commands-per-second"];
    let mut client = live.proxy.client();
    for per_second in [1000, 2000] {
        live.reload(&shop(per_second, "shared-by = 2"));
        wait::until("the rate to be shared", || {
            client.expect(&["PING"], "+PONG\r\n");
            shared(&live) && live.server.run(&key) != b"$-1\r\n"
        });
    }
    // Its connection has stayed.
    live.says_once("respgate shares rates of tenants with other respgates from now on");
    live.reload(&shop(1000, ""));
    assert!(!live.proxy.http("/metrics").contains("respgate_rates_shared{"));
    client.expect(&["PING"], "+PONG\r\n");
}

#[test]
fn twenty_reloads_under_load_cost_no_client_anything() {
    let mut live = Live::start(2, "");
    let versions = [
        "[tenants.all]\ndefault = true\ncommands-per-second = 500000\nclient-commands-per-second = 200000\n",
        "[tenants.all]\ndefault = true\nin-flight = 500\nweight = 7\nmax-buffered = \"64MiB\"\nblocked = 50\n",
        "[tenants.other]\ndefault = true\ncommands = [\"+@all\", \"-keys\"]\nconnections = 1\n",
        "[tenants.local]\nnetworks = [\"127.0.0.0/8\"]\nbytes-out-per-second = \"1GiB\"\n[tenants.all]\ndefault = true\n",
        "[limits]\nmax-clients = 500\nmax-args = 5000\nidle-timeout = \"1h\"\n[log]\nlevel = \"warn\"\n",
        "",
    ];
    let (over, proxy) = (AtomicBool::new(false), live.proxy.address());
    let running = || !over.load(Ordering::Relaxed);
    let counts: Vec<u64> = thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 0..4 {
            clients.push(scope.spawn(move || {
                let (mut client, mut rounds, key) = (Client::connect_to(proxy), 0, format!("k{number}"));
                while running() {
                    (0..20).for_each(|_| client.send_command(&["INCR", &key]));
                    (0..20).for_each(|n| client.expect_reply(&format!(":{}\r\n", rounds * 20 + n + 1)));
                    rounds += 1;
                }
                rounds
            }));
        }
        clients.push(scope.spawn(move || {
            let (mut client, mut rounds) = (Client::connect_to(proxy), 0);
            while running() {
                client.expect(&["MULTI"], "+OK\r\n");
                client.expect(&["SET", "t", "v"], "+QUEUED\r\n");
                client.expect(&["EXEC"], "*1\r\n+OK\r\n");
                rounds += 1;
            }
            rounds
        }));
        clients.push(scope.spawn(move || {
            let (mut blocked, mut other, mut rounds) =
                (Client::connect_to(proxy), Client::connect_to(proxy), 0);
            while running() {
                blocked.send_command(&["BLPOP", "list", "0"]);
                other.expect(&["RPUSH", "list", "x"], ":1\r\n");
                blocked.expect_reply("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
                rounds += 1;
            }
            rounds
        }));
        (0..20).for_each(|round| live.reload(versions[round % versions.len()]));
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client without an error")).collect()
    });
    assert!(counts.iter().all(|rounds| *rounds > 0), "{counts:?}");
    assert_eq!(live.counted("ok"), 20.0);
    assert_eq!(live.proxy.metric("respgate_clients_closed_total", &[]), 0.0);
    assert_eq!(live.proxy.metric("respgate_commands_refused_total", &[]), 0.0);
}
