//! Tests that a denied request stays denied, however it is written.

use proptest::prelude::*;

use super::config::{PolicyConfig, Rule, Scripts};
use super::*;
use crate::command::administration::Administration;
use crate::command::find;
use crate::resp::request::{RequestLimits, encode, split_inline};

fn policy(rules: &[&str]) -> Policy {
    with(rules, PolicyConfig::default())
}

fn with(rules: &[&str], config: PolicyConfig) -> Policy {
    let rules = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect::<Vec<_>>();
    let commands = (!rules.is_empty()).then_some(rules);
    Policy::new(&PolicyConfig { commands, ..config }).unwrap()
}

fn prefixed() -> PolicyConfig {
    PolicyConfig {
        key_prefixes: vec![Box::from(&b"app1:"[..])],
        channel_prefixes: vec![Box::from(&b"app1:"[..])],
        ..PolicyConfig::default()
    }
}

fn judge(policy: &Policy, words: &[impl AsRef<[u8]>]) -> Result<(), Denial> {
    let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
    let mut frame = Vec::new();
    encode(&words, &mut frame);
    let request = Request::parse(&frame).unwrap();
    policy.permit(find(&request), &request, || None)
}

fn judge_text(policy: &Policy, text: &str) -> Result<(), Denial> {
    judge(policy, &text.split(' ').collect::<Vec<_>>())
}

/// Judges the request as an inline command, with every word in quotes and every other byte escaped.
fn judge_inline(policy: &Policy, words: &[Vec<u8>]) -> Result<(), Denial> {
    let mut line = Vec::new();
    for word in words {
        line.extend_from_slice(b" \t\"");
        for (place, byte) in word.iter().enumerate() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'|' if place % 2 == 0 => line.push(*byte),
                byte => line.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            }
        }
        line.push(b'"');
    }
    line.extend_from_slice(b"\r\n");
    let frame = split_inline(&line, &RequestLimits::default()).unwrap().unwrap();
    let request = Request::parse(&frame).unwrap();
    policy.permit(find(&request), &request, || None)
}

fn in_any_case(name: &str, cases: u64) -> Vec<u8> {
    let spell = |(place, byte): (usize, u8)| match cases >> (place % 64) & 1 {
        0 => byte.to_ascii_lowercase(),
        _ => byte.to_ascii_uppercase(),
    };
    name.bytes().enumerate().map(spell).collect()
}

proptest! {
    #[test]
    fn a_denied_command_is_denied_however_it_is_spelt(
        row in 0..TABLE.len(),
        cases: u64,
        arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..6),
        nul: bool,
    ) {
        let spec = &TABLE[row];
        let policies =
            [policy(&["+@all", &format!("-{}", spec.name)]), policy(&["-@all", "+json.get"])];
        let mut words: Vec<Vec<u8>> = spec.name.split('|').map(|name| in_any_case(name, cases)).collect();
        // With a NUL, respgate sees another name, whatever the server reads.
        if nul && let Some(last) = words.last_mut() {
            last.extend_from_slice(b"\0x");
        }
        words.extend(arguments);
        for policy in &policies {
            let exempt = spec.flags.contains(Flags::NO_AUTH) && !nul;
            prop_assert_eq!(judge(policy, &words).is_ok(), exempt);
            prop_assert_eq!(judge_inline(policy, &words).is_ok(), exempt);
        }
    }

    #[test]
    fn a_key_outside_the_prefixes_is_never_admitted(
        row in 0..TABLE.len(),
        cases: u64,
        words in prop::collection::vec(
            prop_oneof!["[a-z]{0,3}", "app1:[a-z]{0,2}", "STORE|store\0x|GET|BY|#|STREAMS|COUNT|MATCH|KEYS", "[0-3]"],
            0..9,
        ),
    ) {
        let spec = &TABLE[row];
        let policy = with(&[], prefixed());
        let mut args: Vec<Vec<u8>> = spec.name.split('|').map(|name| in_any_case(name, cases)).collect();
        args.extend(words.iter().map(|word| word.clone().into_bytes()));
        let judged = judge(&policy, &args);
        prop_assert_eq!(judge_inline(&policy, &args), judged);
        if judged.is_ok() && !spec.flags.contains(Flags::CONTAINER) {
            let mut frame = Vec::new();
            encode(&args.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut frame);
            let request = Request::parse(&frame).unwrap();
            prop_assert_eq!(Keys::of(spec).all(&request, |key| key.starts_with(b"app1:")), Ok(true));
            prop_assert!(!(Keys::of(spec) == Keys::None && spec.flags.contains(Flags::WRITE)));
        }
    }
}

#[test]
fn commands_outside_the_table_are_denied_unless_named() {
    let all = policy(&["+@all"]);
    for request in
        ["NOSUCH x", "JSON.GET doc", "CONFIG NOSUCH", "CLIENT|ID", "FLUSHALL\0x", "CONFIG SET\0x a b"]
    {
        assert_eq!(judge_text(&all, request), Err(Denial::Command(PolicyKey::Commands)), "{request}");
    }
    let named = policy(&["+@all", "+json.get", "+config|later"]);
    for request in ["JSON.GET doc", "json.get doc", "config Later"] {
        assert_eq!(judge_text(&named, request), Ok(()), "{request}");
    }
    for request in ["JSON.GET\0 doc", "JSON.SET doc", "CONFIG", "ACL LATER", "CONFIG|LATER"] {
        let expected = if request == "CONFIG" { Ok(()) } else { Err(Denial::Command(PolicyKey::Commands)) };
        assert_eq!(judge_text(&named, request), expected, "{request}");
    }
    // Neither the command's keys are known, nor whether it writes.
    assert!(judge_text(&with(&["+json.get"], prefixed()), "JSON.GET app1:doc").is_err());
    let reader = with(&["+json.get"], PolicyConfig { read_only: true, ..PolicyConfig::default() });
    assert!(judge_text(&reader, "JSON.GET doc").is_err());
}

#[test]
fn keys_are_held_to_their_prefixes() {
    let app = with(&[], prefixed());
    for request in [
        "GET app1:a",
        "MSET app1:a x app1:b y",
        "BLPOP app1:a app1:b 0",
        "ZUNIONSTORE app1:z 2 app1:a app1:b WEIGHTS 1 2",
        "XREADGROUP GROUP STREAMS c STREAMS app1:x >",
        "GEORADIUS app1:g 1 2 3 m STORE app1:h",
        "SORT app1:l BY nosort GET # STORE app1:m",
        "SCAN 0 MATCH app1:*",
        "KEYS app1:*",
        "BITOP AND app1:d app1:a",
        "OBJECT ENCODING app1:a",
        "DBSIZE",
        "PING",
        "MULTI",
        "CONFIG GET maxmemory",
        "PUBLISH app1:x other",
        "UNSUBSCRIBE other",
        "CLIENT TRACKING ON",
    ] {
        assert_eq!(judge_text(&app, request), Ok(()), "{request}");
    }
    for request in [
        "GET a",
        "MSET app1:a x b y",
        "BLPOP app1:a b 0",
        "ZUNIONSTORE app1:z 2 app1:a b",
        "ZUNIONSTORE z 1 app1:a",
        "ZUNION 02 app1:a app1:b",
        "ZUNION 3 app1:a app1:b",
        "XREADGROUP COUNT 1 GROUP STREAMS c STREAMS other >",
        "XREAD NEWER STREAMS app1:x 0",
        "XREAD STREAMS app1:x 0 0",
        "GEORADIUS app1:g 1 2 3 m STORE h",
        "GEORADIUS app1:g 1 2 3 m STORE\0x h",
        "GEORADIUS app1:g 1 2 3 m STORE app1:h STOREDIST h",
        "SORT app1:l BY w_*",
        "SORT app1:l GET app1:w_*",
        "SORT app1:l LIMIT 0 1 store m",
        "SORT_RO app1:l GET\0x w_*",
        "SCAN 0",
        "KEYS *",
        "BITOP AND d app1:a",
        "CLIENT TRACKING ON BCAST",
        "RESTORE a 0 x",
    ] {
        assert_eq!(judge_text(&app, request), Err(Denial::Key), "{request}");
    }
    for request in [
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB 0 1",
        "RANDOMKEY",
        "MONITOR",
        "DEBUG OBJECT app1:a",
        "SLOWLOG GET",
        "CONFIG SET a b",
        "MIGRATE h 1 app1:a 0 1",
        "EVAL x 1 app1:a",
        "FCALL_RO f 1 app1:a",
        "FUNCTION FLUSH",
        "SCRIPT FLUSH",
        "SCRIPT KILL",
        "FUNCTION KILL",
    ] {
        let denied = judge_text(&app, request);
        let key = if request.starts_with("EVAL") || request.starts_with("FCALL") {
            PolicyKey::Scripts
        } else {
            PolicyKey::KeyPrefixes
        };
        assert_eq!(denied, Err(Denial::Command(key)), "{request}");
    }
    for request in
        ["PUBLISH x app1:x", "SUBSCRIBE app1:a b", "PSUBSCRIBE *", "PUBSUB CHANNELS", "PUBSUB NUMSUB a"]
    {
        assert_eq!(judge_text(&app, request), Err(Denial::Channel), "{request}");
    }
    for request in ["GET", "MSET app1:a", "SUBSCRIBE", "OBJECT ENCODING"] {
        assert_eq!(judge_text(&app, request), Err(Denial::Arity), "{request}");
    }
}

#[test]
fn readers_change_nothing() {
    let reader = with(&[], PolicyConfig { read_only: true, ..PolicyConfig::default() });
    for request in [
        "GET a",
        "KEYS *",
        "SORT_RO l",
        "XREAD STREAMS s 0",
        "EVAL_RO x 0",
        "PUBLISH a b",
        "MULTI",
        "CONFIG GET x",
    ] {
        assert_eq!(judge_text(&reader, request), Ok(()), "{request}");
    }
    for request in [
        "SET a b",
        "GETEX a",
        "SORT l",
        "GEORADIUS g 1 2 3 m",
        "XREADGROUP GROUP g c STREAMS s >",
        "EVAL x 0",
        "EVALSHA x 0",
        "FCALL x 0",
        "FUNCTION LOAD x",
        "FLUSHALL",
        "CONFIG SET a b",
        "DEBUG POPULATE 1",
        "REPLICAOF no one",
        "SCRIPT FLUSH",
        "SCRIPT KILL",
        "FUNCTION KILL",
        "MEMORY PURGE",
        "LATENCY RESET",
        "SLOWLOG RESET",
        "SCRIPT DEBUG YES",
    ] {
        assert_eq!(judge_text(&reader, request), Err(Denial::Command(PolicyKey::ReadOnly)), "{request}");
    }
}

/// A listener that allows administrative commands leaves none to tenants that are restricted, except CONFIG GET.
#[test]
fn no_administrative_command_passes_a_restricted_tenant() {
    let reader = with(&[], PolicyConfig { read_only: true, ..PolicyConfig::default() });
    let channels = PolicyConfig { key_prefixes: Vec::new(), ..prefixed() };
    for policy in [reader, with(&[], prefixed()), with(&[], channels)] {
        for spec in &TABLE {
            let administrative = spec.route == RouteClass::Admin || spec.flags.contains(Flags::ADMIN);
            // A tenant's clients may list, kill and unblock one another.
            let own = spec.administration() == Administration::ConcernsClients;
            if own {
                assert_eq!(judge_text(&policy, &spec.name.replace('|', " ")), Ok(()), "{}", spec.name);
            } else if administrative && spec.name != "CONFIG|GET" {
                let words: Vec<&str> = spec.name.split('|').chain(["app1:a"; 4]).collect();
                let denied = judge(&policy, &words);
                assert!(matches!(denied, Err(Denial::Command(_))), "{}: {denied:?}", spec.name);
            }
        }
    }
}

#[test]
fn scripts_need_to_be_trusted_where_anything_is_restricted() {
    let trusted = |config| PolicyConfig { scripts: Scripts::DeclaredKeys, ..config };
    assert!(judge_text(&policy(&["+@all"]), "EVAL x 0").is_ok());
    assert!(judge_text(&policy(&["+@all", "-keys"]), "EVAL x 0").is_err());
    let usual = with(&["+@all", "-keys"], trusted(PolicyConfig::default()));
    assert!(judge_text(&usual, "EVAL x 0").is_ok());
    assert!(judge_text(&with(&["+@read"], trusted(PolicyConfig::default())), "EVAL x 0").is_err());
    let app = with(&[], trusted(prefixed()));
    assert_eq!(judge_text(&app, "EVAL x 1 app1:a"), Ok(()));
    assert_eq!(judge_text(&app, "EVAL x 2 app1:a b"), Err(Denial::Key));
    assert_eq!(judge_text(&app, "EVALSHA_RO x -1"), Err(Denial::Key));
}

#[test]
fn an_empty_configuration_makes_no_policy() {
    assert!(Policy::new(&PolicyConfig::default()).is_none());
}
