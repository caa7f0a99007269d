//! What a tenant may not do: denied in the server's words, and never sent to it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use respgate::command::{Flags, TABLE};

use crate::support::client::{Client, encode};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Said, Scripted, as_primary};
use crate::support::servers::{Flavor, Server};

/// respgate whose listener's clients are a tenant with these keys, and the listener's port.
fn start(server: &Server, workers: usize, tenant: &str) -> (Proxy, u16) {
    let port = free_port();
    let proxy = Proxy::start_file(
        workers,
        &format!(
            "[listeners.app]\naddress = \"127.0.0.1:{port}\"\nadmin-commands = \"allow\"\ntenant = \"t\"\n\
             [tenants.t]\n{tenant}\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
            server.port
        ),
    );
    (proxy, port)
}

/// Requests, in canonical form or as bytes, and how many frames each is answered with.
enum Say {
    Words(&'static str),
    Bytes(&'static str),
}

use Say::{Bytes, Words};

fn converse(port: u16, version: &str, requests: &[Say]) -> Vec<String> {
    let mut client = Client::connect(port);
    client.expect(&["AUTH", "limited", "x"], "+OK\r\n");
    client.call(&["HELLO", version]);
    requests
        .iter()
        .map(|request| {
            let shown = match request {
                Words(words) => {
                    client.send_command(&words.split(' ').collect::<Vec<_>>());
                    words
                }
                Bytes(bytes) => {
                    client.send(bytes);
                    bytes
                }
            };
            format!("{} -> {}", shown.escape_debug(), client.reply().escape_ascii())
        })
        .collect()
}

/// Returns a reply without the setting that respgate names behind the server's words.
fn without_setting(line: &str) -> String {
    let Some((words, rest)) = line.split_once(" (respgate: ") else { return line.to_owned() };
    let (_, end) = rest.split_once(" of tenant \\'t\\')").expect("the tenant's name");
    assert!(line.contains("NOPERM ") && end == "\\r\\n", "{line}");
    format!("{words}{end}")
}

/// The same conversation with the server, whose ACL holds the user to the rules, and through respgate, whose policy
/// does and whose server then lets that user do anything.
fn compare(rules: &[&str], keys: &str, prefix: &str, requests: &[Say]) {
    for flavor in Flavor::ALL {
        let server = Server::start(flavor);
        let quoted: Vec<String> = rules.iter().map(|rule| format!("{rule:?}")).collect();
        let (proxy, port) = start(&server, 1, &format!("commands = [{}]\n{keys}", quoted.join(", ")));
        for version in ["2", "3"] {
            server.run(&["FLUSHALL"]);
            let (keys, channels) = (format!("~{prefix}*"), format!("&{prefix}*"));
            let mut user = vec!["ACL", "SETUSER", "limited", "reset", "on", ">x", &keys, &channels];
            user.extend(rules);
            assert_eq!(server.run_text(&user), "+OK\r\n");
            let direct = converse(server.port, version, requests);
            server.run(&["FLUSHALL"]);
            server.run(&["ACL", "SETUSER", "limited", "+@all", "~*", "&*"]);
            let through: Vec<String> =
                converse(port, version, requests).iter().map(|line| without_setting(line)).collect();
            assert_eq!(through, direct, "RESP{version} of {}", flavor.name());
        }
        drop(proxy);
    }
}

#[test]
fn denials_are_in_the_servers_words() {
    compare(
        &["+@all", "-@dangerous", "-@scripting", "+config|get"],
        "key-prefixes = [\"app1:\"]\nchannel-prefixes = [\"app1:\"]",
        "app1:",
        &[
            Words("KEYS *"),
            Words("flushALL"),
            // Redis 8.0 would take it for CONFIG SET behind a CONFIG SET.
            Words("CONFIG|SET a b"),
            Words("config set a b"),
            Words("Config Get maxmemory"),
            Words("GET other"),
            Words("SET app1:a 1"),
            Words("GET app1:a"),
            Words("MSET app1:a 1 b 2"),
            Words("MSET app1:a"),
            Words("GET"),
            Words("NOSUCH a"),
            Words("OBJECT NOSUCH a"),
            Words("ZUNIONSTORE z 1 app1:a"),
            Words("BLPOP app1:l other 0"),
            Words("XREAD STREAMS other 0"),
            Words("OBJECT ENCODING other"),
            Words("EVAL return 0"),
            Words("PUBLISH x y"),
            Words("PUBLISH app1:x y"),
            Words("PSUBSCRIBE *"),
            Bytes("get other\r\n"),
            Bytes("\"k\\x65ys\" *\r\n"),
            Words("MULTI"),
            Words("GET other"),
            Words("SET app1:a 2"),
            Words("EXEC"),
            Words("MULTI"),
            Words("KeYs *"),
            Words("PUBLISH other x"),
            Words("DISCARD"),
            Words("MULTI"),
            Words("INCR app1:a"),
            Words("EXEC"),
            Words("EXEC"),
            Words("WATCH app1:a other"),
            Words("SUBSCRIBE other"),
            Words("SUBSCRIBE app1:a"),
            Words("SUBSCRIBE other"),
            Words("KEYS *"),
        ],
    );
}

#[test]
fn what_respgate_answers_itself_can_be_denied() {
    compare(
        &[
            "+@all",
            "-ping",
            "-echo",
            "-select",
            "-client|id",
            "-exec",
            "-discard",
            "-unwatch",
            "-subscribe",
            "-unsubscribe",
        ],
        "",
        "",
        &[
            Words("PING"),
            Words("echo x"),
            Words("SELECT 1"),
            Words("CLIENT ID"),
            Words("CLIENT GETNAME"),
            Words("EXEC"),
            Words("DISCARD"),
            Words("UNWATCH"),
            Words("SUBSCRIBE x"),
            Words("UNSUBSCRIBE x"),
            Words("MULTI"),
            Words("SET a 1"),
            Words("PING"),
            Words("SELECT 1"),
            Words("UNWATCH"),
            Words("DISCARD"),
            Words("EXEC"),
            Words("GET a"),
            Words("MULTI"),
            Words("SET a 2"),
            Words("EXEC"),
            Words("GET a"),
            Words("WATCH a"),
            Words("UNWATCH"),
            Words("GET a"),
        ],
    );
}

/// What a server has been asked to run since its last CONFIG RESETSTAT, run or not.
fn asked(server: &Server) -> BTreeSet<String> {
    let stats = server.run_text(&["INFO", "commandstats"]);
    let names = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    names.map(str::to_ascii_uppercase).collect()
}

/// How each request is written.
fn forms(words: &[String]) -> Vec<Vec<u8>> {
    let mut odd: Vec<String> = words.to_vec();
    for word in odd.iter_mut().take(2) {
        *word =
            word.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_lowercase() } else { c }).collect();
    }
    let inline = format!("{}\r\n", odd.join(" ")).into_bytes();
    let mut with_nul = words.to_vec();
    with_nul[0].push_str("\0x");
    vec![encode(words), encode(&odd), inline, encode(&with_nul)]
}

#[test]
fn nothing_denied_reaches_the_server() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let server = Server::start(flavor);
        let rules = "commands = [\"+multi\", \"+exec\", \"+set\"]";
        let (proxy, port) = start(&server, workers, rules);
        // What respgate asks for itself is known once its connections of both lanes are open.
        let mut client = Client::connect(port);
        client.expect(&["SET", "a", "1"], "+OK\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["EXEC"], "*0\r\n");
        let unknown = "-ERR unknown command 'NOSUCH', with args beginning with: \r\n";
        client.expect(&["NOSUCH"], unknown);
        let mut expected = asked(&server);
        expected.extend(["SET", "MULTI", "EXEC", "DISCARD", "INFO", "CONFIG|RESETSTAT"].map(str::to_owned));
        for own in ["GET", "KEYS", "CONFIG|SET", "EVAL", "PUBLISH", "BLPOP", "SUBSCRIBE"] {
            assert!(!expected.contains(own), "{own}: this test proves nothing");
        }
        server.run(&["CONFIG", "RESETSTAT"]);
        let mut refused = 0;
        let denied = TABLE
            .iter()
            .filter(|spec| !["MULTI", "EXEC", "SET"].contains(&spec.name))
            .filter(|spec| !spec.flags.contains(Flags::NO_AUTH));
        let unknown = ["NOSUCH", "CONFIG|NOSUCH", "CLIENT|NOSUCH", "JSON.GET"];
        for name in denied.map(|spec| spec.name).chain(unknown) {
            let mut words: Vec<String> = name.split('|').map(str::to_owned).collect();
            words.extend(["a", "1", "STREAMS"].map(str::to_owned));
            for form in forms(&words) {
                let mut client = Client::connect(port);
                client.send(&form);
                client.send(encode(&["MULTI"]));
                client.send(&form);
                client.send(encode(&["EXEC"]));
                let replies = [client.reply(), client.reply(), client.reply(), client.reply()];
                let [outside, multi, inside, exec] =
                    replies.map(|reply| String::from_utf8_lossy(&reply).into_owned());
                let what = form.escape_ascii();
                let refuses =
                    |reply: &str| reply.starts_with("-NOPERM ") || reply.starts_with("-ERR unknown ");
                assert!(refuses(&outside), "{what}: {outside}");
                assert_eq!(multi, "+OK\r\n", "{what}");
                assert!(refuses(&inside), "{what}: {inside}");
                assert_eq!(
                    exec, "-EXECABORT Transaction discarded because of previous errors.\r\n",
                    "{what}"
                );
                refused += 1;
            }
        }
        assert!(refused > 1500, "{refused} requests");
        let reached: Vec<String> = asked(&server).difference(&expected).cloned().collect();
        assert!(reached.is_empty(), "the server was asked for {reached:?}");
        drop(proxy);
    }
}

/// Through a blocked connection, a subscribed one and one with a transaction: the keys of every request count.
#[test]
fn no_lane_leads_to_another_tenants_keys() {
    let server = Server::start(Flavor::Valkey);
    let keys = "key-prefixes = [\"app1:\"]\nscripts = \"declared-keys\"";
    let (_proxy, port) = start(&server, 1, keys);
    server.run(&["SET", "other", "secret"]);
    let denied = "-NOPERM No permissions to access a key (respgate: key-prefixes of tenant 't')\r\n";
    let mut client = Client::connect(port);
    client.expect(&["WATCH", "app1:a"], "+OK\r\n");
    client.expect(&["GET", "other"], denied);
    client.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "other"], denied);
    client.expect(&["EVAL", "return KEYS[1]", "1", "app1:k"], "$6\r\napp1:k\r\n");
    client.expect(&["UNWATCH"], "+OK\r\n");
    // Behind a command that blocks, and large enough for a lease of its own.
    client.send_command(&["BLPOP", "app1:l", "0.05"]);
    client.send_command(&["GET", "other"]);
    client.send_command(&["SET", "other", &"x".repeat(100_000)]);
    client.send_command(&["SET", "app1:b", &"x".repeat(100_000)]);
    client.replies_are(&["*-1\r\n", denied, denied, "+OK\r\n"]);
    for (request, reply) in [
        ("SCAN 0", denied),
        ("KEYS app1:*", "*1\r\n$6\r\napp1:b\r\n"),
        (
            "RANDOMKEY",
            "-NOPERM User default has no permissions to run the 'randomkey' command (respgate: key-prefixes of tenant 't')\r\n",
        ),
        ("SORT app1:l BY other", "*0\r\n"),
        ("SORT app1:l GET other", denied),
        ("SORT app1:l STORE other", denied),
    ] {
        client.expect(&request.split(' ').collect::<Vec<_>>(), reply);
    }
    client.expect(&["HELLO", "9"], "-NOPROTO unsupported protocol version\r\n");
    assert_eq!(server.run_text(&["GET", "other"]), "$6\r\nsecret\r\n");
}

/// Other listeners' clients are held to nothing.
#[test]
fn a_policy_is_its_tenants_alone() {
    let server = Server::start(Flavor::Redis);
    let (proxy, port) = start(&server, 1, "read-only = true");
    // respgate words it as its server does.
    server.run(&["ACL", "SETUSER", "default", "-set"]);
    let told = server.run_text(&["SET", "a", "1"]);
    server.run(&["ACL", "SETUSER", "default", "+set"]);
    let denied = format!("{} (respgate: read-only of tenant 't')\r\n", told.trim_end());
    Client::connect(port).expect(&["SET", "a", "1"], &denied);
    proxy.client().expect(&["SET", "a", "1"], "+OK\r\n");
    Client::connect(port).expect(&["GET", "a"], "$1\r\n1\r\n");
    assert_eq!(proxy.metric("respgate_commands_refused_total", &[]), 1.0);
    assert_eq!(proxy.metric("respgate_commands_refused_total", &["reason=\"read-only\""]), 1.0);
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("refused a command")).expect("a line about it");
    assert!(line.contains("SET") && line.contains("read-only") && line.contains(&port.to_string()), "{line}");
}

/// A command that respgate's table lacks, and about which the server has not been asked yet: respgate asks, also for a client with a
/// connection of its own. The client is told what the server would say. Nothing of the command is sent, not even if the server cannot
/// be asked.
#[test]
fn what_is_not_known_yet_is_asked_and_not_sent() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mute = Arc::new(AtomicBool::new(true));
    let (listener, leaves) = (Arc::clone(&heard), Arc::clone(&mute));
    let server = Scripted::start(move |command| {
        let name = command[0].to_uppercase();
        listener.lock().expect("what was heard").push(name.clone());
        if name == "COMMAND" && leaves.load(Ordering::SeqCst) {
            return Said::Last(Vec::new());
        }
        Said::Bytes(as_primary(command).unwrap_or_else(|| b"+OK\r\n".to_vec()))
    });
    let proxy = Proxy::start_file(
        1,
        &format!(
            "[tenants.t]\ndefault = true\ncommands = [\"+@all\", \"-json.set\"]\nkey-prefixes = [\"t:\"]\n\
             [upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
            server.port
        ),
    );
    let heard = || heard.lock().expect("what was heard").clone();
    for told in
        ["-ERR respgate: respgate does not know this command and could not ask", "-ERR unknown command"]
    {
        let mut client = proxy.client();
        let unknown = |client: &mut Client| {
            for command in ["JSON.SET", "JSON.GET"] {
                let line = client.call(&[command, "t:k", "v"]);
                assert!(line.starts_with(told.as_bytes()), "{}", line.escape_ascii());
            }
        };
        client.expect(&["WATCH", "t:k"], "+OK\r\n");
        unknown(&mut client);
        client.expect(&["MULTI"], "+OK\r\n");
        unknown(&mut client);
        assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT "));
        assert!(heard().contains(&"COMMAND".to_owned()), "{:?}", heard());
        mute.store(false, Ordering::SeqCst);
    }
    assert!(!heard().iter().any(|name| name.starts_with("JSON")), "{:?}", heard());
    proxy
        .client()
        .expect(&["FLUSHALL"], "-NOPERM User default has no permissions to run the 'flushall' command (respgate: key-prefixes of tenant 't')\r\n");
    assert_eq!(proxy.metric("respgate_tenant_denied_total", &["tenant=\"t\""]), 1.0);
}

/// `admin-commands = "allow"` shows a confined tenant no password by which it could leave its confines.
#[test]
fn a_confined_tenant_is_shown_no_passwords() {
    for (flavor, keys) in [(Flavor::Valkey, "key-prefixes = [\"a:\"]"), (Flavor::Redis, "read-only = true")] {
        let server = Server::start(flavor);
        let (_proxy, port) = start(&server, 1, keys);
        let mut client = Client::connect(port);
        client.expect(&["CONFIG", "GET", "requirepass"], "*0\r\n");
        client.expect(&["CONFIG", "GET", "maxmemory"], "*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n");
        let all = String::from_utf8_lossy(&client.call(&["CONFIG", "GET", "*"])).into_owned();
        assert!(all.contains("maxmemory-policy") && !all.contains("requirepass"), "{all}");
    }
}
