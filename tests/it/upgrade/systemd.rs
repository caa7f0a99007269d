//! The notifications that respgate sends to systemd.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// The service manager's end of the notification socket.
pub struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(wait::PATIENCE)).expect("a time limit");
        Self { socket, folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The variable that names the socket.
    pub fn variable(&self) -> String {
        format!("NOTIFY_SOCKET={}", self.path().display())
    }

    /// The next message that begins with `start`. Others are skipped.
    #[track_caller]
    pub fn expect(&self, start: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Some(message) if message.starts_with(start) => return message,
                Some(message) => seen.push(message),
                None => panic!("no {start}; there were {seen:?}"),
            }
        }
    }

    /// No message that begins with `start` comes within `time`.
    #[track_caller]
    pub fn expect_none_of(&self, start: &str, time: Duration) {
        let until = Instant::now() + time;
        self.socket.set_read_timeout(Some(time)).expect("a time limit");
        while Instant::now() < until {
            let message = self.next();
            assert!(!message.as_ref().is_some_and(|message| message.starts_with(start)), "{message:?}");
        }
        self.socket.set_read_timeout(Some(wait::PATIENCE)).expect("a time limit");
    }

    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

fn file(keys: &str, port: u16) -> String {
    format!("{keys}\n[upstreams.main]\naddress = \"127.0.0.1:{port}\"\n")
}

#[test]
fn the_manager_hears_of_the_start_a_reload_and_the_end() {
    let (manager, server) = (Manager::start(), Server::start(Flavor::Valkey));
    let mut proxy = Proxy::launch_file(&["env", &manager.variable()], 1, &file("", server.port));
    manager.expect("READY=1");
    manager.expect(&format!("STATUS=0 clients; main: primary 127.0.0.1:{}", server.port));
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    manager.expect("STATUS=1 clients");
    proxy.signal("HUP");
    let reloading = manager.expect("RELOADING=1\nMONOTONIC_USEC=");
    let micros: u64 = reloading.rsplit('=').next().and_then(|text| text.parse().ok()).expect("a time");
    assert!(micros > 0);
    manager.expect("READY=1");
    proxy.signal("TERM");
    manager.expect("STOPPING=1");
    assert!(proxy.wait_for_exit().success());
}

#[test]
fn readiness_may_need_a_primary() {
    let (manager, mut server) = (Manager::start(), Server::start(Flavor::Valkey));
    let toml = file("ready-needs-primary = true", server.port);
    server.crash();
    let mut proxy = Proxy::launch_file(&["env", &manager.variable()], 1, &toml);
    proxy.allow_log("\"WARN\"");
    assert!(manager.next().is_some_and(|first| first == "STATUS=0 clients; main: no primary"));
    server.restart(&[]);
    loop {
        let message = manager.next().expect("READY=1");
        if message == "READY=1" {
            break;
        }
        assert!(message.starts_with("STATUS="), "{message}");
    }
    assert!(proxy.http("/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn the_watchdog_gets_signs_of_life() {
    let (manager, server) = (Manager::start(), Server::start(Flavor::Valkey));
    let environment = ["env", &manager.variable(), "WATCHDOG_USEC=400000"];
    let proxy = Proxy::launch_file(&environment, 2, &file("", server.port));
    for _ in 0..5 {
        manager.expect("WATCHDOG=1");
    }
    // A stopped process sends nothing, and systemd would restart it.
    proxy.signal("STOP");
    manager.socket.set_read_timeout(Some(Duration::from_millis(600))).expect("a time limit");
    while manager.next().is_some() {}
    proxy.signal("CONT");
    manager.socket.set_read_timeout(Some(wait::PATIENCE)).expect("a time limit");
    manager.expect("WATCHDOG=1");
}

/// The variable names another process, so systemd expects nothing of this one.
#[test]
fn the_watchdog_of_another_process_gets_none() {
    let (manager, server) = (Manager::start(), Server::start(Flavor::Valkey));
    let environment = ["env", &manager.variable(), "WATCHDOG_USEC=100000", "WATCHDOG_PID=1"];
    let proxy = Proxy::launch_file(&environment, 1, &file("", server.port));
    manager.expect("READY=1");
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    loop {
        let message = manager.next().expect("a message");
        assert_ne!(message, "WATCHDOG=1");
        if message.starts_with("STATUS=1 clients") {
            break;
        }
    }
}
