use std::collections::VecDeque;

use super::*;

#[test]
fn a_reply_of_the_primary_moves_the_floor() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut seen = Seen::default();
    assert!(!seen.is_unsettled(), "nothing was seen");
    seen.sent(CommandKind::Write);
    assert!(seen.is_unsettled());
    seen.settle(at(10));
    assert_eq!((seen.floor(0, false), seen.away_since), (Some(at(10)), Some(at(10))));
    seen.sent(CommandKind::Read);
    seen.settle(at(30));
    assert_eq!((seen.floor(0, false), seen.away_since), (Some(at(30)), Some(at(10))));
    seen.sent(CommandKind::Write);
    seen.settle(at(50));
    assert_eq!((seen.floor(0, false), seen.away_since), (Some(at(50)), Some(at(50))));
    seen.leave_node(at(60));
    assert_eq!(seen.floor(0, false), Some(at(60)));
    assert!(!seen.is_long_away(at(99)) && seen.is_long_away(at(100)));
}

#[test]
fn a_session_that_changes_its_group_takes_its_writes_along() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let [first, second] = [(); 2].map(|()| Arc::new(AnsweredWrites::default()));
    let mut seen = Seen::default();
    seen.share(Some(&first), at(1));
    seen.sent(CommandKind::Write);
    seen.share(Some(&first), at(2));
    assert_eq!(first.newest(), None, "the reply has not come");
    seen.share(Some(&second), at(3));
    assert_eq!(first.newest(), Some(at(3)));
    seen.announce(true, false, || at(4));
    assert_eq!(second.newest(), Some(at(4)));
    seen.announce(true, false, || at(5));
    assert_eq!(second.newest(), Some(at(4)), "it was announced already");
    seen.share(None, at(6));
    assert_eq!(seen.floor(0, false), None);
}

/// One command of a client that its session has not handled.
struct Command {
    write: bool,
    /// The offset of the newest write of the group that any client had seen the reply of when this command was sent.
    must_show: u64,
}

/// A client, and its session on some worker.
struct Member {
    seen: Seen,
    input: VecDeque<Command>,
    /// The commands at the primary, each with its offset once it has run; reads have none.
    under_way: VecDeque<(bool, Option<u64>)>,
    /// The offsets of the writes whose replies have come, and that the session has not passed on.
    arrived: Vec<u64>,
    moved: u64,
    /// True if the read at the front of the input has waited already.
    waits: bool,
}

impl Member {
    fn of(group: &Arc<AnsweredWrites>, now: Instant) -> Self {
        let mut seen = Seen::default();
        seen.share(Some(group), now);
        let (input, under_way, arrived) = Default::default();
        Self { seen, input, under_way, arrived, moved: 0, waits: false }
    }
}

/// A primary, a replica, and clients that write and read in a random order of events.
struct World {
    random: fastrand::Rng,
    start: Instant,
    micros: u64,
    group: Arc<AnsweredWrites>,
    members: Vec<Member>,
    /// The offset of the primary, and what the replica has applied.
    offset: u64,
    applied: u64,
    /// When the primary was last asked, and what it answered then.
    asked: Option<Instant>,
    sample: Option<(Instant, u64)>,
    /// Up to when the replica is known to have applied everything.
    until: Option<Instant>,
    /// The newest write that a client has seen the reply of.
    answered: u64,
    served_by_replica: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let group = Arc::new(AnsweredWrites::default());
        let start = Instant::now();
        Self {
            random: fastrand::Rng::with_seed(seed),
            start,
            micros: 0,
            members: (0..4).map(|_| Member::of(&group, start)).collect(),
            group,
            offset: 0,
            applied: 0,
            asked: None,
            sample: None,
            until: None,
            answered: 0,
            served_by_replica: 0,
        }
    }

    /// Lets time pass, and returns it. No two events happen at the same moment.
    fn now(&mut self) -> Instant {
        self.micros += self.random.u64(1..300);
        self.start + Duration::from_micros(self.micros)
    }

    fn step(&mut self) {
        let now = self.now();
        let at = self.random.usize(..self.members.len());
        match self.random.u8(..20) {
            0..3 => {
                let command = Command { write: self.random.u8(..5) == 0, must_show: self.answered };
                let member = &mut self.members[at];
                member.input.push_back(command);
                member.moved += 1;
            }
            3..7 => self.run_oldest(at),
            7..11 => {
                let member = &mut self.members[at];
                if let Some((_, Some(offset))) = member.under_way.front() {
                    member.arrived.push(*offset);
                    member.under_way.pop_front();
                }
            }
            11..16 => self.poll(at, now),
            16 => match self.asked.take() {
                None => self.asked = Some(now),
                Some(asked) => self.sample = Some((asked, self.offset)),
            },
            17 => self.applied = self.random.u64(self.applied..=self.offset),
            18 => {
                if let Some((asked, offset)) = self.sample
                    && self.applied >= offset
                {
                    self.until = self.until.max(Some(asked));
                }
            }
            _ if self.random.u8(..4) == 0 => self.members[at] = Member::of(&self.group, now),
            _ => self.write_on_a_lease(at),
        }
    }

    /// The primary runs the oldest command of a member that it has not run.
    fn run_oldest(&mut self, at: usize) {
        let next = self.members[at].under_way.iter_mut().find(|(_, ran)| ran.is_none());
        if let Some((write, ran)) = next {
            self.offset += u64::from(*write);
            *ran = Some(if *write { self.offset } else { 0 });
        }
    }

    fn write_on_a_lease(&mut self, at: usize) {
        let now = self.now();
        let member = &mut self.members[at];
        if member.under_way.is_empty() && member.arrived.is_empty() {
            self.offset += 1;
            member.seen.announce_reply(|| now);
            member.seen.note_lease();
            self.answered = self.offset;
        }
    }

    /// One poll of a session: it passes on what has come, handles its input, and settles.
    fn poll(&mut self, at: usize, now: Instant) {
        let later = self.now();
        let (until, applied) = (self.until, self.applied);
        let wait = self.random.bool();
        let member = &mut self.members[at];
        let due = !member.under_way.is_empty();
        member.seen.announce(!member.arrived.is_empty(), due, || now);
        member.moved += member.arrived.len() as u64;
        let newest = member.arrived.drain(..).max().unwrap_or_default();
        self.answered = self.answered.max(newest);
        while let Some(command) = member.input.front() {
            if member.under_way.is_empty() && member.seen.is_unsettled() {
                member.seen.settle(later);
            }
            let floor = member.seen.floor(member.moved, member.waits);
            if command.write {
                member.under_way.push_back((true, None));
                member.seen.sent(CommandKind::Write);
            } else if member.under_way.is_empty() && floor.is_none_or(|floor| until >= Some(floor)) {
                assert!(applied >= command.must_show, "a read missed a write that was answered before");
                self.served_by_replica += 1;
            } else if wait {
                member.waits = true;
                break;
            } else {
                member.under_way.push_back((false, None));
                member.seen.sent(CommandKind::Read);
            }
            member.input.pop_front();
            member.waits = false;
        }
        if member.under_way.is_empty() && member.seen.is_unsettled() {
            member.seen.settle(later);
        }
    }
}

/// Whatever the order of events is, no read is served by a replica that lacks a write which any client of the group had seen the
/// reply of before the read was sent.
#[test]
fn reads_show_every_answered_write_of_the_group() {
    let mut served = 0;
    for seed in 0..200 {
        let mut world = World::new(seed);
        (0..2000).for_each(|_| world.step());
        served += world.served_by_replica;
    }
    assert!(served > 1000, "replicas served only {served} reads, so this test shows little");
}
