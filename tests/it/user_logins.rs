//! Users of respgate's own, each with a user of its own on the server.

use std::fs;
use std::path::PathBuf;

use crate::support::client::Client;
use crate::support::deployment::{Deployment, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Of the password `secret`, with little work.
const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ";

/// What respgate says of the user `shop` when the server refuses it.
const REFUSED: &str = "refuses the user or password that respgate has for its user 'shop'";

/// `shop` acts as `ann` on the server, `batch` as `bob`, who may touch `bob:*` only, and `plain` as respgate does.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn set<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Self {
        for server in servers {
            for (name, keys) in [("ann", "~*"), ("bob", "~bob:*")] {
                let password = format!(">{name}-first");
                server.run(&["ACL", "SETUSER", name, "on", &password, keys, "&*", "+@all"]);
            }
        }
        let stage = Self { folder: tempfile::tempdir().expect("a folder") };
        for name in ["ann", "bob"] {
            stage.write(name, &format!("{name}-first"));
        }
        stage
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, password: &str) {
        let new = self.file("new");
        fs::write(&new, password).expect("a file");
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
        fs::rename(new, self.file(name)).expect("a rename");
    }

    /// `url` of the upstream and more keys for it.
    fn proxy(&self, workers: usize, upstream: &str) -> Proxy {
        let user = |user: &str, name: &str| {
            format!(
                "[users.{user}]\npassword-hash = \"{HASH}\"\nupstream-username = \"{name}\"\n\
                 upstream-password-file = {:?}\n",
                self.file(name)
            )
        };
        Proxy::start_file(
            workers,
            &format!(
                "reload-interval = \"100ms\"\n[upstreams.main]\nclient-auth = \"required\"\nping-interval = \"0s\"\n{upstream}\n{}{}\
                 [users.plain]\npassword-hash = \"{HASH}\"\n",
                user("shop", "ann"),
                user("batch", "bob"),
            ),
        )
    }
}

fn url(server: &Server) -> String {
    format!("url = \"redis://127.0.0.1:{}\"", server.port)
}

fn client(proxy: &Proxy, user: &str) -> Client {
    let mut client = proxy.client();
    client.expect(&["AUTH", user, "secret"], "+OK\r\n");
    client
}

/// Whether the server has a connection of this user whose last command was this.
fn acts(server: &Server, user: &str, command: &str) -> bool {
    let (user, command) = (format!(" user={user} "), format!(" cmd={command} "));
    server.run_text(&["CLIENT", "LIST"]).lines().any(|line| line.contains(&user) && line.contains(&command))
}

fn denied(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOPERM ")
}

/// On the shared lane and on leases; the server's own ACL holds, and clients see their own names.
#[test]
fn each_user_acts_as_its_own_on_the_server() {
    for (flavor, workers) in [(Flavor::Valkey, 2), (Flavor::Redis, 1)] {
        let server = Server::start(flavor);
        let stage = Stage::set([&server]);
        let proxy = stage.proxy(workers, &url(&server));
        let [mut shop, mut batch, mut plain] = ["shop", "batch", "plain"].map(|user| client(&proxy, user));
        shop.expect(&["SET", "k", "v"], "+OK\r\n");
        batch.expect(&["APPEND", "bob:k", "v"], ":1\r\n");
        plain.expect(&["STRLEN", "k"], ":1\r\n");
        for (user, command) in [("ann", "set"), ("bob", "append"), ("default", "strlen")] {
            assert!(acts(&server, user, command), "{user} {command}");
        }
        assert!(denied(&batch.call(&["GET", "k"])));
        batch.expect(&["MULTI"], "+OK\r\n");
        assert!(denied(&batch.call(&["GET", "k"])));
        assert!(batch.call(&["EXEC"]).starts_with(b"-EXECABORT "));
        batch.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "bob:k"], "$1\r\nv\r\n");
        assert!(denied(&batch.call(&["BLPOP", "k", "1"])));
        batch.send_command(&["BLPOP", "bob:list", "0"]);
        wait::until("the pop to block", || acts(&server, "bob", "blpop"));
        shop.expect(&["RPUSH", "bob:list", "x"], ":1\r\n");
        batch.expect_reply("*2\r\n$8\r\nbob:list\r\n$1\r\nx\r\n");
        let mut subscriber = client(&proxy, "shop");
        subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        assert!(acts(&server, "ann", "subscribe"));
        batch.expect(&["PUBLISH", "news", "hello"], ":1\r\n");
        subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        // A client is who it says it is, and need not know as whom it acts; inside a transaction the server answers.
        shop.expect(&["ACL", "WHOAMI"], "$4\r\nshop\r\n");
        let info = String::from_utf8_lossy(&shop.call(&["CLIENT", "INFO"])).into_owned();
        assert!(info.contains(" user=shop "), "{info}");
        shop.expect(&["MULTI"], "+OK\r\n");
        shop.expect(&["ACL", "WHOAMI"], "+QUEUED\r\n");
        shop.expect(&["EXEC"], "*1\r\n$3\r\nann\r\n");
        // Another user from now on, and none after RESET.
        shop.expect(&["AUTH", "batch", "secret"], "+OK\r\n");
        assert!(denied(&shop.call(&["GET", "k"])));
        shop.expect(&["RESET"], "+RESET\r\n");
        shop.expect(&["GET", "k"], "-NOAUTH Authentication required.\r\n");
        shop.expect(&["AUTH", "plain", "secret"], "+OK\r\n");
        shop.expect(&["GET", "k"], "$1\r\nv\r\n");
        // A server that forgot its scripts is told them by one who may, not first of all by one who may not.
        server.run(&["ACL", "SETUSER", "bob", "-script"]);
        let sha = shop.call(&["SCRIPT", "LOAD", "return 7"]);
        let sha = String::from_utf8_lossy(sha.split(|byte| *byte == b'\n').nth(1).expect("a digest"));
        server.run(&["SCRIPT", "FLUSH"]);
        drop(subscriber);
        let lost = || proxy.metric("respgate_upstream_connections_lost_total", &[]);
        let before = lost();
        server.run(&["CLIENT", "KILL", "TYPE", "normal"]);
        wait::until("the loss to be seen", || lost() > before + 2.5);
        batch.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        shop.expect(&["EVALSHA", sha.trim(), "0"], ":7\r\n");
        // What one user may not ask, respgate asks as itself.
        server.run(&["ACL", "SETUSER", "bob", "-command"]);
        assert!(batch.call(&["NOSUCH"]).starts_with(b"-ERR unknown command"));
    }
}

/// A password that was never right fails that user's commands at once, and nobody else's; it is tried now and then, and
/// works as soon as the server takes it.
#[test]
fn a_wrong_password_is_one_user_s_trouble() {
    for (flavor, workers) in [(Flavor::Redis, 2), (Flavor::Valkey, 1)] {
        let server = Server::start(flavor);
        let stage = Stage::set([&server]);
        stage.write("ann", "ann-wrong");
        let mut proxy = stage.proxy(workers, &url(&server));
        proxy.allow_log(REFUSED);
        let mut clients: Vec<_> = (0..20).map(|_| client(&proxy, "shop")).collect();
        let mut others: Vec<_> = (0..4).map(|at| client(&proxy, ["batch", "plain"][at % 2])).collect();
        let dials = || server.info("stats", "total_connections_received");
        let holds = || proxy.metric("respgate_holds_total", &[]);
        for client in &mut others {
            client.expect(&["EVAL", "return redis.call('SET', KEYS[1], 'v')", "1", "bob:k"], "+OK\r\n");
            client.expect(&["GET", "bob:k"], "$1\r\nv\r\n");
        }
        let before = (dials(), holds());
        for _ in 0..5 {
            for client in &mut clients {
                client.send("GET k\r\nBLPOP k 1\r\nMULTI\r\n");
            }
            for client in &mut others {
                client.expect(&["SET", "bob:k", "v"], "+OK\r\n");
                client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
            }
            for client in &mut clients {
                for _ in 0..3 {
                    let line = String::from_utf8_lossy(&client.reply()).into_owned();
                    assert!(line.starts_with("-ERR respgate: the server refuses "), "{line}");
                    assert!(line.contains(REFUSED) && line.contains("WRONGPASS"), "{line}");
                }
            }
        }
        // 300 commands; leases that are asked for at once, before the first answer, are dialled at once.
        assert!(dials() - before.0 < 100, "{} dials", dials() - before.0);
        assert!(proxy.http("/readyz").starts_with("HTTP/1.1 200") && proxy.http("/readyz").contains(REFUSED));
        let refused = |user: &str| proxy.metric("respgate_user_upstream_auth_refused", &[user]);
        assert_eq!((refused("user=\"shop\""), refused("user=\"batch\"")), (1.0, 0.0));
        assert!(proxy.metric("respgate_upstream_auth_refused_total", &[]) > 0.5);
        assert_eq!(holds(), before.1, "nobody else has to wait");
        let everything = [proxy.log(), proxy.http("/metrics"), proxy.http("/readyz")].concat();
        assert!(!everything.contains("-wrong") && !everything.contains("-first"));
        server.run(&["ACL", "SETUSER", "ann", ">ann-wrong"]);
        for client in &mut clients {
            wait::until("the password to be taken", || client.call(&["GET", "k"]) == b"$-1\r\n");
            wait::until("leases, too", || client.call(&["EVAL", "return 1", "0"]) == b":1\r\n");
        }
        wait::until("nothing to be told", || !proxy.http("/readyz").contains(REFUSED));
        assert_eq!(refused("user=\"shop\""), 0.0);
        assert!(proxy.log().matches(REFUSED).count() <= 4, "the log is flooded");
    }
}

/// The server has the new password before its file has come: that user's clients wait, others do not, not even for a lease.
#[test]
fn clients_wait_for_their_user_s_new_password() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let server = Server::start(flavor);
        let stage = Stage::set([&server]);
        let leased = format!("{}\nmax-connections = 10\nmax-leased = {}", url(&server), 2 * workers);
        let mut proxy = stage.proxy(workers, &leased);
        proxy.allow_log(REFUSED);
        proxy.allow_log("lost a shared upstream connection");
        let mut clients: Vec<_> = (0..12).map(|_| client(&proxy, "shop")).collect();
        clients.iter_mut().for_each(|client| client.expect(&["GET", "k"], "$-1\r\n"));
        let mut other = client(&proxy, "batch");
        server.run(&["ACL", "SETUSER", "ann", "resetpass", ">ann-second"]);
        server.run(&["CLIENT", "KILL", "USER", "ann"]);
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(["EVAL 'return 1' 0\r\n", "GET k\r\n"][at % 2]);
        }
        wait::until("the refusal", || proxy.http("/readyz").contains(REFUSED));
        for _ in 0..10 {
            other.expect(&["EVAL", "return 2", "0"], ":2\r\n");
            other.expect(&["SET", "bob:k", "v"], "+OK\r\n");
        }
        stage.write("ann", "ann-second");
        for (at, client) in clients.iter_mut().enumerate() {
            client.expect_reply([":1\r\n", "$-1\r\n"][at % 2]);
        }
        wait::until("nothing to be told", || !proxy.http("/readyz").contains(REFUSED));
        assert!(proxy.http("/metrics").contains("of=\"users.shop\""), "what becomes of changes is shown");
        assert!(!proxy.log().contains("ann-first") && !proxy.log().contains("ann-second"));
    }
}

/// `reauth = "reconnect"`: one user's connections are replaced after its password has changed, and no others.
#[test]
fn connections_of_the_user_are_made_anew() {
    let server = Server::start(Flavor::Valkey);
    let stage = Stage::set([&server]);
    let proxy = stage.proxy(1, &format!("{}\nreauth = \"reconnect\"", url(&server)));
    let [mut shop, mut batch] = ["shop", "batch"].map(|user| client(&proxy, user));
    let ids = |user: &str| {
        let list = server.run_text(&["CLIENT", "LIST"]);
        let own = list.lines().filter(|line| line.contains(&format!(" user={user} ")));
        own.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    for client in [&mut shop, &mut batch] {
        client.expect(&["SET", "bob:k", "v"], "+OK\r\n");
        client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
    }
    let (ann, bob) = (ids("ann"), ids("bob"));
    assert_eq!((ann.len(), bob.len()), (2, 2), "a shared and a leased connection each");
    server.run(&["ACL", "SETUSER", "ann", ">ann-second"]);
    stage.write("ann", "ann-second");
    wait::until("every connection of the user to be another one", || {
        shop.expect(&["GET", "bob:k"], "$1\r\nv\r\n");
        shop.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        !ids("ann").iter().any(|id| ann.contains(id))
    });
    batch.expect(&["GET", "bob:k"], "$1\r\nv\r\n");
    assert_eq!(ids("bob"), bob);
}

/// Connections that nobody uses make room for other users; with none of them, the commands of one too many say so.
#[test]
fn users_share_the_room_for_connections() {
    let server = Server::start(Flavor::Valkey);
    let stage = Stage::set([&server]);
    let mut proxy = stage.proxy(1, &format!("{}\nmax-connections = 3\nmax-leased = 1", url(&server)));
    proxy.allow_log("max-connections");
    for _ in 0..3 {
        for user in ["shop", "batch", "plain"] {
            client(&proxy, user).expect(&["SET", "bob:k", "v"], "+OK\r\n");
            wait::until("it to have left", || proxy.metric("respgate_clients", &[]) == 0.0);
        }
    }
    let [mut shop, mut batch] = ["shop", "batch"].map(|user| client(&proxy, user));
    shop.expect(&["GET", "bob:k"], "$1\r\nv\r\n");
    batch.expect(&["GET", "bob:k"], "$1\r\nv\r\n");
    let mut plain = client(&proxy, "plain");
    let line = String::from_utf8_lossy(&plain.call(&["GET", "bob:k"])).into_owned();
    assert!(line.contains("has all 2 shared connections of this worker open"), "{line}");
    drop(batch);
    wait::until("room", || plain.call(&["GET", "bob:k"]) == b"$1\r\nv\r\n");
    shop.expect(&["GET", "bob:k"], "$1\r\nv\r\n");
}

/// Users, and what their sessions hold, go on at the new primary as who they were.
#[test]
fn users_move_to_the_new_primary() {
    for (flavor, workers) in [(Flavor::Valkey, 2), (Flavor::Redis, 1)] {
        let plan = Plan { replicas: 1, sentinels: 1, ..Plan::new(flavor) };
        let deployment = Deployment::start(&plan);
        let next = &deployment.replicas[0];
        let stage = Stage::set([&deployment.primary, next]);
        deployment.wait_until_redundant();
        // A busy server may not say in time that it popped nothing.
        let upstream = format!("url = \"{}\"\nblocked-pop = \"continue\"", deployment.url());
        let mut proxy = stage.proxy(workers, &upstream);
        proxy.allow_log("\"WARN\"");
        let [mut shop, mut batch] = ["shop", "batch"].map(|user| client(&proxy, user));
        let [mut popper, mut subscriber] = ["batch", "shop"].map(|user| client(&proxy, user));
        let mut transaction = client(&proxy, "batch");
        shop.expect(&["SET", "k", "v"], "+OK\r\n");
        batch.expect(&["SET", "bob:k", "v"], "+OK\r\n");
        popper.send_command(&["BLPOP", "bob:list", "0"]);
        subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        transaction.expect(&["MULTI"], "+OK\r\n");
        transaction.expect(&["INCR", "bob:n"], "+QUEUED\r\n");
        wait::until("the pop to block", || acts(&deployment.primary, "bob", "blpop"));
        wait::until("replication", || next.run(&["GET", "bob:k"]) == b"$1\r\nv\r\n");
        wait::until("the failover to begin", || {
            deployment.sentinels[0].run(&["SENTINEL", "FAILOVER", "mymaster"]) == b"+OK\r\n"
        });
        // With its promotion a Sentinel kills every client of a node, also one that only looks.
        let named = format!("primary 127.0.0.1:{}\n", next.port);
        wait::until("the new primary", || proxy.http("/readyz").contains(&named));
        wait::until("the sessions at the new primary", || {
            acts(next, "bob", "blpop") && acts(next, "ann", "subscribe")
        });
        shop.expect(&["GET", "k"], "$1\r\nv\r\n");
        assert!(denied(&batch.call(&["GET", "k"])));
        batch.expect(&["RPUSH", "bob:list", "x"], ":1\r\n");
        popper.expect_reply("*2\r\n$8\r\nbob:list\r\n$1\r\nx\r\n");
        batch.expect(&["PUBLISH", "news", "hello"], ":1\r\n");
        subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        assert!(denied(&transaction.call(&["INCR", "n"])));
        assert!(transaction.call(&["EXEC"]).starts_with(b"-EXECABORT "));
        assert!(acts(next, "ann", "get") && acts(next, "bob", "publish"));
    }
}
