//! What somebody on call asks through respgate: PING says whether the server answers, `admin-commands` decides who sees more,
//! and what cannot work is said at once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

on_both_servers!(a_ping_is_answered_by_the_server);

fn a_ping_is_answered_by_the_server(flavor: Flavor) {
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
        proxy.allow_log("respgate lost a shared upstream connection");
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

on_both_servers!(a_password_that_never_worked_fails_at_once);

/// A password that never worked is wrong, or will be right only after somebody changed it: nobody waits for that.
fn a_password_that_never_worked_fails_at_once(flavor: Flavor) {
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

on_both_servers!(parameters_that_are_shown);

/// CONFIG GET shows what its level allows, whatever the pattern.
fn parameters_that_are_shown(flavor: Flavor) {
    let pair = Pair::start_with(flavor, &["--requirepass", "", "--maxclients", "500"], &[]);
    let mut client = pair.proxy.client();
    client.expect(&["CONFIG", "GET", "maxclients"], "*2\r\n$10\r\nmaxclients\r\n$3\r\n500\r\n");
    client.expect(&["CONFIG", "GET", "requirepass"], "*0\r\n");
    let all = String::from_utf8_lossy(&client.call(&["CONFIG", "GET", "*"])).into_owned();
    assert!(all.contains("maxmemory-policy") && !all.contains("requirepass") && !all.contains("masterauth"));
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["CONFIG", "GET", "maxclient*"], "+QUEUED\r\n");
    client.expect(&["EXEC"], "*1\r\n*2\r\n$10\r\nmaxclients\r\n$3\r\n500\r\n");
}

on_both_servers!(the_slow_log_is_shown_while_the_server_has_one_user);

/// The slow log shows other users' commands, also those before respgate started: it is closed as soon as the server has several users.
fn the_slow_log_is_shown_while_the_server_has_one_user(flavor: Flavor) {
    let pair = Pair::start_with(flavor, &["--slowlog-log-slower-than", "0"], &[]);
    let mut client = pair.proxy.client();
    assert!(client.call(&["SLOWLOG", "GET"]).starts_with(b"*"));
    assert!(client.call(&["SLOWLOG", "LEN"]).starts_with(b":"));
    assert!(client.call(&["SLOWLOG", "RESET"]).starts_with(b"-NOPERM"));
    pair.server.run(&["ACL", "SETUSER", "bob", "on", ">secret", "+@all", "~*", "&*"]);
    wait::until("the server's second user to be noticed", || {
        client.call(&["SLOWLOG", "GET"]).starts_with(b"-NOPERM")
    });
    client.expect(&["MULTI"], "+OK\r\n");
    assert!(client.call(&["SLOWLOG", "GET"]).ends_with(b"(respgate: admin-commands = \"read-only\")\r\n"));
    assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT"));
    client.expect(&["GET", "k"], "$-1\r\n");
}

on_both_servers!(a_refusal_names_its_setting);

/// A refusal says which setting causes it, and is counted and logged under that name; arguments are not logged.
fn a_refusal_names_its_setting(flavor: Flavor) {
    let pair = Pair::start_with(flavor, &[], &["--admin-commands", "deny"]);
    let mut client = pair.proxy.client();
    let refused = |client: &mut Client, command: &[&str]| {
        let line = String::from_utf8_lossy(&client.call(command)).into_owned();
        assert!(line.starts_with("-NOPERM "), "{line}");
        assert!(line.ends_with("command (respgate: admin-commands = \"deny\")\r\n"), "{line}");
    };
    refused(&mut client, &["CONFIG", "SET", "requirepass", "hidden"]);
    client.expect(&["CONFIG", "GET", "maxclients"], "*0\r\n");
    client.expect(&["MULTI"], "+OK\r\n");
    refused(&mut client, &["SLOWLOG", "GET"]);
    refused(&mut client, &["CONFIG", "GET", "maxclients"]);
    refused(&mut client, &["MONITOR"]);
    assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT"));
    client.expect(&["GET", "k"], "$-1\r\n");
    let counted = |reason: &str| pair.proxy.metric("respgate_commands_refused_total", &[reason]);
    assert_eq!(counted("reason=\"admin-commands\""), 5.0);
    assert_eq!(counted("reason=\"commands\""), 0.0);
    let log = pair.proxy.log();
    for command in ["CONFIG SET", "CONFIG GET", "SLOWLOG GET", "MONITOR"] {
        let line = log.lines().find(|line| line.contains(command)).expect("a line about it");
        assert!(line.contains("admin-commands") && line.contains(&pair.proxy.port.to_string()), "{line}");
    }
    assert!(!log.contains("hidden"), "{log}");
    // A flood of refusals is no flood of lines.
    (0..200).for_each(|_| refused(&mut client, &["SLOWLOG", "GET"]));
    let lines = pair.proxy.log().matches("refused a command").count();
    assert!(lines < 150, "{lines} lines");
}

/// Returns CONFIG GET's reply as parameters and values, in order.
fn parameters(client: &mut Client, pattern: &str) -> Vec<(String, String)> {
    let reply = String::from_utf8_lossy(&client.call(&["CONFIG", "GET", pattern])).into_owned();
    assert!(reply.starts_with('*'), "{pattern:?}: {reply}");
    let texts: Vec<&str> = reply.split("\r\n").skip(2).step_by(2).collect();
    let mut pairs: Vec<(String, String)> =
        texts.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect();
    pairs.sort();
    pairs
}

/// Makes a pattern that resembles a parameter's name.
fn pattern_like(rng: &mut fastrand::Rng, name: &str) -> String {
    let mut pattern = String::new();
    for letter in name.chars() {
        match rng.u8(..28) {
            0 => pattern.push('?'),
            1 => pattern.push('*'),
            2 => pattern.push_str(&format!("[{letter}]")),
            3 => pattern.push_str(&format!("[^{letter}]")),
            4 => pattern.push_str("[a-z]"),
            5 => pattern.push_str(&format!("[{}-a]", letter.to_ascii_uppercase())),
            6 => pattern.push_str(&format!("[\\]{letter}]")),
            7 => pattern.push_str(&format!("[^\\]\\{letter}]")),
            8 => pattern.push_str(&format!("[\\{}]", letter.to_ascii_uppercase())),
            9 => pattern.push_str(&format!("\\{letter}")),
            10 => pattern.push_str(["[", "]", "\\", "[^", "[a-", "**", "[]"][rng.usize(..7)]),
            11 => pattern.push(letter.to_ascii_uppercase()),
            12 if rng.bool() => {
                pattern.push('*');
                break;
            }
            _ => pattern.push(letter),
        }
    }
    pattern.truncate(60);
    pattern
}

on_both_servers!(patterns_match_as_on_the_server);

/// Whatever the pattern, CONFIG GET shows what the server shows, without the parameters that are hidden.
fn patterns_match_as_on_the_server(flavor: Flavor) {
    let pair = Pair::start(flavor);
    let (mut direct, mut through) = (pair.server.client(), pair.proxy.client());
    let names = |client: &mut Client| parameters(client, "*").into_iter().map(|(name, _)| name);
    // The server shows some parameters only to those who know their whole names; respgate does not tell them apart.
    let listed: Vec<String> = names(&mut direct).collect();
    let shown: Vec<String> = names(&mut through).filter(|name| listed.contains(name)).collect();
    let is_shown = |(name, _): &(String, String)| shown.contains(&name.to_ascii_lowercase());
    assert!(shown.len() > 100);
    let mut rng = fastrand::Rng::with_seed(9);
    let mut matched = 0;
    for _ in 0..3_000 {
        let name = &shown[rng.usize(..shown.len())];
        let pattern = pattern_like(&mut rng, name);
        let mut expected = parameters(&mut direct, &pattern);
        expected.retain(is_shown);
        matched += usize::from(!expected.is_empty());
        let mut seen = parameters(&mut through, &pattern);
        seen.retain(is_shown);
        assert_eq!(seen, expected, "{flavor:?}: {pattern:?}");
    }
    assert!(matched > 300, "only {matched} patterns matched");
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
    &["--hotkeys"],
    &["--stat"],
    &["--scan"],
    &["KEYS", "*"],
    &["OBJECT", "ENCODING", "k"],
    &["OBJECT", "FREQ", "k"],
    &["COMMAND", "COUNT"],
    &["CLUSTER", "INFO"],
    &["MEMORY", "USAGE", "k"],
    &["MEMORY", "DOCTOR"],
    &["MEMORY", "STATS"],
    &["MEMORY", "MALLOC-STATS"],
    &["MEMORY", "PURGE"],
    &["LATENCY", "DOCTOR"],
    &["LATENCY", "LATEST"],
    &["LATENCY", "HISTOGRAM"],
    &["LATENCY", "RESET"],
    &["SLOWLOG", "GET"],
    &["SLOWLOG", "RESET"],
    &["CONFIG", "GET", "maxmemory"],
    &["CONFIG", "GET", "maxclients"],
    &["CONFIG", "GET", "requirepass"],
    &["CONFIG", "SET", "maxmemory-samples", "5"],
    &["CONFIG", "RESETSTAT"],
    &["CONFIG", "REWRITE"],
    &["CLIENT", "INFO"],
    &["CLIENT", "LIST"],
    &["CLIENT", "KILL", "TYPE", "normal"],
    &["CLIENT", "PAUSE", "1"],
    &["ACL", "WHOAMI"],
    &["ACL", "LIST"],
    &["ACL", "LOG"],
    &["MODULE", "LIST"],
    &["MONITOR"],
    &["DEBUG", "SLEEP", "0"],
    &["SHUTDOWN", "NOSAVE"],
    &["FLUSHALL"],
];

/// Commands that print something else each time, or that would disturb the next ones if they ran without respgate.
const UNSTEADY: &[&str] = &[
    "INFO",
    "--latency",
    "--bigkeys",
    "--memkeys",
    "--hotkeys",
    "--stat",
    "OBJECT FREQ k",
    "MEMORY USAGE k",
    "MEMORY DOCTOR",
    "MEMORY STATS",
    "MEMORY MALLOC-STATS",
    "LATENCY DOCTOR",
    "LATENCY HISTOGRAM",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
];

/// Returns what valkey-cli prints; of what never ends, the first line.
fn output(flavor: Flavor, port: u16, arguments: &[&str]) -> String {
    let mut cli = Command::new(flavor.binary("cli"));
    // `-i` is between the lines of --stat: what it writes is seen only once it fills a buffer.
    let interval = if arguments == ["--stat"] { "0.01" } else { "0" };
    cli.args(["-p", &port.to_string(), "-i", interval]).args(arguments).stdin(Stdio::null());
    if !matches!(arguments, ["--stat" | "MONITOR"]) {
        return String::from_utf8_lossy(&cli.output().expect("valkey-cli runs").stdout).into_owned();
    }
    let mut process = cli.stdout(Stdio::piped()).spawn().expect("valkey-cli runs");
    let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let first = lines.map_while(Result::ok).find(|line| !line.trim().is_empty());
    let _ = process.kill();
    let _ = process.wait();
    first.unwrap_or_default()
}

/// Returns a cell of the table: what valkey-cli prints through respgate.
fn printed(flavor: Flavor, server: u16, proxy: u16, arguments: &[&str]) -> String {
    let text = output(flavor, proxy, arguments);
    let steady = !UNSTEADY.contains(&&*arguments.join(" "));
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let failed = ["ERR", "NOPERM", "(error)"].iter().any(|code| first.starts_with(code));
    // A refused command is not run on the server.
    let own = first.contains("(respgate: ");
    if !own && ["CLIENT LIST", "CLIENT KILL TYPE normal"].contains(&&*arguments.join(" ")) {
        return "about respgate's clients".to_owned();
    }
    let same = !own && (!steady || output(flavor, server, arguments) == text);
    match (first, failed, same) {
        ("", _, true) => "as the server".to_owned(),
        ("", _, false) => "an empty list".to_owned(),
        (line, true, same) => {
            // A | would end the cell. Redis before 7.2 words it otherwise, as the page says.
            let line = line.replace('|', "\\|").replace("NOPERM this user has", "NOPERM User default has");
            format!("`{line}`{}", if same { ", as the server" } else { "" })
        }
        (_, false, true) => "as the server".to_owned(),
        (_, false, false) => "respgate's own answer".to_owned(),
    }
}

/// Returns the cells of one server, by command and level.
fn cells(flavor: Flavor) -> Vec<[String; LEVELS.len()]> {
    let options = ["--maxmemory-policy", "allkeys-lfu", "--slowlog-log-slower-than", "-1"];
    let server = Server::start_with(flavor, &options);
    let proxies = LEVELS.map(|level| Proxy::start_with(&url(&server), 1, &["--admin-commands", level]));
    let row = |arguments: &&[&str]| {
        server.run(&["SET", "k", "v"]);
        let stops = arguments[0] == "SHUTDOWN";
        std::array::from_fn(|level| match (stops, LEVELS[level]) {
            (true, "allow") => "the server stops, and respgate waits for a primary".to_owned(),
            _ => printed(flavor, server.port, proxies[level].port, arguments),
        })
    };
    RUNBOOK.iter().map(row).collect()
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md")
}

/// docs/runbook.md says what each command prints at each level. `RUNBOOK_WRITE=1` writes it.
#[test]
fn the_runbook_is_true() {
    let [valkey, redis] = [Flavor::Valkey, Flavor::Redis].map(cells);
    let mut table = String::from("| command | `deny` | `read-only` | `allow` |\n|---|---|---|---|\n");
    for (arguments, (valkey, redis)) in RUNBOOK.iter().zip(valkey.iter().zip(&redis)) {
        let cells: Vec<String> = valkey
            .iter()
            .zip(redis)
            .map(|(valkey, redis)| match valkey == redis {
                true => valkey.clone(),
                false => format!("valkey: {valkey}; redis: {redis}"),
            })
            .collect();
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

/// With tenants, or on an address that other machines can reach, nothing is shown unless somebody said so.
#[test]
fn the_level_that_holds_by_default() {
    let server = Server::start(Flavor::Valkey);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("respgate.sock");
    let port = free_port();
    let listeners = format!(
        "[listeners.local]\naddress = \"unix:{}\"\n[listeners.wide]\naddress = \"0.0.0.0:{port}\"\n\
         [upstreams.main]\nurl = \"{}\"\n",
        socket.display(),
        url(&server)
    );
    let level = |mut client: Client| {
        let line = String::from_utf8_lossy(&client.call(&["LATENCY", "LATEST"])).into_owned();
        match line.split("admin-commands = \"").nth(1).and_then(|rest| rest.split('"').next()) {
            Some(level) => level.to_owned(),
            None => {
                assert_eq!(line, "*0\r\n");
                assert!(client.call(&["LATENCY", "RESET"]).starts_with(b"-NOPERM"));
                "read-only".to_owned()
            }
        }
    };
    for (tenants, local) in [("", "read-only"), ("[tenants.t]\ndefault = true\n", "deny")] {
        let mut proxy = Proxy::start_file(1, &format!("{listeners}{tenants}"));
        proxy.allow_log("other machines can reach");
        assert_eq!(level(proxy.client()), local, "{tenants}: loopback");
        assert_eq!(level(Client::connect_unix(&socket)), local, "{tenants}: a unix socket");
        assert_eq!(level(Client::connect(port)), "deny", "{tenants}: every address of the machine");
    }
}

on_both_servers!(many_sessions_ask_for_users_once);

/// Sessions that need the number of users at the same time share one question to the server.
fn many_sessions_ask_for_users_once(flavor: Flavor) {
    let server = Server::start(flavor);
    let proxy = Proxy::start_with(&url(&server), 1, &[]);
    let mut clients: Vec<_> = (0..50).map(|_| proxy.client()).collect();
    server.run(&["CONFIG", "RESETSTAT"]);
    let begun = Instant::now();
    clients.iter_mut().for_each(|client| client.send_command(&["SLOWLOG", "LEN"]));
    clients.iter_mut().for_each(|client| client.expect_reply(":0\r\n"));
    let seconds = begun.elapsed().as_secs() + 1;
    let stats = server.run_text(&["INFO", "commandstats"]);
    let line =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_acl|users:calls=")).expect("a question");
    let asked: u64 = line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number of calls");
    assert!(asked <= seconds, "{asked} questions in {seconds} s");
}
