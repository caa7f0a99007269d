//! Who is subscribed to what on one fan-in link, and what the link still has to say and to hear. No I/O.
//!
//! A name is subscribed to upstream while anybody is, or asks to be. Commands go out one for each request of a session, so
//! that the server's refusal of one is nobody else's, and confirmations are matched with them in order.

mod backlog;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use self::backlog::Work;
use crate::resp::pubsub::{Confirmation, Kind, MAX_NAME_BYTES, MAX_SUBSCRIPTIONS};
use crate::resp::request;

/// A channel's name, or a pattern.
pub(super) type Name = Rc<[u8]>;

/// What a subscription of one session takes beside its name, about, in bytes.
const EACH: usize = 128;

/// Names in one command that restores subscriptions, or ends them.
const NAMES: usize = 512;

/// Names of one request that are handled at once; the rest of a longer one waits for [`Table::proceed`].
const AT_ONCE: usize = 512;

/// One session's ear.
pub(super) trait Subscriber {
    /// Of a kind, a subscription to `name` began or ended, or there was none to end; the session has `count` now
    /// (channels and patterns together, shard channels apart).
    fn confirmed(&self, kind: Kind, begins: bool, name: Option<&[u8]>, count: usize);

    /// What it asked for, subscriptions or their end, is done, or refused with this error line (without CRLF). Its
    /// subscriptions take `held` bytes now, about.
    fn decided(&self, refusal: Option<&[u8]>, held: usize);

    /// A subscription that it has been promised is lost.
    fn lost(&self);
}

/// What the server sent is not what was asked for: nothing of this connection can be trusted any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch;

/// See the module.
pub(super) struct Table<L> {
    topics: Each<HashMap<Name, TopicState<L>>>,
    seats: HashMap<u64, SubscriberEntry<L>>,
    next_seat: u64,
    /// Subscriptions of a connection that was lost, to be made anew before anything else is sent.
    restoring: VecDeque<(Kind, Vec<Name>)>,
    /// What sessions ask for and has not been sent, in this order.
    asks: BTreeMap<i64, Ask>,
    /// Work that takes more than one turn.
    backlog: VecDeque<Work>,
    /// See [`AT_ONCE`].
    at_once: usize,
    /// What was sent and is not answered.
    sent: VecDeque<Sent>,
    /// What nobody may be subscribed to any more.
    deserted: Vec<(Kind, Name)>,
    /// What the subscriptions of all sessions take, about, in bytes.
    held: usize,
}

/// Something for each kind of subscription.
#[derive(Default)]
struct Each<T> {
    channel: T,
    pattern: T,
    shard: T,
}

impl<T> Each<T> {
    fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Channel => &self.channel,
            Kind::Pattern => &self.pattern,
            Kind::Shard => &self.shard,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Channel => &mut self.channel,
            Kind::Pattern => &mut self.pattern,
            Kind::Shard => &mut self.shard,
        }
    }

    fn all(&self) -> [&T; 3] {
        Kind::ALL.map(|kind| self.of(kind))
    }
}

struct TopicState<L> {
    /// The server has confirmed it, and nothing that ends it was sent.
    on: bool,
    /// Requests under way that name it.
    asked: usize,
    members: HashMap<u64, L>,
    /// It stands among the deserted.
    deserted: bool,
}

impl<L> TopicState<L> {
    fn new() -> Self {
        Self { on: false, asked: 0, members: HashMap::new(), deserted: false }
    }

    fn is_wanted(&self) -> bool {
        self.asked > 0 || !self.members.is_empty()
    }
}

struct SubscriberEntry<L> {
    listener: L,
    names: Each<HashSet<Name>>,
    bytes: usize,
    /// What it has asked for and has no answer to.
    asking: Option<Asking>,
}

impl<L> SubscriberEntry<L> {
    /// Returns what its subscriptions take, about, in bytes.
    fn bytes(&self) -> usize {
        self.bytes + self.total() * EACH
    }
}

/// A session's request that is not answered.
struct Asking {
    kind: Kind,
    names: Rc<[Name]>,
    /// Its place in [`Table::asks`], while it is there.
    place: Option<i64>,
}

/// One session's request.
struct Ask {
    seat: u64,
    kind: Kind,
    names: Rc<[Name]>,
}

struct Sent {
    kind: Kind,
    /// The names in the command, and how many of them are confirmed.
    names: Vec<Name>,
    confirmed: usize,
    purpose: Purpose,
}

enum Purpose {
    Ask(Ask),
    Restore,
    End,
    Ping,
}

impl<L> SubscriberEntry<L> {
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.names.channel.len() + self.names.pattern.len(),
            Kind::Shard => self.names.shard.len(),
        }
    }

    fn total(&self) -> usize {
        self.names.all().iter().map(|names| names.len()).sum()
    }
}

impl<L> Default for Table<L> {
    fn default() -> Self {
        Self {
            topics: Each { channel: HashMap::new(), pattern: HashMap::new(), shard: HashMap::new() },
            seats: HashMap::new(),
            next_seat: 0,
            restoring: VecDeque::new(),
            asks: BTreeMap::new(),
            backlog: VecDeque::new(),
            at_once: AT_ONCE,
            sent: VecDeque::new(),
            deserted: Vec::new(),
            held: 0,
        }
    }
}

impl<L: Subscriber + Clone> Table<L> {
    /// One more session.
    pub(super) fn join(&mut self, listener: L) -> u64 {
        let seat = self.next_seat;
        self.next_seat += 1;
        self.seats.insert(seat, SubscriberEntry { listener, names: Each::default(), bytes: 0, asking: None });
        seat
    }

    /// A session is gone, with all that it had and asked for.
    pub(super) fn leave(&mut self, seat: u64) {
        let Some(mut gone) = self.seats.remove(&seat) else { return };
        for kind in Kind::ALL {
            let names: Vec<Name> = gone.names.take(kind).into_iter().collect();
            if !names.is_empty() {
                self.undertake(Work::Leave { seat, kind, names: names.into_iter() });
            }
        }
        if let Some(place) = gone.asking.and_then(|asking| asking.place)
            && let Some(ask) = self.asks.remove(&place)
        {
            self.release(ask.kind, &ask.names);
        }
    }

    /// Sessions.
    pub(super) fn sessions(&self) -> usize {
        self.seats.len()
    }

    /// Names that anybody is subscribed to, or asks for.
    pub(super) fn names(&self) -> usize {
        self.topics.all().iter().map(|topics| topics.len()).sum()
    }

    /// What the subscriptions of all sessions take, about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.held
    }

    /// How many names a session is subscribed to.
    pub(super) fn subscriptions(&self, seat: u64) -> usize {
        self.seats.get(&seat).map_or(0, SubscriberEntry::total)
    }

    /// Whether a subscription that a session has, or asks for, is `such`.
    pub(super) fn hears(&self, seat: u64, mut such: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        let Some(seat) = self.seats.get(&seat) else { return false };
        let has = Kind::ALL.into_iter().any(|kind| seat.names.of(kind).iter().any(|name| such(kind, name)));
        let asks = |asking: &Asking| asking.names.iter().any(|name| such(asking.kind, name));
        has || seat.asking.as_ref().is_some_and(asks)
    }

    /// Whether so many more names, of so many bytes together, would be too much for one session.
    pub(super) fn would_exceed(&self, seat: u64, names: usize, bytes: usize) -> bool {
        let (has, held) = self.seats.get(&seat).map_or((0, 0), |seat| (seat.total(), seat.bytes));
        has + names > MAX_SUBSCRIPTIONS || held + bytes > MAX_NAME_BYTES
    }

    /// A session asks to be subscribed; it asks for one thing at a time. What the link has already is confirmed at once.
    pub(super) fn subscribe<'a>(&mut self, seat: u64, kind: Kind, names: impl Iterator<Item = &'a [u8]>) {
        let names: Rc<[Name]> = names.map(Name::from).collect();
        let mut ready = true;
        for name in names.iter() {
            let state = self.state(kind, name);
            state.asked += 1;
            ready &= state.on;
        }
        if let Some(mine) = self.seats.get_mut(&seat) {
            mine.asking = Some(Asking { kind, names: names.clone(), place: None });
        }
        let ask = Ask { seat, kind, names };
        if ready {
            self.grant(ask);
        } else {
            let last = self.asks.last_key_value().map_or(0, |(place, _)| *place);
            self.queue(last + 1, ask);
        }
    }

    /// A session ends some of its subscriptions; without names, all of this kind. Until that is decided, it asks for nothing
    /// else.
    pub(super) fn unsubscribe<'a>(
        &mut self,
        seat: u64,
        kind: Kind,
        names: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        let Some(mine) = self.seats.get_mut(&seat) else { return };
        let all = names.len() == 0;
        let names: Vec<Name> =
            if all { mine.names.of(kind).iter().cloned().collect() } else { names.map(Name::from).collect() };
        if names.is_empty() {
            mine.listener.confirmed(kind, false, None, mine.count(kind));
        }
        self.undertake(Work::End { seat, kind, names: names.into_iter() });
    }

    /// Those to whom a message is due.
    pub(super) fn members(&self, kind: Kind, name: &[u8]) -> Option<&HashMap<u64, L>> {
        self.topics.of(kind).get(name).map(|state| &state.members)
    }

    /// Writes the next command for the server; false: there is none.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some((kind, names)) = self.restoring.pop_front() {
            self.send(out, kind, names, Purpose::Restore);
            return true;
        }
        if let Some((kind, names)) = self.ending() {
            self.send(out, kind, names, Purpose::End);
            return true;
        }
        while let Some((_, ask)) = self.asks.pop_first() {
            self.place(&ask, None);
            let missing: Vec<Name> =
                ask.names.iter().filter(|name| !self.state(ask.kind, name).on).cloned().collect();
            if missing.is_empty() {
                self.grant(ask);
                continue;
            }
            self.send(out, ask.kind, missing, Purpose::Ask(ask));
            return true;
        }
        false
    }

    /// Writes a request that changes nothing, to which the server owes an answer.
    pub(super) fn ping(&mut self, out: &mut Vec<u8>, request: &[u8]) {
        out.extend_from_slice(request);
        let (kind, names) = (Kind::Channel, Vec::new());
        self.sent.push_back(Sent { kind, names, confirmed: 0, purpose: Purpose::Ping });
    }

    /// Whether the server owes an answer.
    pub(super) fn owed(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Takes a confirmation from the server.
    ///
    /// # Errors
    /// Nothing asked for it.
    pub(super) fn confirm(&mut self, confirmation: &Confirmation<'_>) -> Result<(), Mismatch> {
        let front = self.sent.front_mut().ok_or(Mismatch)?;
        let name = front.names.get(front.confirmed).cloned().ok_or(Mismatch)?;
        let ends = matches!(front.purpose, Purpose::End);
        let expected = (front.kind, !ends, Some(&*name));
        if (confirmation.kind, confirmation.begins, confirmation.name) != expected {
            return Err(Mismatch);
        }
        front.confirmed += 1;
        let (kind, done) = (front.kind, front.confirmed == front.names.len());
        if !ends && let Some(state) = self.topics.of_mut(kind).get_mut(&name) {
            state.on = true;
        }
        if done && let Some(sent) = self.sent.pop_front() {
            match sent.purpose {
                Purpose::Ask(ask) => self.grant(ask),
                Purpose::Restore => self.release(kind, &sent.names),
                Purpose::End | Purpose::Ping => {}
            }
        }
        Ok(())
    }

    /// Takes a reply that is no error: a PING's.
    ///
    /// # Errors
    /// Nothing asked for it.
    pub(super) fn replied(&mut self) -> Result<(), Mismatch> {
        match self.sent.pop_front() {
            Some(Sent { purpose: Purpose::Ping, .. }) => Ok(()),
            _ => Err(Mismatch),
        }
    }

    /// Takes an error line (without CRLF). How many sessions have lost a subscription by it.
    ///
    /// # Errors
    /// Nothing asked for it.
    pub(super) fn refused(&mut self, line: &[u8]) -> Result<usize, Mismatch> {
        let sent = self.sent.pop_front().ok_or(Mismatch)?;
        if sent.confirmed > 0 {
            return Err(Mismatch);
        }
        match sent.purpose {
            Purpose::Ask(ask) => {
                self.refuse(ask, line);
                Ok(0)
            }
            Purpose::Restore => Ok(self.unrestored(sent.kind, sent.names)),
            Purpose::End | Purpose::Ping => Ok(0),
        }
    }

    /// The connection is lost. What was asked for on it is asked for again on the next.
    pub(super) fn disconnected(&mut self) {
        for kind in Kind::ALL {
            self.topics.of_mut(kind).values_mut().for_each(|state| state.on = false);
        }
        let restoring = std::mem::take(&mut self.restoring);
        for (kind, names) in restoring {
            self.release(kind, &names);
        }
        for sent in std::mem::take(&mut self.sent).into_iter().rev() {
            match sent.purpose {
                Purpose::Ask(ask) => self.ask_first(ask),
                Purpose::Restore => self.release(sent.kind, &sent.names),
                Purpose::End | Purpose::Ping => {}
            }
        }
        self.retract_grants();
        for (kind, name) in std::mem::take(&mut self.deserted) {
            if let Some(state) = self.topics.of_mut(kind).get_mut(&name) {
                state.deserted = false;
            }
            self.tidy(kind, &name);
        }
    }

    /// There is a new connection, which knows nothing. How many sessions have something to be restored on it.
    pub(super) fn connected(&mut self) -> usize {
        for kind in Kind::ALL {
            let topics = self.topics.of(kind).iter();
            let held = topics.filter(|(_, state)| !state.members.is_empty());
            let names: Vec<Name> = held.map(|(name, _)| name.clone()).collect();
            for names in names.chunks(NAMES) {
                names.iter().for_each(|name| self.state(kind, name).asked += 1);
                self.restoring.push_back((kind, names.to_vec()));
            }
        }
        self.seats.values().filter(|seat| seat.total() > 0).count()
    }

    /// Refuses everything that has not been sent.
    pub(super) fn refuse_unsent(&mut self, line: &[u8]) -> usize {
        let asks = std::mem::take(&mut self.asks);
        let refused = asks.len();
        asks.into_values().for_each(|ask| self.refuse(ask, line));
        refused
    }

    /// Refuses everything that has not been sent, and disconnects who asked for it.
    pub(super) fn disconnect_unsent(&mut self, line: &[u8]) {
        for ask in std::mem::take(&mut self.asks).into_values() {
            let number = ask.seat;
            self.refuse(ask, line);
            if let Some(seat) = self.seats.get(&number) {
                seat.listener.lost();
            }
        }
    }

    /// There will be no connection for long: whoever is subscribed is told. How many those are.
    pub(super) fn lose_all(&mut self) -> usize {
        let mut lost = 0;
        for seat in self.seats.values().filter(|seat| seat.total() > 0) {
            seat.listener.lost();
            lost += 1;
        }
        lost
    }

    fn state(&mut self, kind: Kind, name: &Name) -> &mut TopicState<L> {
        self.topics.of_mut(kind).entry(name.clone()).or_insert_with(TopicState::new)
    }

    fn send(&mut self, out: &mut Vec<u8>, kind: Kind, names: Vec<Name>, purpose: Purpose) {
        let command = if matches!(purpose, Purpose::End) { kind.end() } else { kind.begin() };
        let args: Vec<&[u8]> = std::iter::once(command).chain(names.iter().map(AsRef::as_ref)).collect();
        request::encode(&args, out);
        self.sent.push_back(Sent { kind, names, confirmed: 0, purpose });
    }

    /// Names of one kind that nobody is subscribed to any more. They are off from now on.
    fn ending(&mut self) -> Option<(Kind, Vec<Name>)> {
        let mut ending: Option<(Kind, Vec<Name>)> = None;
        while let Some((kind, _)) = self.deserted.last() {
            if ending.as_ref().is_some_and(|(first, names)| first != kind || names.len() >= NAMES) {
                break;
            }
            let Some((kind, name)) = self.deserted.pop() else { break };
            let topics = self.topics.of_mut(kind);
            let Some(state) = topics.get_mut(&name) else { continue };
            state.deserted = false;
            if !state.is_wanted() && topics.remove(&name).is_some_and(|state| state.on) {
                ending.get_or_insert_with(|| (kind, Vec::new())).1.push(name);
            }
        }
        ending
    }

    /// All that a session asked for is confirmed.
    fn grant(&mut self, ask: Ask) {
        self.undertake(Work::Grant { ask, next: 0 });
    }

    /// An ask that was sent on a lost link is sent before all others, unless its session has left.
    fn ask_first(&mut self, ask: Ask) {
        if self.seats.contains_key(&ask.seat) {
            let first = self.asks.first_key_value().map_or(0, |(place, _)| *place);
            self.queue(first - 1, ask);
        } else {
            self.release(ask.kind, &ask.names);
        }
    }

    fn queue(&mut self, place: i64, ask: Ask) {
        self.place(&ask, Some(place));
        self.asks.insert(place, ask);
    }

    /// Notes where the ask of a session waits.
    fn place(&mut self, ask: &Ask, place: Option<i64>) {
        if let Some(asking) = self.seats.get_mut(&ask.seat).and_then(|mine| mine.asking.as_mut()) {
            asking.place = place;
        }
    }

    fn refuse(&mut self, ask: Ask, line: &[u8]) {
        self.release(ask.kind, &ask.names);
        if let Some(seat) = self.seats.get_mut(&ask.seat) {
            seat.asking = None;
            seat.listener.decided(Some(line), seat.bytes());
        }
    }

    /// The server refuses to restore one of these names: each is tried by itself, by halves.
    fn unrestored(&mut self, kind: Kind, mut names: Vec<Name>) -> usize {
        if names.len() > 1 {
            let rest = names.split_off(names.len() / 2);
            self.restoring.push_front((kind, rest));
            self.restoring.push_front((kind, names));
            return 0;
        }
        let mut lost = 0;
        for name in &names {
            for listener in std::mem::take(&mut self.state(kind, name).members).into_values() {
                listener.lost();
                lost += 1;
            }
        }
        self.release(kind, &names);
        lost
    }

    /// A session is not subscribed any more.
    fn part(&mut self, seat: u64, kind: Kind, name: &Name) {
        self.held -= EACH + name.len();
        if let Some(state) = self.topics.of_mut(kind).get_mut(name) {
            state.members.remove(&seat);
        }
        self.tidy(kind, name);
    }

    /// A request is decided that named these.
    fn release(&mut self, kind: Kind, names: &[Name]) {
        for name in names {
            if let Some(state) = self.topics.of_mut(kind).get_mut(name) {
                state.asked = state.asked.saturating_sub(1);
            }
            self.tidy(kind, name);
        }
    }

    /// Forgets a name that nobody wants, or has it ended.
    fn tidy(&mut self, kind: Kind, name: &Name) {
        let topics = self.topics.of_mut(kind);
        match topics.get_mut(name) {
            Some(state) if state.is_wanted() || state.deserted => {}
            Some(state) if state.on => {
                state.deserted = true;
                self.deserted.push((kind, name.clone()));
            }
            Some(_) => {
                topics.remove(name);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
