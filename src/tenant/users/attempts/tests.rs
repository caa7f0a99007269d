use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

struct Bench {
    attempts: Attempts,
    hasher: RandomState,
}

impl Bench {
    fn new() -> Self {
        Self { attempts: Attempts::default(), hasher: RandomState::new() }
    }

    fn of(&self, source: Source, user: &str) -> Accounts {
        Accounts::new(source, user, &self.hasher)
    }

    fn admit(&mut self, source: Source, user: &str, known: bool, now: u64) -> Admission {
        let accounts = self.of(source, user);
        self.attempts.admit(&accounts, known, now)
    }
}

const HERE: Source = Source::Uid(1);

fn v4(number: u32) -> Source {
    Source::of(Some(Ipv4Addr::from_bits(number).into()), None)
}

/// Returns the source of this /64 in one /48.
fn v6(number: u16) -> Source {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, 1);
    Source::of(Some(IpAddr::V6(address)), None)
}

#[test]
fn blocks_double_up_to_a_limit_and_are_forgotten() {
    let mut bench = Bench::new();
    for _ in 0..FREE {
        assert_eq!(bench.admit(HERE, "app", false, 1000), Admission::Check(1000));
    }
    assert_eq!(bench.admit(HERE, "app", false, 1000), Admission::Lookup { at: 1000, retry_in: 100 });
    assert_eq!(bench.admit(HERE, "app", false, 1100), Admission::Check(1100), "when it said");
    assert_eq!(bench.admit(HERE, "app", false, 1100), Admission::Lookup { at: 1100, retry_in: 200 });
    assert_eq!(bench.admit(HERE, "other", false, 1100), Admission::Check(1100), "another user");
    assert_eq!(bench.admit(Source::Uid(2), "app", false, 1100), Admission::Check(1100), "another source");
    let mut now = 1100;
    for _ in 0..40 {
        now += match bench.admit(HERE, "app", false, now) {
            Admission::Check(_) => 0,
            Admission::Lookup { retry_in, .. } | Admission::Refused(retry_in) => {
                assert!(retry_in <= LONGEST_BLOCK);
                retry_in
            }
            Admission::Accepted => unreachable!(),
        };
    }
    for _ in 0..FREE {
        assert_eq!(bench.admit(HERE, "app", false, now + FORGOTTEN), Admission::Check(now + FORGOTTEN));
    }
}

#[test]
fn a_known_password_is_accepted_without_a_charge() {
    let mut bench = Bench::new();
    for _ in 0..10_000 {
        assert_eq!(bench.admit(HERE, "app", true, 0), Admission::Accepted);
    }
    assert_eq!(bench.attempts.pairs.len() + bench.attempts.paces.len(), 0);
}

/// A client with the right password waits behind the guessers, of whom ten per second are served, and not for ever.
#[test]
fn a_blocked_pair_has_ten_lookups_a_second_in_order() {
    let mut bench = Bench::new();
    (0..FREE + 6).for_each(|at| {
        bench.admit(HERE, "app", false, u64::from(at) * 10_000);
    });
    let now = u64::from(FREE + 5) * 10_000;
    let lookup = |admission| match admission {
        Admission::Lookup { at, .. } => at - now,
        other => panic!("{other:?}"),
    };
    for turn in 0..10 {
        assert_eq!(lookup(bench.admit(HERE, "app", false, now)), turn * 100);
    }
    assert_eq!(lookup(bench.admit(HERE, "app", true, now)), 1000, "no matter whether it is right");
    (0..10).for_each(|_| assert!(lookup(bench.admit(HERE, "app", false, now)) <= LONGEST_TURN));
    assert!(matches!(bench.admit(HERE, "app", true, now), Admission::Refused(_)));
    assert_eq!(lookup(bench.admit(HERE, "app", true, now + 100)), LONGEST_TURN + 100, "a turn has come free");
}

/// Right passwords cost nothing, and do not forgive the wrong ones between them.
#[test]
fn right_passwords_forgive_nothing() {
    let mut bench = Bench::new();
    let accounts = bench.of(HERE, "app");
    let mut wrong = 0;
    for _ in 0..1000 {
        let right = bench.attempts.admit(&accounts, false, 0);
        if matches!(right, Admission::Check(_)) {
            bench.attempts.give_back(&accounts, right, Charged::Everything, 0);
        }
        wrong += u32::from(matches!(bench.attempts.admit(&accounts, false, 0), Admission::Check(_)));
    }
    assert_eq!(wrong, FREE);
}

/// The offenders are more /64s than an IPv6 /50 has, and 100,000 IPv4 addresses.
#[test]
fn a_full_table_of_offenders_locks_nobody_out() {
    let mut bench = Bench::new();
    for round in 0..u64::from(FREE) + 1 {
        for number in 0..16_450 {
            bench.admit(v6(number), "app", false, round * 10);
        }
        for number in 0..100_000 {
            bench.admit(v4(0x0a00_0000 + number), "app", false, round * 10);
        }
    }
    let now = 50;
    for known in [true, false] {
        for newcomer in [v4(0xc0a8_0001), Source::Uid(7), Source::Unknown] {
            let admission = bench.admit(newcomer, "app", known, now);
            let expected = if known { Admission::Accepted } else { Admission::Check(now) };
            assert_eq!(admission, expected, "{newcomer:?}");
        }
        // A newcomer in an offender's network waits for its turn.
        let now = now + LONGEST_TURN;
        for newcomer in [v6(20_000), v4(0x0a00_00ff)] {
            let admission = bench.admit(newcomer, "app", known, now);
            let turn = match admission {
                Admission::Accepted => now,
                Admission::Check(at) | Admission::Lookup { at, .. } => at,
                Admission::Refused(wait) => panic!("{newcomer:?}: {wait}"),
            };
            assert!(turn - now <= LONGEST_TURN, "{admission:?}");
        }
    }
    assert!(bench.attempts.pairs.len() <= REMEMBERED && bench.attempts.paces.len() <= REMEMBERED);
}

/// Generates an adversary's steps: the pause, the source, the user, and true if the password is right.
fn steps() -> impl Strategy<Value = Vec<(u64, u16, u8, bool)>> {
    let pause = prop_oneof![4 => Just(0_u64), 3 => 1..200_u64, 2 => 1000..40_000_u64, 1 => Just(FORGOTTEN)];
    proptest::collection::vec((pause, 0..4_u16, 0..3_u8, proptest::bool::weighted(0.3)), 1..2000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// For any schedule, with right passwords in between: of one source and user, 5 wrong passwords are checked, then
    /// one after each block of doubling length, and at most 10 per second are looked up.
    #[test]
    fn guesses_of_a_pair_are_bounded(steps in steps()) {
        let mut bench = Bench::new();
        let mut now = 0;
        let (mut checked, mut looked_up) = (vec![Vec::new(); 12], vec![Vec::new(); 12]);
        for (pause, source, user, right) in steps {
            now += pause;
            let accounts = bench.of(v6(source), ["a", "b", "c"][usize::from(user)]);
            let admission = bench.attempts.admit(&accounts, false, now);
            let pair = usize::from(source) * 3 + usize::from(user);
            match admission {
                Admission::Check(_) if right => bench.attempts.give_back(&accounts, admission, Charged::Everything, now),
                Admission::Check(at) => checked[pair].push(at),
                Admission::Lookup { at, .. } => looked_up[pair].push(at),
                Admission::Refused(_) => {}
                Admission::Accepted => prop_assert!(false),
            }
        }
        for times in &checked {
            // A pair that is never forgotten gets 5 checks, then one after 0.1 s, 0.2 s, … 25.6 s, then one per 30 s.
            let runs = times.chunk_by(|a, b| b - a < FORGOTTEN);
            for run in runs {
                for (number, pair) in run.windows(2).enumerate().skip(FREE as usize - 1) {
                    let block = (FIRST_BLOCK << (number + 1 - FREE as usize).min(20)).min(LONGEST_BLOCK);
                    prop_assert!(pair[1] - pair[0] >= block, "{number}: {run:?}");
                }
            }
        }
        for times in &looked_up {
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= LOOKUP_INTERVAL), "{times:?}");
        }
    }

    /// Whatever user names are tried, no more wrong passwords of a source or a network are checked than its pace allows.
    #[test]
    fn guesses_of_a_network_are_bounded(names in 1..5000_u32, sources in 1..3000_u16, millis in 0..5000_u64) {
        let mut bench = Bench::new();
        let mut seen = 0_u64;
        let tries = 3000;
        for number in 0..tries {
            let now = millis * number / tries;
            let name = (number as u32 % names).to_string();
            let admission = bench.admit(v6(number as u16 % sources), &name, false, now);
            seen += u64::from(!matches!(admission, Admission::Refused(_)));
        }
        let bound = |rate: Rate| rate.burst + (millis + LONGEST_TURN) / rate.interval + 1;
        prop_assert!(seen <= bound(OF_A_NETWORK), "{seen}");
        if sources == 1 {
            prop_assert!(seen <= bound(OF_A_SOURCE), "{seen}");
        }
    }

    /// Whatever others do, a client of a network without wrong passwords is let in at once if its password is known, and
    /// has its password checked at once if it is not.
    #[test]
    fn a_newcomer_is_admitted_at_once(
        offenders in proptest::collection::vec((0..u32::MAX, 0..3_u8, 0..50_u64), 1..5000),
        known: bool,
    ) {
        let mut bench = Bench::new();
        let mut now = 0;
        for (address, user, pause) in offenders {
            now += pause;
            // No offender is in 192.0.2.0/24, the newcomer's network.
            let address = if address >> 8 == 0x00c0_0002 { 1 } else { address };
            bench.admit(v4(address), ["app", "b", "c"][usize::from(user)], false, now);
        }
        let admission = bench.admit(v4(0xc000_0201), "app", known, now);
        prop_assert_eq!(admission, if known { Admission::Accepted } else { Admission::Check(now) });
    }
}
