use super::*;

fn node(host: &str) -> Address {
    Address::tcp(host, 6379)
}

fn primary() -> Finding {
    Finding::Primary(Description::default())
}

fn refused() -> Finding {
    Finding::Unreachable("connection refused".into())
}

fn replica() -> Finding {
    Finding::NotPrimary("it is a replica".into())
}

/// A verifier, its clock, and the times at which it started probes.
struct Bench {
    verifier: Verifier,
    now: Instant,
    probes: Vec<Instant>,
}

impl Bench {
    fn aimed() -> Self {
        let mut bench =
            Self { verifier: Verifier::new(Duration::ZERO), now: Instant::now(), probes: Vec::new() };
        bench.aim("a", 1);
        bench
    }

    fn verified() -> Self {
        let mut bench = Self::aimed();
        bench.probe(primary());
        bench
    }

    fn aim(&mut self, host: &str, epoch: u64) {
        self.verifier.aim(node(host), Some(epoch), self.now);
    }

    fn hint(&mut self, generation: u64) {
        self.verifier.hint(Hint::Lost(Generation(generation)), self.now);
    }

    /// Waits until a probe is due, runs it, and returns how long the wait was.
    fn probe(&mut self, finding: Finding) -> Duration {
        let start = self.now;
        let (ticket, _) = loop {
            self.now = self.now.max(self.verifier.wake_at().expect("no probe is due"));
            self.verifier.lapse(self.now);
            if let Some(probe) = self.verifier.start_probe(self.now) {
                break probe;
            }
        };
        let wait = self.now - start;
        self.probes.push(self.now);
        self.verifier.probed(ticket, finding, self.now);
        wait
    }

    /// The generation of the node that may receive commands.
    fn generation(&self) -> Option<u64> {
        match self.verifier.topology()? {
            Topology::Known(primary) => Some(primary.generation.0),
            _ => None,
        }
    }
}

#[test]
fn nothing_is_published_before_the_node_says_so_itself() {
    let mut bench = Bench::aimed();
    assert_eq!(bench.generation(), None);
    assert_eq!(bench.probe(refused()), Duration::ZERO);
    for finding in [replica(), refused(), Finding::AuthRejected(Outage::Refused("WRONGPASS".into()))] {
        let wait = bench.probe(finding);
        assert!((PROBE_MIN..=PROBE_MAX).contains(&wait), "{wait:?}");
        assert_eq!(bench.generation(), None);
    }
    bench.probe(primary());
    assert_eq!(bench.generation(), Some(1));
    assert_eq!(bench.verifier.wake_at(), None, "a working primary is left alone");
}

#[test]
fn another_node_is_another_generation_and_the_old_one_is_withdrawn_first() {
    let mut bench = Bench::verified();
    bench.aim("b", 2);
    assert_eq!(bench.generation(), None, "a newer primary is known: nothing may go to the old one");
    // The node never starts; the Sentinels go back to the first one.
    bench.probe(refused());
    bench.aim("a", 3);
    assert_eq!(bench.probe(primary()), Duration::ZERO);
    assert_eq!(bench.generation(), Some(2));
    bench.verifier.set_epoch(4);
    assert_eq!(bench.generation(), Some(2));
}

#[test]
fn the_answer_of_a_former_node_is_ignored() {
    let mut bench = Bench::aimed();
    let (old, _) = bench.verifier.start_probe(bench.now).unwrap();
    bench.aim("b", 2);
    bench.verifier.probed(old, primary(), bench.now);
    assert_eq!(bench.generation(), None);
    let (new, address) = bench.verifier.start_probe(bench.now).unwrap();
    assert_eq!(address, node("b"));
    bench.verifier.probed(old, primary(), bench.now);
    assert_eq!(bench.generation(), None);
    bench.verifier.probed(new, primary(), bench.now);
    assert_eq!(bench.generation(), Some(1));
    bench.verifier.probed(new, replica(), bench.now);
    assert_eq!(bench.generation(), Some(1), "a ticket counts once");
}

#[test]
fn a_demoted_primary_is_left_at_once_and_an_absent_one_at_the_second_try() {
    let mut bench = Bench::verified();
    bench.now += CALM * 2;
    bench.hint(1);
    assert_eq!(bench.probe(replica()), Duration::ZERO);
    assert_eq!(bench.generation(), None);
    bench.probe(primary());
    assert_eq!(bench.generation(), Some(2), "what was open to it before is not to be used again");

    bench.hint(2);
    bench.probe(refused());
    assert_eq!(bench.generation(), Some(2));
    bench.probe(refused());
    assert_eq!(bench.generation(), None);
}

#[test]
fn a_demoted_primary_may_answer_what_it_was_sent() {
    let mut bench = Bench::verified();
    bench.hint(1);
    bench.probe(Finding::Replica(node("b"), "a is a replica of b".into()));
    let leaving = |bench: &Bench| matches!(bench.verifier.topology(), Some(Topology::Failing(primary, Sign::Demotion)) if primary.generation.0 == 1);
    assert!(leaving(&bench));
    assert_eq!(bench.verifier.successor(), Some(&node("b")));
    let end = bench.now + LEAVE;
    assert!(bench.verifier.wake_at().is_some_and(|at| at <= end));
    bench.verifier.lapse(end - Duration::from_millis(1));
    assert!(leaving(&bench));
    bench.verifier.lapse(end);
    assert!(matches!(bench.verifier.topology(), Some(Topology::Unknown(_))));
}

#[test]
fn a_primary_without_room_for_the_probe_is_kept() {
    let mut bench = Bench::verified();
    bench.hint(1);
    bench.probe(Finding::AuthRejected(Outage::Unverified("ERR max number of clients reached".into())));
    assert_eq!(bench.generation(), Some(1));
    assert_eq!(bench.verifier.wake_at(), None);
}

#[test]
fn hints_of_other_generations_are_ignored() {
    let mut bench = Bench::verified();
    for generation in [0, 2] {
        bench.hint(generation);
        assert_eq!(bench.verifier.wake_at(), None);
    }
}

#[test]
fn a_hint_during_a_probe_asks_once_more() {
    let mut bench = Bench::verified();
    bench.hint(1);
    bench.now = bench.verifier.wake_at().unwrap();
    let (ticket, _) = bench.verifier.start_probe(bench.now).unwrap();
    bench.hint(1);
    assert_eq!(bench.verifier.start_probe(bench.now), None, "one at a time");
    bench.verifier.probed(ticket, primary(), bench.now);
    assert!(bench.verifier.wake_at().is_some());
    bench.probe(replica());
    assert_eq!(bench.generation(), None);
}

#[test]
fn a_lying_sentinel_causes_a_bounded_number_of_dials() {
    // The node refuses every command, yet says that it is the primary to every probe.
    for finding in [primary, replica, refused] {
        let mut bench = Bench::verified();
        let end = bench.now + Duration::from_secs(60);
        while bench.now < end {
            bench.now += Duration::from_millis(10);
            bench.hint(1);
            bench.verifier.nudge(bench.now);
            bench.verifier.lapse(bench.now);
            if bench.verifier.wake_at().is_some_and(|at| at <= bench.now) {
                bench.probe(finding());
            }
        }
        assert!(bench.probes.len() <= 300, "{} dials in a minute", bench.probes.len());
        for pair in bench.probes.windows(2) {
            assert!(pair[1] - pair[0] >= PROBE_MIN);
        }
    }
}

#[test]
fn hints_alone_slow_down_to_one_probe_a_second_or_so() {
    let mut bench = Bench::verified();
    let start = bench.now;
    for _ in 0..100 {
        bench.hint(1);
        bench.probe(primary());
    }
    let average = (bench.now - start) / 100;
    assert!(average > Duration::from_millis(450), "{average:?}");
}

#[test]
fn an_event_brings_the_probe_of_an_unverified_node_forward() {
    let mut bench = Bench::aimed();
    for _ in 0..6 {
        bench.probe(replica());
    }
    bench.verifier.nudge(bench.now);
    assert!(bench.probe(primary()) <= PROBE_MIN);
    bench.verifier.nudge(bench.now);
    assert_eq!(bench.verifier.wake_at(), None, "a verified one is not");
}

fn named(name: &str) -> Finding {
    let node = Node { id: NodeId(name.into()), uptime: Duration::from_secs(3600) };
    Finding::Primary(Description { server: None, node: Some(node) })
}

#[test]
fn a_working_primary_is_asked_at_every_interval_and_another_node_is_another_generation() {
    let interval = Duration::from_secs(3);
    let mut bench = Bench { verifier: Verifier::new(interval), now: Instant::now(), probes: Vec::new() };
    bench.aim("a", 1);
    bench.probe(named("x"));
    for _ in 0..5 {
        assert_eq!(bench.probe(named("x")), interval);
        assert_eq!(bench.generation(), Some(1));
    }
    assert_eq!(bench.verifier.take_news(), []);
    bench.probe(named("y"));
    assert_eq!(bench.generation(), Some(2), "without a gap: the address has a primary");
    assert_eq!(bench.verifier.take_news(), [AddressNews::Switched(node("a"), NodeId("x".into()))]);
    bench.probe(named("x"));
    assert_eq!(bench.generation(), Some(2));
    assert_eq!(bench.verifier.take_news(), [AddressNews::Alternates(node("a"))]);
}

#[test]
fn a_demotion_seen_on_an_old_connection_ends_the_generation() {
    let mut bench = Bench::verified();
    bench.now += Duration::from_secs(10);
    bench.verifier.denied(Generation(7), "another's".into(), bench.now);
    assert_eq!(bench.generation(), Some(1));
    bench.verifier.denied(Generation(1), "a replica".into(), bench.now);
    assert!(matches!(bench.verifier.topology(), Some(Topology::Failing(_, Sign::Demotion))));
    assert_eq!(bench.probe(primary()), Duration::ZERO);
    assert_eq!(bench.generation(), Some(2), "the address leads to a primary: another one");
}

#[test]
fn a_connection_that_led_elsewhere_causes_a_probe_at_once() {
    let mut bench = Bench::aimed();
    bench.probe(named("x"));
    bench.now += PROBE_MIN;
    bench.verifier.hint(Hint::OtherNode(Generation(1)), bench.now);
    assert_eq!(bench.probe(named("y")), Duration::ZERO);
    assert_eq!(bench.generation(), Some(2));
}

#[test]
fn an_address_without_sentinels_is_probed_sooner_and_given_up_later() {
    let verifier = Verifier::for_address(Duration::from_millis(500));
    let mut bench = Bench { verifier, now: Instant::now(), probes: Vec::new() };
    bench.aim("a", 1);
    bench.probe(named("x"));
    for failed in 1..=20 {
        let wait = bench.probe(refused());
        assert!(failed == 1 || (PROBE_MIN..=ADDRESS_PROBE_MAX).contains(&wait), "{wait:?}");
        assert_eq!(bench.generation().is_some(), failed < ADDRESS_UNREACHABLE_LIMIT, "{failed} failures");
    }
    assert!(bench.probe(named("y")) <= ADDRESS_PROBE_MAX);
    assert_eq!(bench.generation(), Some(2));
}

#[test]
fn a_name_that_leads_elsewhere_is_probed_at_once() {
    let mut bench = Bench::verified();
    bench.verifier.interval = Duration::from_secs(3);
    bench.now += Duration::from_secs(1);
    bench.verifier.address_changed(bench.now);
    assert_eq!(bench.probe(named("x")), Duration::ZERO);
    let (stuck, _) = {
        bench.now += Duration::from_secs(3);
        bench.verifier.start_probe(bench.now).expect("the regular probe")
    };
    // It went to a node that is silent now.
    bench.verifier.address_changed(bench.now);
    assert_eq!(bench.probe(named("y")), PROBE_MIN);
    assert_eq!(bench.generation(), Some(2));
    bench.verifier.probed(stuck, refused(), bench.now);
    assert_eq!(bench.generation(), Some(2));
}

#[test]
fn a_primary_whose_connections_work_stays_while_its_name_cannot_be_resolved() {
    let unresolved = || Finding::Unresolved("no such name".into());
    let mut bench = Bench::verified();
    bench.verifier.interval = Duration::from_secs(3);
    bench.verifier.address_changed(bench.now);
    for _ in 0..10 {
        bench.probe(unresolved());
        assert_eq!(bench.generation(), Some(1));
    }
    bench.hint(1);
    for failed in 1..=UNREACHABLE_LIMIT {
        bench.probe(unresolved());
        assert_eq!(bench.generation().is_some(), failed < UNREACHABLE_LIMIT);
    }
}
