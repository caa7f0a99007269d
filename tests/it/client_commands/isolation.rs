//! Every way in which one tenant might see or affect another, tried by a client of the tenant `blue` on `red`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{block, id_of, list};
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const READ_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// What a command of `blue` may answer.
enum Answer {
    /// Exactly this.
    Is(&'static str),
    /// A refusal that begins so.
    Refusal(&'static str),
    /// Anything that does not show `red`.
    Anything,
}

with_one_and_two_workers!(no_way_leads_from_one_tenant_to_another);

fn no_way_leads_from_one_tenant_to_another(workers: usize) {
    let (server, folder) = (Server::start(Flavor::Valkey), tempfile::tempdir().expect("a folder"));
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, token) in [("control", TOKEN), ("read", READ_TOKEN)] {
        fs::write(path(name), token).expect("a token");
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("permissions");
    }
    let ports = [free_port(), free_port()];
    let toml = format!(
        "control-socket = {:?}\ncontrol-token-file = {:?}\nread-token-file = {:?}\nlatency = \"commands\"\n\
         [listeners.red]\naddress = \"127.0.0.1:{}\"\ntenant = \"red\"\n\
         [listeners.blue]\naddress = \"127.0.0.1:{}\"\ntenant = \"blue\"\n[tenants.red]\n[tenants.blue]\n\
         [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
        path("socket"),
        path("control"),
        path("read"),
        ports[0],
        ports[1],
        server.port
    );
    let mut proxy = Proxy::start_file(workers, &toml);
    proxy.allow_log("control: refused");
    let connect = |port: u16, name: &str| {
        let mut client = Client::connect(port);
        client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
        client
    };
    let (mut red, mut worker) = (connect(ports[0], "red-client"), connect(ports[0], "red-worker"));
    red.expect(&["SET", "red:key", "v"], "+OK\r\n");
    block(&server, &mut worker, "red:queue");
    let (id, worker_id) = (id_of(&mut red, "red-client"), id_of(&mut red, "red-worker"));
    let addr = list(&mut red, &["NAME", "red-client"])[0].field("addr").to_owned();
    let shows_red = |text: &str| text.contains("red-") || text.contains("red:") || text.contains(&addr);

    // By commands.
    let mut blue = connect(ports[1], "blue-client");
    let denied = "-NOPERM ";
    for (words, expected) in [
        (&["CLIENT", "LIST"][..], Answer::Anything),
        (&["CLIENT", "LIST", "ID", &id, &worker_id], Answer::Is("$0\r\n\r\n")),
        (&["CLIENT", "LIST", "NAME", "red-client"], Answer::Is("$0\r\n\r\n")),
        (&["CLIENT", "LIST", "ADDR", &addr], Answer::Is("$0\r\n\r\n")),
        (&["CLIENT", "LIST", "FLAGS", "b"], Answer::Is("$0\r\n\r\n")),
        (&["CLIENT", "INFO"], Answer::Anything),
        (&["CLIENT", "KILL", &addr], Answer::Is("-ERR No such client\r\n")),
        (&["CLIENT", "KILL", "ID", &id, &worker_id], Answer::Is(":0\r\n")),
        (&["CLIENT", "KILL", "ADDR", &addr], Answer::Is(":0\r\n")),
        (&["CLIENT", "KILL", "USER", "default"], Answer::Is(":0\r\n")),
        (&["CLIENT", "KILL", "NAME", "red-client"], Answer::Is(":0\r\n")),
        (&["CLIENT", "KILL", "TYPE", "normal"], Answer::Is(":0\r\n")),
        (&["CLIENT", "KILL", "NOT-NAME", "blue-client", "SKIPME", "no"], Answer::Is(":0\r\n")),
        (&["CLIENT", "UNBLOCK", &worker_id], Answer::Is(":0\r\n")),
        (&["CLIENT", "UNBLOCK", &worker_id, "ERROR"], Answer::Is(":0\r\n")),
        (&["CLIENT", "PAUSE", "60000"], Answer::Refusal(denied)),
        (&["CLIENT", "PAUSE", "60000", "WRITE"], Answer::Refusal(denied)),
        (&["CLIENT", "UNPAUSE"], Answer::Refusal(denied)),
        (&["CLIENT", "TRACKING", "ON", "REDIRECT", &id], Answer::Refusal("-ERR ")),
        (&["MONITOR"], Answer::Refusal(denied)),
        (&["SLOWLOG", "GET", "-1"], Answer::Refusal(denied)),
        (&["ACL", "LOG"], Answer::Refusal(denied)),
        (&["INFO", "respgate"], Answer::Anything),
        (&["INFO", "respgate", "clients"], Answer::Anything),
    ] {
        let reply = String::from_utf8(blue.call(words)).expect("text");
        assert!(!shows_red(&reply), "{words:?}: {reply}");
        match expected {
            Answer::Is(text) => assert_eq!(reply, text, "{words:?}"),
            Answer::Refusal(start) => assert!(reply.starts_with(start), "{words:?}: {reply}"),
            Answer::Anything => assert!(reply.starts_with('$'), "{words:?}: {reply}"),
        }
    }
    let info = String::from_utf8(blue.call(&["INFO", "respgate"])).expect("text");
    assert!(info.contains("respgate_version") && !info.contains("respgate_clients"), "{info}");

    // By HTTP: to the listener of clients, which speaks none, and to the admin listener without a token.
    let ask = |port: u16, head: &str, body: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let request = format!(
            "{head} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // A listener of clients closes at the first line.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    for (action, body) in [
        ("clients", "{}"),
        ("kill", r#"{"tenant":"red"}"#),
        ("upstream-clients", "{}"),
        ("slow-log", "{}"),
        ("tap", "{}"),
        ("pause", r#"{"upstream":"main"}"#),
        ("reconnect", r#"{"upstream":"main"}"#),
        ("drain", "{}"),
        ("shutdown", "{}"),
    ] {
        let head = format!("POST /control/{action}");
        assert!(!ask(ports[1], &head, body).contains("HTTP/1.1 200"), "{action}");
        let answer = ask(proxy.admin, &head, body);
        assert!(answer.starts_with("HTTP/1.1 401") && !shows_red(&answer), "{action}: {answer}");
    }
    for page in ["/status", "/status/clients", "/status/history", "/slow", "/metrics", "/failovers"] {
        let answer = ask(proxy.admin, &format!("GET {page}"), "");
        assert!(answer.starts_with("HTTP/1.1 401") && !shows_red(&answer), "{page}: {answer}");
    }
    for open in ["/", "/livez", "/readyz"] {
        let answer = ask(proxy.admin, &format!("GET {open}"), "");
        assert!(answer.starts_with("HTTP/1.1 200") && !shows_red(&answer), "{open}: {answer}");
    }
    let mode = fs::metadata(path("socket")).expect("the control socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "other users of this machine cannot connect");

    // An operator who names one tenant reaches no other.
    let killed = Command::new(binary())
        .args(["ctl", "--socket", &path("socket"), "kill", "--tenant", "blue"])
        .output()
        .expect("respgate ctl");
    assert_eq!(String::from_utf8_lossy(&killed.stdout), "disconnected: 1\n");
    assert!(blue.rest().is_empty());

    // Nobody of `red` noticed anything.
    red.expect(&["GET", "red:key"], "$1\r\nv\r\n");
    red.expect(&["RPUSH", "red:queue", "x"], ":1\r\n");
    worker.expect_reply("*2\r\n$9\r\nred:queue\r\n$1\r\nx\r\n");
}
