use super::*;
use crate::discovery::sentinel_table::SentinelError;

fn at(host: &str) -> Address {
    Address::tcp(host, 1)
}

fn claim(host: &str, epoch: u64) -> Claim {
    Claim { address: at(host), epoch, run_id: None, flags: "master".into(), failover_state: None }
}

fn says(claim: Option<Claim>, total: usize) -> View {
    View { claim, others: Vec::new(), total }
}

/// Sentinels s1 to s`seeds`, and a clock that moves only when a test moves it.
struct Table {
    table: SentinelTable,
    consensus: Consensus,
    accepted: Option<Claim>,
    successor: Option<Address>,
    now: Instant,
}

impl Table {
    fn new(seeds: usize) -> Self {
        let seeds = (1..=seeds).map(|number| at(&format!("s{number}"))).collect();
        let config = SentinelConfig::new(seeds, "mymaster");
        let (table, consensus) = (SentinelTable::new(&config), Consensus::new(&config));
        Self { table, consensus, accepted: None, successor: None, now: Instant::now() }
    }

    fn hear(&mut self, sentinel: &str, view: View) -> &mut Self {
        self.table.answered(&at(sentinel), view);
        self
    }

    fn claims(&mut self, sentinel: &str, host: &str, epoch: u64) -> &mut Self {
        self.hear(sentinel, says(Some(claim(host, epoch)), 3))
    }

    fn fails(&mut self, sentinel: &str) -> &mut Self {
        self.table.failed(&at(sentinel), SentinelError::Unreachable(format!("{sentinel} is gone")));
        self
    }

    fn after(&mut self, wait: Duration) -> &mut Self {
        self.now += wait;
        self
    }

    /// The node and the epoch that the rule names now, if any.
    fn named(&mut self) -> Option<(String, u64)> {
        match self.consensus.verdict(&self.table, self.accepted.as_ref(), self.successor.as_ref(), self.now) {
            ConsensusVerdict::Named(claim) => {
                let named = (claim.address.to_string(), claim.epoch);
                self.accepted = Some(claim);
                Some(named)
            }
            ConsensusVerdict::Undecided(_) => None,
        }
    }

    fn outage(&mut self) -> Outage {
        match self.consensus.verdict(&self.table, self.accepted.as_ref(), self.successor.as_ref(), self.now) {
            ConsensusVerdict::Named(claim) => panic!("{claim:?}"),
            ConsensusVerdict::Undecided(outage) => outage,
        }
    }
}

fn node(host: &str, epoch: u64) -> Option<(String, u64)> {
    Some((format!("{host}:1"), epoch))
}

#[test]
fn one_sentinel_alone_decides_at_once() {
    let mut table = Table::new(1);
    assert_eq!(table.outage(), Outage::Starting);
    assert_eq!(table.hear("s1", says(Some(claim("a", 0)), 1)).named(), node("a", 0));
}

#[test]
fn the_first_of_three_to_answer_does_not_win() {
    let mut table = Table::new(3);
    assert_eq!(table.claims("s1", "self", 0).named(), None);
    assert_eq!(table.claims("s2", "a", 5).named(), None);
    assert_eq!(table.claims("s3", "a", 5).named(), node("a", 5), "two masters are visible, most name one");
}

#[test]
fn a_followed_node_that_names_the_candidate_ends_the_delay() {
    let settled = || {
        let mut table = Table::new(3);
        table.claims("s1", "a", 3).claims("s2", "a", 3).claims("s3", "a", 3).named();
        table
    };
    let mut table = settled();
    table.successor = Some(at("b"));
    assert_eq!(table.claims("s1", "b", 0).named(), node("a", 3), "most still name the former one");
    assert_eq!(table.claims("s2", "b", 0).named(), node("b", 0));
    let mut table = settled();
    table.successor = Some(at("c"));
    assert_eq!(table.claims("s1", "b", 0).claims("s2", "b", 0).named(), None, "it is replica of another");
    let mut table = settled();
    table.successor = Some(at("b"));
    assert_eq!(table.claims("s3", "c", 4).claims("s1", "b", 0).claims("s2", "b", 0).named(), None, "a third");
}

#[test]
fn two_of_three_decide_at_once() {
    let mut table = Table::new(3);
    assert_eq!(table.fails("s1").claims("s2", "a", 1).named(), None);
    assert_eq!(table.claims("s3", "a", 1).named(), node("a", 1));
}

#[test]
fn a_minority_decides_after_a_delay() {
    for (seeds, dead) in [(2, 1), (3, 2)] {
        let mut table = Table::new(seeds);
        for number in 0..dead {
            table.fails(&format!("s{}", seeds - number));
        }
        table.hear("s1", says(Some(claim("a", 1)), seeds));
        assert!(matches!(table.outage(), Outage::Asking(text) if text.contains(&format!("1 of {seeds}"))));
        let decide_at = table.consensus.decide_at().unwrap();
        assert_eq!(decide_at, table.now + MINORITY_DELAY);
        assert_eq!(table.after(MINORITY_DELAY - Duration::from_millis(1)).named(), None);
        assert_eq!(table.after(Duration::from_millis(1)).named(), node("a", 1));
        assert_eq!(table.consensus.decide_at(), None);
    }
}

#[test]
fn one_seed_that_knows_of_others_is_a_minority_until_they_answer() {
    let mut table = Table::new(1);
    assert_eq!(table.claims("s1", "a", 1).named(), None);
    assert_eq!(table.after(MINORITY_DELAY).named(), node("a", 1));
}

#[test]
fn a_failover_is_followed_when_most_have_taken_it_up() {
    let mut table = Table::new(3);
    table.claims("s1", "a", 1).claims("s2", "a", 1).claims("s3", "a", 1);
    assert_eq!(table.named(), node("a", 1));
    assert_eq!(table.claims("s1", "b", 2).named(), node("a", 1), "the leader alone");
    assert_eq!(table.claims("s2", "b", 2).named(), node("b", 2));
    assert_eq!(table.claims("s3", "b", 2).named(), node("b", 2));
}

#[test]
fn at_the_start_a_majority_waits_for_a_higher_epoch() {
    let mut table = Table::new(3);
    table.claims("s1", "b", 2).claims("s2", "a", 1).claims("s3", "a", 1);
    assert!(matches!(table.outage(), Outage::NoMajority(_)), "a failover is under way");
    assert_eq!(table.claims("s2", "b", 2).named(), node("b", 2));

    // One Sentinel of another deployment does not block the rule for ever.
    let mut table = Table::new(3);
    table.claims("s1", "x", 99).claims("s2", "a", 1).claims("s3", "a", 1);
    assert_eq!(table.named(), None);
    assert_eq!(table.after(STALE_EPOCH_DELAY).named(), node("a", 1));
}

#[test]
fn lower_and_equal_epochs_need_a_lasting_majority() {
    for epoch in [0, 5] {
        let mut table = Table::new(3);
        table.claims("s1", "a", 5).claims("s2", "a", 5).claims("s3", "a", 5);
        assert_eq!(table.named(), node("a", 5));
        for sentinel in ["s1", "s2"] {
            table.claims(sentinel, "b", epoch);
        }
        assert_eq!(table.named(), None);
        assert_eq!(
            table.after(STALE_EPOCH_DELAY / 2).claims("s2", "a", 5).named(),
            node("a", 5),
            "it did not last"
        );
        assert_eq!(table.claims("s2", "b", epoch).named(), None);
        assert_eq!(table.after(STALE_EPOCH_DELAY / 2).named(), None);
        assert_eq!(
            table.after(STALE_EPOCH_DELAY / 2).named(),
            node("b", epoch),
            "an operator's REMOVE and MONITOR"
        );
        // Epochs count from there on.
        table.claims("s1", "c", epoch + 1).claims("s2", "c", epoch + 1);
        assert_eq!(table.named(), node("c", epoch + 1));
    }
}

#[test]
fn a_minority_never_accepts_an_older_epoch() {
    let mut table = Table::new(3);
    table.claims("s1", "a", 5).claims("s2", "a", 5).claims("s3", "a", 5);
    assert_eq!(table.named(), node("a", 5));
    // Two Sentinels die; the third restarts with an old configuration.
    table.fails("s1").fails("s2").claims("s3", "old", 0);
    assert_eq!(table.named(), None);
    assert_eq!(table.after(Duration::from_secs(3600)).named(), None);
    assert_eq!(table.consensus.decide_at(), None, "nothing to wake up for");
}

#[test]
fn an_epoch_that_starts_over_at_the_same_node_is_accepted_after_a_delay() {
    let mut table = Table::new(3);
    table.claims("s1", "a", 5).claims("s2", "a", 5).claims("s3", "a", 5);
    assert_eq!(table.named(), node("a", 5));
    table.claims("s1", "a", 0).claims("s2", "a", 0).claims("s3", "a", 0);
    assert_eq!(table.named(), node("a", 5));
    assert_eq!(table.after(STALE_EPOCH_DELAY).named(), node("a", 0));
    table.claims("s1", "b", 1).claims("s2", "b", 1);
    assert_eq!(table.named(), node("b", 1));
}

#[test]
fn silence_and_an_unknown_name_have_texts_of_their_own() {
    let mut table = Table::new(3);
    assert_eq!(table.outage(), Outage::Starting);
    table.fails("s1").fails("s2");
    assert!(matches!(table.outage(), Outage::Asking(text) if text.contains("1 of 3")), "not yet known");
    table.fails("s3");
    let outage = table.outage();
    assert!(matches!(&outage, Outage::SentinelsUnreachable(text) if text.contains("s1 is gone; s2 is gone")));

    let refused = SentinelError::Refused("s2 requires a password".into());
    table.table.failed(&at("s2"), refused);
    assert_eq!(table.outage(), Outage::Refused("s2 requires a password".into()));

    table.hear("s3", says(None, 1));
    assert!(
        matches!(table.outage(), Outage::UnknownName(text) if text.contains("\"mymaster\"") && text.contains("s3:1"))
    );

    table.claims("s1", "a", 1).claims("s2", "b", 1).hear("s3", says(None, 3));
    let Outage::NoMajority(text) = table.outage() else { panic!("a majority") };
    assert!(
        text.contains("s1:1 names a:1 (epoch 1), s2:1 names b:1 (epoch 1), s3:1 does not know"),
        "{text}"
    );
}

#[test]
fn one_sentinel_under_two_addresses_votes_once() {
    let mut table = Table::new(3);
    for seed in ["s1", "s2"] {
        table.table.connected(&at(seed), Some("twin".into()), true);
    }
    assert_eq!(table.claims("s1", "a", 1).claims("s2", "a", 1).named(), None);
    assert_eq!(table.claims("s3", "a", 1).named(), node("a", 1));
}

#[test]
fn names_and_ip_addresses_of_one_node_agree_and_do_not_flap() {
    let known_as = |host: &str| Claim { run_id: Some("run".into()), ..claim(host, 1) };
    let mut table = Table::new(3);
    table.hear("s1", says(Some(known_as("db.example")), 3)).hear("s2", says(Some(known_as("10.0.0.1")), 3));
    let first = table.named().unwrap();
    let other = if first.0 == "db.example:1" { "10.0.0.1" } else { "db.example" };
    assert_eq!(table.hear("s3", says(Some(known_as(other)), 3)).named(), Some(first));
    // When no Sentinel uses the old address any more, the node has moved.
    for sentinel in ["s1", "s2", "s3"] {
        table.hear(sentinel, says(Some(known_as("10.0.0.9")), 3));
    }
    assert_eq!(table.named(), node("10.0.0.9", 1));
}

proptest::proptest! {
    /// In every order of answers, the rule accepts a lower epoch only after its delay.
    #[test]
    fn no_order_of_answers_accepts_an_older_epoch_early(
        steps in proptest::collection::vec((1..4_usize, 0..3_usize, 0..4_u64, proptest::bool::ANY), 1..60)
    ) {
        let mut table = Table::new(3);
        let mut last: Option<(String, u64)> = None;
        for (sentinel, host, epoch, dies) in steps {
            let sentinel = format!("s{sentinel}");
            if dies {
                table.fails(&sentinel);
            } else {
                table.claims(&sentinel, ["a", "b", "c"][host], epoch);
            }
            table.after(Duration::from_millis(10));
            if let Some(named) = table.named() {
                if let Some(last) = &last {
                    proptest::prop_assert!(
                        named.1 > last.1 || *last == named,
                        "{last:?} became {named:?} within {:?}", STALE_EPOCH_DELAY
                    );
                }
                last = Some(named);
            }
        }
    }
}
