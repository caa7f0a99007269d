//! The table against a server that is modelled by a set of names, and against what each session must have heard.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cluster::slot::Slot;
use crate::resp::pubsub::Confirmation;
use crate::resp::request::{Request, RequestLimits, RequestScanner, Scanned};

/// What one session heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Confirmed(Kind, bool, Option<String>, usize),
    Decided(Option<String>),
    Lost,
    Moved(String),
    Settled,
}

pub(super) type Ear = Rc<RefCell<Vec<Heard>>>;

pub(super) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Subscriber for Ear {
    fn confirmed(&self, kind: Kind, begins: bool, name: Option<&[u8]>, count: usize) {
        self.borrow_mut().push(Heard::Confirmed(kind, begins, name.map(text), count));
    }

    fn decided(&self, refusal: Option<&[u8]>, _held: usize) {
        self.borrow_mut().push(Heard::Decided(refusal.map(text)));
    }

    fn lost(&self) {
        self.borrow_mut().push(Heard::Lost);
    }

    fn settled(&self) {
        self.borrow_mut().push(Heard::Settled);
    }

    fn moved(&self, name: &Name) {
        self.borrow_mut().push(Heard::Moved(text(name)));
    }
}

/// A server as far as one connection's subscriptions go. Names with an `x` are not permitted.
#[derive(Default)]
pub(super) struct Server {
    pub(super) names: BTreeSet<(&'static str, String)>,
    /// Shard channels whose slots it does not serve.
    pub(super) left: BTreeSet<String>,
    /// True once it has lost a slot, and with it channels.
    pub(super) has_lost_slots: bool,
    /// Commands that have not been answered.
    pub(super) unread: VecDeque<Vec<u8>>,
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Channel => "channel",
        Kind::Pattern => "pattern",
        Kind::Shard => "shard",
    }
}

impl Server {
    /// Answers the oldest command.
    pub(super) fn answer(&mut self, table: &mut Table<Ear>) {
        let Some(command) = self.unread.pop_front() else { return };
        let request = Request::parse(&command).expect("a request");
        let args: Vec<&[u8]> = request.args().skip(1).collect();
        if request.name() == b"PING" {
            return table.replied().expect("a PING is awaited");
        }
        let find = |command: fn(Kind) -> &'static [u8]| {
            Kind::ALL.into_iter().find(|kind| command(*kind) == request.name())
        };
        let (kind, begins) = match (find(Kind::begin), find(Kind::end)) {
            (Some(kind), _) => (kind, true),
            (_, Some(kind)) => (kind, false),
            _ => panic!("{}", request.name().escape_ascii()),
        };
        if begins && args.iter().any(|name| name.contains(&b'x')) {
            table.refused(b"-NOPERM No permissions to access a channel").expect("a command is awaited");
            return;
        }
        if kind == Kind::Shard && args.iter().any(|name| self.left.contains(&text(name))) {
            table.refused(b"-MOVED 7 127.0.0.1:7000").expect("a command is awaited");
            return;
        }
        let slots: BTreeSet<Slot> = args.iter().map(|name| Slot::of(name)).collect();
        assert!(kind != Kind::Shard || slots.len() == 1, "a node takes channels of one slot");
        for name in args {
            let known = (word(kind), text(name));
            let changed = if begins { self.names.insert(known) } else { self.names.remove(&known) };
            let may_be_gone = kind == Kind::Shard && self.has_lost_slots;
            assert!(begins || changed || may_be_gone, "nothing is ended that was not begun");
            table.confirm(&Confirmation { kind, begins, name: Some(name) }).expect("it is awaited");
        }
    }
}

pub(super) fn send(table: &mut Table<Ear>, server: &mut Server) {
    loop {
        let mut out = Vec::new();
        if !table.next(&mut out) {
            return;
        }
        let mut rest = &out[..];
        while let Scanned::Request(request) = RequestScanner::default().scan(rest, &RequestLimits::default())
        {
            server.unread.push_back(request.raw().to_vec());
            rest = &rest[request.len()..];
        }
        assert!(rest.is_empty());
    }
}

pub(super) fn settle(table: &mut Table<Ear>, server: &mut Server) {
    loop {
        send(table, server);
        if server.unread.is_empty() && !table.has_backlog() {
            return;
        }
        server.answer(table);
        table.proceed(1);
    }
}

fn ask(table: &mut Table<Ear>, session: u64, names: &[&str]) {
    table.subscribe(session, Kind::Channel, names.iter().map(|name| name.as_bytes()));
}

fn end(table: &mut Table<Ear>, session: u64, names: &[&str]) {
    table.unsubscribe(session, Kind::Channel, names.iter().map(|name| name.as_bytes()));
}

fn began(name: &str, count: usize) -> Heard {
    Heard::Confirmed(Kind::Channel, true, Some(name.into()), count)
}

#[test]
fn the_first_subscribes_and_the_last_unsubscribes() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ears = [Ear::default(), Ear::default()];
    let sessions = ears.clone().map(|ear| table.join(ear));
    ask(&mut table, sessions[0], &["a"]);
    assert!(ears[0].borrow().is_empty(), "nothing is confirmed before the server has");
    send(&mut table, &mut server);
    server.answer(&mut table);
    assert_eq!(*ears[0].borrow(), [began("a", 1), Heard::Decided(None)]);
    ask(&mut table, sessions[1], &["a"]);
    assert_eq!(*ears[1].borrow(), [began("a", 1), Heard::Decided(None)], "at once");
    end(&mut table, sessions[0], &["a"]);
    let mut out = Vec::new();
    assert!(!table.next(&mut out), "one is left");
    end(&mut table, sessions[1], &[]);
    settle(&mut table, &mut server);
    assert!(server.names.is_empty());
    assert_eq!(table.names(), 0);
}

/// Who comes back before the end was sent costs the server nothing.
/// However many names a session subscribes to or ends, one turn handles a bounded number of them.
#[test]
fn many_names_take_many_turns() {
    const NAMES: usize = 60_000;
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ears = [Ear::default(), Ear::default()];
    let sessions = ears.clone().map(|ear| table.join(ear));
    let names: Vec<String> = (0..NAMES).map(|name| name.to_string()).collect();
    let heard = || ears[0].borrow().len();
    let turns = |table: &mut Table<Ear>| {
        let mut turns = 0;
        loop {
            let (before, more) = (heard(), table.proceed(1000));
            // The last turn also says that all is decided.
            assert!(heard() - before <= 1001);
            turns += 1;
            if !more {
                return turns;
            }
        }
    };
    table.subscribe(sessions[0], Kind::Channel, names.iter().map(|name| name.as_bytes()));
    send(&mut table, &mut server);
    server.answer(&mut table);
    assert_eq!(heard(), 0);
    assert_eq!(turns(&mut table), 60);
    assert_eq!(heard(), NAMES + 1);
    // What the link has already is confirmed without the server, and yet in as many turns.
    table.subscribe(sessions[1], Kind::Channel, names.iter().map(|name| name.as_bytes()));
    assert!(ears[1].borrow().is_empty());
    assert_eq!(turns(&mut table), 60);
    assert_eq!(ears[1].borrow().len(), NAMES + 1);
    table.leave(sessions[1]);
    assert_eq!(turns(&mut table), 60);
    ears[0].borrow_mut().clear();
    end(&mut table, sessions[0], &[]);
    assert_eq!(heard(), 0);
    assert_eq!(turns(&mut table), 60);
    assert_eq!(heard(), NAMES + 1);
    settle(&mut table, &mut server);
    assert_eq!((table.names(), table.size()), (0, 0));
}

#[test]
fn an_end_that_was_not_sent_is_taken_back() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let session = table.join(Ear::default());
    ask(&mut table, session, &["a"]);
    settle(&mut table, &mut server);
    end(&mut table, session, &["a"]);
    ask(&mut table, session, &["a"]);
    assert!(!table.next(&mut Vec::new()));
    assert!(server.names.contains(&("channel", "a".into())));
}

#[test]
fn a_refusal_is_only_the_asker_s() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ears = [Ear::default(), Ear::default()];
    let sessions = ears.clone().map(|ear| table.join(ear));
    ask(&mut table, sessions[0], &["a", "x"]);
    ask(&mut table, sessions[1], &["a"]);
    settle(&mut table, &mut server);
    let line = "-NOPERM No permissions to access a channel".to_owned();
    assert_eq!(*ears[0].borrow(), [Heard::Decided(Some(line))]);
    assert_eq!(*ears[1].borrow(), [began("a", 1), Heard::Decided(None)]);
    assert_eq!(table.names(), 1, "of what was refused nothing is left");
}

#[test]
fn what_cannot_be_restored_costs_only_its_own_sessions() {
    let (mut table, mut server) = (Table::<Ear>::default(), Server::default());
    let ears = [Ear::default(), Ear::default()];
    let sessions = ears.clone().map(|ear| table.join(ear));
    ask(&mut table, sessions[0], &["a", "b", "c"]);
    ask(&mut table, sessions[1], &["d"]);
    settle(&mut table, &mut server);
    table.disconnected();
    assert_eq!(table.connected(), 2);
    let mut refused = 0;
    while let mut out = Vec::new()
        && table.next(&mut out)
    {
        let request = Request::parse(&out).expect("a request");
        let names: Vec<&[u8]> = request.args().skip(1).collect();
        if names.contains(&&b"d"[..]) {
            refused += table.refused(b"-NOPERM").expect("it is awaited");
            continue;
        }
        for name in names {
            table.confirm(&Confirmation { kind: Kind::Channel, begins: true, name: Some(name) }).unwrap();
        }
    }
    assert_eq!(refused, 1);
    assert_eq!(ears[0].borrow().len(), 4, "it has noticed nothing");
    assert_eq!(ears[1].borrow().last(), Some(&Heard::Lost));
    assert_eq!(table.names(), 3);
}

#[test]
fn what_nothing_asked_for_is_noticed() {
    let mut table = Table::<Ear>::default();
    assert_eq!(table.replied(), Err(Mismatch));
    assert_eq!(table.refused(b"-ERR"), Err(Mismatch));
    let session = table.join(Ear::default());
    ask(&mut table, session, &["a"]);
    table.next(&mut Vec::new());
    for (begins, name) in [(true, "b"), (false, "a")] {
        let wrong = Confirmation { kind: Kind::Channel, begins, name: Some(name.as_bytes()) };
        assert_eq!(table.confirm(&wrong), Err(Mismatch));
    }
    assert_eq!(table.replied(), Err(Mismatch));
}

#[derive(Clone, Debug)]
enum Action {
    Join,
    Leave(usize),
    Subscribe(usize, Kind, Vec<usize>),
    Unsubscribe(usize, Kind, Vec<usize>),
    Send,
    Answer,
    Ping,
    Disconnect,
    GiveUp,
    Proceed,
}

fn action() -> impl Strategy<Value = Action> {
    let kind = || prop::sample::select(Kind::ALL.to_vec());
    let names = |least| prop::collection::vec(0..NAMED.len(), least..4);
    prop_oneof![
        2 => Just(Action::Join),
        1 => any::<usize>().prop_map(Action::Leave),
        6 => (any::<usize>(), kind(), names(1)).prop_map(|(at, kind, names)| Action::Subscribe(at, kind, names)),
        4 => (any::<usize>(), kind(), names(0)).prop_map(|(at, kind, names)| Action::Unsubscribe(at, kind, names)),
        6 => Just(Action::Send),
        8 => Just(Action::Answer),
        4 => Just(Action::Proceed),
        1 => Just(Action::Ping),
        1 => Just(Action::Disconnect),
        1 => Just(Action::GiveUp),
    ]
}

const NAMED: [&str; 5] = ["a", "b", "c", "d", "x"];

/// One session, as simply as it can be told.
struct Model {
    session: u64,
    ear: Ear,
    has: BTreeSet<(&'static str, String)>,
    asks: Option<(Kind, Vec<&'static str>)>,
}

impl Model {
    fn count(&self, kind: Kind) -> usize {
        let shard = kind == Kind::Shard;
        self.has.iter().filter(|(of, _)| (*of == "shard") == shard).count()
    }

    /// Compares what was heard since the last time with what must have been.
    fn hear(&mut self, server: &Server) {
        let heard = std::mem::take(&mut *self.ear.borrow_mut());
        let Some(Heard::Decided(refusal)) = heard.last() else {
            assert!(self.asks.is_some() || heard.is_empty(), "nothing comes unasked: {heard:?}");
            *self.ear.borrow_mut() = heard;
            return;
        };
        let (kind, names) = self.asks.take().expect("something was asked for");
        let mut expected = Vec::new();
        if refusal.is_none() {
            for name in names {
                let known = (word(kind), name.to_owned());
                assert!(
                    server.names.contains(&known),
                    "{known:?} is confirmed, and the server knows nothing of it"
                );
                self.has.insert(known);
                expected.push(Heard::Confirmed(kind, true, Some(name.to_owned()), self.count(kind)));
            }
        } else {
            // A link was lost while the names were granted one by one, and there was no other for the rest.
            for heard in &heard[..heard.len() - 1] {
                let Heard::Confirmed(_, true, Some(name), _) = heard else { panic!("{heard:?}") };
                self.has.insert((word(kind), name.clone()));
                expected.push(Heard::Confirmed(kind, true, Some(name.clone()), self.count(kind)));
            }
            let gave_up = refusal.as_deref() == Some("-ERR gave up");
            assert!(gave_up || names.contains(&"x"), "only what is not permitted is refused");
        }
        expected.push(Heard::Decided(refusal.clone()));
        assert_eq!(heard, expected);
    }

    fn unsubscribe(&mut self, kind: Kind, names: &[&'static str]) {
        let mut heard = std::mem::take(&mut *self.ear.borrow_mut());
        assert_eq!(heard.pop(), Some(Heard::Decided(None)));
        let mut named: Vec<Option<String>> = names.iter().map(|name| Some((*name).to_owned())).collect();
        if named.is_empty() {
            // The order is nobody's business.
            named = heard
                .iter()
                .map(|heard| match heard {
                    Heard::Confirmed(_, false, name, _) => name.clone(),
                    other => panic!("{other:?}"),
                })
                .collect();
            let mut all: Vec<_> = self.has.iter().filter(|(of, _)| *of == word(kind)).collect();
            let mut sorted: Vec<_> = named.iter().flatten().collect();
            all.sort();
            sorted.sort();
            assert!(all.iter().map(|(_, name)| name).eq(sorted), "all of them");
        }
        for name in named {
            if let Some(name) = &name {
                self.has.remove(&(word(kind), name.clone()));
            }
            assert_eq!(heard.remove(0), Heard::Confirmed(kind, false, name, self.count(kind)));
        }
        assert_eq!(heard, []);
    }
}

fn pick(models: &mut [Model], at: usize) -> Option<&mut Model> {
    let len = models.len();
    models.get_mut(at.checked_rem(len)?)
}

fn play(actions: Vec<Action>, at_once: usize) {
    let (mut table, mut server) = (Table::<Ear> { at_once, ..Table::default() }, Server::default());
    let mut models: Vec<Model> = Vec::new();
    let picked = |names: Vec<usize>| names.into_iter().map(|at| NAMED[at]).collect::<Vec<_>>();
    for action in actions {
        match action {
            Action::Join => {
                let ear = Ear::default();
                let session = table.join(ear.clone());
                models.push(Model { session, ear, has: BTreeSet::new(), asks: None });
            }
            Action::Leave(at) if !models.is_empty() => {
                let at = at % models.len();
                table.leave(models.swap_remove(at).session);
            }
            Action::Subscribe(at, kind, names) => {
                if let Some(model) = pick(&mut models, at).filter(|model| model.asks.is_none()) {
                    let names = picked(names);
                    model.asks = Some((kind, names.clone()));
                    table.subscribe(model.session, kind, names.iter().map(|name| name.as_bytes()));
                }
            }
            Action::Unsubscribe(at, kind, names) => {
                if let Some(model) = pick(&mut models, at).filter(|model| model.asks.is_none()) {
                    let names = picked(names);
                    while table.proceed(usize::MAX) {}
                    table.unsubscribe(model.session, kind, names.iter().map(|name| name.as_bytes()));
                    while table.proceed(1) {}
                    model.unsubscribe(kind, &names);
                }
            }
            Action::Proceed => {
                table.proceed(1);
            }
            Action::Send => send(&mut table, &mut server),
            Action::Answer => server.answer(&mut table),
            Action::Ping => {
                let mut out = Vec::new();
                table.ping(&mut out, crate::upstream::connection::probe::PING);
                server.unread.push_back(out);
            }
            Action::Disconnect => {
                server = Server::default();
                table.disconnected();
                table.connected();
            }
            Action::GiveUp => {
                table.refuse_unsent(b"-ERR gave up");
            }
            Action::Leave(_) => {}
        }
        models.iter_mut().for_each(|model| model.hear(&server));
    }
    settle(&mut table, &mut server);
    models.iter_mut().for_each(|model| model.hear(&server));
    assert!(models.iter().all(|model| model.asks.is_none()), "everybody got an answer");
    let union: BTreeSet<_> = models.iter().flat_map(|model| model.has.iter().cloned()).collect();
    assert_eq!(server.names, union, "the server has what the sessions have");
    for kind in Kind::ALL {
        for name in NAMED {
            let members = table.members(kind, name.as_bytes()).into_iter().flat_map(HashMap::keys);
            let members: BTreeSet<u64> = members.copied().collect();
            let known = (word(kind), name.to_owned());
            let having = models.iter().filter(|model| model.has.contains(&known));
            assert_eq!(members, having.map(|model| model.session).collect(), "who hears {known:?}");
        }
    }
    let bytes: usize =
        models.iter().flat_map(|model| &model.has).map(|(_, name)| SUBSCRIPTION_SIZE + name.len()).sum();
    assert_eq!(table.size(), bytes);
    models.iter().for_each(|model| table.leave(model.session));
    settle(&mut table, &mut server);
    assert!(server.names.is_empty());
    assert_eq!((table.names(), table.sessions(), table.is_reply_due(), table.size()), (0, 0, false, 0));
    assert!(table.unwanted.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_server_has_what_the_sessions_have(actions in prop::collection::vec(action(), 0..120)) {
        play(actions, AT_ONCE);
    }

    /// The same where every request takes several turns.
    #[test]
    fn nothing_changes_where_requests_take_several_turns(actions in prop::collection::vec(action(), 0..120)) {
        play(actions, 1);
    }
}
