//! Control of a running respgate: who may, what happens, and what is answered.

mod cluster;
mod load;
mod orders;
mod pause;
mod reconnect;
mod reload_upstreams;
mod rights;
mod sentinels;
pub mod switch;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A running respgate with a control socket and a token.
pub struct Controlled {
    pub proxy: Proxy,
    folder: tempfile::TempDir,
    pub server: Server,
}

impl Controlled {
    pub fn start(workers: usize) -> Self {
        Self::in_front_of(Server::start(Flavor::Valkey), workers, "")
    }

    /// In front of this server, with more keys for the upstream.
    pub fn in_front_of(server: Server, workers: usize, keys: &str) -> Self {
        let address = format!("address = \"127.0.0.1:{}\"\n{keys}", server.port);
        Self::with_upstream(server, workers, &address)
    }

    /// With these keys of the upstream.
    pub fn with_upstream(server: Server, workers: usize, upstream: &str) -> Self {
        Self::with_file(server, workers, "", &format!("[upstreams.main]\n{upstream}\n"))
    }

    /// With these keys at the top of the file, and these tables.
    pub fn with_file(server: Server, workers: usize, keys: &str, tables: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        fs::write(&token, format!("{TOKEN}\n")).expect("the token");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("permissions");
        let toml = text(folder.path(), keys, tables);
        Self { proxy: Proxy::start_file(workers, &toml), folder, server }
    }

    /// Replaces the file, and has it reloaded.
    pub fn reload(&self, keys: &str, tables: &str) -> Output {
        let toml = text(self.folder.path(), keys, tables);
        fs::write(self.proxy.configuration(), toml).expect("the configuration");
        self.on_socket(&["reload"])
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `respgate ctl` with these words.
    fn ctl(&self, words: &[&str]) -> Output {
        Command::new(binary()).arg("ctl").args(words).output().expect("respgate ctl")
    }

    /// Runs an action through the control socket.
    pub fn on_socket(&self, action: &[&str]) -> Output {
        let socket = self.file("control.sock").display().to_string();
        self.ctl(&[&["--socket", &*socket], action].concat())
    }

    /// Sends a POST to the admin listener, with these header lines.
    fn post(&self, action: &str, headers: &[&str], body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy.admin)).expect("the admin listener");
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "POST /control/{action} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

/// Returns a configuration with control, with these keys at the top and these tables.
fn text(folder: &Path, keys: &str, tables: &str) -> String {
    let (socket, token) = (folder.join("control.sock"), folder.join("token"));
    format!("control-socket = {socket:?}\ncontrol-token-file = {token:?}\n{keys}\n{tables}")
}

#[track_caller]
pub fn expect(output: &Output, code: i32, text: &str) {
    let all = [&*String::from_utf8_lossy(&output.stdout), &*String::from_utf8_lossy(&output.stderr)].concat();
    assert_eq!(output.status.code(), Some(code), "{all}");
    assert!(all.contains(text), "{text:?} is not in {all}");
}

#[test]
fn the_socket_admits_its_own_user_only() {
    let controlled = Controlled::start(1);
    let mode = fs::metadata(controlled.file("control.sock")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    expect(&controlled.on_socket(&["reload"]), 0, "configuration: unchanged\nneeds-restart: none\n");
    let log = controlled.proxy.log();
    assert!(log.contains("control: done") && log.contains("uid "), "{log}");
}

#[test]
fn the_admin_listener_asks_for_the_token() {
    let mut controlled = Controlled::start(2);
    controlled.proxy.allow_log("control: refused");
    let host = "Host: 127.0.0.1:9121";
    let right = format!("Authorization: Bearer {TOKEN}");
    assert!(controlled.post("reload", &[host, &right], "").starts_with("HTTP/1.1 200"));
    for (headers, status) in [
        (vec![host], "401"),
        (vec![host, "Authorization: Bearer wrong"], "401"),
        (vec![host, "Authorization: Basic cm9vdDpyb290"], "401"),
        (vec!["Host: evil.example", &right], "403"),
        (vec![host, &right, "Origin: https://evil.example"], "403"),
        (vec![host, &right, "Sec-Fetch-Site: cross-site"], "403"),
    ] {
        let answer = controlled.post("shutdown", &headers, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers:?}: {answer}");
    }
    assert!(controlled.proxy.http("/control/shutdown").starts_with("HTTP/1.1 405"));
    assert!(controlled.proxy.http("/readyz").starts_with("HTTP/1.1 200"), "nothing was shut down");
    assert!(!controlled.proxy.log().contains(TOKEN));

    // A new token replaces the old one.
    let admin = format!("127.0.0.1:{}", controlled.proxy.admin);
    let file = controlled.file("token").display().to_string();
    let with_file = ["--admin", &*admin, "--token-file", &*file, "--json", "reload"];
    expect(&controlled.ctl(&with_file), 0, r#""configuration": "unchanged""#);
    fs::write(controlled.file("token"), "another token of 16 bytes").expect("the token");
    wait::until_some("the new token to be used", Duration::from_secs(20), || {
        (controlled.ctl(&with_file).status.code() == Some(0)).then_some(())
    });
    assert!(controlled.post("reload", &[host, &right], "").starts_with("HTTP/1.1 401"));
}

#[test]
fn wrong_requests_are_explained() {
    let mut controlled = Controlled::start(1);
    controlled.proxy.allow_log("control: refused");
    expect(&controlled.on_socket(&["log-level", "loud"]), 64, "is not a log level");
    let headers = ["Host: localhost", &format!("Authorization: Bearer {TOKEN}")];
    for (action, body, status, text) in [
        ("explode", "", "404", "there are reload, log-level, "),
        ("reload", "[]", "400", "not a JSON object"),
        ("reload", r#"{"soon": true}"#, "400", "reload has no argument"),
        ("reload", &format!(r#"{{"x": "{}"}}"#, "x".repeat(20_000)), "400", "more than 16384 bytes"),
    ] {
        let answer = controlled.post(action, &headers, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text),
            "{action}: {answer}"
        );
    }
    let nobody = Path::new("/nonexistent/control.sock").display().to_string();
    expect(&controlled.ctl(&["--socket", &nobody, "reload"]), 69, "no respgate answers");
}

#[test]
fn the_log_level_changes_at_once() {
    let controlled = Controlled::start(1);
    let mut client = controlled.proxy.client();
    client.expect(&["GET", "k"], "$-1\r\n");
    assert!(!controlled.proxy.log().contains("session began"));
    expect(&controlled.on_socket(&["log-level", "info,respgate::session=debug"]), 0, "before: ");
    controlled.proxy.client().expect(&["GET", "k"], "$-1\r\n");
    wait::until_some("a session in the log", Duration::from_secs(20), || {
        controlled.proxy.log().contains("session began").then_some(())
    });
}

/// A drain ends idle sessions, and lets a blocked command finish; respgate runs until it is shut down.
#[test]
fn a_drain_and_a_shutdown() {
    let mut controlled = Controlled::start(2);
    let mut blocked = controlled.proxy.client();
    blocked.send_command(&["BLPOP", "queue", "0"]);
    let server = &controlled.server;
    wait::until_some("a blocked client", Duration::from_secs(20), || {
        server.run_text(&["CLIENT", "LIST"]).contains("cmd=blpop").then_some(())
    });
    expect(&controlled.on_socket(&["drain"]), 0, "draining");
    wait::until_some("respgate to be unready", Duration::from_secs(20), || {
        controlled.proxy.http("/readyz").starts_with("HTTP/1.1 503").then_some(())
    });
    wait::until_some("the listener to close", Duration::from_secs(20), || {
        TcpStream::connect(controlled.proxy.address()).is_err().then_some(())
    });
    controlled.server.run(&["RPUSH", "queue", "x"]);
    blocked.expect_reply("*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n");
    expect(&controlled.on_socket(&["shutdown"]), 0, "then respgate ends");
    assert_eq!(controlled.proxy.wait_for_exit().code(), Some(0));
    assert!(!controlled.file("control.sock").exists());
}
