use toml::de::DeTable;

use super::super::Written;
use super::super::tests::{Reference, loaded};
use super::*;

const UPSTREAM: &str = "[upstreams.main]\nurl = \"redis://db\"\nclient-auth = \"required\"\n";
const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$iArroSHG8LwEAE7v5/stug$Ia3Z0DJB80Xn1XExqxGqGO7rkTkktxY6g0ZfD7KMpRs";
const OTHER: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$iArroSHG8LwEAE7v5/stug$Aa3Z0DJB80Xn1XExqxGqGO7rkTkktxY6g0ZfD7KMpRs";

fn config(tables: &str) -> Config {
    loaded(&format!("{tables}\n{UPSTREAM}"), &[], &[])
}

fn user(name: &str, hash: &str) -> String {
    format!("[users.{name}]\npassword-hash = \"{hash}\"\n")
}

fn between(now: &str, next: &str) -> Changes {
    Changes::between(&config(now), &config(next))
}

fn at_once(now: &str, next: &str) -> String {
    let changes = between(now, next);
    assert_eq!(changes.restart, Vec::<String>::new());
    assert_eq!(changes.any_at_once(), !changes.to_string().is_empty());
    changes.to_string()
}

#[test]
fn users_come_and_go_and_change_their_passwords() {
    let [a, b, b_anew] = [user("a", HASH), user("b", HASH), user("b", OTHER)];
    assert_eq!(at_once(&[&*a, &b].concat(), &[&*b, &a].concat()), "");
    assert_eq!(at_once(&[&*a, &b].concat(), &b_anew), "user a removed; user b: password");
    assert_eq!(at_once(&b, &[&*a, &b].concat()), "user a added");
    let changes = between(&a, &b);
    assert!(!changes.to_string().contains("argon2") && !format!("{changes:?}").contains("argon2"));
    let with = |keys: &str| format!("{b}upstream-password-file = \"password\"\n{keys}");
    assert_eq!(at_once(&b, &with("")), "user b: upstream credentials");
    assert_eq!(at_once(&with("upstream-username = \"x\""), &with("")), "user b: upstream credentials");
    // The tenant's `users` decide which tenant a user's client belongs to.
    let tenants = "[tenants.t]\n[tenants.u]\n";
    let of = |tenant: &str| format!("{tenants}{a}tenant = \"{tenant}\"\n");
    assert_eq!(at_once(&of("t"), &of("u")), "tenant t: members; tenant u: members");
}

#[test]
fn the_first_user_and_the_last_need_a_restart() {
    let a = user("a", HASH);
    let first = between("", &a);
    assert_eq!((first.users.len(), &*first.restart), (0, &["users".to_owned()][..]));
    let last = between(&a, "");
    assert_eq!((last.to_string().as_str(), &*last.restart), ("user a removed", &["users".to_owned()][..]));
    // The configuration in force then has no users, and yet clients authenticate to respgate.
    let mut now = config(&a);
    now.take_over(config(""));
    let again = Changes::between(&now, &config(&a));
    assert_eq!((again.to_string().as_str(), again.restart.len()), ("user a added", 0));
}

#[test]
fn tenants_change_in_ways_that_are_told_apart() {
    let tenant = |keys: &str| format!("[tenants.t]\n{keys}\n");
    let changed = |now: &str, next: &str| at_once(&tenant(now), &tenant(next));
    assert_eq!(changed("weight = 1", ""), "", "the default");
    assert_eq!(changed("", "weight = 2"), "tenant t: weight or priority");
    assert_eq!(changed("read-only = true", "connections = 5"), "tenant t: limits, policy");
    assert_eq!(changed("commands = [\"+@all\"]", "commands = [\"+@all\", \"-get\"]"), "tenant t: policy");
    assert_eq!(changed("users = [\"a\"]", "users = [\"b\"]"), "tenant t: members");
    assert_eq!(
        at_once("[tenants.a]\n[tenants.b]\n", "[tenants.c]\n[tenants.b]\n"),
        "tenant a removed; tenant c added"
    );
    assert_eq!(at_once("[tenants.a]\n[tenants.b]\n", "[tenants.b]\n[tenants.a]\n"), "the order of tenants");
    let listener = |tenant: &str| {
        format!("[tenants.a]\n[tenants.b]\n[listeners.x]\naddress = \"127.0.0.1:1\"\n{tenant}\n")
    };
    assert_eq!(at_once(&listener("tenant = \"a\""), &listener("")), "listener x: tenant");
}

#[test]
fn a_changed_key_needs_a_restart_until_it_is_changed_back() {
    let mut now = config("drain-timeout = \"1s\"\n[tenants.t]\n");
    let next = || config("drain-timeout = \"2s\"\n[tenants.t]\nweight = 3\n[log]\nformat = \"json\"\n");
    let changes = Changes::between(&now, &next());
    assert_eq!(changes.restart, ["drain-timeout", "log.format"]);
    assert_eq!(changes.to_string(), "tenant t: weight or priority");
    now.take_over(next());
    assert_eq!(now.drain_timeout.as_secs(), 1);
    let later = Changes::between(&now, &next());
    assert_eq!((later.any_at_once(), later.restart.len()), (false, 2));
    let back = Changes::between(&now, &config("drain-timeout = \"1s\"\n[tenants.t]\nweight = 3\n"));
    assert_eq!(back, Changes::default());
}

#[test]
fn listeners_come_and_go_and_change() {
    let listener = |name: &str, port: u16, keys: &str| {
        format!("[listeners.{name}]\naddress = \"127.0.0.1:{port}\"\n{keys}\n")
    };
    let [a, b] = [listener("a", 1, ""), listener("b", 2, "")];
    assert_eq!(at_once(&[&*a, &b].concat(), &[&*b, &a].concat()), "", "the order");
    assert_eq!(at_once(&a, &b), "listener a removed; listener b added");
    assert_eq!(at_once(&a, &listener("a", 2, "")), "listener a: address");
    assert_eq!(at_once(&a, &listener("a", 1, "max-clients = 10000")), "", "the default");
    assert_eq!(
        at_once(&a, &listener("a", 1, "idle-timeout = \"1s\"\nmax-clients = 1")),
        "listener a: limits"
    );
    assert_eq!(at_once(&a, &listener("a", 1, "admin-commands = \"allow\"")), "listener a: admin-commands");
    let limits = |keys: &str| format!("[limits]\n{keys}\n{a}");
    assert_eq!(at_once(&a, &limits("max-args = 100")), "listener a: limits");
    assert_eq!(at_once(&a, &limits("max-buffered = \"1GiB\"")), "max-buffered");
    let level = |level: &str| format!("[log]\nlevel = \"{level}\"\n{a}");
    assert_eq!(at_once(&level("info"), &level("debug")), "log level");
    // The first tenant changes the default of admin-commands.
    assert_eq!(at_once(&a, &format!("[tenants.t]\n{a}")), "tenant t added; listener a: admin-commands");
}

#[test]
fn upstreams_come_and_go_with_their_listeners() {
    let listener = |name: &str, port: u16, upstream: &str| {
        format!("[listeners.{name}]\naddress = \"127.0.0.1:{port}\"\nupstream = \"{upstream}\"\n")
    };
    let other = "[upstreams.other]\nurl = \"redis://other\"\nclient-auth = \"required\"\n";
    let mut now = config(&listener("a", 1, "main"));
    let next = || config(&[&*listener("a", 1, "other"), &listener("b", 2, "other"), other].concat());
    let changes = Changes::between(&now, &next());
    assert_eq!(changes.to_string(), "listener a: upstream; listener b added; upstream other added");
    assert_eq!(changes.restart, Vec::<String>::new());
    now.take_over(next());
    let served: Vec<_> = now.listeners.iter().map(|one| (&*one.name, &*one.upstream)).collect();
    assert_eq!(served, [("a", "other"), ("b", "other")]);
    assert_eq!(Changes::between(&now, &next()), Changes::default());
    let back = Changes::between(&now, &config(&listener("a", 1, "main")));
    assert_eq!(back.to_string(), "listener b removed; listener a: upstream; upstream other removed");
}

#[test]
fn upstreams_change_what_is_live_and_nothing_else() {
    let upstream = |keys: &str| loaded(&format!("[upstreams.main]\nurl = \"redis://db\"\n{keys}"), &[], &[]);
    let mut now = upstream("");
    let next = || upstream("hold-timeout = \"1s\"\nmax-leased = 5\ndatabase = 3\npool = \"session\"\n");
    let changes = Changes::between(&now, &next());
    assert_eq!(changes.to_string(), "upstream main: database, max-leased, hold-timeout");
    assert_eq!(changes.restart, ["upstreams.main.pool"]);
    now.take_over(next());
    let config = &now.upstreams[0].config;
    assert_eq!((config.hold_timeout.as_secs(), config.max_leased, config.database), (1, 5, 3));
    assert_eq!(config.pool, crate::upstream::config::Pool::Shared);
    let later = Changes::between(&now, &next());
    assert_eq!((later.any_at_once(), later.restart.len()), (false, 1), "it still needs a restart");
}

#[test]
fn an_upstream_moves_if_its_servers_or_the_way_to_them_differ() {
    let upstream = |lines: &str| loaded(&format!("[upstreams.main]\n{lines}"), &[], &[]);
    let now = upstream("url = \"redis://db\"");
    let moved = |lines: &str| {
        let next = upstream(lines);
        assert_eq!(Changes::between(&now, &next).restart, Vec::<String>::new());
        (now.moved_upstreams(&next, &|_| None).len(), Changes::between(&now, &next).to_string())
    };
    for (lines, moves, shown) in [
        ("url = \"redis://db:6379/0\"", 0, ""),
        ("address = \"db\"", 0, ""),
        ("url = \"redis://db/3\"", 0, "upstream main: database"),
        ("url = \"redis://other\"", 1, "upstream main: address or discovery"),
        ("url = \"redis://db:6380/3\"", 1, "upstream main: address or discovery, database"),
        ("sentinels = [\"db\"]\nprimary-name = \"x\"", 1, "upstream main: address or discovery"),
        ("url = \"redis://:s3cret@db\"", 1, "upstream main: credentials"),
        ("url = \"rediss://db\"", 1, "upstream main: TLS"),
        ("url = \"redis://db\"\ntls = true", 1, "upstream main: TLS"),
        ("url = \"redis://db\"\nping-interval = \"1s\"", 1, "upstream main: ping-interval"),
        ("url = \"redis://db\"\nreplica-sampling = false", 0, "upstream main: replica-sampling"),
        ("url = \"redis://db\"\nmax-age = \"2h\"", 0, "upstream main: max-age"),
    ] {
        assert_eq!(moved(lines), (moves, shown.to_owned()), "{lines}");
    }
    // An operator has switched it there.
    let other = upstream("url = \"redis://other\"");
    assert!(now.moved_upstreams(&other, &|_| Some(other.upstreams[0].target())).is_empty());
    let mut switched = now.clone();
    let next = upstream("url = \"redis://other/3\"\nping-interval = \"1s\"");
    switched.take_over_target("main", &next);
    assert_eq!(switched.moved_upstreams(&next, &|_| None).len(), 0);
    assert_eq!(Changes::between(&switched, &next).to_string(), "upstream main: database", "the rest waits");
}

#[test]
fn limits_that_suit_fewer_workers_need_a_restart() {
    let mut now = loaded("workers = 4\n[upstreams.main]\nurl = \"redis://db\"\n", &[], &[]);
    now.written = loaded("[upstreams.main]\nurl = \"redis://db\"\n", &[], &[]).written;
    let next = loaded("[upstreams.main]\nurl = \"redis://db\"\nmax-connections = 2\n", &[], &[]);
    assert_eq!(Changes::between(&now, &next).restart, ["workers"]);
}

/// Changes every line of the reference that has a key, one at a time. A live key must take effect at once, and any other must
/// be named in the restart list.
#[test]
fn every_key_changes_at_once_or_is_named() {
    let reference = Reference::new();
    // Each limit has room to change alone, and one listener takes `max-clients` from `[limits]`.
    let text = Reference::TEXT
        .replace("max-buffered = \"512MiB\"", "max-buffered = \"1GiB\"")
        .replace("max-bulk = \"512MiB\"", "max-bulk = \"511MiB\"")
        .replace("max-clients = 100\n", "");
    let now = reference.load(&text);
    assert_eq!(Changes::between(&now, &now), Changes::default());
    let (mut table, mut live, mut named, mut errors) = (String::new(), 0, 0, Vec::new());
    for (number, line) in text.lines().enumerate() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap().to_owned() + ".";
            continue;
        }
        let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| !name.starts_with(['#', ' '])) else {
            continue;
        };
        let key = format!("{table}{name}").trim_start_matches('.').to_owned();
        let with = |line: &str| -> String {
            let lines = text.lines().enumerate();
            lines.map(|(at, known)| if at == number { line } else { known }.to_owned() + "\n").collect()
        };
        if key.starts_with("upstreams.") && schema::reload(&key) == Reload::Restart {
            // Upstreams are compared with those in force.
            let changes = Changes::between(&now, &reference.load(&with(&changed(&key, line))));
            assert_eq!((changes.any_at_once(), changes.restart), (false, vec![key]));
            named += 1;
        } else if ["tls", "tls-dangerously-skip-verification"].iter().any(|name| key.ends_with(name)) {
            // Without TLS or its checks, the other keys of TLS are errors. They are parts of a `Target`, as the others.
            assert_eq!(schema::reload(&key), Reload::Live);
        } else if schema::reload(&key) == Reload::Live {
            live += 1;
            let mut next = match reference.try_load(&with(&changed(&key, line))) {
                Ok(next) => next,
                Err(report) => {
                    errors.push(report.to_string());
                    continue;
                }
            };
            let changes = Changes::between(&now, &next);
            if !changes.any_at_once() || !changes.restart.is_empty() {
                errors.push(format!("{key}: {changes:?}"));
            }
            // What is taken over differs no longer.
            let mut config = now.clone();
            config.take_over(next.clone());
            next.written = config.written.clone();
            let again = Changes::between(&config, &next);
            if again != Changes::default() {
                errors.push(format!("{key}, taken over: {again:?}"));
            }
        } else {
            let list = line.ends_with('[') || line.contains("[  ");
            let text = with(&format!("{name} = {}", if list { "[\"another\"," } else { "\"another\"" }));
            let written = Written::of(DeTable::parse(&text).unwrap().get_ref(), &schema::TABLES);
            let changes = Changes::between(&now, &Config { written, ..now.clone() });
            assert!(!changes.any_at_once(), "{key}: {changes:?}");
            let [restart] = &changes.restart[..] else { panic!("{key}: {changes:?}") };
            assert_eq!(key, *restart);
            named += 1;
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(live >= 145 && named >= 16, "{live} and {named}");
}

/// Returns the line with another value of the same type.
fn changed(key: &str, line: &str) -> String {
    for (of, from, to) in [
        ("tenants.reports.commands", "-@dangerous", "-get"),
        ("tenants.reports.read-only", "true", "false"),
        ("tenants.reports.scripts", "\"deny\"", "\"declared-keys\""),
        ("tenants.reports.default", "false", "true"),
        ("tenants.reports.priority", "normal", "low"),
        ("tenants.reports.pubsub", "dedicated", "fan-in"),
        ("tenants.reports.over-limit", "delay", "reject"),
        ("tenants.reports.shared-upstream", "main", "cache"),
        ("tenants.reports.certificates", "CN:reports", "CN:others"),
        ("tenants.reports.users", "reports", "others"),
        ("tenants.reports.client-names", "reports", "others"),
        ("users.shop.password-hash", "$Ia3Z", "$Aa3Z"),
        ("users.shop.certificates", "CN:shop", "CN:store"),
        ("users.shop.tenant", "tenant = \"reports\"", ""),
        ("log.level", "info", "debug"),
        ("latency", "off", "on"),
        ("slow-log-arguments", "redact", "show"),
        ("limits.slow-reader-soft", "0", "\"1MiB\""),
        ("listeners.app.slow-reader-soft", "0", "\"1MiB\""),
        ("listeners.app.upstream", "main", "cache"),
        ("listeners.local.upstream", "cache", "main"),
        ("listeners.app.moving-endpoint", "cache", "other"),
        ("listeners.app.admin-commands", "deny", "read-only"),
        ("listeners.app.tls-cert", "tls.crt", "client.crt"),
        ("listeners.app.tls-key", "tls.key", "client.key"),
        ("listeners.app.tls-client-ca", "clients.pem", "ca.pem"),
        ("listeners.app.tls-client-auth", "required", "optional"),
        ("listeners.app.tls-crl", "revoked.pem", "sentinel-revoked.pem"),
        ("listeners.app.tls-min-version", "1.2", "1.3"),
        ("listeners.local.address", "respgate.sock", "other.sock"),
        ("listeners.local.mode", "0700", "0770"),
        ("upstreams.main.sentinels", "s1.example", "s4.example"),
        ("upstreams.main.primary-name", "mymaster", "other"),
        ("upstreams.main.switch", "majority", "leader"),
        ("upstreams.main.username", "app", "other"),
        ("upstreams.main.password-file", "password\"", "sentinel-password\""),
        ("upstreams.main.sentinel-username", "app", "other"),
        ("upstreams.main.sentinel-password-file", "\"password\"", "\"sentinel-password\""),
        ("upstreams.main.tls-ca", "ca.pem", "sentinel-ca.pem"),
        ("upstreams.main.tls-system-roots", "false", "true"),
        ("upstreams.main.tls-crl", "revoked.pem", "sentinel-revoked.pem"),
        ("upstreams.main.tls-cert", "client.crt", "tls.crt"),
        ("upstreams.main.tls-key", "client.key", "tls.key"),
        ("upstreams.main.tls-server-name", "db.example", "other.example"),
        ("upstreams.main.tls-server-names", "node-a", "node-b"),
        ("upstreams.main.tls-min-version", "1.2", "1.3"),
        ("upstreams.main.tls-dangerously-skip-verification", "false", "true"),
        ("upstreams.main.sentinel-tls-ca", "ca.pem", "sentinel-ca.pem"),
        ("upstreams.main.sentinel-tls-system-roots", "false", "true"),
        ("upstreams.main.sentinel-tls-crl", "revoked.pem", "sentinel-revoked.pem"),
        ("upstreams.main.sentinel-tls-cert", "client.crt", "tls.crt"),
        ("upstreams.main.sentinel-tls-key", "client.key", "tls.key"),
        ("upstreams.main.sentinel-tls-server-name", "db.example", "other.example"),
        ("upstreams.main.sentinel-tls-server-names", "node-a", "node-b"),
        ("upstreams.main.sentinel-tls-min-version", "1.2", "1.3"),
        ("upstreams.main.sentinel-tls-dangerously-skip-verification", "false", "true"),
        ("upstreams.main.client-auth", "optional", "required"),
        ("upstreams.main.pool", "shared", "session"),
        ("upstreams.main.replica-sampling", "true", "false"),
        ("upstreams.cache.address", "cache.example", "other.example"),
        ("upstreams.cache.password-env", "CACHE_PASSWORD", "QUEUE_PASSWORD"),
        ("upstreams.queue.url", "/3#", "/4#"),
        ("upstreams.queue.password-env", "QUEUE_PASSWORD", "CACHE_PASSWORD"),
        ("upstreams.queue.sentinel-password-env", "SENTINEL_PASSWORD", "CACHE_PASSWORD"),
        ("upstreams.main.reauth", "keep", "reconnect"),
        ("upstreams.main.retry-reads", "true", "false"),
        ("upstreams.main.retry-writes", "never", "same-reply"),
        ("upstreams.main.blocked-pop", "timeout", "continue"),
        ("upstreams.main.read-your-writes", "session", "off"),
        ("upstreams.main.reads-in-hold", "wait", "replica"),
        ("upstreams.main.cross-slot-writes", "refuse", "split"),
        ("tenants.reports.reads", "prefer-replica", "replica"),
        ("listeners.app.reads", "primary", "replica"),
        ("listeners.app.tenant", "tenant = \"reports\"", ""),
        ("listeners.local.tenant", "tenant = \"reports\"", ""),
    ] {
        if key == of {
            assert!(line.contains(from), "{key}");
            return line.replacen(from, to, 1);
        }
    }
    // The number in any other value is raised by 1.
    let (name, value) = line.split_once(" = ").unwrap();
    let start =
        value.find(|c: char| c.is_ascii_digit()).unwrap_or_else(|| panic!("{key} has no other value"));
    let digits: String = value[start..].chars().take_while(char::is_ascii_digit).collect();
    let more = digits.parse::<u64>().unwrap() + 1;
    format!("{name} = {}{more}{}", &value[..start], &value[start + digits.len()..])
}
