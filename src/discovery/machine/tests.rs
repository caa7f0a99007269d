use super::*;
use crate::discovery::consensus::STALE_EPOCH_DELAY;
use crate::discovery::sign::{CONFIRMED_LIMIT, DOWN_LIMIT, FAILOVER_LIMIT};
use crate::discovery::verify::{Description, LEAVE};
use crate::topology::{Generation, Sign};

fn at(host: &str) -> Address {
    Address::tcp(host, 1)
}

fn claim(host: &str, epoch: u64) -> Claim {
    Claim { address: at(host), epoch, run_id: None, flags: "master".into(), failover_state: None }
}

struct Bench {
    machine: Machine,
    now: Instant,
    actions: Vec<Action>,
    topology: Topology,
    published: usize,
    asks: usize,
    probe: Option<(u64, Address)>,
    candidate_probes: usize,
    candidate_probe: Option<(u64, Address)>,
}

impl Bench {
    fn new(config: &DiscoveryConfig) -> Self {
        let now = Instant::now();
        let (machine, actions) = Machine::new(config, Duration::ZERO, now);
        let topology = Topology::Unknown(Arc::new(Outage::Starting));
        let mut bench = Self {
            machine,
            now,
            actions,
            topology,
            published: 0,
            asks: 0,
            probe: None,
            candidate_probes: 0,
            candidate_probe: None,
        };
        bench.event(Event::Tick);
        bench
    }

    fn sentinels(count: usize) -> Self {
        let seeds = (1..=count).map(|number| at(&format!("s{number}"))).collect();
        Self::new(&DiscoveryConfig::Sentinel(SentinelConfig::new(seeds, "mymaster")))
    }

    /// A machine with three Sentinels that name `a`, which says that it is the primary.
    fn settled() -> Self {
        let mut bench = Self::sentinels(3);
        bench.all_claim("a", 1);
        bench.found(Finding::Primary(Description::default()));
        assert_eq!(bench.known(), Some(("a:1".into(), 1)));
        bench
    }

    fn event(&mut self, event: Event) -> &mut Self {
        let actions = self.machine.handle(event, self.now);
        for action in actions {
            match &action {
                Action::Publish(topology) => {
                    self.topology = topology.clone();
                    self.published += 1;
                }
                Action::Ask => self.asks += 1,
                Action::ProbeCandidate { ticket, address } => {
                    self.candidate_probe = Some((*ticket, address.clone()));
                    self.candidate_probes += 1;
                }
                Action::Probe { ticket, address } => self.probe = Some((*ticket, address.clone())),
                _ => {}
            }
            self.actions.push(action);
        }
        // Every action that was due has been returned: a driver that sleeps until then does not spin.
        assert!(self.machine.wake_at().is_none_or(|at| at > self.now), "it would spin");
        self
    }

    fn claims(&mut self, sentinel: &str, host: &str, epoch: u64) -> &mut Self {
        let view = View { claim: Some(claim(host, epoch)), others: vec![], total: 3 };
        self.event(Event::Answered { sentinel: at(sentinel), view })
    }

    fn all_claim(&mut self, host: &str, epoch: u64) -> &mut Self {
        for sentinel in ["s1", "s2", "s3"] {
            self.claims(sentinel, host, epoch);
        }
        self
    }

    fn all_fail(&mut self) {
        for sentinel in ["s1", "s2", "s3"] {
            let error = SentinelError::Unreachable(format!("{sentinel} is gone"));
            self.event(Event::Failed { sentinel: at(sentinel), error });
        }
    }

    fn found(&mut self, finding: Finding) -> &mut Self {
        let (ticket, _) = self.probe.take().expect("no probe is under way");
        self.event(Event::Probed { ticket, finding })
    }

    /// Advances the clock by `span` and sends a tick whenever the machine asks for one.
    fn pass(&mut self, span: Duration) -> &mut Self {
        let end = self.now + span;
        while let Some(at) = self.machine.wake_at().filter(|at| *at <= end) {
            self.now = at;
            self.event(Event::Tick);
        }
        self.now = end;
        self
    }

    fn known(&self) -> Option<(String, u64)> {
        self.topology.primary().map(|primary| (primary.address.to_string(), primary.generation.0))
    }

    fn outage(&self) -> Outage {
        match &self.topology {
            Topology::Unknown(outage) => Outage::clone(outage),
            other => panic!("{other:?}"),
        }
    }

    fn warnings(&self) -> usize {
        self.actions.iter().filter(|action| matches!(action, Action::Warn(_))).count()
    }
}

#[test]
fn every_seed_is_dialled_at_once_and_the_winner_is_probed() {
    let mut bench = Bench::sentinels(3);
    let tracked = bench.actions.iter().filter(|action| matches!(action, Action::Track(_))).count();
    assert_eq!(tracked, 3);
    assert_eq!(bench.outage(), Outage::Starting);
    bench.claims("s1", "a", 1);
    assert!(bench.probe.is_none());
    bench.claims("s2", "a", 1);
    assert_eq!(bench.probe.as_ref().unwrap().1, at("a"));
    assert!(matches!(bench.outage(), Outage::Verifying(_)));
    bench.found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
}

#[test]
fn a_failover_withdraws_the_old_primary_then_publishes_the_new() {
    let mut bench = Bench::settled();
    bench.claims("s1", "b", 2);
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
    bench.claims("s2", "b", 2);
    assert_eq!(bench.known(), None);
    bench.found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
    let published = bench.published;
    bench.claims("s3", "b", 2).claims("s1", "b", 2);
    assert_eq!(bench.published, published, "nothing new, nothing said");
}

#[test]
fn a_higher_epoch_of_the_same_node_is_the_same_generation() {
    let mut bench = Bench::settled();
    bench.all_claim("a", 4);
    let primary = bench.topology.primary().unwrap();
    assert_eq!((primary.generation, primary.config_epoch), (Generation(1), Some(4)));
}

#[test]
fn sentinels_may_all_go_silent_or_mad_without_harm() {
    let mut bench = Bench::settled();
    let published = bench.published;
    bench.all_fail();
    assert!(matches!(bench.machine.uncertainty(), Some(Outage::SentinelsUnreachable(_))));
    let warnings = bench.warnings();
    bench.pass(Duration::from_secs(3600));
    for _ in 0..10 {
        bench.all_fail();
    }
    assert_eq!(bench.warnings(), warnings, "said once");
    for sentinel in ["s1", "s2", "s3"] {
        let view = View { claim: None, others: vec![], total: 1 };
        bench.event(Event::Answered { sentinel: at(sentinel), view });
    }
    assert!(matches!(bench.machine.uncertainty(), Some(Outage::UnknownName(_))));
    bench.claims("s1", "x", 1).claims("s2", "y", 1).claims("s3", "z", 1).pass(Duration::from_secs(60));
    assert!(matches!(bench.machine.uncertainty(), Some(Outage::NoMajority(_))));
    assert_eq!((bench.published, bench.known()), (published, Some(("a:1".into(), 1))));
    bench.all_claim("a", 1);
    assert_eq!(bench.machine.uncertainty(), None);
}

#[test]
fn a_primary_that_was_made_a_replica_by_hand_is_left_at_once() {
    let mut bench = Bench::settled();
    bench.pass(Duration::from_secs(1)).event(Event::Hinted(Hint::NotPrimary(Generation(1))));
    bench.found(Finding::Replica(at("b"), "a is a replica of b".into()));
    bench.claims("s1", "b", 0);
    assert_eq!((bench.sign(), bench.known()), (Some(Sign::Demotion), Some(("a:1".into(), 1))));
    bench.claims("s2", "b", 0).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
}

#[test]
fn a_delay_ends_by_the_clock_alone() {
    let mut bench = Bench::settled();
    bench.all_claim("b", 0);
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
    bench.pass(STALE_EPOCH_DELAY);
    bench.found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
}

#[test]
fn every_event_asks_everyone_and_the_poll_asks_anyway() {
    let mut bench = Bench::settled();
    bench.pass(Duration::from_secs(10));
    assert!((9..=11).contains(&bench.asks), "{}", bench.asks);
    let asks = bench.asks;
    bench.now += ASK_MIN;
    let noticed = |notice| {
        let event = SentinelEvent { notice, primary: None, replica: None };
        Event::Noticed { sentinel: at("s1"), event }
    };
    bench.event(noticed(Notice::Failover(FailoverStep::Started)));
    assert_eq!(bench.asks, asks + 1, "at once");
    for _ in 0..1000 {
        bench.event(noticed(Notice::Other));
    }
    assert_eq!(bench.asks, asks + 1);
    bench.pass(ASK_MIN);
    assert_eq!(bench.asks, asks + 2, "the rest together");
}

#[test]
fn a_hint_asks_the_sentinels_and_the_node() {
    let mut bench = Bench::settled();
    let asks = bench.asks;
    bench.pass(Duration::from_millis(500));
    bench.event(Event::Hinted(Hint::NotPrimary(Generation(1))));
    assert_eq!(bench.asks, asks + 1);
    bench.found(Finding::NotPrimary("it is a replica of b".into()));
    assert_eq!(bench.sign(), Some(Sign::Demotion));
    bench.pass(LEAVE);
    assert_eq!(bench.outage(), Outage::Unverified("it is a replica of b".into()));
    let (asks, published) = (bench.asks, bench.published);
    // Sentinel lies for a minute: dials and questions stay few.
    let mut dials = 0;
    for _ in 0..6000 {
        bench.event(Event::Hinted(Hint::NotPrimary(Generation(1)))).pass(Duration::from_millis(10));
        if bench.probe.is_some() {
            dials += 1;
            bench.found(Finding::NotPrimary("it is a replica of b".into()));
        }
    }
    assert!(dials <= 150, "{dials} dials");
    assert!(bench.asks - asks <= 360, "{} questions", bench.asks - asks);
    assert_eq!(bench.published, published);
    bench.all_claim("b", 2).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
}

#[test]
fn a_fixed_address_is_probed_until_it_is_a_primary() {
    let mut bench = Bench::new(&DiscoveryConfig::Fixed(at("a")));
    bench.found(Finding::NotPrimary("a is a replica".into()));
    assert_eq!(bench.outage(), Outage::Unverified("a is a replica".into()));
    bench.pass(Duration::from_secs(1)).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
    assert_eq!(bench.topology.primary().unwrap().config_epoch, None);
    assert_eq!(bench.machine.wake_at(), None);
    bench.pass(Duration::from_secs(60)).event(Event::Hinted(Hint::Lost(Generation(1))));
    bench.found(Finding::Unreachable("refused".into()));
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
    bench.pass(Duration::from_secs(1)).found(Finding::Unreachable("refused".into()));
    assert_eq!(bench.outage(), Outage::Unverified("refused".into()));
    bench.pass(Duration::from_secs(1)).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
}

impl Bench {
    fn hears(&mut self, sentinel: &str, notice: Notice) -> &mut Self {
        let event = SentinelEvent { notice, primary: Some(at("a")), replica: None };
        self.event(Event::Noticed { sentinel: at(sentinel), event })
    }

    fn sign(&self) -> Option<Sign> {
        match &self.topology {
            Topology::Failing(_, sign) => Some(*sign),
            _ => None,
        }
    }
}

const START: Notice = Notice::Failover(FailoverStep::Started);
const ABORT: Notice = Notice::Failover(FailoverStep::Aborted);

#[test]
fn a_failover_is_announced_then_switched() {
    let mut bench = Bench::settled();
    bench.hears("s1", START);
    assert_eq!((bench.sign(), bench.known()), (Some(Sign::Election), Some(("a:1".into(), 1))));
    let published = bench.published;
    bench.hears("s1", START);
    assert_eq!(bench.published, published, "nothing new, nothing said");
    bench.hears("s1", Notice::Failover(FailoverStep::Promoting));
    assert_eq!(bench.sign(), Some(Sign::Promotion));
    bench.claims("s1", "b", 2).claims("s2", "b", 2);
    assert!(matches!(bench.outage(), Outage::Verifying(_)));
    bench.found(Finding::Primary(Description::default()));
    assert_eq!((bench.sign(), bench.known()), (None, Some(("b:1".into(), 2))));
    // The leader still publishes events about the former primary.
    bench
        .hears("s1", Notice::Failover(FailoverStep::Reconfiguring))
        .hears("s2", Notice::ObjectivelyDown(true));
    assert_eq!(bench.sign(), None);
}

#[test]
fn an_aborted_failover_gives_the_same_primary_back() {
    let mut bench = Bench::settled();
    bench.hears("s1", START).hears("s1", ABORT);
    assert!(matches!(&bench.topology, Topology::Known(primary) if primary.generation == Generation(1)));
    bench.hears("s1", Notice::ObjectivelyDown(true));
    assert_eq!(bench.sign(), Some(Sign::Down));
    bench.hears("s1", Notice::ObjectivelyDown(false));
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
    bench.hears("s1", START).pass(FAILOVER_LIMIT);
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
}

#[test]
fn the_sentinels_are_asked_often_while_a_failover_lasts() {
    let mut bench = Bench::settled();
    bench.hears("s1", START);
    let asks = bench.asks;
    bench.pass(Duration::from_secs(1));
    assert!((9..=11).contains(&(bench.asks - asks)), "{}", bench.asks - asks);
    bench.hears("s1", ABORT);
    let asks = bench.asks;
    bench.pass(Duration::from_secs(5));
    assert!((4..=6).contains(&(bench.asks - asks)), "{}", bench.asks - asks);
}

#[test]
fn a_primary_that_is_down_by_all_accounts_is_held_for_long() {
    let mut bench = Bench::settled();
    bench.hears("s1", Notice::ObjectivelyDown(true));
    for sentinel in ["s1", "s2"] {
        let down = Claim { flags: "master,s_down,o_down".into(), ..claim("a", 1) };
        let view = View { claim: Some(down), others: vec![], total: 3 };
        bench.event(Event::Answered { sentinel: at(sentinel), view });
    }
    bench.pass(DOWN_LIMIT * 3);
    assert_eq!(bench.sign(), Some(Sign::Down));
    bench.all_claim("a", 1);
    assert_eq!(bench.sign(), None);
}

#[test]
fn a_sign_outlives_the_primary_it_is_about() {
    let mut bench = Bench::settled();
    bench.pass(Duration::from_secs(1)).event(Event::Hinted(Hint::Lost(Generation(1))));
    bench.found(Finding::Unreachable("refused".into()));
    bench.pass(Duration::from_secs(1)).found(Finding::Unreachable("refused".into()));
    assert_eq!(bench.outage(), Outage::Unverified("refused".into()));
    bench.hears("s1", START);
    assert_eq!(bench.outage(), Outage::Unverified("refused".into()));
    // The primary restarts within the limit: it gets no commands, since another node is about to take over.
    bench.pass(Duration::from_secs(1)).found(Finding::Primary(Description::default()));
    assert_eq!((bench.sign(), bench.known()), (Some(Sign::Election), Some(("a:1".into(), 1))));
    bench.hears("s1", ABORT);
    assert_eq!(bench.sign(), None);
}

impl Bench {
    /// A settled machine that follows the leading Sentinel's choice.
    fn following_the_leader() -> Self {
        let seeds = ["s1", "s2", "s3"].map(at).to_vec();
        let mut config = SentinelConfig::new(seeds, "mymaster");
        config.switch = SwitchRule::Leader;
        let mut bench = Self::new(&DiscoveryConfig::Sentinel(config));
        bench.all_claim("a", 1);
        bench.found(Finding::Primary(Description::default()));
        bench
    }

    fn chooses(&mut self, sentinel: &str, replica: &str) -> &mut Self {
        let notice = Notice::Failover(FailoverStep::Selecting);
        let event = SentinelEvent { notice, primary: Some(at("a")), replica: Some(at(replica)) };
        self.event(Event::Noticed { sentinel: at(sentinel), event })
    }

    fn candidate_says(&mut self, primary: bool) -> &mut Self {
        let (ticket, _) = self.candidate_probe.take().expect("no candidate is being probed");
        self.event(Event::CandidateProbed { ticket, primary })
    }
}

#[test]
fn the_leaders_choice_is_followed_once_it_is_primary() {
    let mut bench = Bench::following_the_leader();
    bench.hears("s1", START).chooses("s1", "b");
    assert_eq!(bench.candidate_probe.as_ref().unwrap().1, at("b"));
    for _ in 0..5 {
        bench.candidate_says(false);
        assert_eq!((bench.sign(), bench.known()), (Some(Sign::Promotion), Some(("a:1".into(), 1))));
        bench.pass(Duration::from_millis(50));
    }
    bench.candidate_says(true);
    assert_eq!(bench.known(), None);
    bench.found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
    // First the leader names `b`, then the others do: only the epoch changes.
    bench.hears("s1", Notice::Failover(FailoverStep::Promoted)).pass(Duration::from_secs(1));
    bench.all_claim("b", 2).pass(Duration::from_secs(20));
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
    assert_eq!(bench.topology.primary().unwrap().config_epoch, Some(2));
    assert_eq!((bench.candidate_probes, bench.warnings()), (6, 0));
}

#[test]
fn a_choice_that_is_never_confirmed_is_left_again() {
    let mut bench = Bench::following_the_leader();
    bench
        .hears("s1", START)
        .chooses("s1", "b")
        .candidate_says(true)
        .found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
    bench.all_claim("a", 1).pass(STALE_EPOCH_DELAY).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("a:1".into(), 3)));
}

#[test]
fn a_choice_counts_only_while_its_leader_leads() {
    let mut bench = Bench::settled();
    bench.chooses("s1", "b");
    assert_eq!(bench.candidate_probe, None, "by default the majority decides");
    let mut bench = Bench::following_the_leader();
    bench.hears("s1", START).chooses("s1", "b").hears("s1", ABORT).candidate_says(true);
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
    // The replica never becomes a primary: the queries end with the sign.
    bench.hears("s1", START).chooses("s1", "b");
    for _ in 0..1000 {
        if bench.candidate_probe.is_some() {
            bench.candidate_says(false);
        }
        bench.pass(Duration::from_millis(50));
    }
    assert!((150..=201).contains(&bench.candidate_probes), "{}", bench.candidate_probes);
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
}

#[test]
fn events_about_other_nodes_and_former_primaries_are_no_signs() {
    let mut bench = Bench::settled();
    for primary in [None, Some(at("b"))] {
        let event = SentinelEvent { notice: START, primary, replica: None };
        bench.event(Event::Noticed { sentinel: at("s1"), event });
        assert_eq!(bench.sign(), None);
    }
    // One Sentinel knows the primary by another name.
    let run_id = Some("f".repeat(40));
    for (sentinel, host) in [("s1", "a"), ("s2", "a"), ("s3", "alias")] {
        let view = View {
            claim: Some(Claim { run_id: run_id.clone(), ..claim(host, 1) }),
            others: vec![],
            total: 3,
        };
        bench.event(Event::Answered { sentinel: at(sentinel), view });
    }
    let event = SentinelEvent { notice: START, primary: Some(at("alias")), replica: None };
    bench.event(Event::Noticed { sentinel: at("s3"), event });
    assert_eq!(bench.sign(), Some(Sign::Election));
}

#[derive(Clone, Debug)]
enum Step {
    Claim(usize, usize, u64),
    Sign(usize, usize, usize),
    Fail(usize),
    Probe(bool),
    Hint(u64),
    Pass(u64),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        4 => (1..4_usize, 0..3_usize, 0..5_u64).prop_map(|(who, whom, epoch)| Step::Claim(who, whom, epoch)),
        2 => (1..4_usize, 0..3_usize, 0..5_usize).prop_map(|(who, whom, what)| Step::Sign(who, whom, what)),
        1 => (1..4_usize).prop_map(Step::Fail),
        3 => any::<bool>().prop_map(Step::Probe),
        1 => (0..5_u64).prop_map(Step::Hint),
        2 => (0..8000_u64).prop_map(Step::Pass),
    ]
}

proptest::proptest! {
    /// In every order of events: generations never fall, one generation has one address, nothing is published
    /// unverified or twice, no sign lasts for ever, and the machine never asks to be woken in the past
    /// ([`Bench::event`]).
    #[test]
    fn invariants_hold_in_every_order(steps in proptest::collection::vec(step(), 1..80)) {
        let mut bench = Bench::sentinels(3);
        let mut owners = std::collections::BTreeMap::new();
        for step in steps {
            match step {
                Step::Claim(who, whom, epoch) => {
                    bench.claims(&format!("s{who}"), ["a", "b", "c"][whom], epoch);
                }
                Step::Sign(who, whom, what) => {
                    let notices = [
                        START,
                        Notice::Failover(FailoverStep::Promoting),
                        ABORT,
                        Notice::ObjectivelyDown(true),
                        Notice::ObjectivelyDown(false),
                    ];
                    let primary = Some(at(["a", "b", "c"][whom]));
                    let event = SentinelEvent { notice: notices[what].clone(), primary, replica: None };
                    bench.event(Event::Noticed { sentinel: at(&format!("s{who}")), event });
                }
                Step::Fail(who) => {
                    let error = SentinelError::Unreachable("gone".into());
                    bench.event(Event::Failed { sentinel: at(&format!("s{who}")), error });
                }
                Step::Probe(good) if bench.probe.is_some() => {
                    let target = bench.probe.as_ref().unwrap().1.to_string();
                    let finding = if good { Finding::Primary(Description::default()) } else { Finding::NotPrimary("no".into()) };
                    bench.found(finding);
                    if let Some((address, _)) = bench.known().filter(|_| good) {
                        proptest::prop_assert_eq!(address, target);
                    }
                }
                Step::Probe(_) => {}
                Step::Hint(generation) => {
                    bench.event(Event::Hinted(Hint::Lost(Generation(generation))));
                }
                Step::Pass(millis) => {
                    bench.pass(Duration::from_millis(millis));
                }
            }
            if let Some((address, generation)) = bench.known() {
                let newest = owners.keys().next_back().copied().unwrap_or(0);
                proptest::prop_assert!(generation >= newest, "generation {generation} after {newest}");
                proptest::prop_assert_eq!(owners.entry(generation).or_insert_with(|| address.clone()), &address);
            }
        }
        bench.pass(CONFIRMED_LIMIT);
        proptest::prop_assert_eq!(bench.sign(), None);
    }
}
