//! What respgate knows of every command, compared with what valkey and redis say of it: categories, key positions,
//! and which commands a list of ACL rules allows.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use respgate::command::category::Categories;
use respgate::command::keys::Keys;
use respgate::command::{Flags, Spec, TABLE, find};
use respgate::resp::request::Request;
use respgate::tenant::policy::Policy;
use respgate::tenant::policy::config::{PolicyConfig, Rule, Scripts};

use crate::support::client::{Client, encode};
use crate::support::servers::{Flavor, Server};
use crate::support::tree::{Reply, many, parse, text};

/// Arguments for each command and category; failures name the seed by their number.
const ROUNDS: u64 = 20;

/// One command of a server's.
struct Command {
    arity: i8,
    categories: BTreeSet<String>,
}

/// Every command that a server has, by the table's names.
fn commands(server: &Server) -> BTreeMap<String, Command> {
    fn collect(commands: &[Reply], found: &mut BTreeMap<String, Command>) {
        for command in commands {
            let fields = many(command);
            let own = many(&fields[6]).iter().map(|name| text(name).trim_start_matches('@').to_owned());
            let arity = text(&fields[1]).parse().expect("a number");
            let command = Command { arity, categories: own.collect() };
            found.insert(text(&fields[0]).to_ascii_uppercase(), command);
            collect(many(&fields[9]), found);
        }
    }
    let reply = server.run(&["COMMAND"]);
    let mut found = BTreeMap::new();
    collect(many(&parse(&mut &reply[..])), &mut found);
    found
}

#[test]
fn categories_are_the_servers() {
    for flavor in Flavor::ALL {
        let server = Server::start(flavor);
        let known = commands(&server);
        assert!(known.len() > 350, "{} commands", known.len());
        for (name, Command { categories: theirs, .. }) in &known {
            let spec = TABLE.iter().find(|spec| spec.name == name);
            let spec = spec.unwrap_or_else(|| panic!("the table lacks {name} of {}", flavor.name()));
            let ours = Categories::of(spec);
            let named = |name: &&str| Categories::named(name).is_some_and(|one| ours.contains(one));
            let mut ours: BTreeSet<&str> = Categories::names().iter().copied().filter(named).collect();
            // WAIT became a blocking command with redis 7.2.
            if name == "WAIT" && flavor == Flavor::Redis {
                ours.remove("blocking");
            }
            assert_eq!(ours, theirs.iter().map(String::as_str).collect(), "{name} of {}", flavor.name());
        }
        for name in Categories::names() {
            let members = server.run_text(&["ACL", "CAT", name]);
            assert!(members.starts_with('*'), "{name}: {members}");
        }
        let count = server.run_text(&["ACL", "CAT"]);
        assert!(count.starts_with(&format!("*{}\r\n", Categories::names().len())), "{count}");
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
        Keys::Counted { count, target } => {
            args.extend(words(rng, usize::from(count) - args.len()));
            debug_assert!(target.is_none_or(|target| target < count));
            let number = rng.usize(1..5);
            args.push(number.to_string());
            args.extend(words(rng, number));
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
            args.extend(words(rng, usize::from(first) - 1));
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
        Keys::Range { .. } | Keys::None => {}
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
    for flavor in Flavor::ALL {
        let server = Server::start(flavor);
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
                assert_eq!(ours, theirs, "{request:?} on {}", flavor.name());
                compared += 1;
            }
        }
        assert!(compared > 3500, "{compared} requests compared");
    }
}

fn rules(rng: &mut Rng) -> Vec<String> {
    let names = Categories::names();
    let containers: Vec<&str> =
        TABLE.iter().filter(|spec| spec.flags.contains(Flags::CONTAINER)).map(|spec| spec.name).collect();
    let rule = |rng: &mut Rng| {
        let sign = ['+', '-'][rng.usize(..2)];
        match rng.u8(..8) {
            0 => format!("{sign}@all"),
            1..4 => format!("{sign}@{}", names[rng.usize(..names.len())]),
            4 => format!("{sign}{}", containers[rng.usize(..containers.len())].to_ascii_lowercase()),
            _ => format!("{sign}{}", TABLE[rng.usize(..TABLE.len())].name.to_ascii_lowercase()),
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
    for flavor in Flavor::ALL {
        let server = Server::start(flavor);
        let known = commands(&server);
        // The one command whose categories differ.
        let differs = |spec: &Spec| flavor == Flavor::Redis && spec.name == "WAIT";
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
            let rules = rules(&mut Rng::with_seed(seed));
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
                assert_eq!(ours, theirs, "{args:?} under {rules:?} on {}", flavor.name());
            }
        }
        assert!(compared > 30, "{compared} lists of rules compared");
    }
}
