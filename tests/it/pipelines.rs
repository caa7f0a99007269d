//! Clients that write a whole pipeline before they read a reply, as hiredis, redis-py and phpredis do.

use std::thread;
use std::time::Duration;

use crate::support::certificates::Certificates;
use crate::support::client::{Client, encode};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Said, Scripted, as_primary};
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;

/// respgate with a TCP, a unix and a TLS listener in front of a server.
struct Stage {
    proxy: Proxy,
    server: Server,
    certificates: Certificates,
    socket: std::path::PathBuf,
    tls_port: u16,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn start(flavor: Flavor, workers: usize, limits: &str) -> Self {
        let server = Server::start(flavor);
        let certificates = Certificates::new();
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let (socket, tls_port) = (folder.path().join("respgate.sock"), free_port());
        let toml = format!(
            "[limits]\n{limits}\n[listeners.local]\naddress = \"unix:{}\"\n\
             [listeners.secure]\naddress = \"127.0.0.1:{tls_port}\"\n{}\
             [upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
            socket.display(),
            certificates.pair("server"),
            server.port
        );
        let proxy = Proxy::start_file(workers, &toml);
        Self { proxy, server, certificates, socket, tls_port, _folder: folder }
    }

    fn client(&self, way: &str) -> Client {
        match way {
            "tcp" => self.proxy.client(),
            "unix" => Client::connect_unix(&self.socket),
            _ => Tls::new(&self.certificates).client(self.tls_port),
        }
    }
}

/// Writes `count` times `GETSET key value`, all before the first read, and checks every reply.
fn write_then_read(client: &mut Client, key: &str, count: usize, size: usize) {
    let value = |at: usize| format!("{at:08}").repeat(size / 8);
    let mut requests = Vec::with_capacity(count * (size + 64));
    for at in 0..count {
        requests.extend(encode(&["GETSET", key, &value(at)]));
    }
    client.send(&requests);
    drop(requests);
    client.expect_reply("$-1\r\n");
    for at in 1..count {
        let reply = client.reply();
        let expected = format!("${size}\r\n{}\r\n", value(at - 1));
        assert!(reply == expected.as_bytes(), "reply {at} of {count} differs");
    }
    client.expect(&["ECHO", "still here"], "$10\r\nstill here\r\n");
}

#[test]
fn a_whole_pipeline_is_written_before_a_reply_is_read() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let stage = Stage::start(flavor, workers, "write-timeout = \"5s\"");
        for way in ["tcp", "unix", "tls"] {
            let mut client = stage.client(way);
            client.deadline(Duration::from_secs(60));
            write_then_read(&mut client, way, 3000, 10 * 1024);
        }
        assert_eq!(stage.proxy.metric("respgate_clients_closed_total", &["reason=\"slow\""]), 0.0);
    }
}

/// What waits is one client's, so it is bounded by `max-buffered` alone, and not by a part of it for each worker.
#[test]
fn a_hundred_megabytes_each_way() {
    let stage = Stage::start(Flavor::Valkey, 2, "max-buffered = \"150MiB\"");
    let mut client = stage.client("tcp");
    client.deadline(Duration::from_secs(120));
    write_then_read(&mut client, "k", 1000, 100 * 1024);
}

/// The server answers no read before it has got all three. So a session that waited for earlier replies before it answers itself,
/// or behind such an answer, would wait for ever.
#[test]
fn answers_of_respgates_own_between_reads_cost_no_round_trip() {
    let server = Scripted::start_each(|| {
        let mut reads = Vec::new();
        Box::new(move |command| {
            if command[0] != "GET" {
                return Said::Bytes(as_primary(command).unwrap_or_else(|| b"+OK\r\n".to_vec()));
            }
            reads.extend(format!("+{}\r\n", command.join(" ")).into_bytes());
            let all = reads.ends_with(b"+GET c\r\n");
            Said::Bytes(if all { std::mem::take(&mut reads) } else { Vec::new() })
        })
    });
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let mut client = proxy.client();
    for _ in 0..3 {
        let pipeline: [&[&str]; 8] = [
            &["GET", "a"],
            &["ECHO", "first"],
            &["GET", "b"],
            &["EXEC"],
            &["CLIENT", "REPLY", "SKIP"],
            &["ECHO", "skipped"],
            &["GET", "c"],
            &["ECHO", "last"],
        ];
        client.send(pipeline.map(encode).concat());
        for reply in ["+GET a", "$5\r\nfirst", "+GET b", "-ERR EXEC without MULTI", "+GET c", "$4\r\nlast"] {
            client.expect_reply(&format!("{reply}\r\n"));
        }
    }
}

on_both_servers!(a_whole_pipeline_on_a_lease);

/// The same on a connection of the client's own: behind WATCH everything takes a lease.
fn a_whole_pipeline_on_a_lease(flavor: Flavor) {
    let stage = Stage::start(flavor, 1, "write-timeout = \"5s\"");
    let mut client = stage.client("tcp");
    client.deadline(Duration::from_secs(60));
    client.expect(&["WATCH", "other"], "+OK\r\n");
    write_then_read(&mut client, "k", 2000, 10 * 1024);
}

/// A client that is blocked, or waits for a limit, while it writes.
#[test]
fn a_whole_pipeline_behind_a_command_that_waits() {
    let stage = Stage::start(Flavor::Valkey, 1, "");
    let mut client = stage.client("tcp");
    client.deadline(Duration::from_secs(60));
    let value = "x".repeat(10 * 1024);
    let mut requests = encode(&["BLPOP", "queue", "0"]);
    for _ in 0..2000 {
        requests.extend(encode(&["ECHO", &value]));
    }
    // 20 MB are written whole while nothing unblocks the client.
    client.send(&requests);
    stage.server.run(&["RPUSH", "queue", "job"]);
    client.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    for _ in 0..2000 {
        assert_eq!(client.reply().len(), "$10240\r\n\r\n".len() + value.len());
    }
}

/// A few bytes of requests must not make many bytes of replies wait: nothing more is run for a client that does not read.
#[test]
fn what_is_read_ahead_is_not_run() {
    let stage = Stage::start(Flavor::Valkey, 1, "write-timeout = \"2s\"");
    stage.server.run(&["SET", "large", &"x".repeat(512 * 1024)]);
    let before = stage.proxy.resident_bytes();
    let mut client = stage.client("tcp");
    client.expect(&["GET", "missing"], "$-1\r\n");
    client.send(encode(&["GET", "large"]).repeat(10_000));
    let mut other = stage.proxy.client();
    let mut most = 0;
    for _ in 0..100 {
        other.expect(&["PING"], "+PONG\r\n");
        most = most.max(stage.proxy.resident_bytes());
        thread::sleep(Duration::from_millis(10));
    }
    let ran = stage.server.run_text(&["INFO", "commandstats"]);
    let gets =
        ran.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls=")?.split(',').next()?.parse().ok());
    assert!(gets.is_some_and(|calls: usize| calls < 2000), "{gets:?} of 10,000 were run");
    assert!(most - before < 256 * 1024 * 1024, "{} bytes more are resident", most - before);
}
