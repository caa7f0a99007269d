//! Latency: where the time of commands goes, the slow log, and taps.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Client, encode};
use crate::support::proxy::{Proxy, binary};
use crate::support::read;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// A script that runs for 20 ms or longer on any machine, with one key.
const SLOW_SCRIPT: &str = "for i = 1, 30000000 do end return KEYS[1]";

/// A respgate with a control socket, and its server.
struct Measured {
    server: Server,
    proxy: Proxy,
    folder: tempfile::TempDir,
}

impl Measured {
    /// Starts both. `keys` go to the top of the file, and `upstream` into the upstream's table.
    fn start(flavor: Flavor, workers: usize, keys: &str, upstream: &str) -> Self {
        let server = Server::start(flavor);
        let folder = tempfile::tempdir().expect("a folder");
        let on = if keys.contains("latency = ") { "" } else { "latency = \"on\"" };
        let toml = format!(
            "{on}\ncontrol-socket = {:?}\n{keys}\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{upstream}\n",
            folder.path().join("control.sock"),
            server.port
        );
        Self { proxy: Proxy::start_file(workers, &toml), server, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn ctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(["ctl", "--socket"]).arg(self.socket()).args(words);
        command
    }

    fn run_ctl(&self, words: &[&str]) -> Output {
        self.ctl(words).output().expect("respgate ctl")
    }

    /// Returns the entries of the slow log, the newest first.
    fn slow_log(&self) -> Vec<Value> {
        let output = self.run_ctl(&["--json", "slow-log"]);
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        answer["result"].as_array().expect("commands").clone()
    }

    /// Returns the slow log's newest entry of a command, once there is one.
    #[track_caller]
    fn slow(&self, command: &str) -> Value {
        wait::until_some(command, wait::PATIENCE, || {
            self.slow_log().into_iter().find(|entry| entry["command"] == command)
        })
    }

    /// Returns the seconds of one part in the histograms.
    fn part(&self, class: &str, part: &str) -> f64 {
        let labels = [&*format!("class=\"{class}\""), &*format!("part=\"{part}\"")];
        self.proxy.metric("respgate_command_part_duration_seconds_sum", &labels)
    }
}

/// Returns a part of an entry's time, in milliseconds.
fn part_ms(entry: &Value, part: &str) -> u64 {
    entry["parts_us"][part].as_u64().expect("a time") / 1000
}

/// The time of a slow command was spent at the server.
fn a_slow_command(flavor: Flavor, workers: usize) {
    let measured = Measured::start(flavor, workers, "slow-log-threshold = \"20ms\"", "");
    let mut client = measured.proxy.client();
    client.expect(&["SET", "quick", "1"], "+OK\r\n");
    client.expect(&["CLIENT", "SETNAME", "tester"], "+OK\r\n");
    client.expect(&["EVAL", SLOW_SCRIPT, "1", "customer:7"], "$10\r\ncustomer:7\r\n");
    let entry = measured.slow("EVAL");
    assert!(part_ms(&entry, "server") >= 20, "{entry:#}");
    let total = entry["total_us"].as_u64().expect("a total");
    let parts = entry["parts_us"].as_object().expect("parts").values().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(total, parts, "{entry:#}");
    assert_eq!((&entry["name"], &entry["user"]), (&"tester".into(), &"default".into()));
    let key = entry["key"].as_str().expect("a key");
    assert!(key.starts_with("10 bytes #") && !entry.to_string().contains("customer"), "{entry:#}");
    assert_eq!(entry["arguments"], Value::Array(Vec::new()));

    let class = entry["class"].as_str().expect("a class");
    assert!(measured.part(class, "server") >= 0.02);
    assert!(measured.part(class, "hold") == 0.0 && measured.part(class, "limit") == 0.0);
    assert!(measured.proxy.metric("respgate_slow_commands_total", &[]) >= 1.0);
    let quick = ["class=\"shared\""];
    assert!(measured.proxy.metric("respgate_command_duration_seconds_count", &quick) >= 1.0);
    let local = ["class=\"local\"", "le=\"+Inf\""];
    assert!(
        measured.proxy.metric("respgate_command_duration_seconds_bucket", &local) >= 1.0,
        "CLIENT SETNAME"
    );
    let lines = String::from_utf8(measured.run_ctl(&["slow-log"]).stdout).expect("text");
    assert!(lines.contains(" EVAL key=10B#"), "{lines}");
}
on_both_servers!(a_slow_command, workers: [1, 2]);

/// The time of a command that got no lease at once was spent on the wait.
#[test]
fn a_wait_for_a_lease() {
    let measured = Measured::start(Flavor::Valkey, 1, "", "max-leased = 1");
    let (mut first, mut second) = (measured.proxy.client(), measured.proxy.client());
    first.expect(&["MULTI"], "+OK\r\n");
    second.send_command(&["MULTI"]);
    wait::until("a wait", || measured.proxy.metric("respgate_lease_waits_total", &[]) == 1.0);
    thread::sleep(Duration::from_millis(150));
    first.expect(&["EXEC"], "*0\r\n");
    second.expect_reply("+OK\r\n");
    let entry = measured.slow("MULTI");
    assert!(part_ms(&entry, "wait") >= 140 && part_ms(&entry, "hold") == 0, "{entry:#}");
    assert_eq!(entry["class"], "leased");
    assert!(measured.part("leased", "wait") >= 0.14);
}

/// A command that may wait for other clients is no slow command, and is counted apart.
#[test]
fn a_blocking_command_is_not_slow() {
    let measured = Measured::start(Flavor::Valkey, 1, "slow-log-threshold = \"900ms\"", "");
    let mut client = measured.proxy.client();
    client.expect(&["BLPOP", "queue", "1"], "*-1\r\n");
    wait::until("its time", || measured.part("blocking", "server") >= 0.95);
    assert_eq!(measured.slow_log(), Vec::<Value>::new());
}

/// The time of a command that was held was spent on the hold.
fn a_hold(flavor: Flavor, workers: usize) {
    let mut measured = Measured::start(flavor, workers, "", "");
    measured.proxy.allow_log("");
    let mut client = measured.proxy.client();
    client.expect(&["SET", "k", "1"], "+OK\r\n");
    measured.server.crash();
    wait::until("the loss", || measured.proxy.metric("respgate_upstream_connections_lost_total", &[]) >= 1.0);
    client.send_command(&["SET", "k", "2"]);
    thread::sleep(Duration::from_millis(200));
    measured.server.restart(&[]);
    client.expect_reply("+OK\r\n");
    let entry = measured.slow("SET");
    assert!(part_ms(&entry, "hold") >= 190, "{entry:#}");
    assert!(measured.part("shared", "hold") >= 0.19);
}
on_both_servers!(a_hold, workers: [1, 2]);

/// The time of a command that a limit delayed was spent on the limit.
#[test]
fn a_limit() {
    let tenant = "[tenants.slow]\ndefault = true\ncommands-per-second = 5\ncommands-burst = 1\n";
    let measured = Measured::start(Flavor::Valkey, 1, tenant, "");
    let mut client = measured.proxy.client();
    (0..4).for_each(|_| client.expect(&["GET", "k"], "$-1\r\n"));
    let entry = measured.slow("GET");
    assert!(part_ms(&entry, "limit") >= 100 && entry["tenant"] == "slow", "{entry:#}");
}

/// What can hold a password is never shown, however much else is.
#[test]
fn passwords_are_never_shown() {
    let keys = "slow-log-threshold = \"0s\"\nslow-log-arguments = \"show\"\nslow-log-length = 10";
    let measured = Measured::start(Flavor::Valkey, 1, keys, "");
    let mut client = measured.proxy.client();
    client.expect(&["SET", "a key\n", "a value"], "+OK\r\n");
    for words in [
        &["AUTH", "hunter2"][..],
        &["HELLO", "3", "AUTH", "default", "hunter2"],
        &["CONFIG", "SET", "requirepass", "hunter2"],
        &["ACL", "SETUSER", "bob", ">hunter2"],
        &["MIGRATE", "127.0.0.1", "1", "k", "0", "10", "AUTH", "hunter2"],
        &["AUHT", "hunter2"],
    ] {
        client.call(words);
    }
    client.call(&["GET", "k"]);
    let set = measured.slow("SET");
    assert_eq!((&set["key"], &set["arguments"][1]), (&"a key\\n".into(), &"a value".into()));
    measured.slow("GET");
    let all = format!("{:?} {}", measured.slow_log(), measured.proxy.log());
    assert!(!all.contains("hunter2"), "{all}");
    for _ in 0..20 {
        client.call(&["GET", "k"]);
    }
    wait::until("the newest commands", || measured.slow_log().iter().all(|entry| entry["command"] == "GET"));
    assert_eq!(measured.slow_log().len(), 10);
}

/// Who may read sees a slow log without arguments. Nobody sees a tap through the admin listener without a token.
#[test]
fn readers_see_the_slow_log_and_no_tap() {
    let mut measured = Measured::start(Flavor::Valkey, 1, "slow-log-threshold = \"0s\"", "");
    measured.proxy.allow_log("control: refused");
    measured.proxy.client().expect(&["SET", "customer:7", "secret"], "+OK\r\n");
    measured.slow("SET");
    let slow = measured.proxy.http("/slow");
    assert!(slow.starts_with("HTTP/1.1 200") && slow.contains("\"SET\""), "{slow}");
    assert!(!slow.contains("customer") && !slow.contains("secret"), "{slow}");
    assert!(measured.proxy.http("/control/tap").starts_with("HTTP/1.1 405"));
}

/// Above 200 commands a second, only some are counted, for all. The slow log still sees each slow one.
#[test]
fn many_commands_are_sampled_and_no_slow_one_is_missed() {
    let measured =
        Measured::start(Flavor::Valkey, 1, "slow-log-threshold = \"20ms\"\nslow-log-length = 1000", "");
    let mut clients: Vec<_> = (0..20).map(|_| measured.proxy.client()).collect();
    let mut slow = measured.proxy.client();
    for round in 0..400 {
        clients.iter_mut().for_each(|client| client.send_command(&["GET", "k"]));
        clients.iter_mut().for_each(|client| client.expect_reply("$-1\r\n"));
        if round % 100 == 0 {
            let mut admin = Client::connect_to(measured.server.address());
            admin.expect(&["CLIENT", "PAUSE", "300", "WRITE"], "+OK\r\n");
            slow.expect(&["SET", "k2", "v"], "+OK\r\n");
        }
    }
    let all = measured.proxy.metric("respgate_commands_total", &["lane=\"shared\""]);
    let counted = measured.proxy.metric("respgate_command_duration_seconds_count", &["class=\"shared\""]);
    assert!((counted / all - 1.0).abs() < 0.15, "{counted} of {all}");
    let sets = measured.slow_log().into_iter().filter(|entry| entry["command"] == "SET").count();
    assert_eq!(sets, 4);
}

#[test]
fn commands_are_counted_by_name_on_request() {
    let measured = Measured::start(Flavor::Valkey, 1, "latency = \"commands\"", "");
    let mut client = measured.proxy.client();
    client.send([encode(&["SET", "k", "1"]), encode(&["GET", "k"]), encode(&["GET", "k"])].concat());
    client.replies_are(&["+OK\r\n", "$1\r\n1\r\n", "$1\r\n1\r\n"]);
    let count = |name: &str| {
        let labels = [&*format!("command=\"{name}\"")];
        measured.proxy.metric("respgate_command_name_duration_seconds_count", &labels)
    };
    assert_eq!((count("GET"), count("SET")), (2.0, 1.0));
}

#[test]
fn nothing_is_measured_when_it_is_off() {
    let measured = Measured::start(Flavor::Valkey, 1, "latency = \"off\"\nslow-log-threshold = \"0s\"", "");
    let mut client = measured.proxy.client();
    client.expect(&["GET", "k"], "$-1\r\n");
    assert!(!measured.proxy.http("/metrics").contains("respgate_command_duration_seconds"));
    assert_eq!(measured.slow_log(), Vec::<Value>::new());
}

/// A running `respgate ctl tap`.
struct Tap {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tap {
    fn start(measured: &Measured, words: &[&str]) -> Self {
        let mut command = measured.ctl(&[&["--json", "tap"], words].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("respgate ctl tap");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, lines }
    }

    /// Repeats a command until the tap shows it, and returns the entry. Earlier entries must be of the same command.
    fn until_shown(&mut self, client: &mut Client, words: &[&str]) -> Value {
        let (sent, lines) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let reader = &mut self.lines;
            scope.spawn(move || {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                let _ = sent.send(line);
            });
            let line = wait::until_some("a line of the tap", wait::PATIENCE, || {
                client.call(words);
                lines.try_recv().ok()
            });
            serde_json::from_str(&line).expect("JSON")
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tap shows what its filters admit, and ends when its reader leaves.
fn a_tap(flavor: Flavor, workers: usize) {
    let measured = Measured::start(flavor, workers, "latency = \"off\"", "");
    let (mut client, mut other) = (measured.proxy.client(), measured.proxy.client());
    client.expect(&["CLIENT", "SETNAME", "watched"], "+OK\r\n");
    let words = [
        "--client",
        "watched",
        "--command",
        "get",
        "--key-prefix",
        "shop:",
        "--arguments",
        "--duration",
        "1h",
    ];
    let mut tap = Tap::start(&measured, &words);
    other.call(&["GET", "shop:1"]);
    client.call(&["GET", "cart:1"]);
    client.call(&["SET", "shop:1", "x"]);
    let entry = tap.until_shown(&mut client, &["GET", "shop:1"]);
    assert_eq!((&entry["command"], &entry["key"]), (&"GET".into(), &"shop:1".into()), "{entry:#}");
    assert_eq!((&entry["name"], &entry["class"]), (&"watched".into(), &"shared".into()), "{entry:#}");
    assert!(entry["total_us"].as_u64().is_some_and(|total| total > 0), "{entry:#}");
    let redacted = Tap::start(&measured, &["--command", "GET"]).until_shown(&mut other, &["GET", "shop:2"]);
    assert!(!redacted.to_string().contains("shop"), "{redacted:#}");
    drop(tap);
    wait::until("both taps to end", || measured.proxy.log().matches("a tap ended").count() == 2);
}
on_both_servers!(a_tap, workers: [1, 2]);

#[test]
fn taps_are_few_and_end_with_their_time() {
    let mut measured = Measured::start(Flavor::Valkey, 1, "", "");
    measured.proxy.allow_log("control: refused");
    let taps: Vec<Tap> = (0..4).map(|_| Tap::start(&measured, &[])).collect();
    wait::until("four taps", || measured.proxy.log().matches("action\":\"tap").count() >= 4);
    let refused = measured.run_ctl(&["tap"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    drop(taps);
    let ended = wait::until_some("a free place", wait::PATIENCE, || {
        let output = measured.run_ctl(&["tap", "--duration", "1s"]);
        output.status.success().then_some(output)
    });
    assert!(String::from_utf8_lossy(&ended.stdout).contains("its time is over"), "{ended:?}");
}

/// A tap whose reader reads nothing drops entries, and disturbs no client.
fn a_reader_that_never_reads(workers: usize) {
    let measured = Measured::start(Flavor::Valkey, workers, "", "");
    let mut stream = UnixStream::connect(measured.socket()).expect("the control socket");
    stream
        .write_all(b"POST /control/tap HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .expect("a request");
    wait::until("the tap", || measured.proxy.log().contains("action\":\"tap"));
    let mut client = measured.proxy.client();
    let many = encode(&["GET", "k"]).repeat(1000);
    for _ in 0..30 {
        client.send(&many);
        (0..1000).for_each(|_| client.expect_reply("$-1\r\n"));
    }
    // Entries were dropped; the reader learns their number once it reads.
    let mut text = Vec::new();
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a deadline");
    wait::until("the number of dropped entries", || {
        let mut piece = [0; 65536];
        let count = read::once(&mut stream, &mut piece).expect("lines");
        text.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&text);
        text.lines().any(|line| line.starts_with("{\"dropped\":") && line != "{\"dropped\":0}")
    });
}
with_one_and_two_workers!(a_reader_that_never_reads);
