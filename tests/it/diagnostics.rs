//! What somebody on call asks through respgate: PING says whether the server answers, `admin-commands` decides who sees more,
//! and what cannot work is said at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

#[test]
fn a_ping_is_answered_by_the_server() {
    for flavor in Flavor::ALL {
        let pair = Pair::start_with(flavor, &["--busy-reply-threshold", "50"], &[]);
        pair.compare(|client| {
            client.call(&["PING"]);
            client.call(&["ping", "text"]);
            client.call(&["PING", "a", "b"]);
            client.call(&["MULTI"]);
            client.call(&["PING"]);
            client.call(&["EXEC"]);
        });
        let mut client = pair.proxy.client();
        client.expect(&["PING"], "+PONG\r\n");
        let mut busy = pair.server.client();
        busy.send_command(&["EVAL", "while true do end", "0"]);
        wait::until("the server to be busy", || client.call(&["PING"]).starts_with(b"-BUSY"));
        pair.server.run(&["SCRIPT", "KILL"]);
        assert!(busy.reply().starts_with(b"-"));
        wait::until("the server to answer", || client.call(&["PING"]) == b"+PONG\r\n");
    }
}

/// respgate answers for as long as it holds commands, and no longer.
#[test]
fn a_ping_during_a_hold() {
    for (flavor, pool) in [(Flavor::Valkey, "shared"), (Flavor::Redis, "session")] {
        let mut server = Server::start(flavor);
        let toml = format!(
            "[upstreams.main]\nurl = \"{}\"\nhold-timeout = \"2s\"\npool = \"{pool}\"\n",
            url(&server)
        );
        let mut proxy = Proxy::start_file(2, &toml);
        proxy.allow_log("no primary");
        proxy.allow_log("a shared upstream connection was lost");
        proxy.client().expect(&["PING"], "+PONG\r\n");
        server.crash();
        let mut first = proxy.client();
        first.send_command(&["GET", "k"]);
        wait::until("the crash to be noticed", || proxy.http("/readyz").starts_with("HTTP/1.1 503"));
        let crashed = Instant::now();
        let mut client = proxy.client();
        let mut answers = Vec::new();
        while crashed.elapsed() < Duration::from_secs(4) {
            let reply = String::from_utf8_lossy(&client.call(&["PING"])).into_owned();
            if answers.last() != Some(&reply) {
                answers.push(reply);
            }
        }
        let expired = answers.pop().unwrap_or_default();
        assert!(expired.starts_with("-ERR respgate: no primary"), "{expired}");
        assert!(answers.iter().any(|answer| answer == "+PONG\r\n"), "{answers:?}");
    }
}

/// A password that never worked is wrong, or will be right only after somebody changed it: nobody waits for that.
#[test]
fn a_password_that_never_worked_fails_at_once() {
    for flavor in Flavor::ALL {
        let server = Server::start_with(flavor, &["--requirepass", "right"]);
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = folder.path().join("password");
        fs::write(&file, "wrong").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its permissions");
        let toml = format!(
            "[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\npassword-file = \"{}\"\nhold-timeout = \"60s\"\n",
            server.port,
            file.display()
        );
        let mut proxy = Proxy::launch_file(&[], 1, &toml);
        proxy.allow_log("refuses");
        wait::until("the refusal to be noticed", || proxy.http("/readyz").contains("WRONGPASS"));
        let begun = Instant::now();
        for command in [&["GET", "k"][..], &["BLPOP", "k", "0"], &["PING"]] {
            let line = String::from_utf8_lossy(&proxy.client().call(command)).into_owned();
            assert!(line.contains("have never worked") && line.contains("WRONGPASS"), "{command:?}: {line}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(!proxy.log().contains("ready: the primary is verified"), "nothing is verified");
        fs::write(&file, "right").expect("a file");
        wait::until("the right password to be used", || proxy.client().call(&["GET", "k"]) == b"$-1\r\n");
        wait::until("readiness to be told", || proxy.log().contains("ready: the primary is verified"));
    }
}

/// CONFIG GET shows what its level allows, whatever the pattern.
#[test]
fn parameters_that_are_shown() {
    for flavor in Flavor::ALL {
        let pair = Pair::start_with(flavor, &["--requirepass", "", "--maxclients", "500"], &[]);
        let mut client = pair.proxy.client();
        client.expect(&["CONFIG", "GET", "maxclients"], "*2\r\n$10\r\nmaxclients\r\n$3\r\n500\r\n");
        client.expect(&["CONFIG", "GET", "requirepass"], "*0\r\n");
        let all = String::from_utf8_lossy(&client.call(&["CONFIG", "GET", "*"])).into_owned();
        assert!(
            all.contains("maxmemory-policy") && !all.contains("requirepass") && !all.contains("masterauth")
        );
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["CONFIG", "GET", "maxclient*"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*1\r\n*2\r\n$10\r\nmaxclients\r\n$3\r\n500\r\n");
    }
}

/// The slow log shows other users' commands: it is closed as soon as there are any.
#[test]
fn the_slow_log_is_shown_while_all_clients_are_one_user() {
    for flavor in Flavor::ALL {
        let pair = Pair::start_with(flavor, &["--slowlog-log-slower-than", "0"], &[]);
        pair.server.run(&["ACL", "SETUSER", "bob", "on", ">secret", "+@all", "~*", "&*"]);
        let mut client = pair.proxy.client();
        assert!(client.call(&["SLOWLOG", "GET"]).starts_with(b"*"));
        assert!(client.call(&["SLOWLOG", "RESET"]).starts_with(b"-NOPERM"));
        pair.proxy.client().expect(&["AUTH", "bob", "secret"], "+OK\r\n");
        assert!(client.call(&["SLOWLOG", "GET"]).starts_with(b"-NOPERM"));
    }
}

const LEVELS: [&str; 3] = ["deny", "read-only", "allow"];

/// What somebody on call types, as arguments of valkey-cli. Each answer must say by its first line whether it worked.
const RUNBOOK: &[&[&str]] = &[
    &["PING"],
    &["INFO"],
    &["DBSIZE"],
    &["ROLE"],
    &["--latency"],
    &["--bigkeys"],
    &["--memkeys"],
    &["--scan"],
    &["KEYS", "*"],
    &["OBJECT", "ENCODING", "k"],
    &["MEMORY", "USAGE", "k"],
    &["MEMORY", "DOCTOR"],
    &["MEMORY", "STATS"],
    &["MEMORY", "PURGE"],
    &["LATENCY", "DOCTOR"],
    &["LATENCY", "LATEST"],
    &["LATENCY", "RESET"],
    &["SLOWLOG", "GET"],
    &["SLOWLOG", "RESET"],
    &["CONFIG", "GET", "maxmemory"],
    &["CONFIG", "GET", "maxclients"],
    &["CONFIG", "GET", "requirepass"],
    &["CONFIG", "SET", "maxmemory-samples", "5"],
    &["CONFIG", "RESETSTAT"],
    &["CLIENT", "INFO"],
    &["CLIENT", "LIST"],
    &["CLIENT", "KILL", "TYPE", "normal"],
    &["CLIENT", "PAUSE", "1"],
    &["ACL", "WHOAMI"],
    &["ACL", "LIST"],
    &["ACL", "LOG"],
    &["MODULE", "LIST"],
    &["DEBUG", "SLEEP", "0"],
    &["FLUSHALL"],
];

/// What valkey-cli prints, in a word or as an error.
fn printed(flavor: Flavor, port: u16, arguments: &[&str]) -> String {
    let mut cli = Command::new(flavor.binary("cli"));
    cli.args(["-p", &port.to_string()]).args(arguments).stdin(Stdio::null());
    let output = cli.output().expect("valkey-cli runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let failed = ["ERR", "NOPERM", "(error)"].iter().any(|code| first.starts_with(code));
    match first {
        "" => "nothing".to_owned(),
        // A | would end the cell.
        line if failed => format!("`{}`", line.replace('|', "\\|")),
        _ => "as the server".to_owned(),
    }
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md")
}

/// docs/runbook.md says what each command prints at each level. `RUNBOOK_WRITE=1` writes it.
#[test]
fn the_runbook_is_true() {
    let server = Server::start(Flavor::Valkey);
    let proxies = LEVELS.map(|level| Proxy::start_with(&url(&server), 1, &["--admin-commands", level]));
    let mut table = String::from("| command | `deny` | `read-only` | `allow` |\n|---|---|---|---|\n");
    for arguments in RUNBOOK {
        server.run(&["SET", "k", "v"]);
        let cells = proxies.each_ref().map(|proxy| printed(Flavor::Valkey, proxy.port, arguments));
        table.push_str(&format!("| `{}` | {} |\n", arguments.join(" "), cells.join(" | ")));
    }
    let text = fs::read_to_string(page()).expect("docs/runbook.md");
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->\n");
    let (before, rest) = text.split_once(begin).expect("where the table begins");
    let (written, after) = rest.split_once(end).expect("where the table ends");
    if std::env::var_os("RUNBOOK_WRITE").is_some() {
        fs::write(page(), format!("{before}{begin}{table}{end}{after}")).expect("docs/runbook.md is written");
        return;
    }
    assert_eq!(written, table, "docs/runbook.md is stale; RUNBOOK_WRITE=1 writes it");
}

/// With tenants, or on other addresses, nothing is shown unless somebody said so.
#[test]
fn the_level_that_holds_by_default() {
    let server = Server::start(Flavor::Valkey);
    let tenants = format!("[upstreams.main]\nurl = \"{}\"\n[tenants.t]\ndefault = true\n", url(&server));
    let proxy = Proxy::start_file(1, &tenants);
    let refused = |client: &mut Client| client.call(&["LATENCY", "LATEST"]).starts_with(b"-NOPERM");
    assert!(refused(&mut proxy.client()));
    let proxy = Proxy::start(&url(&server));
    assert!(!refused(&mut proxy.client()));
}
