//! Requests that are not canonical: each gets the server's own protocol error, or is answered as the server would.

use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

/// Both the server and respgate close the connection, with the same words.
#[test]
fn malformed_headers_close_the_connection() {
    let pair = Pair::start(Flavor::Valkey);
    for header in ["*+1", "*05", "*-0", "* 1", "*1 ", "*0x1", "*", "*2147483648", "*99999999999999999999"] {
        pair.compare_until_closed(format!("PING\r\n{header}\r\n$4\r\nPING\r\n"));
    }
    for length in
        ["$+4", "$04", "$-0", "$ 4", "$4 ", "$", "$-1", "$536870913", "$x", ":4", "PING", "*1", "%1", "\n"]
    {
        pair.compare_until_closed(format!("*1\r\n{length}\r\nPING\r\n"));
    }
}

#[test]
fn unbalanced_quotes_close_the_connection() {
    let pair = Pair::start(Flavor::Valkey);
    for line in ["GET \"a\r\n", "GET 'a\r\n", "GET \"a\\\r\n"] {
        pair.compare_until_closed(line);
    }
}

#[test]
fn an_endless_line_closes_the_connection() {
    let pair = Pair::start(Flavor::Valkey);
    pair.compare_until_closed("x".repeat(70_000));
    // respgate need not read 64 KiB of digits to know that this is no number.
    for start in ["*", "*1\r\n$"] {
        let mut client = pair.proxy.client();
        client.send(format!("{start}{}", "1".repeat(70_000)));
        assert!(client.rest().starts_with(b"-ERR Protocol error"));
    }
}

/// The server takes these; a strict reader must not, for what follows could be read in two ways.
#[test]
fn lines_that_the_server_reads_loosely_are_refused() {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let nul_line = [b"PING \0\r\n".as_slice(), b"PING\r\n"].concat();
    let long_line = format!("PING {}\r\n", "x".repeat(70_000)).into_bytes();
    let loose: [&[u8]; 10] = [
        b"*1\rX$4\r\nPING\r\n",
        b"*1\r\n$4\rXPING\r\n",
        b"*1\r\n$4\r\nPINGXX*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$4\r\nECHO\r\n$3\r\nabcd\r\n",
        b"*1\0\r\n$4\r\nPING\r\n",
        &nul_line,
        &long_line,
        // Valkey 9.1 joins what stands behind a quote to the quoted text; other servers refuse it.
        b"PING 'it''s'\r\n",
        b"PING \"x\"y\r\n",
        b"PING 'x'y\r\n",
    ];
    for bytes in loose {
        let mut client = proxy.client();
        client.send(bytes);
        let answer = client.rest();
        assert!(
            answer.starts_with(b"-ERR Protocol error") && answer.ends_with(b"\r\n"),
            "{} was answered by {}",
            bytes[..bytes.len().min(80)].escape_ascii(),
            answer.escape_ascii()
        );
        assert_eq!(answer.iter().filter(|byte| **byte == b'\n').count(), 1, "one error, nothing after it");
    }
}

#[test]
fn empty_requests_are_ignored() {
    let pair = Pair::start(Flavor::Valkey);
    for bytes in ["*0\r\n*-5\r\nPING\r\n", "\r\n\n\r\nPING\r\n", "*-1\r\n*1\r\n$4\r\nPING\r\n"] {
        pair.compare_bytes(bytes, 1);
    }
}

#[test]
fn unknown_names_are_answered() {
    let pair = Pair::start(Flavor::Valkey);
    let commands: [&[&str]; 9] = [
        &[""],
        &["", "a"],
        &["+OK"],
        &[">1"],
        &["NOSUCH", "a", "b c", "d"],
        &["GET"],
        &["GET", "a", "b"],
        &["CONFIG"],
        &["OBJECT", "NOSUCH", "k"],
    ];
    for command in commands {
        pair.compare(|client| {
            client.call(command);
            client.call(&["PING"]);
        });
    }
    let long = "n".repeat(1000);
    pair.compare(|client| {
        client.call(&[&long, &long]);
    });
}

#[test]
fn inline_commands() {
    let pair = Pair::start(Flavor::Valkey);
    let lines = [
        "PING\r\n",
        "ping\n",
        "SET k 'it\\'s'\r\nGET k\r\n",
        "SET k \"a\\x41\\n\\r\\t\\b\\a\\\\z\"\r\nGET k\r\n",
        "SET k a\"b c\"\r\nGET k\r\n",
        "ECHO \"\"\r\n",
        "ECHO a\rb\r\n",
        "ECHO \x0ba\r\n",
    ];
    for line in lines {
        let frames = line.matches('\n').count();
        // A faulty line closes the connection on both sides: read what comes either way.
        pair.compare(|client| {
            client.send(format!("{line}QUIT\r\n"));
            client.closed();
        });
        assert!(frames > 0);
    }
}

#[test]
fn requests_in_pieces() {
    let pair = Pair::start(Flavor::Valkey);
    let bytes = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\nal\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nECHO x\r\n";
    pair.compare(|client| {
        for byte in bytes.bytes() {
            client.send([byte]);
        }
        client.replies(3);
    });
    for cut in 1..bytes.len() {
        pair.compare(|client| {
            client.send(&bytes[..cut]);
            client.send(&bytes[cut..]);
            client.replies(3);
        });
    }
}

/// One client's fault is nobody else's: others on the same shared connection go on.
#[test]
fn other_clients_do_not_notice() {
    let pair = Pair::start(Flavor::Valkey);
    let mut other = pair.proxy.client();
    for number in 0..50 {
        let mut hostile = pair.proxy.client();
        hostile.send(format!("GET k{number}\r\nSET k 1\r\n*1\r\n$-1\r\n"));
        let echo = format!("{number}");
        other.expect(&["ECHO", &echo], &format!("${}\r\n{echo}\r\n", echo.len()));
        drop(hostile);
    }
    other.expect(&["PING"], "+PONG\r\n");
}
