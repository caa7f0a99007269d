//! The right to read, the right to control, and TLS of the admin listener.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::{TOKEN, expect};
use crate::support::certificates::{By, Certificates};
use crate::support::port::free_port;
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;
use crate::support::wait;

const READ_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// Writes both tokens to a folder. Returns the keys that name them.
fn tokens(folder: &tempfile::TempDir) -> String {
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name).display().to_string();
        fs::write(&path, text).expect("a token");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        path
    };
    let (control, read) = (file("control", TOKEN), file("read", READ_TOKEN));
    format!("control-token-file = {control:?}\nread-token-file = {read:?}\n")
}

/// Sends a request head, and returns the whole answer.
fn ask(mut stream: impl Read + Write, head: &str, token: &str) -> String {
    let authorization =
        if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let request = format!("{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    // The peer may end TLS without an alert.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn reading_and_controlling_are_separate_rights() {
    let (server, folder) = (Server::start(Flavor::Valkey), tempfile::tempdir().expect("a folder"));
    let toml = format!("{}\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n", tokens(&folder), server.port);
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("control: refused");
    let stream = || std::net::TcpStream::connect(("127.0.0.1", proxy.admin)).expect("the admin listener");
    for (head, token, status) in [
        ("GET /livez", "", "200"),
        ("GET /readyz", "", "200"),
        ("GET /metrics", "", "401"),
        ("GET /failovers", "", "401"),
        ("GET /metrics", "wrong", "401"),
        ("GET /metrics", READ_TOKEN, "200"),
        ("GET /failovers", READ_TOKEN, "200"),
        ("GET /metrics", TOKEN, "200"),
        ("POST /control/reload", READ_TOKEN, "401"),
        ("POST /control/reload", TOKEN, "200"),
    ] {
        let answer = ask(stream(), head, token);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head} {token}: {answer}");
    }
    let log = proxy.log();
    assert!(!log.contains(TOKEN) && !log.contains(READ_TOKEN), "a token in the log");
}

/// Ends the process when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_admin_listener_speaks_tls() {
    let certificates = Certificates::new();
    certificates.server("admin", By::Intermediate, &["127.0.0.1", "localhost"]);
    let (server, folder) = (Server::start(Flavor::Valkey), tempfile::tempdir().expect("a folder"));
    let (admin, listen) = (free_port(), free_port());
    let pair = format!(
        "admin-tls-cert = {:?}\nadmin-tls-key = {:?}\n",
        certificates.path("admin.crt"),
        certificates.path("admin.key")
    );
    let toml = format!(
        "admin = \"127.0.0.1:{admin}\"\n{pair}{}\n[listeners.main]\naddress = \"127.0.0.1:{listen}\"\n\
         [upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
        tokens(&folder),
        server.port
    );
    let file = folder.path().join("respgate.toml");
    fs::write(&file, toml).expect("the configuration");
    let mut command = Command::new(binary());
    command.arg("--config").arg(&file).stdin(Stdio::null()).stderr(Stdio::null());
    let _respgate = Running(command.spawn().expect("respgate"));
    let tls = Tls::new(&certificates);
    wait::until("the admin listener", || {
        tls.try_connect(admin).is_ok_and(|stream| ask(stream, "GET /readyz", "").starts_with("HTTP/1.1 200"))
    });
    let connect = || tls.try_connect(admin).expect("TLS");
    assert!(ask(connect(), "GET /metrics", "").starts_with("HTTP/1.1 401"));
    assert!(ask(connect(), "GET /metrics", READ_TOKEN).starts_with("HTTP/1.1 200"));
    let plain = std::net::TcpStream::connect(("127.0.0.1", admin)).expect("the admin listener");
    assert!(!ask(plain, "GET /livez", "").contains("200"), "plain HTTP was answered");

    let (address, token) =
        (format!("127.0.0.1:{admin}"), folder.path().join("control").display().to_string());
    let ctl = |ca: &str| {
        let words = ["ctl", "--admin", &address, "--token-file", &token, "--admin-ca", ca, "reload"];
        Command::new(binary()).args(words).output().expect("respgate ctl")
    };
    expect(&ctl(&certificates.path("ca.pem")), 0, "configuration: unchanged");
    expect(&ctl(&certificates.path("other-ca.pem")), 69, "no respgate answers");

    // `respgate status` has the same options. The token of readers is enough.
    let ca = certificates.path("ca.pem");
    let read_token = folder.path().join("read").display().to_string();
    let status = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["status", "--admin", &address]).args(words).stdin(Stdio::null());
        command
    };
    let seen = |words: &[&str]| status(words).output().expect("respgate status");
    expect(&seen(&["--admin-ca", &ca, "--token-file", &read_token]), 0, "admin 127.0.0.1");
    expect(&seen(&["--admin-ca", &ca, "--token-file", &token]), 0, "admin 127.0.0.1");
    expect(&seen(&["--admin-ca", &ca]), 69, "pass the token with --token-file");
    expect(
        &seen(&["--admin-ca", &certificates.path("other-ca.pem"), "--token-file", &read_token]),
        69,
        "no respgate answers",
    );
    expect(&seen(&["--token-file", &read_token]), 69, "--admin-ca if that listener speaks TLS");
    // Its configuration names the token too, but not whom to trust.
    let config = file.display().to_string();
    let mut by_config = Command::new(binary());
    by_config.args(["status", "--config", &config, "--admin-ca", &ca]);
    expect(&by_config.output().expect("respgate status"), 0, "admin 127.0.0.1");
    let watching = ["--admin-ca", &ca, "--token-file", &read_token, "--watch", "1", "--json"];
    let mut watch = Running(status(&watching).stdout(Stdio::piped()).spawn().expect("respgate status"));
    let mut line = String::new();
    let output = watch.0.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert!(line.contains("\"upstreams\"") && !line.contains(READ_TOKEN), "{line}");
}
