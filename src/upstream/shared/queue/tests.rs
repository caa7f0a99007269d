//! Connections are lost, and divided, at any moment: no request is lost or doubled, and each client's answers keep
//! their order.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::latency::{Arrival, Wait};
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::upstream::reply_sizes::Placement;

/// Bytes of a request: its kind and its number.
const LEN: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// A read for which the server closes the connection, each time.
    Fatal,
}

/// One connection, and the server's end of it.
#[derive(Default)]
struct Connection {
    queue: Queue,
    received: Vec<u8>,
    /// Replies that have not left the server.
    replies: Vec<usize>,
    side: bool,
}

struct World {
    clients: Vec<Rc<Replies>>,
    nobody: Rc<Replies>,
    /// By number of the request: whose it is, and what.
    requests: Vec<(usize, Kind)>,
    connections: Vec<Connection>,
    executed: HashMap<usize, usize>,
    losses: usize,
    isolations: usize,
}

impl World {
    fn new(clients: usize) -> Self {
        let buffers = Rc::new(Buffers::alone(1 << 30));
        let nobody = Replies::nobody(&buffers);
        Self {
            clients: (0..clients)
                .map(|_| Replies::new(buffers.clone(), Account::new(buffers.share()), 1 << 26))
                .collect(),
            nobody,
            requests: Vec::new(),
            connections: vec![Connection::default()],
            executed: HashMap::new(),
            losses: 0,
            isolations: 0,
        }
    }

    /// As a session does: a client whose replies come from elsewhere waits for them.
    fn push(&mut self, client: usize, kind: Kind) {
        let replies = self.clients[client].clone();
        if replies.sizes().placement() != Placement::Shared {
            if replies.awaited() > 0 {
                return;
            }
            replies.sizes().all_answered();
        }
        let number = self.requests.len();
        self.requests.push((client, kind));
        let (letter, if_lost) = match kind {
            Kind::Read => ('r', IfLost::Resend),
            Kind::Write => ('w', IfLost::ReportUnknown),
            Kind::Fatal => ('f', IfLost::Resend),
        };
        replies.expect();
        self.connections[0].queue.push(
            format!("{letter}{number:05}").as_bytes(),
            replies,
            if_lost,
            false,
            Arrival::default(),
        );
    }

    fn write(&mut self, connection: usize, most: usize) {
        let Some(Connection { queue, received, .. }) = self.connections.get_mut(connection) else { return };
        let unwritten = queue.unwritten();
        let count = unwritten.len().min(most);
        received.extend_from_slice(&unwritten[..count]);
        queue.wrote(count);
    }

    /// The server runs what it has received, and sends its replies if `sends`.
    fn serve(&mut self, number: usize, sends: bool) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        while connection.received.len() >= LEN {
            let request: Vec<u8> = connection.received.drain(..LEN).collect();
            let request = std::str::from_utf8(&request).unwrap();
            if request.starts_with('f') {
                return self.lose(number);
            }
            let place = request[1..].parse().unwrap();
            *self.executed.entry(place).or_default() += 1;
            connection.replies.push(place);
        }
        if !sends {
            return;
        }
        for place in std::mem::take(&mut connection.replies) {
            assert!(connection.queue.front().is_some(), "a reply that nothing was asked for");
            let slot = connection.queue.pop().unwrap();
            slot.replies.deliver(format!("{place} ").as_bytes(), 1, 1);
            answer_decided(&mut connection.queue);
        }
        if connection.side && !connection.queue.is_wanted() {
            self.connections.remove(number);
        }
    }

    fn lose(&mut self, number: usize) {
        self.losses += 1;
        let connection = &mut self.connections[number];
        (connection.received, connection.replies) = (Vec::new(), Vec::new());
        connection.queue.settle(LossCause::Broken);
        let culprit = connection.queue.take_culprit(&self.nobody);
        answer_decided(&mut connection.queue);
        if let Some(mut queue) = culprit {
            answer_decided(&mut queue);
            self.connections.push(Connection { queue, side: true, ..Connection::default() });
        }
    }

    /// The first connection is left to a client.
    fn isolate(&mut self, client: usize) {
        let client = self.clients[client].clone();
        let first = &mut self.connections[0];
        if !first.queue.slots.iter().any(|slot| Rc::ptr_eq(&slot.replies, &client)) {
            return;
        }
        client.sizes().use_own();
        self.isolations += 1;
        let queue = first.queue.divide(&client, &self.nobody);
        let mut old = Connection {
            queue,
            received: std::mem::take(&mut first.received),
            replies: std::mem::take(&mut first.replies),
            side: true,
        };
        answer_decided(&mut first.queue);
        answer_decided(&mut old.queue);
        self.connections.push(old);
    }

    fn check(&self) {
        for (number, client) in self.clients.iter().enumerate() {
            assert_eq!(client.awaited(), 0, "everything is answered");
            let mut taken = Vec::new();
            let written = client.poll_write_to(&mut Context::from_waker(Waker::noop()), &mut taken);
            assert!(matches!(written, Poll::Ready(Ok(_))));
            let text = String::from_utf8(taken).unwrap();
            let asked = self.requests.iter().enumerate().filter(|(_, (of, _))| *of == number);
            let mut answers = text.split_terminator(' ');
            for (place, (_, kind)) in asked {
                let answer = answers.next().expect("an answer");
                match (kind, answer) {
                    (Kind::Read, answer) => assert_eq!(answer, place.to_string()),
                    (Kind::Write, "unknown") => {}
                    (Kind::Write, answer) => {
                        assert_eq!(answer, place.to_string());
                        assert_eq!(self.executed.get(&place), Some(&1));
                    }
                    (Kind::Fatal, answer) => assert_eq!(answer, "given-up"),
                }
                assert!(*kind == Kind::Read || self.executed.get(&place).copied().unwrap_or(0) <= 1);
            }
            assert_eq!(answers.next(), None);
        }
    }
}

fn answer_decided(queue: &mut Queue) {
    while let Some((slot, outcome)) = queue.pop_decided() {
        let text: &[u8] = match outcome {
            RequestOutcome::OutcomeUnknown => b"unknown ",
            RequestOutcome::GivenUp => b"given-up ",
            other => panic!("{other:?}"),
        };
        slot.replies.deliver(text, 1, 1);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Push(usize, Kind),
    Write(usize, usize),
    Serve(usize, bool),
    Lose(usize),
    Isolate(usize),
}

const CLIENTS: usize = 4;

fn event(fatal: u32, cuts: u32) -> impl Strategy<Value = Event> {
    let kind = prop_oneof![8 => Just(Kind::Read), 4 => Just(Kind::Write), fatal => Just(Kind::Fatal)];
    prop_oneof![
        12 => (0..CLIENTS, kind).prop_map(|(client, kind)| Event::Push(client, kind)),
        6 => (0usize..3, 0usize..40).prop_map(|(connection, most)| Event::Write(connection, most)),
        4 => (0usize..3, any::<bool>()).prop_map(|(connection, sends)| Event::Serve(connection, sends)),
        cuts => (0usize..3).prop_map(Event::Lose),
        1 => (0..CLIENTS).prop_map(Event::Isolate),
    ]
}

fn run(events: Vec<Event>) -> World {
    let mut world = World::new(CLIENTS);
    for event in events {
        match event {
            Event::Push(client, kind) => world.push(client, kind),
            Event::Write(connection, most) => world.write(connection, most),
            Event::Serve(connection, sends) => world.serve(connection, sends),
            Event::Lose(connection) if connection < world.connections.len() => world.lose(connection),
            Event::Lose(_) => {}
            Event::Isolate(client) => world.isolate(client),
        }
    }
    for _ in 0..10_000 {
        if world.connections.iter().all(|connection| !connection.queue.is_wanted()) {
            break;
        }
        for number in (0..world.connections.len()).rev() {
            world.write(number, usize::MAX);
            world.serve(number, true);
        }
    }
    world
}

proptest! {
    /// The server closes the connection for some reads: these are given up, and no other read is.
    #[test]
    fn whose_read_cuts_the_connection_pays_for_it_alone(
        events in prop::collection::vec(event(1, 0), 1..300),
    ) {
        let world = run(events);
        world.check();
        let fatal = world.requests.iter().filter(|(_, kind)| *kind == Kind::Fatal).count();
        let most = fatal * (5 + world.isolations);
        prop_assert!(world.losses <= most, "{} losses for {fatal} reads", world.losses);
    }

    /// Connections are lost at random: writes are not doubled, and order holds. Reads may be given up.
    #[test]
    fn random_losses_double_no_write(events in prop::collection::vec(event(0, 1), 1..300)) {
        let world = run(events);
        for client in &world.clients {
            prop_assert_eq!(client.awaited(), 0);
        }
        for (place, (_, kind)) in world.requests.iter().enumerate() {
            prop_assert!(*kind == Kind::Read || world.executed.get(&place).copied().unwrap_or(0) <= 1);
        }
    }
}

#[test]
fn a_written_read_moves_and_a_written_write_stays() {
    let mut world = World::new(4);
    for (client, kind) in [(0, Kind::Read), (0, Kind::Read), (1, Kind::Read), (2, Kind::Write)] {
        world.push(client, kind);
    }
    world.write(0, usize::MAX);
    world.push(1, Kind::Write);
    world.push(2, Kind::Read);
    world.push(3, Kind::Write);
    world.isolate(0);
    let [first, old] = &world.connections[..] else { panic!("two connections") };
    assert_eq!(first.queue.unwritten(), b"r00002w00004w00006");
    assert_eq!(old.queue.unwritten(), b"r00005", "the client of a written write follows it");
    assert_eq!(old.queue.len(), 5);
    assert_eq!(world.clients[2].sizes().placement(), Placement::SharedWhenAnswered);
    for _ in 0..2 {
        for number in [1, 0] {
            world.write(number, usize::MAX);
            world.serve(number, true);
        }
    }
    world.check();
    assert_eq!(world.connections.len(), 1);
}

#[test]
fn a_written_write_keeps_the_requests_of_later_segments_too() {
    let mut world = World::new(2);
    world.push(0, Kind::Read);
    world.push(1, Kind::Write);
    world.write(0, usize::MAX);
    let segment = Replies::segment(&world.clients[1]);
    let client = std::mem::replace(&mut world.clients[1], segment.clone());
    world.push(1, Kind::Write);
    world.clients[1] = client;
    assert_eq!(world.clients[1].awaited(), 2);
    world.isolate(0);
    let [first, old] = &world.connections[..] else { panic!("two connections") };
    assert_eq!((first.queue.unwritten(), first.queue.len()), (&b""[..], 0));
    assert_eq!(old.queue.unwritten(), b"w00002", "a write overtakes none of its client");
    world.write(1, usize::MAX);
    world.serve(1, true);
    segment.promote();
    world.check();
}

#[test]
fn a_request_was_written_when_its_last_byte_was() {
    let buffers = Rc::new(Buffers::alone(1 << 20));
    let client = Replies::new(buffers.clone(), Account::new(buffers.share()), 1 << 20);
    let mut queue = Queue::default();
    for arrival in 0..3 {
        queue.push(
            &[b'x'; 40_000],
            client.clone(),
            IfLost::Resend,
            false,
            Arrival::new(arrival, arrival, Wait::Lane),
        );
    }
    for (bytes, now) in [(50_000, 100), (0, 200), (30_000, 300), (40_000, 400)] {
        queue.wrote(bytes);
        queue.mark_written(|| now);
    }
    for (at, written) in [100, 300, 400].into_iter().enumerate() {
        let (slot, end) = queue.front_end().expect("a request");
        assert_eq!(slot.arrival().passed(), at as u32);
        assert_eq!(queue.written_at(end).map(|(at, _)| at), Some(written));
        // Answered bytes are dropped meanwhile.
        queue.pop();
    }
    queue.push(b"x", client, IfLost::Resend, false, Arrival::default());
    let (_, end) = queue.front_end().expect("a request");
    assert_eq!(queue.written_at(end), None);
}
