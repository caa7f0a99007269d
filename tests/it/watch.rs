//! `respgate status --watch`: on a terminal, in a pipe, and how it ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server, spawn};
use crate::support::{read, signal, wait};

/// A shell command on a terminal of its own, which `script` gives it.
struct Terminal {
    process: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(command: &str) -> Self {
        let mut script = Command::new("script");
        script.args(["-qec", command, "/dev/null"]).env("TERM", "xterm-256color");
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = spawn(&mut script, "install bsdutils");
        let (mut output, shown) =
            (process.stdout.take().expect("its output"), Arc::new(Mutex::new(Vec::new())));
        let into = shown.clone();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = read::once(&mut output, &mut part) {
                into.lock().expect("the output").extend_from_slice(&part[..count]);
            }
        });
        Self { process, shown }
    }

    fn press(&mut self, keys: &[u8]) {
        let mut input = self.process.stdin.as_ref().expect("its input");
        input.write_all(keys).and_then(|()| input.flush()).expect("a key");
    }

    fn shows(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.shown.lock().expect("the output")).contains(text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start() -> (Server, Proxy) {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    (server, proxy)
}

/// `q` and Ctrl-C end it, and the terminal is as it was.
#[test]
fn a_terminal_is_left_clean() {
    let (server, proxy) = start();
    for key in [b"q", b"\x03"] {
        let command = format!(
            "stty rows 40 cols 120; {} status --admin 127.0.0.1:{} --watch; echo code $?; stty -a; echo end",
            binary(),
            proxy.admin
        );
        let mut terminal = Terminal::start(&command);
        let primary = server.port.to_string();
        wait::until("the state on the terminal", || terminal.shows(&primary) && terminal.shows("commands/s"));
        assert!(terminal.shows("\x1b[?1049h"), "it uses the other screen");
        terminal.press(key);
        wait::until("its end", || terminal.shows("end\r\n"));
        for expected in ["\x1b[?1049l", "code 0", " icanon", " echo "] {
            assert!(terminal.shows(expected), "{expected:?} after {key:?}");
        }
    }
}

/// In a pipe it prints text, or a document a line, and ends when nobody reads any more or a signal comes.
#[test]
fn a_pipe_gets_text() {
    let (_server, proxy) = start();
    let watch = |more: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["status", "--admin", &format!("127.0.0.1:{}", proxy.admin), "--watch"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = spawn(&mut command, "run `cargo build`");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        (process, lines.map_while(Result::ok))
    };
    let (mut text, lines) = watch(&[]);
    assert_eq!(lines.filter(|line| line.starts_with("upstream main: primary")).take(2).count(), 2);
    // The pipe is closed: the next line ends it.
    assert!(text.wait().expect("its end").success());

    let (mut documents, mut lines) = watch(&["--json"]);
    for _ in 0..2 {
        let document: Value = serde_json::from_str(&lines.next().expect("a line")).expect("JSON");
        assert_eq!(document["upstreams"][0]["name"], "main");
    }
    signal::send("TERM", documents.id());
    assert!(documents.wait().expect("its end").success());
}

/// It goes on while respgate does not answer, and says so.
#[test]
fn it_waits_for_a_respgate_that_is_gone() {
    let (_server, mut proxy) = start();
    let admin = proxy.admin;
    let mut terminal = Terminal::start(&format!(
        "stty rows 40 cols 200; {} status --admin 127.0.0.1:{admin} --watch",
        binary()
    ));
    wait::until("the state on the terminal", || terminal.shows("upstream main"));
    proxy.signal("TERM");
    proxy.wait_for_exit();
    wait::until("the reason on the terminal", || terminal.shows("no respgate answers"));
    terminal.press(b"q");
    wait::until("its end", || terminal.process.try_wait().expect("its state").is_some());
}
