//! Properties that hold in every order of events.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Claim(usize, usize, u64),
    Sign(usize, usize, usize),
    Fail(usize),
    Probe(bool),
    Hint(u64),
    Coordinated(usize, usize),
    Watch(usize, u64),
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
        2 => (1..4_usize, 0..3_usize).prop_map(|(who, whom)| Step::Coordinated(who, whom)),
        2 => (0..3_usize, 0..2000_u64).prop_map(|(what, closing)| Step::Watch(what, closing)),
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
                Step::Coordinated(who, whom) => {
                    let who = format!("s{who}");
                    let flags = "master,coordinated_failover".into();
                    let claim = Claim { flags, ..claim("a", 1) };
                    let view = View { claim: Some(claim), others: vec![], total: 3 };
                    bench.hears(&who, START).event(Event::Answered { sentinel: at(&who), view });
                    bench.chooses(&who, ["a", "b", "c"][whom]);
                }
                Step::Watch(what, closing) => {
                    let ticket = bench.watch.as_ref().map_or(0, |(ticket, _)| *ticket);
                    let closing = bench.now + Duration::from_millis(closing);
                    bench.event(match what {
                        0 => Event::HandoverWatchEnded { ticket },
                        _ => Event::HandedOver { ticket, closing },
                    });
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
