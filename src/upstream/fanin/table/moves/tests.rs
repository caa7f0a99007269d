//! Shard channels against a server that loses slots.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::tests::{Ear, Heard, Server, send, settle, text};
use super::*;

const NAMED: [&str; 5] = ["a", "{a}1", "{a}2", "b", "c"];

/// Has the slot of a channel leave the server: it ends the channels of the slot, and says so.
fn leave(table: &mut Table<Ear>, server: &mut Server, name: &str) {
    server.has_lost_slots = true;
    for known in NAMED.into_iter().filter(|known| Slot::of(known.as_bytes()) == Slot::of(name.as_bytes())) {
        server.left.insert(known.to_owned());
        if server.names.remove(&("shard", known.to_owned())) {
            let ended = Confirmation { kind: Kind::Shard, begins: false, name: Some(known.as_bytes()) };
            table.confirm(&ended).expect("a server may end channels");
        }
    }
}

fn ask(table: &mut Table<Ear>, session: u64, names: &[&str]) {
    table.subscribe(session, Kind::Shard, names.iter().map(|name| name.as_bytes()));
}

fn end(table: &mut Table<Ear>, session: u64, names: &[&str]) {
    table.unsubscribe(session, Kind::Shard, names.iter().map(|name| name.as_bytes()));
}

#[test]
fn channels_of_a_slot_that_leaves_move() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ears = [Ear::default(), Ear::default()];
    let sessions = ears.clone().map(|ear| table.join(ear));
    ask(&mut table, sessions[0], &["a", "b"]);
    ask(&mut table, sessions[1], &["{a}1", "a"]);
    settle(&mut table, &mut server);
    ears.iter().for_each(|ear| ear.borrow_mut().clear());
    leave(&mut table, &mut server, "a");
    assert_eq!(*ears[0].borrow(), [Heard::Moved("a".into())]);
    let moved: BTreeSet<String> = ears[1].borrow().iter().map(|heard| format!("{heard:?}")).collect();
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert_eq!((table.subscriptions(sessions[0]), table.subscriptions(sessions[1])), (1, 0));
    assert_eq!(table.names(), 1);
    ask(&mut table, sessions[0], &["a"]);
    settle(&mut table, &mut server);
    let line = "-MOVED 7 127.0.0.1:7000".to_owned();
    assert_eq!(ears[0].borrow().last(), Some(&Heard::Decided(Some(line))));
}

/// The server ends the channel itself before it reads the command that ends it, and then refuses the command.
#[test]
fn an_end_that_comes_too_late_ends_nothing_else() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ear = Ear::default();
    let session = table.join(ear.clone());
    ask(&mut table, session, &["a", "b"]);
    settle(&mut table, &mut server);
    end(&mut table, session, &["a"]);
    ask(&mut table, session, &["c"]);
    send(&mut table, &mut server);
    leave(&mut table, &mut server, "a");
    settle(&mut table, &mut server);
    assert_eq!(ear.borrow().last(), Some(&Heard::Decided(None)));
    assert_eq!(server.names, BTreeSet::from([("shard", "b".to_owned()), ("shard", "c".to_owned())]));
    assert!(!table.is_reply_due());
}

#[test]
fn a_shard_that_leaves_gives_its_channels_back() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ear = Ear::default();
    let session = table.join(ear.clone());
    ask(&mut table, session, &["a", "b"]);
    settle(&mut table, &mut server);
    ask(&mut table, session, &["c"]);
    send(&mut table, &mut server);
    ear.borrow_mut().clear();
    table.disconnected();
    table.evict(|slot| slot != Slot::of(b"b"));
    // `a` has moved and the request for `c` is refused, and `b` is restored.
    assert_eq!(ear.borrow().len(), 2, "{ear:?}");
    assert_eq!((table.names(), table.subscriptions(session)), (1, 1));
    table.evict(|_| true);
    assert_eq!((table.names(), table.size(), table.subscriptions(session)), (0, 0, 0));
}

#[test]
fn ends_are_told_once_the_server_has_confirmed_them() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ear = Ear::default();
    let session = table.join(ear.clone());
    table.tell_ends();
    for way in ["confirmed", "left", "left before it was sent", "lost"] {
        server.left.clear();
        ask(&mut table, session, &["a", "b"]);
        settle(&mut table, &mut server);
        end(&mut table, session, &["a", "b"]);
        assert_eq!(ear.borrow().last(), Some(&Heard::Decided(None)), "{way}");
        match way {
            "left" => {
                send(&mut table, &mut server);
                leave(&mut table, &mut server, "a");
            }
            "left before it was sent" => {
                leave(&mut table, &mut server, "a");
                leave(&mut table, &mut server, "b");
            }
            "lost" => {
                server.names.clear();
                table.disconnected();
            }
            _ => {}
        }
        settle(&mut table, &mut server);
        assert_eq!(ear.borrow().last(), Some(&Heard::Settled), "{way}");
        assert!(server.names.is_empty(), "{way}");
    }
    ear.borrow_mut().clear();
    end(&mut table, session, &["nothing"]);
    assert_eq!(ear.borrow().get(1..), Some(&[Heard::Decided(None), Heard::Settled][..]));
}

#[derive(Clone, Debug)]
enum Action {
    Subscribe(usize, Vec<usize>),
    Unsubscribe(usize, Vec<usize>),
    Send,
    Answer,
    Proceed,
    Leaves(usize),
    Returns,
    Disconnect,
}

fn action() -> impl Strategy<Value = Action> {
    let names = || prop::collection::vec(0..NAMED.len(), 1..4);
    prop_oneof![
        6 => (0..3_usize, names()).prop_map(|(at, names)| Action::Subscribe(at, names)),
        4 => (0..3_usize, names()).prop_map(|(at, names)| Action::Unsubscribe(at, names)),
        6 => Just(Action::Send),
        8 => Just(Action::Answer),
        4 => Just(Action::Proceed),
        3 => (0..NAMED.len()).prop_map(Action::Leaves),
        1 => Just(Action::Returns),
        1 => Just(Action::Disconnect),
    ]
}

/// The names that a session has by the events that it got, and whether its request is open.
#[derive(Default)]
struct Known {
    has: BTreeSet<String>,
    asks: bool,
}

impl Known {
    fn hear(&mut self, ear: &Ear) {
        for heard in ear.borrow_mut().drain(..) {
            match heard {
                Heard::Confirmed(_, true, Some(name), _) => {
                    self.has.insert(name);
                }
                Heard::Confirmed(_, false, Some(name), _) => {
                    self.has.remove(&name);
                }
                Heard::Moved(name) => assert!(self.has.remove(&name), "{name} was there"),
                Heard::Decided(_) => self.asks = false,
                other => panic!("{other:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whenever slots leave: what a session believes to have, the server has.
    #[test]
    fn every_channel_is_there_or_reported_as_moved(
        actions in prop::collection::vec(action(), 0..120),
        at_once in prop::sample::select(vec![1, 512]),
    ) {
        let (mut table, mut server) = (Table::<Ear> { at_once, ..Table::default() }, Server::default());
        let ears = [Ear::default(), Ear::default(), Ear::default()];
        let sessions = ears.clone().map(|ear| table.join(ear));
        let mut known = [Known::default(), Known::default(), Known::default()];
        let picked = |names: &[usize]| names.iter().map(|at| NAMED[*at]).collect::<Vec<_>>();
        for action in actions {
            match action {
                Action::Subscribe(at, names) if !known[at].asks => {
                    known[at].asks = true;
                    ask(&mut table, sessions[at], &picked(&names));
                }
                Action::Unsubscribe(at, names) if !known[at].asks => {
                    known[at].asks = true;
                    end(&mut table, sessions[at], &picked(&names));
                }
                Action::Subscribe(..) | Action::Unsubscribe(..) => {}
                Action::Send => send(&mut table, &mut server),
                Action::Answer => server.answer(&mut table),
                Action::Proceed => {
                    table.proceed(1);
                }
                Action::Leaves(at) => leave(&mut table, &mut server, NAMED[at]),
                Action::Returns => server.left.clear(),
                Action::Disconnect => {
                    server.names.clear();
                    server.unread.clear();
                    table.disconnected();
                    table.connected();
                }
            }
            known.iter_mut().zip(&ears).for_each(|(known, ear)| known.hear(ear));
        }
        settle(&mut table, &mut server);
        known.iter_mut().zip(&ears).for_each(|(known, ear)| known.hear(ear));
        prop_assert!(known.iter().all(|known| !known.asks), "every request is decided");
        let union: BTreeSet<String> = known.iter().flat_map(|known| known.has.iter().cloned()).collect();
        let there: BTreeSet<String> = server.names.iter().map(|(_, name)| name.clone()).collect();
        prop_assert_eq!(there, union);
        for (session, known) in sessions.iter().zip(&known) {
            let members = |name: &str| table.members(Kind::Shard, name.as_bytes());
            let hears = NAMED.iter().filter(|name| members(name).is_some_and(|all| all.contains_key(session)));
            prop_assert_eq!(hears.map(|name| text(name.as_bytes())).collect::<BTreeSet<_>>(), known.has.clone());
        }
        sessions.iter().for_each(|session| table.leave(*session));
        settle(&mut table, &mut server);
        prop_assert!(server.names.is_empty());
        prop_assert_eq!((table.names(), table.size(), table.is_reply_due()), (0, 0, false));
    }
}
