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
    let next = || {
        config("drain-timeout = \"2s\"\n[tenants.t]\nweight = 3\n[listeners.x]\naddress = \"127.0.0.1:1\"\n")
    };
    let changes = Changes::between(&now, &next());
    assert_eq!(changes.restart, ["drain-timeout", "listeners.x"]);
    assert_eq!(changes.to_string(), "tenant t: weight or priority");
    now.take_over(next());
    assert_eq!((now.drain_timeout.as_secs(), now.listeners.len()), (1, 1));
    let later = Changes::between(&now, &next());
    assert_eq!((later.any_at_once(), later.restart.len()), (false, 2));
    let back = Changes::between(&now, &config("drain-timeout = \"1s\"\n[tenants.t]\nweight = 3\n"));
    assert_eq!(back, Changes::default());
}

/// Changes every line of the reference that has a key, one at a time. Each change must be noticed:
/// it takes effect at once, or the restart list names it.
#[test]
fn every_key_changes_at_once_or_is_named() {
    let reference = Reference::new();
    let now = reference.load(Reference::TEXT);
    assert_eq!(Changes::between(&now, &now), Changes::default());
    let (mut table, mut live, mut named) = (String::new(), 0, 0);
    for (number, line) in Reference::TEXT.lines().enumerate() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap().to_owned() + ".";
            continue;
        }
        let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| !name.starts_with(['#', ' '])) else {
            continue;
        };
        let key = format!("{table}{name}").trim_start_matches('.').to_owned();
        let with = |line: &str| -> String {
            let lines = Reference::TEXT.lines().enumerate();
            lines.map(|(at, known)| if at == number { line } else { known }.to_owned() + "\n").collect()
        };
        let listeners_tenant = key.starts_with("listeners.") && name == "tenant";
        if ["users.", "tenants."].iter().any(|kind| key.starts_with(kind)) || listeners_tenant {
            let changes = Changes::between(&now, &reference.load(&with(&changed(&key, line))));
            assert!(changes.any_at_once() && changes.restart.is_empty(), "{key}: {changes:?}");
            live += 1;
        } else {
            let list = line.ends_with('[') || line.contains("[  ");
            let text = with(&format!("{name} = {}", if list { "[\"another\"," } else { "\"another\"" }));
            let written = Written::of(DeTable::parse(&text).unwrap().get_ref(), &schema::TABLES);
            let changes = Changes::between(&now, &Config { written, ..now.clone() });
            assert!(!changes.any_at_once(), "{key}: {changes:?}");
            let [restart] = &changes.restart[..] else { panic!("{key}: {changes:?}") };
            // A table within an upstream counts as a value.
            assert!(key == *restart || key.starts_with("upstreams.main.nat."), "{key}: {restart}");
            named += 1;
        }
    }
    assert!(live >= 42 && named >= 104, "{live} and {named}");
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
