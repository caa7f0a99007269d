//! respgate's own users.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

fn hash(password: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_respgate"))
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("respgate");
    child.stdin.take().expect("its input").write_all(password.as_bytes()).expect("the password");
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn clients_authenticate_to_respgate() {
    let server = Server::start_with(Flavor::Valkey, &["--requirepass", "upstream"]);
    let file = format!(
        "[upstreams.main]\nurl = \"redis://:upstream@127.0.0.1:{}\"\nclient-auth = \"required\"\n\
         [tenants.shop]\nusers = [\"other\"]\n\
         [users.app]\npassword-hash = \"{}\"\ntenant = \"shop\"\n\
         [users.default]\npassword-hash = \"{}\"\n",
        server.port,
        hash("secret\n"),
        hash("plain"),
    );
    for workers in [1, 2] {
        let proxy = Proxy::start_file(workers, &file);
        let mut client = proxy.client();
        client.expect(&["GET", "k"], "-NOAUTH Authentication required.\r\n");
        client.expect(&["AUTH", "app", "wrong"], WRONG);
        client.expect(&["GET", "k"], "-NOAUTH Authentication required.\r\n");
        client.expect(&["AUTH", "upstream"], WRONG);
        client.send("AUTH app secret\r\nGET k\r\nCLIENT INFO\r\n");
        client.expect_reply("+OK\r\n");
        client.expect_reply("$-1\r\n");
        let info = String::from_utf8_lossy(&client.reply()).into_owned();
        assert!(info.contains(" user=app "), "{info}");
        assert_eq!(proxy.metric("respgate_tenant_clients", &["shop"]), 1.0);
        client.expect(&["AUTH", "app", "wrong"], WRONG);
        client.expect(&["SET", "k", "v"], "+OK\r\n");
        let hello = client.call(&["HELLO", "3", "AUTH", "default", "plain"]);
        assert!(hello.starts_with(b"%7\r\n"));
        assert_eq!(proxy.metric("respgate_tenant_clients", &["shop"]), 0.0);
        client.expect(&["RESET"], "+RESET\r\n");
        client.expect(&["AUTH", "plain"], "+OK\r\n");
        client.expect(&["GET", "k"], "$1\r\nv\r\n");
        server.client().call(&["AUTH", "upstream"]);
        client.expect(&["DEL", "k"], ":1\r\n");
        assert_eq!(proxy.metric("respgate_auth_refused_total", &[]), 3.0);
        assert!(!proxy.log().contains("secret") && !proxy.log().contains("argon2"));
    }
}

/// A storm of connections is hashed once, and guesses are slowed down without touching those who are known.
#[test]
fn storms_and_guesses() {
    let server = Server::start(Flavor::Valkey);
    let file = format!(
        "[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nclient-auth = \"required\"\n\
         [users.app]\npassword-hash = \"{}\"\n",
        server.port,
        hash("secret"),
    );
    let proxy = Proxy::start_file(2, &file);
    let mut first = proxy.client();
    let began = Instant::now();
    first.expect(&["AUTH", "app", "secret"], "+OK\r\n");
    let once = began.elapsed();
    let began = Instant::now();
    let mut clients: Vec<_> = (0..200).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.send("AUTH app secret\r\n"));
    clients.iter_mut().for_each(|client| client.expect_reply("+OK\r\n"));
    assert!(began.elapsed() < once * 50 + Duration::from_secs(1), "{:?} and {once:?}", began.elapsed());
    let mut guesser = proxy.client();
    let answers: Vec<_> = (0..12).map(|_| guesser.call(&["AUTH", "app", "guess"])).collect();
    assert_eq!(answers[0], WRONG.as_bytes());
    let slowed = "-ERR respgate: too many wrong passwords came from this address; retry in ";
    assert!(answers.iter().any(|answer| answer.starts_with(slowed.as_bytes())));
    first.expect(&["AUTH", "app", "secret"], "+OK\r\n");
}
