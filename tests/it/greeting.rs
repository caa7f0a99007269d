//! Each step of the greeting of a new connection goes wrong in each way, on each kind of connection. Commands wait
//! and are done once the server behaves, or get a clear error; nobody is handed another's reply, and dials are few.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Said, Scripted, as_primary};
use crate::support::wait;

/// Which connections are met with the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// All of them, from the start: discovery's probe is the first.
    Probe,
    /// Those that carry RESP3, as the probe does not: here the shared one.
    Shared,
    /// The same, where a client needs one of its own.
    Leased,
}

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Close,
    Cut,
    Garbage,
    /// Nothing is said to this command, nor to those behind it.
    Silence,
    /// Nothing is said to this command alone.
    Skipped,
    /// The answer comes twice.
    Doubled,
    /// `-CODE …`.
    Error(&'static str),
    /// ROLE says something else.
    Replica,
}

const FAULTS: [Fault; 11] = [
    Fault::Close,
    Fault::Cut,
    Fault::Garbage,
    Fault::Silence,
    Fault::Skipped,
    Fault::Doubled,
    Fault::Error("ERR unlucky"),
    Fault::Error("LOADING the dataset in memory"),
    Fault::Error("BUSY running a script"),
    Fault::Error("NOAUTH Authentication required."),
    Fault::Replica,
];

const STEPS: [&str; 6] = ["AUTH", "HELLO", "CLIENT", "PING", "ROLE", "SELECT"];

/// What a command gets while the fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its answer: the fault does not matter.
    Served,
    /// It waits.
    Held,
    /// The server's own error line.
    Refused,
    /// respgate's own password has never worked: an error that says so.
    Hopeless,
}

fn outcome(place: Place, step: &str, fault: Fault) -> Outcome {
    let Fault::Error(line) = fault else { return Outcome::Held };
    let not_now = line.starts_with("LOADING");
    match (step, line.split(' ').next()) {
        ("CLIENT", _) => Outcome::Served,
        _ if not_now => Outcome::Held,
        // The server lives, and says nothing of its role.
        ("PING", Some("ERR" | "BUSY")) => Outcome::Served,
        ("ROLE", Some("ERR" | "BUSY")) => Outcome::Held,
        ("HELLO" | "PING" | "ROLE", Some("NOAUTH")) if place == Place::Probe => Outcome::Hopeless,
        // RESP2 needs no HELLO.
        ("HELLO", Some(_)) if place == Place::Probe => Outcome::Served,
        ("AUTH", _) if place == Place::Probe => Outcome::Hopeless,
        // A server that refuses respgate's own credentials may take them again: no client is told.
        ("AUTH", _) => Outcome::Held,
        _ if place == Place::Probe => Outcome::Held,
        _ => Outcome::Refused,
    }
}

/// A node whose connections meet `fault` at a step.
fn node(place: Place, step: &'static str, fault: Arc<Mutex<Option<Fault>>>) -> Scripted {
    Scripted::start_each(move || {
        let fault = Arc::clone(&fault);
        let (mut third, mut mute) = (false, false);
        Box::new(move |command| {
            let word = command[0].to_uppercase();
            third |= word == "HELLO" && command.get(1).is_some_and(|version| version == "3");
            let met = place == Place::Probe || third || (word == "AUTH" && step == "AUTH");
            let fault = fault.lock().expect("the fault").filter(|_| met && word == step);
            if mute {
                return Said::Bytes(Vec::new());
            }
            let Some(sound) = as_primary(command) else {
                let reply = format!("${}\r\n{}\r\n", command[1].len(), command[1]);
                // The next one needs a new connection.
                return if command[1].ends_with("last") {
                    Said::Last(reply.into_bytes())
                } else {
                    Said::Bytes(reply.into_bytes())
                };
            };
            match fault {
                None => Said::Bytes(sound),
                Some(Fault::Close) => Said::Last(Vec::new()),
                Some(Fault::Cut) => Said::Last(sound[..sound.len() / 2].to_vec()),
                Some(Fault::Garbage) => Said::Bytes(b"\0?!\r\n".to_vec()),
                Some(Fault::Silence) => {
                    mute = true;
                    Said::Bytes(Vec::new())
                }
                Some(Fault::Skipped) => Said::Bytes(Vec::new()),
                Some(Fault::Doubled) => Said::Bytes(sound.repeat(2)),
                Some(Fault::Error(line)) => Said::Bytes(format!("-{line}\r\n").into_bytes()),
                Some(Fault::Replica) => Said::Bytes(
                    b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n".to_vec(),
                ),
            }
        })
    })
}

fn start(node: &Scripted) -> Proxy {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = format!(
        "[upstreams.main]\nurl = \"redis://app:secret@127.0.0.1:{}/3\"\nconnect-timeout = \"150ms\"\n",
        node.port
    );
    std::fs::write(file.path(), text).expect("the configuration");
    let port = crate::support::port::free_port();
    let mut proxy = Proxy::launch(port, 1, &["--config", &file.path().to_string_lossy()]);
    proxy.allow_log("");
    proxy
}

/// How long a command is seen to wait.
const HELD: Duration = Duration::from_millis(100);

/// Connections in that time, discovery's included, with some more on a slow machine.
const DIALS: usize = 24;

#[test]
fn the_probe() {
    at_every_step(Place::Probe);
}

#[test]
fn a_shared_connection() {
    at_every_step(Place::Shared);
}

#[test]
fn a_leased_connection() {
    at_every_step(Place::Leased);
}

fn at_every_step(place: Place) {
    // Most of it is waiting.
    thread::scope(|scope| {
        // The probe selects no database.
        for step in STEPS.iter().filter(|step| place != Place::Probe || **step != "SELECT") {
            scope.spawn(move || at_step(place, step));
        }
    });
}

fn at_step(place: Place, step: &'static str) {
    let fault = Arc::new(Mutex::new(None));
    let node = node(place, step, Arc::clone(&fault));
    let possible = FAULTS.into_iter().filter(|fault| *fault != Fault::Replica || step == "ROLE");
    let set = |next| *fault.lock().expect("the fault") = next;
    let mut kept = (place != Place::Probe).then(|| {
        let proxy = start(&node);
        proxy.wait_until_ready();
        let mut client = proxy.client();
        assert!(client.call(&["HELLO", "3"]).starts_with(b"%"));
        (proxy, client)
    });
    for (number, now) in possible.enumerate() {
        let what = format!("{place:?} {step} {now:?}");
        // One after the other, so that a shifted reply would show.
        let command = if place == Place::Leased { "BLPOP" } else { "GET" };
        let tag = |part: &str| format!("{number}-{part}");
        let request = |part: &str| vec![command.to_owned(), tag(part), "0".to_owned()];
        let send = |client: &mut Client, part: &str| {
            let request = request(part);
            client.send_command(if command == "GET" { &request[..2] } else { &request[..] });
        };
        let reply = |part: &str| format!("${}\r\n{}\r\n", tag(part).len(), tag(part));
        let mut fresh = None;
        let dials;
        let client = match &mut kept {
            Some((_, client)) => {
                send(client, "last");
                client.expect_reply(&reply("last"));
                dials = node.accepted();
                set(Some(now));
                client
            }
            None => {
                dials = node.accepted();
                set(Some(now));
                let proxy = start(&node);
                let client = proxy.client();
                &mut fresh.insert((proxy, client)).1
            }
        };
        send(client, "one");
        match outcome(place, step, now) {
            Outcome::Served => client.expect_reply(&reply("one")),
            Outcome::Held => {
                let limit = if now == Fault::Silence { HELD * 3 } else { HELD };
                client.deadline(limit);
                if let Ok(reply) = client.try_reply() {
                    panic!("{what}: it should wait, got {}", reply.escape_ascii());
                }
                client.deadline(wait::PATIENCE);
            }
            Outcome::Hopeless => {
                let got = String::from_utf8_lossy(&client.reply()).into_owned();
                assert!(got.contains("have never worked"), "{what}: {got}");
            }
            Outcome::Refused => {
                let Fault::Error(line) = now else { unreachable!() };
                let got = String::from_utf8_lossy(&client.reply()).into_owned();
                assert_eq!(got, format!("-{line}\r\n"), "{what}");
            }
        }
        let dialled = node.accepted() - dials;
        assert!(dialled <= DIALS, "{what}: {dialled} connections");
        set(None);
        match outcome(place, step, now) {
            Outcome::Held => client.expect_reply(&reply("one")),
            Outcome::Served => {}
            // A refusal stands for a second.
            Outcome::Refused | Outcome::Hopeless => {
                wait::until(&format!("{what}: the refusal to end"), || {
                    send(client, "one");
                    client.reply() == reply("one").into_bytes()
                })
            }
        }
        for part in ["two", "three"] {
            send(client, part);
        }
        for part in ["two", "three"] {
            let got = client.reply();
            assert_eq!(String::from_utf8_lossy(&got), reply(part), "{what}");
        }
    }
}
