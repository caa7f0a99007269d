//! CLIENT MAINT_NOTIFICATIONS: what clients hear of a failover and of a drain.

use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const NEEDS_RESP3: &str = "-ERR respgate: CLIENT MAINT_NOTIFICATIONS needs RESP3 (HELLO 3)\r\n";
const SYNTAX: &str = "-ERR syntax error\r\n";

/// The client speaks RESP3.
fn hello(mut client: Client) -> Client {
    assert!(client.call(&["HELLO", "3"]).starts_with(b"%"));
    client
}

/// The client asks for notifications, with an endpoint of this type in MOVING.
fn notified(client: Client, endpoint: &str) -> Client {
    let mut client = hello(client);
    client.expect(&["CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", endpoint], "+OK\r\n");
    client
}

/// The words of a push whose elements are words and numbers.
fn words(push: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(push);
    assert!(text.starts_with('>'), "{text}");
    let lines = text.split("\r\n").skip(1).filter(|line| !line.starts_with('$') && !line.is_empty());
    lines.map(|line| line.trim_start_matches(':').to_owned()).collect()
}

#[test]
fn the_answers_to_the_command() {
    for flavor in Flavor::ALL {
        let server = Server::start(flavor);
        let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
        let mut client = proxy.client();
        let command = |more: &[&'static str]| [&["CLIENT", "MAINT_NOTIFICATIONS"], more].concat();
        client.expect(&command(&["ON"]), NEEDS_RESP3);
        client.expect(&command(&["OFF"]), "+OK\r\n");
        let mut client = hello(client);
        client.expect(&command(&["ON"]), "+OK\r\n");
        client.expect(&command(&["on", "Moving-Endpoint-Type", "None"]), "+OK\r\n");
        client.expect(&command(&["off"]), "+OK\r\n");
        client.expect(&command(&["ON", "moving-endpoint-type", "anywhere"]), SYNTAX);
        client.expect(&command(&["ON", "moving-endpoint-type"]), SYNTAX);
        client.expect(&command(&["OFF", "moving-endpoint-type", "none"]), SYNTAX);
        client.expect(&["MULTI"], "+OK\r\n");
        let refused = client.call(&command(&["ON"]));
        assert!(refused.starts_with(b"-ERR respgate: commands about the connection"));
        assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT"));
    }
}

/// Clients that asked hear of it between their replies, whatever they do; clients that did not ask, or no longer,
/// hear nothing.
#[test]
fn a_failover() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(flavor) });
        deployment.wait_until_redundant();
        let mut proxy = Proxy::start_with(&deployment.url(), workers, &[]);
        proxy.allow_log("\"WARN\"");
        let mut busy = notified(proxy.client(), "external-ip");
        let mut idle = notified(proxy.client(), "none");
        let mut subscriber = notified(proxy.client(), "none");
        assert!(subscriber.call(&["SUBSCRIBE", "news"]).starts_with(b">3\r\n$9\r\nsubscribe\r\n"));
        let mut silent = [hello(proxy.client()), notified(proxy.client(), "none"), proxy.client()];
        silent[1].expect(&["CLIENT", "MAINT_NOTIFICATIONS", "OFF"], "+OK\r\n");
        let value = "v".repeat(100_000);
        busy.expect(&["SET", "k", &value], "+OK\r\n");
        let reply = format!("${}\r\n{value}\r\n", value.len());

        let failover = deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
        assert_eq!(failover, "+OK\r\n");
        let (mut heard, deadline) = (Vec::new(), Instant::now() + wait::PATIENCE);
        while heard.iter().all(|push: &Vec<String>| push[0] != "FAILED_OVER") {
            assert!(Instant::now() < deadline, "{heard:?}");
            busy.send_command(&["GET", "k"]);
            loop {
                let frame = busy.reply();
                if frame == reply.as_bytes() {
                    break;
                }
                heard.push(words(&frame));
            }
        }
        let check = |heard: &[Vec<String>]| {
            let [begin, end] = [&heard[0], &heard[1]];
            let number = |word: &String| word.parse::<u64>().expect("a number");
            assert_eq!((begin[0].as_str(), begin.len()), ("FAILING_OVER", 3), "{heard:?}");
            assert_eq!((end[0].as_str(), end.len()), ("FAILED_OVER", 2), "{heard:?}");
            assert!(number(&begin[1]) < number(&end[1]), "{heard:?}");
            assert!((1..=60).contains(&number(&begin[2])), "{heard:?}");
        };
        check(&heard);
        for client in [&mut idle, &mut subscriber] {
            check(&[words(&client.reply()), words(&client.reply())]);
        }
        for client in &mut silent {
            client.expect(&["PING"], "+PONG\r\n");
        }
    }
}

/// A client that connects while there is no primary learns of it at once.
#[test]
fn a_client_that_connects_during_a_failover() {
    let mut server = Server::start(Flavor::Valkey);
    let mut proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    proxy.allow_log("\"WARN\"");
    let mut first = notified(proxy.client(), "none");
    server.crash();
    first.send_command(&["SET", "k", "v"]);
    assert_eq!(words(&first.reply())[0], "FAILING_OVER");
    let mut second = notified(proxy.client(), "none");
    assert_eq!(words(&second.reply())[0], "FAILING_OVER");
    server.restart(&[]);
    let replies = [first.reply(), first.reply()];
    assert!(replies.contains(&b"+OK\r\n".to_vec()), "{replies:?}");
    assert!(replies.iter().any(|frame| frame.starts_with(b">2\r\n$11\r\nFAILED_OVER")), "{replies:?}");
    assert_eq!(words(&second.reply())[0], "FAILED_OVER");
}

/// Clients that are asked to move keep their connections for the time that MOVING names. The others are closed at
/// once.
#[test]
fn a_drain() {
    for workers in [1, 2] {
        let server = Server::start(Flavor::Valkey);
        let url = format!("redis://127.0.0.1:{}", server.port);
        let mut proxy = Proxy::start_with(&url, workers, &["--drain-timeout", "4500ms"]);
        let mut moving: Vec<_> = (0..4).map(|_| notified(proxy.client(), "none")).collect();
        assert!(moving[3].call(&["SUBSCRIBE", "news"]).starts_with(b">3\r\n$9\r\nsubscribe\r\n"));
        // It asks for an endpoint, and the listener has none to name.
        let mut others = [
            notified(proxy.client(), "internal-ip"),
            hello(proxy.client()),
            notified(proxy.client(), "none"),
        ];
        others[2].expect(&["RESET"], "+RESET\r\n");
        let began = Instant::now();
        proxy.signal("TERM");
        let told: Vec<_> = moving.iter_mut().map(|client| words(&client.reply())).collect();
        assert_eq!((&*told[0][0], &told[0][2..]), ("MOVING", &["3".to_owned(), "_".to_owned()][..]));
        assert!(told.iter().all(|other| *other == told[0]), "every client hears the same: {told:?}");
        for client in &mut others {
            assert_eq!(client.rest(), b"");
        }
        assert!(began.elapsed() < Duration::from_secs(3), "the others waited for those that move");
        moving[0].expect(&["SET", "k", "v"], "+OK\r\n");
        // One leaves, and the others are closed when their time has passed.
        drop(moving.remove(1));
        for client in &mut moving {
            assert_eq!(client.rest(), b"");
        }
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert!(proxy.wait_for_exit().success());
    }
}

#[test]
fn a_drain_with_an_endpoint() {
    let server = Server::start(Flavor::Redis);
    let port = free_port();
    let mut proxy = Proxy::start_file(
        1,
        &format!(
            "drain-timeout = \"3s\"\n[listeners.app]\naddress = \"127.0.0.1:{port}\"\nmoving-endpoint = \"cache.example:6380\"\n\
             [upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
            server.port
        ),
    );
    let mut named = notified(Client::connect(port), "external-fqdn");
    let mut unnamed = notified(Client::connect(port), "none");
    proxy.signal("TERM");
    assert_eq!(words(&named.reply())[2..], ["2", "cache.example:6380"]);
    assert_eq!(words(&unnamed.reply())[2..], ["2", "_"]);
    drop((named, unnamed));
    assert!(proxy.wait_for_exit().success());
}
