mod coordinated;
mod invariants;
mod leader;
mod signs;

use super::*;
use crate::discovery::config::{SentinelConfig, SwitchRule};
use crate::discovery::consensus::STALE_EPOCH_DELAY;
use crate::discovery::event::Claim;
use crate::discovery::machine::sentinels::ASK_MIN;
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
    watch: Option<(u64, Parties)>,
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
            watch: None,
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
                Action::WatchHandover { ticket, parties } => self.watch = Some((*ticket, parties.clone())),
                Action::StopHandoverWatch => self.watch = None,
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
    bench.pass(Duration::from_secs(1)).found(Finding::Unreachable("refused".into()));
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
    bench.pass(Duration::from_secs(1)).found(Finding::Unreachable("refused".into()));
    assert_eq!(bench.outage(), Outage::Unverified("refused".into()));
    bench.pass(Duration::from_secs(1)).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("a:1".into(), 1)));
}

#[test]
fn a_name_is_probed_when_it_leads_to_other_addresses_only() {
    let mut bench = Bench::new(&DiscoveryConfig::Fixed(at("a")));
    bench.found(Finding::Primary(Description::default()));
    let ips = |last: &[u8]| Event::Resolved(last.iter().map(|last| [10, 0, 0, *last].into()).collect());
    for same in [&[1, 2][..], &[2, 1], &[]] {
        bench.pass(Duration::from_secs(1)).event(ips(same));
        assert_eq!(bench.probe, None);
    }
    bench.pass(Duration::from_secs(1)).event(ips(&[2]));
    assert!(bench.probe.is_some());
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
