//! The book of one client against links that are modelled by sets of names, while slots move.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NAMED: [&str; 6] = ["a", "b", "c", "d", "e", "x"];
const LINKS: LinkId = 3;
const REFUSED: &[u8] = b"-NOPERM";

/// The confirmations and refusals that the client has got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Confirmed(bool, Option<String>, usize),
    Refused,
}

/// A client, its book, and the links. No node takes `x`.
#[derive(Default)]
struct World {
    book: Book,
    seen: Vec<Seen>,
    /// The link of each name.
    owners: BTreeMap<&'static str, LinkId>,
    /// The names that each link has.
    have: BTreeMap<LinkId, BTreeSet<String>>,
    /// Requests that links have not answered.
    asked: Vec<(LinkId, LinkRequest)>,
    /// Names that no link takes for the moment.
    waiting: Vec<Name>,
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl World {
    fn owner(&self, name: &str) -> LinkId {
        self.owners.get(name).copied().unwrap_or_default()
    }

    fn proceed(&mut self, limit: usize) {
        let seen = &mut self.seen;
        self.book.proceed(limit, |shown| {
            seen.push(match shown {
                Shown::Confirmed(begins, name, count) => Seen::Confirmed(begins, name.map(text), count),
                Shown::Refused(_) => Seen::Refused,
            });
        });
    }

    /// Places channels as the client believes that slots are: `stale` of them are placed at another link than their own.
    fn work(&mut self, stale: bool) {
        let waiting = std::mem::take(&mut self.waiting);
        self.book.displace(waiting);
        let owners = self.owners.clone();
        let unplaced = self.book.place(|name| {
            let owner = owners.get(&*text(name)).copied().unwrap_or_default();
            if stale { (owner + 1 < LINKS).then_some(owner + 1) } else { Some(owner) }
        });
        self.waiting.extend(unplaced);
        self.asked.extend(self.book.next_requests());
    }

    /// Has a link answer its oldest request.
    fn answer(&mut self, at: usize) {
        if self.asked.is_empty() {
            return;
        }
        let (link, request) = self.asked.remove(at % self.asked.len());
        let have = self.have.entry(link).or_default();
        match request {
            LinkRequest::Begin(names) if names.iter().any(|name| &**name == b"x") => {
                assert!(self.book.refused(link, REFUSED), "the client never has it");
            }
            LinkRequest::Begin(names)
                if names
                    .iter()
                    .all(|name| self.owners.get(&*text(name)).copied().unwrap_or_default() == link) =>
            {
                have.extend(names.iter().map(|name| text(name)));
                self.book.done(link);
            }
            LinkRequest::Begin(_) => {
                let waiting = self.book.redirected(link);
                self.waiting.extend(waiting);
            }
            LinkRequest::End(names) => {
                have.retain(|known| !names.iter().any(|name| text(name) == *known));
                self.book.answered(link);
                self.book.settled(link);
            }
        }
    }

    fn moves(&mut self, name: &'static str, to: LinkId) {
        let from = self.owner(name);
        self.owners.insert(name, to);
        if from != to && self.have.entry(from).or_default().remove(name) {
            self.book.moved(from, &name.as_bytes().into());
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            self.work(false);
            self.proceed(1);
            self.answer(0);
        }
        assert!(self.asked.is_empty() && !self.book.is_open() && !self.book.has_displaced());
    }
}

#[derive(Clone, Debug)]
enum Action {
    Subscribe(Vec<usize>),
    Unsubscribe(Vec<usize>),
    Work(bool),
    Answer(usize),
    Proceed(usize),
    Moves(usize, LinkId),
}

fn action() -> impl Strategy<Value = Action> {
    let names = |least| prop::collection::vec(0..NAMED.len(), least..5);
    prop_oneof![
        5 => names(1).prop_map(Action::Subscribe),
        3 => names(0).prop_map(Action::Unsubscribe),
        5 => prop::bool::weighted(0.2).prop_map(Action::Work),
        8 => any::<usize>().prop_map(Action::Answer),
        4 => (1..4_usize).prop_map(Action::Proceed),
        3 => (0..NAMED.len() - 1, 0..LINKS).prop_map(|(at, to)| Action::Moves(at, to)),
    ]
}

/// Returns what one server would show, and changes what the client has.
fn expected(has: &mut BTreeSet<String>, begins: bool, names: &[&str]) -> Vec<Seen> {
    if begins && names.contains(&"x") {
        return vec![Seen::Refused];
    }
    if !begins && names.is_empty() && has.is_empty() {
        return vec![Seen::Confirmed(false, None, 0)];
    }
    let confirm = |name: &&str| {
        if begins {
            has.insert((*name).to_owned())
        } else {
            has.remove(*name)
        };
        Seen::Confirmed(begins, Some((*name).to_owned()), has.len())
    };
    names.iter().map(confirm).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Wherever slots move: the client sees what one server would show, and the links have what the client has.
    #[test]
    fn the_client_sees_one_server(
        actions in prop::collection::vec(action(), 0..150),
        exact in any::<bool>(),
    ) {
        let mut world = World { book: Book::new(exact), ..World::default() };
        let mut has = BTreeSet::new();
        let mut awaited: Option<(bool, Vec<&'static str>)> = None;
        let mut check = |world: &mut World, awaited: &mut Option<(bool, Vec<&'static str>)>| {
            if world.book.is_open() {
                return;
            }
            let seen = std::mem::take(&mut world.seen);
            let Some((begins, mut names)) = awaited.take() else {
                assert!(seen.is_empty(), "{seen:?}");
                return;
            };
            if !begins && names.is_empty() && !has.is_empty() {
                // All of them, in any order.
                for seen in &seen {
                    let Seen::Confirmed(false, Some(name), _) = seen else { panic!("{seen:?}") };
                    names.extend(NAMED.iter().find(|known| *known == name));
                }
                assert_eq!(names.len(), has.len());
            }
            assert_eq!(seen, expected(&mut has, begins, &names));
            assert_eq!(world.book.count(), has.len());
        };
        for action in actions {
            let picked = |names: Vec<usize>| names.into_iter().map(|at| NAMED[at]).collect::<Vec<_>>();
            match action {
                Action::Subscribe(names) if awaited.is_none() => {
                    let names = picked(names);
                    world.book.subscribe(names.iter().map(|name| name.as_bytes().into()).collect());
                    awaited = Some((true, names));
                    world.proceed(512);
                }
                Action::Unsubscribe(names) if awaited.is_none() => {
                    let names = picked(names);
                    let seen = &mut world.seen;
                    let listed = names.iter().map(|name| name.as_bytes().into()).collect();
                    world.book.unsubscribe(listed, |_| seen.push(Seen::Confirmed(false, None, 0)));
                    awaited = Some((false, names));
                    world.proceed(2);
                }
                Action::Subscribe(_) | Action::Unsubscribe(_) => {}
                Action::Work(stale) => world.work(stale),
                Action::Answer(at) => world.answer(at),
                Action::Proceed(limit) => world.proceed(limit),
                Action::Moves(at, to) => world.moves(NAMED[at], to),
            }
            check(&mut world, &mut awaited);
        }
        world.settle();
        check(&mut world, &mut awaited);
        prop_assert!(awaited.is_none());
        let there: Vec<String> = world.have.values().flatten().cloned().collect();
        prop_assert_eq!(there.iter().cloned().collect::<BTreeSet<_>>(), has.clone());
        prop_assert_eq!(there.len(), has.len(), "each is at one link");
        for (link, have) in &world.have {
            prop_assert!(have.iter().all(|name| world.owner(name) == *link));
        }
        prop_assert_eq!(world.book.size(), has.iter().map(|name| name.len() + CHANNEL_SIZE).sum::<usize>());
        prop_assert_eq!(world.book.requests, 0);
    }
}

#[test]
fn channels_that_have_no_node_are_given_up() {
    let mut book = Book::default();
    book.adopt([Name::from(&b"has"[..])].into_iter());
    book.subscribe(vec![b"asks"[..].into()]);
    let unplaced = book.place(|_| None);
    assert_eq!(unplaced.len(), 2);
    assert!(book.give_up(&unplaced[1..], b"-ERR"), "the client does not have it");
    let mut refused = false;
    assert!(book.proceed(1, |shown| refused = shown == Shown::Refused(b"-ERR")) && refused);
    assert!(!book.give_up(&unplaced[..1], b"-ERR"), "the client has it");
}
