//! A session, a primary and two replicas in any order of events: commands are sent, run and answered, replicas catch up, are sampled and
//! are lost. Whatever happens, a read shows the session's earlier writes, and nothing older than a reply that had come before it was sent.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::order::{CommandKind, LaneId};
use super::super::output::Output;
use super::super::seen::Seen;
use super::*;
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::upstream::replies::Replies;

const PRIMARY: usize = 0;
const NODES: usize = 3;

/// What happens next. A node is the primary (0) or a replica.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The client sends a read that a replica may answer.
    Read,
    /// The client sends a read for the primary, such as DBSIZE.
    PrimaryRead,
    Write,
    /// Another client writes.
    OtherWrite,
    /// A node runs the next command of the session's.
    Run(usize),
    /// A reply of the node comes.
    Reply(usize),
    /// A replica applies all or a part of what it lacks.
    CatchUp(usize, u64),
    /// respgate learns how far a replica has come.
    Sample(usize),
    /// A replica is lost. Another node takes over what it owes.
    Lose(usize),
}

fn events() -> impl Strategy<Value = Event> {
    let (node, replica) = (0..NODES, 1..NODES);
    prop_oneof![
        8 => Just(Event::Read),
        4 => Just(Event::PrimaryRead),
        2 => Just(Event::Write),
        3 => Just(Event::OtherWrite),
        8 => node.clone().prop_map(Event::Run),
        8 => node.prop_map(Event::Reply),
        2 => (replica.clone(), 1..9_u64).prop_map(|(replica, part)| Event::CatchUp(replica, part)),
        6 => replica.clone().prop_map(Event::Sample),
        1 => replica.prop_map(Event::Lose),
    ]
}

/// A command on its way.
struct Command {
    /// Its number in the order of the client's commands.
    number: usize,
    replies: Rc<Replies>,
    write: bool,
}

/// What a command has shown: the number of writes that the node had applied.
#[derive(Clone, Copy)]
struct Shown {
    write: bool,
    value: Option<u64>,
    /// The greatest value in a reply that had come when the command was sent.
    least: u64,
}

struct Model {
    mode: Reads,
    start: Instant,
    /// The number of writes at each moment, in milliseconds since the start.
    writes: Vec<u64>,
    applied: [u64; NODES],
    /// Up to which moment each replica is known to have come.
    proven: [Option<Instant>; NODES],
    /// What each lane owes, by node. Commands before `ran` have run.
    lanes: [VecDeque<Command>; NODES],
    ran: [usize; NODES],
    shown: Vec<Shown>,
    /// The greatest value in a reply that has come.
    come: u64,
    seen: Seen,
    kept: Option<usize>,
    /// True while the kept replica is lost, and another node owes its replies.
    lost: bool,
    output: Output,
    /// True if the session has ever read from a replica while a reply of the primary was due, or the other way round.
    beside: bool,
}

impl Model {
    fn new(mode: Reads) -> Self {
        let buffers = Rc::new(Buffers::alone(1 << 30));
        let account = Account::new(buffers.share());
        Self {
            mode,
            start: Instant::now(),
            writes: vec![0],
            applied: [0; NODES],
            proven: [None; NODES],
            lanes: Default::default(),
            ran: [0; NODES],
            shown: Vec::new(),
            come: 0,
            seen: Seen::default(),
            kept: None,
            lost: false,
            output: Output::new(Replies::new(buffers, account, 1 << 28), Rc::default()),
            beside: false,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.writes.len() as u64)
    }

    fn id(node: usize) -> LaneId {
        LaneId::numbered(node + 1)
    }

    fn run(&mut self, event: Event) {
        self.writes.push(self.applied[PRIMARY]);
        match event {
            Event::Read => self.read(),
            Event::PrimaryRead => self.send(PRIMARY, CommandKind::Read),
            Event::Write => self.send(PRIMARY, CommandKind::Write),
            Event::OtherWrite => self.applied[PRIMARY] += 1,
            Event::Run(node) => self.run_next(node),
            Event::Reply(node) => self.reply(node),
            Event::CatchUp(replica, part) => {
                self.applied[replica] = self.applied[PRIMARY].min(self.applied[replica] + part);
            }
            Event::Sample(replica) => {
                let moment = self.writes.iter().rposition(|writes| *writes <= self.applied[replica]);
                self.proven[replica] = moment.map(|moment| self.start + Duration::from_millis(moment as u64));
            }
            Event::Lose(replica) => self.lose(replica),
        }
    }

    fn serves(&mut self, replica: usize) -> bool {
        let floor = self.seen.floor(0, false);
        self.proven[replica].is_some_and(|until| floor.is_none_or(|floor| until >= floor))
    }

    fn settle(&mut self) {
        if self.seen.is_unsettled() && !self.output.awaits(Self::id(PRIMARY)) {
            let now = self.now();
            self.seen.settle(now);
        }
    }

    fn read(&mut self) {
        self.settle();
        let now = self.now();
        let facts = ReadFacts {
            mode: self.mode,
            behind_write: self.output.reply_path(LaneId::default(), CommandKind::Read).is_none(),
            primary_due: self.seen.is_unsettled(),
            long_away: self.seen.is_long_away(now),
        };
        let serves = !self.lost && self.kept.is_some_and(|kept| self.serves(kept));
        let due = self.kept.is_some_and(|kept| self.output.awaits(Self::id(kept)));
        match (facts.place(|| serves, || due), self.kept) {
            (ReadPlace::Primary { .. }, _) => {
                self.seen.stay_away(now);
                self.send(PRIMARY, CommandKind::Read);
            }
            (ReadPlace::Kept, Some(kept)) => {
                self.seen.reached_replica();
                self.send(kept, CommandKind::Read);
            }
            (ReadPlace::Kept | ReadPlace::Replies, _) => {}
            (ReadPlace::Any, kept) => {
                if kept.is_some() {
                    self.seen.leave_node(now);
                    (self.kept, self.lost) = (None, false);
                }
                if let Some(replica) = (1..NODES).find(|replica| self.serves(*replica)) {
                    self.kept = Some(replica);
                    self.seen.reached_replica();
                    self.send(replica, CommandKind::Read);
                }
            }
        }
    }

    fn send(&mut self, node: usize, kind: CommandKind) {
        let Some(path) = self.output.reply_path(Self::id(node), kind) else { return };
        self.beside |= (0..NODES).any(|other| other != node && self.output.awaits(Self::id(other)));
        let replies = self.output.replies_from(Self::id(node), kind, path).clone();
        replies.expect();
        let write = kind == CommandKind::Write;
        self.shown.push(Shown { write, value: None, least: self.come });
        self.lanes[node].push_back(Command { number: self.shown.len() - 1, replies, write });
        if node == PRIMARY {
            self.seen.sent(kind);
        }
    }

    fn run_next(&mut self, node: usize) {
        let Some(command) = self.lanes[node].get(self.ran[node]) else { return };
        self.applied[node] += u64::from(command.write);
        self.shown[command.number].value = Some(self.applied[node]);
        self.ran[node] += 1;
    }

    fn reply(&mut self, node: usize) {
        if self.ran[node] == 0 {
            return;
        }
        self.ran[node] -= 1;
        let Some(command) = self.lanes[node].pop_front() else { return };
        command.replies.deliver(b"+\r\n", 1, 3);
        self.come = self.come.max(self.shown[command.number].value.unwrap_or_default());
        self.output.advance();
        self.settle();
    }

    /// The replica's connection is lost: its reads are sent again elsewhere, where they come behind what is there. Their replies count
    /// as those of the lost lane.
    fn lose(&mut self, replica: usize) {
        (self.proven[replica], self.ran[replica]) = (None, 0);
        if self.kept == Some(replica) {
            self.lost = true;
        }
        let now = self.now();
        let other = (1..NODES)
            .find(|other| *other != replica && self.proven[*other].is_some_and(|until| until >= now));
        let owed = std::mem::take(&mut self.lanes[replica]);
        self.lanes[other.unwrap_or(PRIMARY)].extend(owed);
    }

    fn finish(&mut self) {
        for node in 0..NODES {
            while !self.lanes[node].is_empty() {
                self.run_next(node);
                self.reply(node);
            }
        }
        self.output.advance();
        assert_eq!(self.output.awaited(), 0);
    }

    fn check(&self) {
        let mut written = 0;
        for (number, shown) in self.shown.iter().enumerate() {
            let value = shown.value.unwrap_or_else(|| panic!("command {number} did not run"));
            assert!(
                value >= written,
                "command {number} misses an earlier write of the session: {value} < {written}"
            );
            assert!(
                value >= shown.least,
                "command {number} shows {value} after a reply had shown {}",
                shown.least
            );
            if shown.write {
                written = value;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn reads_show_own_writes_and_nothing_older_than_before(
        mode in prop::sample::select(vec![Reads::PreferReplica, Reads::Replica]),
        events in prop::collection::vec(events(), 1..200),
    ) {
        let mut model = Model::new(mode);
        for event in events {
            model.run(event);
        }
        model.finish();
        model.check();
    }
}

/// The replica and the primary answer reads at the same time.
#[test]
fn reads_are_under_way_on_two_nodes_at_once() {
    let mut model = Model::new(Reads::PreferReplica);
    for event in
        [Event::Sample(1), Event::Read, Event::PrimaryRead, Event::Run(PRIMARY), Event::Reply(PRIMARY)]
    {
        model.run(event);
    }
    assert!(
        model.beside && model.output.awaited() == 1 && model.output.ready() == 0,
        "the earlier reply is due"
    );
    model.run(Event::Write);
    assert_eq!(model.output.awaited(), 1, "a write waits for the read on the other node");
    model.finish();
    model.check();
}
