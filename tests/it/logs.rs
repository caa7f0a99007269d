//! What clients cause in the log, and that it is bounded.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Written and left-out lines of the log that contain `text`, and what bounds the former: 20 at once, 10 a second.
fn assert_bounded(proxy: &Proxy, text: &str, took: Duration) {
    let count = proxy.log().lines().filter(|line| line.contains(text) && !line.contains("left out")).count();
    let most = 20 + 10 * (took.as_secs() + 2);
    assert!(count as u64 <= most, "{count} lines of {text:?} in {took:?}, at most {most} are right");
    assert!(count >= 20, "{count} lines of {text:?}");
}

/// One source's refused logins are slowed down, and each is counted.
#[test]
fn refused_logins_do_not_flood_the_log() {
    const LOGINS: usize = 60;
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let server = Server::start(flavor);
        let file = format!(
            "[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nclient-auth = \"required\"\n[users.app]\npassword-hash = \
             \"$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ\"\n",
            server.port
        );
        let mut proxy = Proxy::start_file(workers, &file);
        proxy.allow_log("log lines were left out");
        let started = Instant::now();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut client = proxy.client();
                thread::spawn(move || {
                    client.send("AUTH nobody wrong\r\n".repeat(LOGINS / 4));
                    for _ in 0..LOGINS / 4 {
                        assert!(client.reply().starts_with(b"-"));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("a client"));
        let refused = || proxy.metric("respgate_auth_refused_total", &[]);
        wait::until("all to be counted", || refused() as usize == LOGINS);
        assert_bounded(&proxy, "respgate refused a client's AUTH", started.elapsed());
        assert!(proxy.metric("respgate_auth_throttled_total", &[]) > 0.0);
    }
}

/// Scripts that forge replies are an error line each, of a client that is disconnected; and protocol errors a line at
/// debug.
#[test]
fn forged_replies_and_protocol_errors_do_not_flood_the_log() {
    let server = Server::start(Flavor::Valkey);
    let upstream = format!("redis://127.0.0.1:{}", server.port);
    let mut proxy = Proxy::start_with(&upstream, 2, &["--log-level", "debug"]);
    for text in [
        "after the reply of a script or a module came one that no command had asked for",
        "log lines were left out",
    ] {
        proxy.allow_log(text);
    }
    let flood = |request: &str, count: usize| {
        for _ in 0..count {
            let mut client = proxy.client();
            client.send(request);
            client.rest();
        }
    };
    let forged = ["EVAL", "error('x\\r\\n+INJECTED')", "0"];
    let mut direct = server.client();
    direct.send([encode(&forged), encode(&["QUIT"])].concat());
    let told = String::from_utf8(direct.rest()).expect("text");
    if told.contains("\r\n+INJECTED") {
        let started = Instant::now();
        flood("*3\r\n$4\r\nEVAL\r\n$23\r\nerror('x\\r\\n+INJECTED')\r\n$1\r\n0\r\n", 300);
        assert_bounded(
            &proxy,
            "after the reply of a script or a module came one that no command had asked for",
            started.elapsed(),
        );
        assert!(proxy.metric("respgate_log_lines_suppressed_total", &["level=\"ERROR\""]) > 100.0);
        wait::until("the summary", || proxy.log().contains("log lines were left out"));
    } else {
        // Valkey 9.1 replaces line breaks in the errors of scripts: the client gets one error, and keeps its connection.
        let mut client = proxy.client();
        client.expect(&forged, told.strip_suffix("+OK\r\n").expect("the reply to QUIT"));
        client.expect(&["PING"], "+PONG\r\n");
        assert_eq!(proxy.metric("respgate_log_lines_suppressed_total", &["level=\"ERROR\""]), 0.0);
    }
    let started = Instant::now();
    flood("*1\r\n$x\r\n", 1000);
    let count = proxy.log().matches("\"a client violated the protocol\"").count() as u64;
    let most = 200 + 100 * (started.elapsed().as_secs() + 2);
    assert!((100..=most).contains(&count), "{count} lines at debug, at most {most} are right");
}

/// Lines reach the log only through `tracing`, whose subscriber is made in `main` behind the limit: no call can go
/// around it.
#[test]
fn nothing_is_written_past_the_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            let main = path.ends_with("src/main.rs");
            checked += 1;
            if !main && !path.ends_with("src/logs/tests.rs") {
                for way in [
                    "eprint!",
                    "eprintln!",
                    "stderr()",
                    "dbg!",
                    "tracing_subscriber::fmt",
                    "set_global_default",
                ] {
                    assert!(!text.contains(way), "{} has {way}", path.display());
                }
            }
            if main {
                let subscribers = text.matches(".init()").count();
                assert_eq!(subscribers, text.matches(".with(limit.clone()).init()").count());
                assert!(subscribers > 0);
            }
            // Targets are the modules' own, and those without a limit are named in one place.
            assert!(path.ends_with("src/logs/mod.rs") || !text.contains("target: \""), "{}", path.display());
        }
    }
    assert!(checked > 100);
}
