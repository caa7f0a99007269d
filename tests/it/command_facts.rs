//! What respgate knows of every command, compared with what valkey and redis say of it: categories, key positions,
//! and which commands a list of ACL rules allows.

mod recorded;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use respgate::command::category::Categories;
use respgate::command::keys::Keys;
use respgate::command::{Flags, Spec, TABLE, find};
use respgate::resp::request::Request;
use respgate::tenant::policy::Policy;
use respgate::tenant::policy::config::{PolicyConfig, Rule, Scripts};

use crate::support::client::{Client, encode};
use crate::support::servers::Server;
use crate::support::tree::{Reply, many, parse, text};

/// Arguments for each command and category; failures name the seed by their number.
const ROUNDS: u64 = 20;

/// One command of a server's.
#[derive(Debug, PartialEq)]
struct Command {
    arity: i8,
    flags: BTreeSet<String>,
    categories: BTreeSet<String>,
}

/// The flags that COMMAND tells of, and its words for them.
const FLAGS: [(Flags, &str); 8] = [
    (Flags::WRITE, "write"),
    (Flags::READONLY, "readonly"),
    (Flags::BLOCKING, "blocking"),
    (Flags::NOSCRIPT, "noscript"),
    (Flags::ADMIN, "admin"),
    (Flags::FAST, "fast"),
    (Flags::NO_AUTH, "no_auth"),
    (Flags::NO_MULTI, "no_multi"),
];

/// Every command that a server has, by the table's names.
fn commands(server: &Server) -> BTreeMap<String, Command> {
    fn collect(commands: &[Reply], found: &mut BTreeMap<String, Command>) {
        for command in commands {
            let fields = many(command);
            let own = many(&fields[6]).iter().map(|name| text(name).trim_start_matches('@').to_owned());
            let arity = text(&fields[1]).parse().expect("a number");
            let flags = many(&fields[2]).iter().map(|flag| text(flag).to_owned()).collect();
            let command = Command { arity, flags, categories: own.collect() };
            found.insert(text(&fields[0]).to_ascii_uppercase(), command);
            collect(many(&fields[9]), found);
        }
    }
    let reply = server.run(&["COMMAND"]);
    let mut found = BTreeMap::new();
    collect(many(&parse(&mut &reply[..])), &mut found);
    found
}

/// Every category that a server has.
fn categories(server: &Server) -> BTreeSet<String> {
    let reply = server.run(&["ACL", "CAT"]);
    many(&parse(&mut &reply[..])).iter().map(|name| text(name).to_owned()).collect()
}

#[test]
fn categories_are_the_servers() {
    for server in Server::start_all_versions() {
        let version = server.version();
        let known = commands(&server);
        assert!(known.len() > 350, "{} commands", known.len());
        let names = categories(&server);
        let unknown: Vec<&String> = names.iter().filter(|name| Categories::named(name).is_none()).collect();
        assert!(unknown.is_empty(), "{version} has {unknown:?}");
        expect_categories(&version, &known);
    }
}

/// Compares the table's categories with those that a server names.
#[track_caller]
fn expect_categories(version: &str, known: &BTreeMap<String, Command>) {
    for (name, Command { categories: theirs, flags, .. }) in known {
        let spec = TABLE.iter().find(|spec| spec.name == name);
        let spec = spec.unwrap_or_else(|| panic!("the table lacks {name} of {version}"));
        let ours = Categories::of(spec);
        let named = |name: &&str| Categories::named(name).is_some_and(|one| ours.contains(one));
        let mut ours: BTreeSet<&str> = Categories::names().iter().copied().filter(named).collect();
        // WAIT became a blocking command with redis 7.2.
        if name == "WAIT" && !flags.contains("blocking") {
            ours.remove("blocking");
        }
        // Redis 8 puts its vector sets, which are a module to it, into no category.
        if flags.contains("module") && theirs.is_empty() {
            continue;
        }
        assert_eq!(ours, theirs.iter().map(String::as_str).collect(), "{name} of {version}");
    }
}

/// A word that may be a key, an empty one and the names of options among them.
fn word(rng: &mut Rng) -> String {
    match rng.u8(..12) {
        0 => String::new(),
        1 => "STORE".into(),
        2 => "GET".into(),
        3 => "2".into(),
        _ => format!("k{}", rng.u16(..)),
    }
}

fn words(rng: &mut Rng, count: usize) -> Vec<String> {
    (0..count).map(|_| word(rng)).collect()
}

/// A request with well-formed arguments, as far as keys go, and as many as the server takes.
fn arguments(spec: &Spec, arity: i8, rng: &mut Rng) -> Vec<String> {
    let mut args: Vec<String> = spec.name.split('|').map(str::to_owned).collect();
    let least = usize::from(arity.unsigned_abs());
    let least = if arity < 0 { least + rng.usize(..6) } else { least };
    let options = |args: &mut Vec<String>, rng: &mut Rng, known: &[&[&str]]| {
        for _ in 0..rng.usize(..4) {
            args.extend(known[rng.usize(..known.len())].iter().map(|word| (*word).to_owned()));
        }
    };
    match Keys::of(spec) {
        Keys::Counted { count, step, target } => {
            args.extend(words(rng, usize::from(count) - args.len()));
            debug_assert!(target.is_none_or(|target| target < count));
            let number = rng.usize(1..5);
            args.push(number.to_string());
            args.extend(words(rng, number * usize::from(step)));
        }
        Keys::Streams => {
            if spec.name == "XREADGROUP" {
                args.extend(["GROUP", "g", "c"].map(str::to_owned));
            }
            options(&mut args, rng, &[&["COUNT", "5"], &["BLOCK", "0"], &["noack"]]);
            args.push(["STREAMS", "streams"][rng.usize(..2)].to_owned());
            let number = rng.usize(1..4);
            args.extend(words(rng, number));
            args.extend(vec!["0-0".to_owned(); number]);
            return args;
        }
        Keys::Radius(first) => {
            args.extend(words(rng, usize::from(first) - 2));
            // Newer servers look for STORE in the place of the unit, too, where a request with one is refused.
            args.push("m".to_owned());
            options(&mut args, rng, &[&["WITHDIST"], &["ANY"], &["COUNT", "5"], &["desc"]]);
            if rng.bool() {
                args.push(["STORE", "storedist"][rng.usize(..2)].to_owned());
                args.push(word(rng));
            }
            return args;
        }
        Keys::Sort => {
            args.push(word(rng));
            options(&mut args, rng, &[&["ALPHA"], &["LIMIT", "0", "5"], &["BY", "nosort"], &["GET", "#"]]);
            if spec.name == "SORT" && rng.bool() {
                args.push("store".to_owned());
                args.push(word(rng));
            }
            return args;
        }
        Keys::Migrate => {
            args.extend(["host", "1"].map(str::to_owned));
            let several = rng.bool();
            args.push(if several { String::new() } else { "key".into() });
            args.extend(["0", "5"].map(str::to_owned));
            options(
                &mut args,
                rng,
                &[&["COPY"], &["replace"], &["AUTH2", "user", "KEYS"], &["AUTH", "keys"]],
            );
            if several {
                args.push("KEYS".into());
                let number = rng.usize(1..4);
                args.extend(words(rng, number));
            }
            return args;
        }
        Keys::Range { step: 2, .. } => {
            let pairs = rng.usize(1..4);
            args.extend(words(rng, 2 * pairs));
        }
        // With no source the servers' GETKEYS finds no key at all, not even the target.
        Keys::Range { .. } if spec.name == "PFMERGE" => args.extend(words(rng, 2)),
        // A module checks the number itself: its commands take any number, says COMMAND.
        Keys::Range { first, .. } => {
            let first = (usize::from(first) + 1).saturating_sub(args.len());
            args.extend(words(rng, first));
        }
        Keys::None => {}
    }
    let more = least.saturating_sub(args.len());
    args.extend(words(rng, more));
    args
}

fn ours(args: &[String]) -> Vec<String> {
    let frame = encode(args);
    let request = Request::parse(&frame).expect("a canonical request");
    let Some(respgate::command::Found::Spec(spec)) = find(&request) else { panic!("{args:?}") };
    let mut keys = Vec::new();
    let all = Keys::of(spec).all(&request, |key| {
        keys.push(String::from_utf8_lossy(key).into_owned());
        true
    });
    assert_eq!(all, Ok(true), "{args:?}");
    keys
}

#[test]
fn keys_are_where_the_servers_find_them() {
    for server in Server::start_all_versions() {
        let version = server.version();
        let known = commands(&server);
        let keyed: Vec<&Spec> = TABLE.iter().filter(|spec| known.contains_key(spec.name)).collect();
        let mut compared = 0;
        for spec in keyed {
            // Channels of shards are keys to the slots of a cluster only.
            let keyed = spec.flags.contains(Flags::KEYED)
                && !matches!(spec.name, "SPUBLISH" | "SSUBSCRIBE" | "SUNSUBSCRIBE");
            assert_eq!(Keys::of(spec) != Keys::None, keyed, "{}", spec.name);
            if !keyed {
                continue;
            }
            let mut client = server.client();
            let requests: Vec<Vec<String>> = (0..ROUNDS)
                .map(|seed| arguments(spec, known[spec.name].arity, &mut Rng::with_seed(seed)))
                .collect();
            for request in &requests {
                let mut question = vec!["COMMAND".to_owned(), "GETKEYS".to_owned()];
                question.extend(request.iter().cloned());
                client.send_command(&question);
            }
            for request in &requests {
                let reply = client.reply();
                assert!(reply.starts_with(b"*"), "{request:?}: {}", reply.escape_ascii());
                let mut theirs: Vec<String> =
                    many(&parse(&mut &reply[..])).iter().map(|key| text(key).to_owned()).collect();
                let mut ours = ours(request);
                theirs.sort();
                ours.sort();
                assert_eq!(ours, theirs, "{request:?} on {version}");
                compared += 1;
            }
        }
        assert!(compared > 3500, "{compared} requests compared");
    }
}

/// What only some servers say. The table goes by the newest of them; of `no_multi` it goes by valkey 8.0, since redis gives that
/// flag to none of these commands and refuses them inside MULTI all the same.
const DIFFERENT: [&str; 17] = [
    "BLMOVE: is noscript",
    "BLPOP: is noscript",
    "BRPOP: is noscript",
    "BRPOPLPUSH: is noscript",
    "BZPOPMAX: is noscript",
    "BZPOPMIN: is noscript",
    "CLIENT|REPLY: is no_multi",
    "CLUSTER|REPLICATE: takes 3 arguments, not -3",
    "COMMAND|GETKEYS: takes -4 arguments, not -3",
    "COMMAND|GETKEYSANDFLAGS: takes -4 arguments, not -3",
    "MULTI: is not no_multi",
    "SCRIPT|DEBUG: takes 3 arguments, not -3",
    "WAIT: is not blocking",
    "WAIT: is noscript",
    "WATCH: is not no_multi",
    "ZRANK: takes 3 arguments, not -3",
    "ZREVRANK: takes 3 arguments, not -3",
];

/// Every way in which a server's COMMAND and the table differ.
fn differences(known: &BTreeMap<String, Command>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, command) in known {
        let Some(spec) = TABLE.iter().find(|spec| spec.name == name) else {
            found.push(format!("{name}: the table lacks it"));
            continue;
        };
        if spec.arity != command.arity {
            found.push(format!("{name}: takes {} arguments, not {}", command.arity, spec.arity));
        }
        for (flag, word) in FLAGS {
            if spec.flags.contains(flag) != command.flags.contains(word) {
                let has = if command.flags.contains(word) { "is" } else { "is not" };
                found.push(format!("{name}: {has} {word}"));
            }
        }
    }
    found
}

#[test]
fn the_table_says_what_every_server_says() {
    let mut odd = Vec::new();
    for server in Server::start_all_versions() {
        let (version, known) = (server.version(), commands(&server));
        let found = differences(&known);
        println!("{version}: {} commands, {} differences", known.len(), found.len());
        found.iter().for_each(|line| println!("    {line}"));
        odd.extend(unexpected(&version, &found));
    }
    assert!(odd.is_empty(), "{odd:#?}");
}

/// The differences that no version is known to have.
fn unexpected(version: &str, found: &[String]) -> Vec<String> {
    let odd = found.iter().filter(|line| !DIFFERENT.contains(&line.as_str()));
    odd.map(|line| format!("{version}: {line}")).collect()
}

fn rules(rng: &mut Rng, names: &[String], known: &BTreeMap<String, Command>) -> Vec<String> {
    let known: Vec<&Spec> = TABLE.iter().filter(|spec| known.contains_key(spec.name)).collect();
    let containers: Vec<&str> =
        known.iter().filter(|spec| spec.flags.contains(Flags::CONTAINER)).map(|spec| spec.name).collect();
    let rule = |rng: &mut Rng| {
        let sign = ['+', '-'][rng.usize(..2)];
        match rng.u8(..8) {
            0 => format!("{sign}@all"),
            1..4 => format!("{sign}@{}", names[rng.usize(..names.len())]),
            4 => format!("{sign}{}", containers[rng.usize(..containers.len())].to_ascii_lowercase()),
            _ => format!("{sign}{}", known[rng.usize(..known.len())].name.to_ascii_lowercase()),
        }
    };
    let mut rules: Vec<String> = (0..rng.usize(1..8)).map(|_| rule(rng)).collect();
    rules.retain(|rule| !rule.contains("sentinel"));
    rules
}

/// Whether the server would run a command of its user `t`.
fn dry_run(client: &mut Client, requests: &[Vec<String>]) -> Vec<bool> {
    for request in requests {
        let mut question: Vec<String> = ["ACL", "DRYRUN", "t"].map(str::to_owned).into();
        question.extend(request.iter().cloned());
        client.send_command(&question);
    }
    let verdict = |request: &Vec<String>| {
        let reply = client.reply();
        let denied = reply.windows(14).any(|part| part == b"no permissions");
        assert!(denied || reply == b"+OK\r\n", "{request:?}: {}", reply.escape_ascii());
        !denied
    };
    requests.iter().map(verdict).collect()
}

#[test]
fn rules_allow_what_the_servers_acl_allows() {
    for server in Server::start_all_versions() {
        let version = server.version();
        let known = commands(&server);
        let names: Vec<String> = categories(&server).into_iter().collect();
        // The commands whose categories differ.
        let differs = |spec: &Spec| {
            let flags = &known[spec.name].flags;
            flags.contains("module") || (spec.name == "WAIT" && !flags.contains("blocking"))
        };
        // A bare container is no command, except COMMAND.
        let specs: Vec<&Spec> = TABLE
            .iter()
            .filter(|spec| known.contains_key(spec.name) && !differs(spec))
            .filter(|spec| !spec.flags.contains(Flags::CONTAINER))
            .collect();
        let request = |spec: &&Spec| arguments(spec, known[spec.name].arity, &mut Rng::with_seed(7));
        let requests: Vec<Vec<String>> = specs.iter().map(request).collect();
        let mut client = server.client();
        let mut compared = 0;
        for seed in 0..40 {
            let rules = rules(&mut Rng::with_seed(seed), &names, &known);
            let mut question: Vec<&str> = vec!["ACL", "SETUSER", "t", "reset", "on", "~*", "&*"];
            question.extend(rules.iter().map(String::as_str));
            let reply = client.call(&question);
            // A rule about a command that this server lacks is an error there.
            if reply != b"+OK\r\n" {
                assert!(reply.starts_with(b"-ERR Error in ACL SETUSER"), "{}", reply.escape_ascii());
                continue;
            }
            let config = PolicyConfig {
                commands: Some(rules.iter().map(|rule| Rule::parse(rule).expect("a rule")).collect()),
                scripts: Scripts::DeclaredKeys,
                ..PolicyConfig::default()
            };
            let policy = Policy::new(&config).expect("a policy");
            compared += 1;
            let theirs = dry_run(&mut client, &requests);
            for (args, theirs) in requests.iter().zip(theirs) {
                let frame = encode(args);
                let request = Request::parse(&frame).expect("a canonical request");
                let ours = policy.permit(find(&request), &request, || None).is_ok();
                assert_eq!(ours, theirs, "{args:?} under {rules:?} on {version}");
            }
        }
        assert!(compared > 30, "{compared} lists of rules compared");
    }
}
