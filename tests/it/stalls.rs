//! No client keeps a worker from serving the others for long: what one request, one message or one storm of connections
//! takes is done in short polls, which respgate measures itself.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::certificates::Certificates;
use crate::support::client::{Client, encode};
use crate::support::compare::Pair;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::read;
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;
use crate::support::wait;

/// What a poll may take here, in seconds: an unoptimised binary shares a busy machine with other tests. A quadratic request
/// takes ten times as long; an optimised binary on a quiet machine stays under 20 ms. That slices are short is counted, not
/// timed, in the unit tests beside the code.
pub const POLL: f64 = 3.0;
/// Attempts, since a busy machine can suspend the worker's thread in the middle of a poll.
pub const ATTEMPTS: usize = 3;
const FAN_IN: &str = "[upstreams.main]\nurl = \"URL\"\n[tenants.all]\ndefault = true\npubsub = \"fan-in\"\n";

pub fn longest_poll(proxy: &Proxy) -> f64 {
    let text = proxy.http("/metrics");
    let samples = text.lines().filter_map(|line| line.strip_prefix("respgate_worker_longest_poll_seconds{"));
    samples.filter_map(|rest| rest.rsplit(' ').next()?.parse().ok()).fold(0.0, f64::max)
}

/// Runs `attack` against fresh processes of both servers, one with two workers, until the longest poll was short once.
#[track_caller]
fn polls_stay_short(toml: &str, attack: impl Fn(&Server, &Proxy)) {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let mut longest = Vec::new();
        while longest.last().is_none_or(|longest| *longest >= POLL) {
            assert!(longest.len() < ATTEMPTS, "{flavor:?}, {workers} workers: {longest:?} s");
            let server = Server::start(flavor);
            let url = format!("redis://127.0.0.1:{}", server.port);
            let proxy = Proxy::start_file(workers, &toml.replace("URL", &url));
            let victim = Victim::start(&proxy);
            attack(&server, &proxy);
            longest.push(longest_poll(&proxy));
            victim.end();
        }
        assert!(longest.iter().all(|longest| *longest > 0.0), "nothing was measured");
    }
}

/// A client that goes on with short commands, and must get every reply.
struct Victim {
    go: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Victim {
    fn start(proxy: &Proxy) -> Self {
        let go = Arc::new(AtomicBool::new(true));
        let (mut client, going) = (proxy.client(), go.clone());
        let thread = thread::spawn(move || {
            while going.load(Ordering::Relaxed) {
                client.expect(&["GET", "victim"], "$-1\r\n");
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { go, thread }
    }

    #[track_caller]
    fn end(self) {
        self.go.store(false, Ordering::Relaxed);
        self.thread.join().expect("the victim was served");
    }
}

/// Writes `request`, then an ECHO, and reads until its reply; returns how many bytes came before.
fn exchange(address: SocketAddr, request: &[u8]) -> usize {
    const END: &[u8] = b"$14\r\nthe-end-marker\r\n";
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a limit");
    let mut writer = stream.try_clone().expect("a second handle");
    let mut bytes = request.to_vec();
    bytes.extend_from_slice(&encode(&["ECHO", "the-end-marker"]));
    let writing = thread::spawn(move || writer.write_all(&bytes));
    let (mut chunk, mut tail, mut read) = (vec![0; 1 << 16], Vec::new(), 0);
    while !tail.ends_with(END) {
        let count = read::once(&mut stream, &mut chunk).expect("a reply");
        assert!(count > 0, "closed after {read} bytes: {}", tail.escape_ascii());
        tail.extend_from_slice(&chunk[..count]);
        read += count;
        let keep = tail.len().saturating_sub(END.len());
        tail.drain(..keep);
    }
    writing.join().expect("a writer").expect("all is written");
    read - END.len()
}

#[test]
fn a_transaction_of_many_selects() {
    let many = 100_000;
    let mut request = encode(&["MULTI"]);
    request.extend_from_slice(&encode(&["SELECT", "0"]).repeat(many));
    request.extend_from_slice(&encode(&["EXEC"]));
    let replies = "+OK\r\n".len() + many * "+QUEUED\r\n".len() + "*100000\r\n".len() + many * "+OK\r\n".len();
    polls_stay_short("[upstreams.main]\nurl = \"URL\"\n", |_, proxy| {
        assert_eq!(exchange(proxy.address(), &request), replies);
    });
}

on_both_servers!(a_large_reply_of_a_transaction_with_selects);

/// EXEC's reply is not kept until it is whole, whatever the transaction selects, and its last SELECT that worked holds.
fn a_large_reply_of_a_transaction_with_selects(flavor: Flavor) {
    let pair =
        Pair::start_file(flavor, "[limits]\nmax-reply-buffer = \"2MiB\"\n[upstreams.main]\nurl = \"URL\"\n");
    let big = "x".repeat(700_000);
    pair.compare(|client| {
        client.call(&["SET", "big", &big]);
        client.send(encode(&["MULTI"]));
        for command in [
            &["GET", "big"][..],
            &["SELECT", "5"],
            &["SET", "in5", "1"],
            &["SELECT", "0"],
            &["GET", "big"],
            &["GET", "big"],
            &["GET", "big"],
            &["GET", "big"],
            &["SELECT", "7"],
            &["SELECT", "99999"],
        ] {
            client.send(encode(command));
        }
        client.send(encode(&["EXEC"]));
        client.replies(12);
        client.pipeline(&[
            &["SET", "where", "seven"],
            &["SELECT", "5"],
            &["EXISTS", "in5"],
            &["EXISTS", "where"],
        ]);
        client.pipeline(&[&["SELECT", "7"], &["EXISTS", "where"]]);
    });
}

/// A name is compared, not hashed, however long it is; a line of many words is one buffer.
#[test]
fn requests_with_many_or_large_parts() {
    let many: Vec<String> = (0..100_000).map(|n| format!("s{n}")).collect();
    let mut xread = vec!["XREAD", "BLOCK", "1", "STREAMS"];
    xread.extend(many.iter().map(String::as_str));
    xread.extend(many.iter().map(|_| "$"));
    let requests = [
        encode(&["x".repeat(16 << 20).as_str(), "a"]),
        encode(&xread),
        format!("MGET {}\r\n", "a ".repeat(30_000)).repeat(10).into_bytes(),
    ];
    polls_stay_short("[upstreams.main]\nurl = \"URL\"\n", |server, proxy| {
        for request in &requests {
            let direct = exchange((Ipv4Addr::LOCALHOST, server.port).into(), request);
            assert_eq!(exchange(proxy.address(), request), direct);
        }
    });
}

/// 20,000 names are confirmed, and ended, a few at a time; also when the client leaves without ending them.
#[test]
fn fan_in_with_many_names() {
    let names: Vec<String> = (0..20_000).map(|n| format!("c{n:05}")).collect();
    let subscribe: Vec<&str> = std::iter::once("SUBSCRIBE").chain(names.iter().map(String::as_str)).collect();
    let subscribe = encode(&subscribe);
    let each = "*3\r\n$9\r\nsubscribe\r\n$6\r\nc00000\r\n:\r\n".len();
    let digits: usize = (1..=names.len()).map(|count| count.to_string().len()).sum();
    let confirmed = names.len() * each + digits;
    let ended = names.len() * (each + "un".len() + 1) + digits - 5 + 1;
    polls_stay_short(FAN_IN, |server, proxy| {
        let request = [&subscribe[..], &encode(&["UNSUBSCRIBE"])].concat();
        assert_eq!(exchange(proxy.address(), &request), confirmed + ended);
        let mut leaver = proxy.client();
        leaver.send(&subscribe);
        leaver.reply();
        drop(leaver);
        wait::until("what the clients were subscribed to, to be ended", || {
            proxy.metric("respgate_fanin_channels", &[]) == 0.0
                && server.run_text(&["PUBSUB", "CHANNELS"]) == "*0\r\n"
        });
    });
}

/// Messages reach thousands of subscribers a few at a time, small ones and large ones, all of them and in order.
#[test]
fn fan_in_with_many_subscribers() {
    const SUBSCRIBERS: usize = 500;
    let bodies: Vec<String> =
        (0..20).map(|n| format!("message {n:02}")).chain(["x".repeat(100_000)]).collect();
    let message =
        |body: &String| format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{body}\r\n", body.len());
    let expected: Vec<u8> = bodies.iter().map(message).collect::<String>().into_bytes();
    polls_stay_short(FAN_IN, |server, proxy| {
        let mut subscribers: Vec<Client> = (0..SUBSCRIBERS)
            .map(|_| {
                let mut client = proxy.client();
                client.send_command(&["SUBSCRIBE", "news"]);
                client
            })
            .collect();
        for client in &mut subscribers {
            client.expect_reply("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        }
        for body in &bodies {
            server.run(&["PUBLISH", "news", body]);
        }
        for client in &mut subscribers {
            let heard: Vec<u8> = bodies.iter().flat_map(|_| client.reply()).collect();
            assert!(heard == expected, "{} of {} bytes", heard.len(), expected.len());
        }
    });
}

/// A connection from another address of this machine.
fn connect_from(source: [u8; 4], port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of loopback");
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a limit");
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut line = [0; 256];
    let _ = stream.write_all(b"PING\r\n");
    let count = read::once(&mut stream, &mut line).unwrap_or(0);
    String::from_utf8_lossy(&line[..count]).into_owned()
}

/// A source that opens more connections than it may waits, and then is refused; other sources and open connections are served.
#[test]
fn a_source_that_opens_too_many_connections() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let server = Server::start(flavor);
        let toml = format!(
            "[limits]\nconnects-per-second = 10\nconnects-burst = 20\nconnects-exempt = [\"127.0.0.1/32\"]\n\
             [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
            server.port
        );
        let mut proxy = Proxy::start_file(workers, &toml);
        proxy.allow_log("one source opens more than connects-per-second");
        let victim = Victim::start(&proxy);
        let began = Instant::now();
        let storm: Vec<TcpStream> = (0..200).map(|_| connect_from([127, 0, 0, 5], proxy.port)).collect();
        let answers: Vec<String> = storm.into_iter().map(answer).collect();
        let allowed = 20.0 + 10.0 * (1.0 + began.elapsed().as_secs_f64()) + 1.0;
        let served = answers.iter().filter(|answer| *answer == "+PONG\r\n").count();
        assert!(served >= 21 && (served as f64) <= allowed, "{served} of 200 served, {allowed} allowed");
        // A reset may overtake the line.
        let told = "-ERR respgate: too many new connections from this address";
        let refused = |answer: &&String| answer.is_empty() || answer.starts_with(told);
        assert_eq!(answers.iter().filter(refused).count(), 200 - served);
        assert!(answers.iter().any(|answer| answer.starts_with(told)));
        assert_eq!(proxy.metric("respgate_connects_refused_total", &["main"]), (200 - served) as f64);
        assert!(proxy.metric("respgate_connects_delayed_total", &["main"]) >= 1.0);
        assert_eq!(answer(connect_from([127, 0, 0, 6], proxy.port)), "+PONG\r\n", "another source");
        victim.end();
    }
}

/// By default loopback is exempt: after a restart or a failover, all clients of a sidecar come at once.
#[test]
fn a_thousand_clients_of_a_sidecar_come_at_once() {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 2, &[]);
    for _ in 0..3 {
        let clients: Vec<TcpStream> = (0..1000).map(|_| connect_from([127, 0, 0, 1], proxy.port)).collect();
        assert!(clients.into_iter().map(answer).all(|answer| answer == "+PONG\r\n"));
    }
    assert_eq!(proxy.metric("respgate_connects_refused_total", &[]), 0.0);
    assert_eq!(proxy.metric("respgate_connects_delayed_total", &[]), 0.0);
}

/// The source is who the PROXY header names; the load balancer itself may open any number.
#[test]
fn sources_behind_a_load_balancer() {
    let server = Server::start(Flavor::Valkey);
    let port = free_port();
    let toml = format!(
        "[listeners.behind]\naddress = \"127.0.0.1:{port}\"\nproxy-protocol = [\"127.0.0.0/8\"]\n\
         connects-per-second = 1\nconnects-burst = 2\nconnects-exempt = []\n\
         [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
        server.port
    );
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("one source opens more than connects-per-second");
    let through = |source: &str| {
        let mut stream = connect_from([127, 0, 0, 1], port);
        let _ = stream.write_all(format!("PROXY TCP4 {source} 10.0.0.1 12345 6379\r\n").as_bytes());
        stream
    };
    for n in 1..=40 {
        assert_eq!(answer(through(&format!("192.0.2.{n}"))), "+PONG\r\n", "{n}");
    }
    let storm: Vec<TcpStream> = (0..20).map(|_| through("192.0.2.1")).collect();
    let served = storm.into_iter().map(answer).filter(|answer| answer == "+PONG\r\n").count();
    assert!((1..=15).contains(&served), "{served}");
    assert!(proxy.metric("respgate_connects_refused_total", &["behind"]) >= 5.0);
}

/// Clients that begin a handshake and do not go on keep nobody out.
#[test]
fn unfinished_handshakes_keep_nobody_out() {
    let certificates = Certificates::new();
    let server = Server::start(Flavor::Valkey);
    let port = free_port();
    let toml = format!(
        "[listeners.secure]\naddress = \"127.0.0.1:{port}\"\ntls-handshake-timeout = \"1h\"\n{}\
         [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
        certificates.pair("server"),
        server.port
    );
    let mut proxy = Proxy::start_file(1, &toml);
    for line in ["did not finish the TLS handshake", "left in the middle of the TLS handshake"] {
        proxy.allow_log(line);
    }
    let stuck: Vec<TcpStream> = (0..700)
        .map(|_| {
            let mut stream = connect_from([127, 0, 0, 1], port);
            stream.write_all(&[0x16]).expect("a first byte");
            stream
        })
        .collect();
    let mut client = Tls::new(&certificates).client(port);
    client.expect(&["PING"], "+PONG\r\n");
    assert!(proxy.metric("respgate_tls_handshake_failures_total", &["timeout"]) > 0.0);
    drop(stuck);
}
