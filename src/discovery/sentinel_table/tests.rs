use super::*;
use crate::discovery::event::{Claim, Peer};

fn at(host: &str) -> Address {
    Address::tcp(host, 1)
}

fn seeded(count: usize) -> SentinelTable {
    let seeds = (1..=count).map(|number| at(&format!("s{number}"))).collect();
    SentinelTable::new(&SentinelConfig::new(seeds, "mymaster"))
}

fn naming(others: &[(&str, Option<&str>)]) -> View {
    let others = others.iter().map(|(host, id)| Peer { address: at(host), id: id.map(Into::into) }).collect();
    let claim =
        Claim { address: at("a"), epoch: 1, run_id: None, flags: "master".into(), failover_state: None };
    View { claim: Some(claim), others, total: 3 }
}

#[test]
fn other_sentinels_are_learnt_once_the_seeds_are_heard() {
    let mut table = seeded(2);
    table.connected(&at("s1"), Some("id1".into()), true);
    let view = || naming(&[("ip2", Some("id2")), ("ip3", Some("id3")), ("s2", None)]);
    assert_eq!(table.answered(&at("s1"), view()).0, [], "s2 may be ip2");
    table.connected(&at("s2"), Some("id2".into()), true);
    let (changes, _) = table.answered(&at("s2"), naming(&[]));
    assert_eq!(changes, [Change::Track(at("ip3"))]);
    assert_eq!(table.answered(&at("s1"), view()).0, [], "once");
}

#[test]
fn learnt_sentinels_that_are_dead_and_no_longer_named_are_forgotten() {
    let mut table = seeded(1);
    let (changes, _) = table.answered(&at("s1"), naming(&[("ip2", None)]));
    assert_eq!(changes, [Change::Track(at("ip2"))]);
    let gone = || SentinelError::Unreachable("gone".into());
    let (changes, news) = table.failed(&at("ip2"), gone());
    assert_eq!((changes, news.as_deref()), (vec![], Some("gone")), "still named");
    assert_eq!(table.failed(&at("ip2"), gone()), (vec![], None), "told once");
    let (changes, _) = table.answered(&at("s1"), naming(&[("ip9", None)]));
    assert_eq!(changes, [Change::Track(at("ip9")), Change::Forget(at("ip2"))]);
    // If no Sentinel answers, the table keeps all of them.
    assert_eq!(table.failed(&at("s1"), gone()).0, []);
    assert_eq!(table.failed(&at("ip9"), gone()).0, []);
}

#[test]
fn a_learnt_twin_of_a_seed_is_forgotten() {
    let mut table = seeded(2);
    table.failed(&at("s2"), SentinelError::Unreachable("no DNS yet".into()));
    let (changes, _) = table.answered(&at("s1"), naming(&[("ip2", Some("id2"))]));
    assert_eq!(changes, [Change::Track(at("ip2"))]);
    table.connected(&at("ip2"), Some("id2".into()), true);
    table.answered(&at("ip2"), naming(&[]));
    table.connected(&at("s2"), Some("id2".into()), true);
    let (changes, recovered) = table.answered(&at("s2"), naming(&[]));
    assert_eq!((changes, recovered), (vec![Change::Forget(at("ip2"))], true));
}

#[test]
fn a_liar_cannot_make_us_dial_without_end() {
    let mut table = seeded(1);
    for round in 0..20 {
        let hosts: Vec<_> = (0..20).map(|number| format!("h{round}-{number}")).collect();
        let others: Vec<_> = hosts.iter().map(|host| (host.as_str(), None)).collect();
        table.answered(&at("s1"), naming(&others));
    }
    assert_eq!(table.sentinels().len(), MAX_SENTINELS);
}
