use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::secret::Secret;
use crate::topology::{Address, ModuleInfo};

const HELLO2: &str = "*14\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.0.1\r\n$5\r\nproto\r\n:2\r\n\
    $2\r\nid\r\n:5\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*1\r\n\
    *4\r\n$4\r\nname\r\n$2\r\nbf\r\n$3\r\nver\r\n:20\r\n";
const HELLO3: &str = "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$7\r\nmodules\r\n*1\r\n\
    %2\r\n$4\r\nname\r\n$2\r\nbf\r\n$3\r\nver\r\n:20\r\n";
const PRIMARY: &str = "*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n";
const REPLICA: &str = "*5\r\n$5\r\nslave\r\n$9\r\nfe80::1:2\r\n:6379\r\n$9\r\nconnected\r\n:312\r\n";
const NOPERM: &str = "-NOPERM User app has no permissions to run the 'role' command\r\n";

/// Answers each write with the next text, whatever the write asks for; then stays silent.
async fn peer(mut stream: DuplexStream, answers: Vec<String>) -> Vec<u8> {
    let (mut asked, mut buf) = (Vec::new(), [0; 4096]);
    for answer in answers {
        let length = stream.read(&mut buf).await.unwrap();
        asked.extend_from_slice(&buf[..length]);
        asked.extend_from_slice(b"|");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return asked;
        }
    }
    // Reads until the other end closes the connection.
    while stream.read(&mut buf).await.is_ok_and(|length| length > 0) {}
    asked
}

struct Run {
    result: Result<Greeted, GreetError>,
    asked: String,
}

async fn run(greeting: Greeting<'_>, answers: &[&str]) -> Run {
    let (ours, theirs) = duplex(1 << 16);
    let server = tokio::spawn(peer(theirs, answers.iter().map(ToString::to_string).collect()));
    let mut control = Control::new(ours);
    let result = greet(&mut control, &greeting, Instant::now() + Duration::from_secs(1)).await;
    if result.is_ok() {
        assert_eq!(control.into_inner().1, "", "nothing is left over");
    } else {
        drop(control);
    }
    Run { result, asked: String::from_utf8(server.await.unwrap()).unwrap() }
}

fn plain(resp: Resp) -> Greeting<'static> {
    Greeting::new(None, resp, 0)
}

/// Returns the replies to the second write, up to the one to ROLE.
fn welcome(hello: &str, role: &str) -> String {
    format!("{hello}+OK\r\n+OK\r\n+PONG\r\n{role}")
}

#[tokio::test(start_paused = true)]
async fn a_primary_introduces_itself_in_either_version() {
    for (resp, hello, server, version) in
        [(Resp::V2, HELLO2, "valkey", "8.0.1"), (Resp::V3, HELLO3, "redis", "7.0.15")]
    {
        let run = run(plain(resp), &[&welcome(hello, PRIMARY)]).await;
        let greeted = run.result.unwrap();
        assert_eq!(greeted.role, Some(Role::Primary { offset: Some(3_129_659) }));
        let info = greeted.server.unwrap();
        assert_eq!((info.server.as_str(), info.version.as_str()), (server, version));
        assert_eq!(info.modules, [ModuleInfo { name: "bf".into(), version: 20, origin: None }]);
        assert_eq!(info.availability_zone, None);
        assert!(!run.asked.contains("AUTH") && !run.asked.contains("SELECT"));
    }
}

#[tokio::test(start_paused = true)]
async fn auth_travels_alone_and_select_last() {
    let credentials = Credentials { username: Some("app".into()), password: Secret::new("pw") };
    let greeting = Greeting::new(Some(&credentials), Resp::V2, 12);
    let second = format!("{}+OK\r\n", welcome(HELLO2, PRIMARY));
    let run = run(greeting, &["+OK\r\n", &second]).await;
    run.result.unwrap();
    assert!(run.asked.starts_with("*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$2\r\npw\r\n|"), "{:?}", run.asked);
    assert!(run.asked.ends_with("$6\r\nSELECT\r\n$2\r\n12\r\n|"), "{:?}", run.asked);
}

#[tokio::test(start_paused = true)]
async fn a_password_without_a_user_takes_the_short_form() {
    let credentials = Credentials { username: None, password: Secret::new("pw") };
    let greeting = Greeting { credentials: Some(&credentials), ..plain(Resp::V2) };
    let run = run(greeting, &["+OK\r\n", &welcome(HELLO2, PRIMARY)]).await;
    run.result.unwrap();
    assert!(run.asked.starts_with("*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n|"));
}

#[tokio::test(start_paused = true)]
async fn old_servers_and_narrow_users_are_served() {
    // Redis 5 knows neither HELLO nor CLIENT CAPA nor CLIENT SETINFO.
    let unknown = "-ERR unknown command\r\n";
    let answer = format!("{unknown}{unknown}{unknown}+PONG\r\n{PRIMARY}");
    let greeted = run(plain(Resp::V2), &[&answer]).await.result.unwrap();
    assert_eq!((greeted.server, greeted.role), (None, Some(Role::Primary { offset: Some(3_129_659) })));

    // First the ACL denies ROLE and allows INFO; then it denies both.
    let silent = HELLO2.replace("$6\r\nmaster", "$7\r\nreplica");
    let first = format!("{silent}{NOPERM}{NOPERM}{NOPERM}{NOPERM}");
    let info = "role:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:6379\r\nmaster_link_status:down\r\n";
    let bulk = format!("${}\r\n{info}\r\n", info.len());
    let greeted = run(plain(Resp::V2), &[&first, &bulk]).await.result.unwrap();
    assert_eq!(greeted.role, Some(Role::Replica { of: Address::tcp("10.0.0.7", 6379), connected: false }));
    let greeted = run(plain(Resp::V2), &[&first, NOPERM]).await.result.unwrap();
    assert_eq!(greeted.role, None);
}

#[tokio::test(start_paused = true)]
async fn other_roles_are_recognised() {
    let greeted = run(plain(Resp::V2), &[&welcome(HELLO2, REPLICA)]).await.result.unwrap();
    assert_eq!(greeted.role, Some(Role::Replica { of: Address::tcp("fe80::1:2", 6379), connected: true }));
    let sentinel = welcome(HELLO2, "*2\r\n$8\r\nsentinel\r\n*1\r\n$8\r\nmymaster\r\n");
    assert_eq!(run(plain(Resp::V2), &[&sentinel]).await.result.unwrap().role, Some(Role::Sentinel));
    assert_eq!(
        role_from_info("role:master\r\nmaster_repl_offset:7\r\n"),
        Some(Role::Primary { offset: Some(7) })
    );
    assert_eq!(role_from_info("# Server\r\n"), None);
}

#[tokio::test(start_paused = true)]
async fn refusals_keep_the_servers_line() {
    let credentials = Credentials { username: None, password: Secret::new("pw") };
    let with_auth = Greeting { credentials: Some(&credentials), ..plain(Resp::V2) };
    let line = "WRONGPASS invalid username-password pair or user is disabled.";
    let refused = run(with_auth, &[&format!("-{line}\r\n")]).await;
    assert!(
        matches!(&refused.result, Err(GreetError::AuthRefused(got)) if got == line),
        "{:?}",
        refused.result
    );
    assert!(!refused.asked.contains("HELLO"), "nothing follows a refused AUTH");

    let noauth = "NOAUTH Authentication required.";
    let answer = format!(
        "-NOAUTH HELLO must be called with the client already authenticated\r\n-{noauth}\r\n-{noauth}\r\n-{noauth}\r\n-{noauth}\r\n"
    );
    for resp in [Resp::V2, Resp::V3] {
        let result = run(plain(resp), &[&answer]).await.result;
        assert!(matches!(&result, Err(GreetError::AuthRequired(got)) if got == noauth), "{result:?}");
    }

    let line = "ERR DB index is out of range";
    let answer = format!("{}-{line}\r\n", welcome(HELLO2, PRIMARY));
    let result = run(Greeting { database: 99, ..plain(Resp::V2) }, &[&answer]).await.result;
    assert!(matches!(&result, Err(GreetError::Select(got)) if got == line), "{result:?}");

    let line = "NOPROTO unsupported protocol version";
    let result = run(plain(Resp::V3), &[&welcome(&format!("-{line}\r\n"), PRIMARY)]).await.result;
    assert!(matches!(&result, Err(GreetError::NoResp3(got)) if got == line), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_serve_now_differs_from_one_that_refuses() {
    let credentials = Credentials { username: None, password: Secret::new("pw") };
    let with_auth = Greeting { credentials: Some(&credentials), ..plain(Resp::V2) };
    for line in [
        "ERR max number of clients reached",
        "DENIED Redis is running in protected mode because",
        "LOADING Valkey is loading the dataset in memory",
    ] {
        for greeting in [plain(Resp::V2), plain(Resp::V3), with_auth] {
            let result = run(greeting, &[&format!("-{line}\r\n")]).await.result;
            assert!(matches!(&result, Err(GreetError::NotReady(got)) if got == line), "{result:?}");
        }
    }
    for line in ["LOADING x", "MASTERDOWN Link with MASTER is down"] {
        let answer = format!("{HELLO2}+OK\r\n+OK\r\n-{line}\r\n{PRIMARY}");
        let result = run(plain(Resp::V2), &[&answer]).await.result;
        assert!(matches!(&result, Err(GreetError::NotReady(got)) if got == line), "{result:?}");
    }
    // While a script runs, the server answers neither ROLE nor INFO with a role. INFO matters only if the ACL denies
    // ROLE and HELLO does not say that the node is the primary.
    let busy = "BUSY Redis is busy running a script.";
    let role = format!("{HELLO2}+OK\r\n+OK\r\n-{busy}\r\n-{busy}\r\n");
    let result = run(plain(Resp::V2), &[&role]).await.result;
    assert!(matches!(&result, Err(GreetError::NotReady(got)) if got == busy), "{result:?}");
    let silent = HELLO2.replace("$6\r\nmaster", "$7\r\nreplica");
    let info = [welcome(&silent, NOPERM), format!("-{busy}\r\n")];
    let result = run(plain(Resp::V2), &[&info[0], &info[1]]).await.result;
    assert!(matches!(&result, Err(GreetError::NotReady(got)) if got == busy), "{result:?}");

    for line in ["MISCONF Errors writing to the AOF file", "NOPERM this user"] {
        let answer = format!("{HELLO2}+OK\r\n+OK\r\n-{line}\r\n{PRIMARY}");
        run(plain(Resp::V2), &[&answer]).await.result.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn every_cut_and_every_silence_ends_in_time() {
    let credentials = Credentials { username: None, password: Secret::new("pw") };
    let greeting = Greeting::new(Some(&credentials), Resp::V3, 3);
    let second = format!("{}+OK\r\n", welcome(HELLO3, PRIMARY));
    let whole = format!("+OK\r\n{second}");
    for cut in 0..whole.len() {
        for hang_up in [true, false] {
            let (ours, mut theirs) = duplex(1 << 16);
            theirs.write_all(&whole.as_bytes()[..cut]).await.unwrap();
            let mut held = None;
            if hang_up {
                // The peer sends nothing more; what respgate writes still fits into the pipe.
                theirs.shutdown().await.unwrap();
            }
            held.replace(theirs);
            let started = Instant::now();
            let result = greet(&mut Control::new(ours), &greeting, started + Duration::from_secs(1)).await;
            match result {
                Err(GreetError::Control(ControlError::Closed | ControlError::Unanswered)) => assert!(hang_up),
                Err(GreetError::Control(ControlError::Timeout)) => assert!(!hang_up),
                other => panic!("after {cut} bytes: {other:?}"),
            }
            assert!(started.elapsed() <= Duration::from_secs(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_a_protocol_error() {
    let result = run(plain(Resp::V2), &["SSH-2.0-OpenSSH_9.2\r\n"]).await.result;
    assert!(matches!(result, Err(GreetError::Control(ControlError::Protocol(_)))), "{result:?}");
    let result = run(plain(Resp::V2), &["\x15\x03\x01\0\x02\x02\x0a\n"]).await.result;
    assert!(matches!(result, Err(GreetError::Control(ControlError::Unanswered))), "{result:?}");
    let result = run(plain(Resp::V2), &[&welcome(HELLO2, "*1\r\n$5\r\nother\r\n")]).await.result;
    assert!(matches!(result, Err(GreetError::Control(ControlError::Protocol(_)))), "{result:?}");
}

#[test]
fn the_zone_is_a_field_of_info() {
    let info =
        |zone: &str| format!("# Server\r\nvalkey_version:8.0.1\r\navailability_zone:{zone}\r\nrun_id:x\r\n");
    assert_eq!(zone_from_info(&info("eu-1a")), Some("eu-1a"));
    assert_eq!(zone_from_info(&info("")), None, "no zone is set");
    assert_eq!(zone_from_info("# Server\r\nredis_version:8.0.6\r\n"), None);
}

#[test]
fn a_server_that_does_not_know_auth_does_not_spread_the_password() {
    let shown = |line: &'static [u8]| without_arguments(&Bytes::from_static(line));
    assert_eq!(
        shown(b"ERR unknown command 'AUTH', with args beginning with: 'hunter2' "),
        "ERR unknown command 'AUTH'"
    );
    assert_eq!(
        shown(b"WRONGPASS invalid username-password pair"),
        "WRONGPASS invalid username-password pair"
    );
}

#[tokio::test(start_paused = true)]
async fn a_denied_command_is_not_sent_again() {
    let denied = Denied::default();
    let greeting = Greeting { denied: Some(&denied), ..plain(Resp::V2) };
    let first = format!("{HELLO2}{NOPERM}{NOPERM}{NOPERM}{NOPERM}");
    let greeted = run(greeting, &[&first]).await.result.unwrap();
    assert_eq!(greeted.role, Some(Role::Primary { offset: None }), "HELLO says so");
    let again = run(greeting, &[HELLO2]).await;
    assert_eq!(again.result.unwrap().role, Some(Role::Primary { offset: None }));
    assert_eq!(again.asked, "*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n|");
}

#[tokio::test(start_paused = true)]
async fn another_user_selects_before() {
    let of = |user: &str| Credentials { username: Some(user.into()), password: Secret::new("pw") };
    let (alice, bob) = (of("alice"), of("bob"));
    let selector = Some(Selector { credentials: Some(&alice) });
    let greeting = Greeting { selector, ..Greeting::new(Some(&bob), Resp::V2, 9) };
    let selects = run(greeting, &["+OK\r\n", "+OK\r\n", "+OK\r\n", &welcome(HELLO2, PRIMARY)]).await;
    selects.result.unwrap();
    let order: Vec<_> = ["alice", "SELECT", "bob", "HELLO"].map(|word| selects.asked.find(word)).into();
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{}", selects.asked);
    // The server refuses the selector, so the user of the connection selects the database.
    let last = format!("{}+OK\r\n", welcome(HELLO2, PRIMARY));
    let selects = run(greeting, &["-WRONGPASS no\r\n", "+OK\r\n", &last]).await;
    selects.result.unwrap();
    assert!(selects.asked.ends_with("SELECT\r\n$1\r\n9\r\n|"), "{}", selects.asked);
}

#[tokio::test(start_paused = true)]
async fn a_needless_password_is_accepted_if_it_was_before() {
    let credentials = Credentials { username: None, password: Secret::new("pw") };
    let line =
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure?\r\n";
    let fresh = Greeting::new(Some(&credentials), Resp::V2, 0);
    assert!(matches!(run(fresh, &[line]).await.result, Err(GreetError::AuthRefused(_))));
    let before = Greeting { accepted_before: true, ..fresh };
    let greeted = run(before, &[line, &welcome(HELLO2, PRIMARY)]).await.result.unwrap();
    assert!(greeted.needless_password);
}

#[tokio::test(start_paused = true)]
async fn a_greeting_without_redirections_asks_for_none() {
    let answer = format!("{HELLO2}+OK\r\n+PONG\r\n{PRIMARY}");
    let run = run(Greeting { redirect: false, ..plain(Resp::V2) }, &[&answer]).await;
    assert_eq!(run.result.unwrap().role, Some(Role::Primary { offset: Some(3_129_659) }));
    assert!(!run.asked.contains("CAPA"), "{:?}", run.asked);
}

#[test]
fn a_node_is_known_by_its_run_id() {
    let id = "0123456789abcdef0123456789abcdef01234567";
    let text = format!("# Server\r\nrun_id:{id}\r\nuptime_in_seconds:12\r\n");
    let node = node_from_info(&text).unwrap();
    assert_eq!((&*node.id.0, node.uptime), (id, Duration::from_secs(12)));
    let node = node_from_info(&format!("run_id:{id}\r\n")).unwrap();
    assert_eq!(node.uptime, Duration::MAX);
    for silent in ["", "run_id:\r\n", "run_id:short\r\n", "OK"] {
        assert_eq!(node_from_info(silent), None, "{silent:?}");
    }
}

/// As Valkey 9.1.2 answers HELLO 3 with `availability-zone` set, and with its module `lua`.
#[test]
fn a_newer_server_tells_its_zone_and_where_its_modules_come_from() {
    let text = |text: &str| Value::Text(Bytes::copy_from_slice(text.as_bytes()));
    let arguments = Value::Array(vec![text("--depth"), text("5")]);
    let module =
        vec![text("name"), text("lua"), text("ver"), Value::Integer(1), text("path"), text("/lib/lua.so")];
    let module = Value::Array([module, vec![text("args"), arguments]].concat());
    let hello = Value::Array(vec![
        text("server"),
        text("valkey"),
        text("version"),
        text("9.1.2"),
        text("modules"),
        Value::Array(vec![module]),
        text("availability_zone"),
        text("eu-1a"),
    ]);
    let info = server_info(&hello);
    let origin = Some(("/lib/lua.so".to_owned(), vec!["--depth".to_owned(), "5".to_owned()]));
    assert_eq!(info.modules, [ModuleInfo { name: "lua".into(), version: 1, origin }]);
    assert_eq!(info.availability_zone.as_deref(), Some("eu-1a"));
}
