//! Credentials that change while respgate runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// What respgate logs when its own credentials are refused.
const REFUSED: &str = "refuses respgate's own user or password";

/// A server with a user `app`, and a folder with the file that holds its password.
struct Stage {
    server: Server,
    folder: tempfile::TempDir,
}

impl Stage {
    fn set(flavor: Flavor) -> Self {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "app", "on", ">first-secret", "~*", "&*", "+@all"]);
        let stage = Self { server, folder: tempfile::tempdir().expect("a folder") };
        stage.write("first-secret\n");
        stage
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// As most tools do: a new file is renamed over the old one.
    fn write(&self, password: &str) {
        replace(&self.file(), password);
    }

    /// respgate, with more keys for its upstream.
    fn proxy(&self, workers: usize, keys: &str) -> Proxy {
        let (port, file) = (self.server.port, self.file());
        Proxy::start_file(
            workers,
            &format!(
                "reload-interval = \"100ms\"\n[upstreams.main]\naddress = \"127.0.0.1:{port}\"\nusername = \"app\"\n\
                 password-file = {file:?}\n{keys}\n"
            ),
        )
    }

    /// The server takes another password, and drops every connection of the user.
    fn rotate(&self, password: &str) {
        self.server.run(&["ACL", "SETUSER", "app", "resetpass", &format!(">{password}")]);
        self.server.run(&["CLIENT", "KILL", "USER", "app"]);
    }

    fn dials(&self) -> u64 {
        self.server.info("stats", "total_connections_received")
    }
}

fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("its permissions");
    fs::rename(new, file).expect("a rename");
}

/// The server has the new password first, and its file comes later: clients wait, and nothing storms.
#[test]
fn clients_wait_for_the_new_password() {
    for (flavor, workers) in [(Flavor::Valkey, 2), (Flavor::Redis, 1)] {
        let stage = Stage::set(flavor);
        let mut proxy = stage.proxy(workers, "");
        proxy.allow_log(REFUSED);
        proxy.allow_log("lost a shared upstream connection");
        let mut clients: Vec<_> = (0..300).map(|_| proxy.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(&["INCR", "k"], &format!(":{}\r\n", number + 1));
        }
        stage.rotate("second-secret");
        let before = stage.dials();
        // Half of them need a connection of their own.
        for (number, client) in clients.iter_mut().enumerate() {
            match number % 2 {
                0 => client.send("GET k\r\n"),
                _ => client.send("EVAL 'return 1' 0\r\n"),
            }
        }
        let started = Instant::now();
        wait::until("the fault to be seen", || proxy.http("/readyz").contains(REFUSED));
        // Discovery may be refused before a worker is, and only workers count.
        let refused = || proxy.metric("respgate_upstream_auth_refused_total", &[]) > 0.0;
        wait::until("a worker's refusal to be counted", refused);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(started.elapsed()));
        // Leases that were asked for together are dialled together, no more than may be leased; after that, few.
        let early = stage.dials();
        std::thread::sleep(Duration::from_secs(1));
        let dials = stage.dials() - early;
        assert!(dials <= 12, "{dials} dials in a second");
        assert!(early - before <= 400, "{} dials at first", early - before);
        stage.write("second-secret\n");
        for (number, client) in clients.iter_mut().enumerate() {
            match number % 2 {
                0 => client.replies_are(&["$3\r\n300\r\n"]),
                _ => client.replies_are(&[":1\r\n"]),
            }
        }
        wait::until("the fault to be over", || !proxy.http("/readyz").contains(REFUSED));
        let reloads = proxy.metric("respgate_reloads_total", &["kind=\"password\"", "outcome=\"ok\""]);
        assert!((reloads - 1.0).abs() < 0.1, "{reloads} reloads");
        let everything = [proxy.log(), proxy.http("/metrics"), proxy.http("/readyz")].concat();
        assert!(!everything.contains("-secret"), "a password was printed:\n{everything}");
    }
}

/// A password that stays wrong fails commands with a text that says whose fault it is; one that is only half written is
/// not used, and a bad file keeps the old one.
#[test]
fn a_password_that_stays_wrong_fails_clearly() {
    let stage = Stage::set(Flavor::Valkey);
    let mut proxy = stage.proxy(1, "hold-timeout = \"500ms\"");
    proxy.allow_log(REFUSED);
    proxy.allow_log("respgate cannot use the new version");
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    stage.write("");
    wait::until("the empty file to be told", || {
        proxy.http("/readyz").contains("cannot use the newest password")
    });
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    // New connections, too, still use the old one.
    stage.server.run(&["CLIENT", "KILL", "USER", "app"]);
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    stage.rotate("second-secret");
    wait::until("commands to fail", || client.call(&["GET", "k"]).starts_with(b"-ERR respgate: "));
    wait::until("the reason to be given", || {
        let line = String::from_utf8_lossy(&client.call(&["EVAL", "return 1", "0"])).into_owned();
        line.contains(REFUSED) && line.contains("WRONGPASS")
    });
    // A client that brings its own password is none the worse.
    let mut other = proxy.client();
    other.expect(&["AUTH", "app", "second-secret"], "+OK\r\n");
    other.expect(&["GET", "k"], "$1\r\nv\r\n");
    stage.write("second-secret");
    wait::until("commands to work again", || client.call(&["GET", "k"]) == b"$1\r\nv\r\n");
    assert!(proxy.log().matches(REFUSED).count() < 6, "the log is flooded");
}

/// A program is asked again as soon as what it printed is refused; and a file with the user's name is read as well.
#[test]
fn a_program_prints_the_password() {
    let stage = Stage::set(Flavor::Valkey);
    let (port, folder) = (stage.server.port, stage.folder.path());
    fs::write(folder.join("user"), "app\n").expect("a file");
    let mut proxy = Proxy::start_file(
        1,
        &format!(
            "[upstreams.main]\naddress = \"127.0.0.1:{port}\"\nusername-file = {:?}\npassword-command = [\"cat\", {:?}]\n",
            folder.join("user"),
            stage.file()
        ),
    );
    proxy.allow_log(REFUSED);
    proxy.allow_log("lost a shared upstream connection");
    let mut client = proxy.client();
    client.expect(&["ACL", "WHOAMI"], "$3\r\napp\r\n");
    stage.write("second-secret\n");
    stage.rotate("second-secret");
    client.expect(&["ACL", "WHOAMI"], "$3\r\napp\r\n");
    assert!(!proxy.log().contains("-secret"));
}

/// The Sentinels' own password changes: they go on being followed.
#[test]
fn a_sentinel_s_password_is_followed() {
    let deployment = Deployment::start(&Plan { sentinels: 1, ..Plan::new(Flavor::Valkey) });
    let sentinel = &deployment.sentinels[0];
    let user =
        |rule: &str| sentinel.run(&["ACL", "SETUSER", "watcher", "on", "resetpass", rule, "&*", "+@all"]);
    user(">first-secret");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    replace(&file, "first-secret");
    let mut proxy = Proxy::start_file(
        1,
        &format!(
            "reload-interval = \"100ms\"\n[upstreams.main]\nsentinels = [\"127.0.0.1:{}\"]\nprimary-name = \"{NAME}\"\n\
             sentinel-username = \"watcher\"\nsentinel-password-file = {file:?}\n",
            sentinel.port
        ),
    );
    proxy.allow_log(REFUSED);
    proxy.allow_log("Sentinel");
    let connected = || sentinel.run_text(&["CLIENT", "LIST"]).matches("user=watcher").count();
    wait::until("two connections", || connected() == 2);
    user(">second-secret");
    sentinel.run(&["CLIENT", "KILL", "USER", "watcher"]);
    wait::until("the refusal", || proxy.log().contains(REFUSED));
    proxy.client().expect(&["PING"], "+PONG\r\n");
    replace(&file, "second-secret");
    wait::until("two connections again", || connected() == 2);
}

/// `reauth = "reconnect"`: connections that were made with the old password are replaced while clients work.
#[test]
fn connections_are_made_anew_with_the_new_password() {
    let stage = Stage::set(Flavor::Valkey);
    let proxy = stage.proxy(2, "reauth = \"reconnect\"");
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    let mut done = 0;
    let mut work = |clients: &mut Vec<Client>| {
        for client in clients {
            done += 1;
            client.expect(&["INCR", "n"], &format!(":{done}\r\n"));
            client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        }
    };
    work(&mut clients);
    let ids = || {
        let list = stage.server.run_text(&["CLIENT", "LIST"]);
        // One more only watches the node.
        let works =
            |line: &str| ["incr", "eval", "echo"].iter().any(|name| line.contains(&format!(" cmd={name} ")));
        let own = list.lines().filter(|line| line.contains("user=app") && works(line));
        own.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let before = ids();
    assert_eq!(before.len(), 4, "two shared and two leased connections");
    // Both are right for a while, as most rotations have it.
    stage.server.run(&["ACL", "SETUSER", "app", ">second-secret"]);
    stage.write("second-secret");
    wait::until("every connection to be another one", || {
        work(&mut clients);
        !ids().iter().any(|id| before.contains(id))
    });
    stage.server.run(&["ACL", "SETUSER", "app", "<first-secret"]);
    let lost = || proxy.metric("respgate_upstream_connections_lost_total", &[]);
    let before = lost();
    stage.server.run(&["CLIENT", "KILL", "USER", "app"]);
    wait::until("the loss to be seen", || lost() > before + 1.5);
    work(&mut clients);
}
