//! Knows which session is subscribed to what on one fan-in connection. No I/O.
//!
//! The server has a subscription to a name as long as any session wants it. Each request of a session becomes a command of its
//! own, so that the server's refusal concerns one session only. The server confirms commands in order.

mod backlog;
mod commands;
mod entries;
mod moves;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

pub(super) use self::entries::{Name, Subscriber};
use self::entries::{
    OpenRequest, PerKind, SUBSCRIPTION_SIZE, SentCommand, SessionEntry, SubscribeRequest, TopicState, Work,
};
use crate::resp::pubsub::{Kind, MAX_NAME_BYTES, MAX_SUBSCRIPTIONS};

/// The number of names in one command that restores or ends subscriptions.
const NAMES_PER_COMMAND: usize = 512;

/// The number of names of one request that are handled at once. The rest of a longer one waits for [`Table::proceed`].
const AT_ONCE: usize = 512;

/// The request whose reply ends those to the end of shard channels, unless [`Table::set_probe`] sets another.
const PROBE: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The server sent a reply that no command makes due. Nothing on this connection can be trusted any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch;

/// The table of one connection. See the module.
pub(super) struct Table<S> {
    topics: PerKind<HashMap<Name, TopicState<S>>>,
    sessions: HashMap<u64, SessionEntry<S>>,
    next_session: u64,
    /// Subscriptions of a lost connection. They are restored before anything else is sent.
    restoring: VecDeque<(Kind, Vec<Name>)>,
    /// The requests that were not sent, in this order.
    queued: BTreeMap<i64, SubscribeRequest>,
    /// Work that takes more than one turn.
    backlog: VecDeque<Work>,
    /// See [`AT_ONCE`].
    at_once: usize,
    /// The commands that the server has not answered.
    sent: VecDeque<SentCommand>,
    /// The error line by which the server has refused a part of the request that it is answering.
    part_refused: Option<Vec<u8>>,
    /// The request that follows the end of shard channels: the server answers it, whoever has ended them.
    probe: &'static [u8],
    /// True if sessions are told when the server has confirmed every end.
    tells_ends: bool,
    /// Active names that no session wants any more.
    unwanted: Vec<(Kind, Name)>,
    /// The estimated size of the subscriptions of all sessions, in bytes.
    size: usize,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self {
            topics: PerKind { channel: HashMap::new(), pattern: HashMap::new(), shard: HashMap::new() },
            sessions: HashMap::new(),
            next_session: 0,
            restoring: VecDeque::new(),
            queued: BTreeMap::new(),
            backlog: VecDeque::new(),
            at_once: AT_ONCE,
            sent: VecDeque::new(),
            part_refused: None,
            probe: PROBE,
            tells_ends: false,
            unwanted: Vec::new(),
            size: 0,
        }
    }
}

impl<S: Subscriber + Clone> Table<S> {
    /// Adds a session. Returns its number.
    pub(super) fn join(&mut self, subscriber: S) -> u64 {
        let session = self.next_session;
        self.next_session += 1;
        self.sessions.insert(session, SessionEntry::new(subscriber));
        session
    }

    /// Removes a session with its subscriptions and its request.
    pub(super) fn leave(&mut self, session: u64) {
        let Some(mut entry) = self.sessions.remove(&session) else { return };
        for kind in Kind::ALL {
            let names: Vec<Name> = entry.names.take(kind).into_iter().collect();
            if !names.is_empty() {
                self.undertake(Work::Leave { session, kind, names: names.into_iter() });
            }
        }
        if let Some(position) = entry.open.and_then(|open| open.position)
            && let Some(request) = self.queued.remove(&position)
        {
            self.release(request.kind, &request.names);
        }
    }

    /// Returns the number of sessions.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of names to which a session is subscribed, or asks to be.
    pub(super) fn names(&self) -> usize {
        self.topics.all().iter().map(|topics| topics.len()).sum()
    }

    /// Returns the estimated size of the subscriptions of all sessions, in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of a session's subscriptions.
    pub(super) fn subscriptions(&self, session: u64) -> usize {
        self.sessions.get(&session).map_or(0, SessionEntry::total)
    }

    /// Returns the numbers of a session's subscriptions to channels, patterns and shard channels.
    pub(super) fn counts(&self, session: u64) -> [usize; 3] {
        let entry = self.sessions.get(&session);
        entry.map_or([0; 3], |entry| Kind::ALL.map(|kind| entry.names.of(kind).len()))
    }

    /// Returns true if `matches` holds for a subscription that the session has, or asks for.
    pub(super) fn hears(&self, session: u64, mut matches: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        let Some(entry) = self.sessions.get(&session) else { return false };
        let has =
            Kind::ALL.into_iter().any(|kind| entry.names.of(kind).iter().any(|name| matches(kind, name)));
        let asks = |open: &OpenRequest| open.names.iter().any(|name| matches(open.kind, name));
        has || entry.open.as_ref().is_some_and(asks)
    }

    /// Returns true if `names` more names of `bytes` bytes together exceed what one session may have.
    pub(super) fn would_exceed(&self, session: u64, names: usize, bytes: usize) -> bool {
        let (total, name_bytes) =
            self.sessions.get(&session).map_or((0, 0), |entry| (entry.total(), entry.name_bytes));
        total + names > MAX_SUBSCRIPTIONS || name_bytes + bytes > MAX_NAME_BYTES
    }

    /// Handles a session's request to subscribe. A session has one open request at a time. If the connection has all names
    /// already, the request is confirmed at once.
    pub(super) fn subscribe<'a>(&mut self, session: u64, kind: Kind, names: impl Iterator<Item = &'a [u8]>) {
        let names: Rc<[Name]> = names.map(Name::from).collect();
        let mut ready = true;
        for name in names.iter() {
            let state = self.topic(kind, name);
            state.requests += 1;
            ready &= state.active;
        }
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.open = Some(OpenRequest { kind, names: names.clone(), position: None });
        }
        let request = SubscribeRequest { session, kind, names };
        if ready {
            self.grant(request);
        } else {
            let last = self.queued.last_key_value().map_or(0, |(position, _)| *position);
            self.queue(last + 1, request);
        }
    }

    /// Handles a session's request to end subscriptions; without names, all of this kind. The session makes no other request until
    /// this one is decided.
    pub(super) fn unsubscribe<'a>(
        &mut self,
        session: u64,
        kind: Kind,
        names: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        let all = names.len() == 0;
        let names: Vec<Name> = if all {
            entry.names.of(kind).iter().cloned().collect()
        } else {
            names.map(Name::from).collect()
        };
        if names.is_empty() {
            entry.subscriber.confirmed(kind, false, None, entry.count(kind));
        }
        self.undertake(Work::End { session, kind, names: names.into_iter() });
    }

    /// Returns the sessions that get a message for this name, by number.
    pub(super) fn members(&self, kind: Kind, name: &[u8]) -> Option<&HashMap<u64, S>> {
        self.topics.of(kind).get(name).map(|state| &state.members)
    }

    /// Refuses every request that was not sent. Returns the number of requests.
    pub(super) fn refuse_unsent(&mut self, line: &[u8]) -> usize {
        let queued = std::mem::take(&mut self.queued);
        let refused = queued.len();
        queued.into_values().for_each(|request| self.refuse(request, line));
        refused
    }

    /// Refuses every request that was not sent, and disconnects the sessions that made them.
    pub(super) fn disconnect_unsent(&mut self, line: &[u8]) {
        for request in std::mem::take(&mut self.queued).into_values() {
            let session = request.session;
            self.refuse(request, line);
            if let Some(entry) = self.sessions.get(&session) {
                entry.subscriber.lost();
            }
        }
    }

    /// Reports to every subscribed session that its subscriptions are lost. Returns the number of sessions.
    pub(super) fn lose_all(&mut self) -> usize {
        let mut lost = 0;
        for entry in self.sessions.values().filter(|entry| entry.total() > 0) {
            entry.subscriber.lost();
            lost += 1;
        }
        lost
    }

    fn topic(&mut self, kind: Kind, name: &Name) -> &mut TopicState<S> {
        self.topics.of_mut(kind).entry(name.clone()).or_insert_with(TopicState::new)
    }

    /// Subscribes a session after the server has confirmed every name of its request.
    fn grant(&mut self, request: SubscribeRequest) {
        self.undertake(Work::Grant { request, next: 0 });
    }

    /// Queues a request before all others, because a lost connection carried it. Drops it if its session has left.
    fn queue_first(&mut self, request: SubscribeRequest) {
        if self.sessions.contains_key(&request.session) {
            let first = self.queued.first_key_value().map_or(0, |(position, _)| *position);
            self.queue(first - 1, request);
        } else {
            self.release(request.kind, &request.names);
        }
    }

    fn queue(&mut self, position: i64, request: SubscribeRequest) {
        self.set_position(&request, Some(position));
        self.queued.insert(position, request);
    }

    /// Notes the request's position in its session's entry, so that a session that leaves finds it.
    fn set_position(&mut self, request: &SubscribeRequest, position: Option<i64>) {
        let entry = self.sessions.get_mut(&request.session);
        if let Some(open) = entry.and_then(|entry| entry.open.as_mut()) {
            open.position = position;
        }
    }

    fn refuse(&mut self, request: SubscribeRequest, line: &[u8]) {
        self.release(request.kind, &request.names);
        if let Some(entry) = self.sessions.get_mut(&request.session) {
            entry.open = None;
            entry.subscriber.decided(Some(line), entry.size());
        }
    }

    /// Ends a session's membership in a topic.
    fn remove_member(&mut self, session: u64, kind: Kind, name: &Name) {
        self.size -= SUBSCRIPTION_SIZE + name.len();
        if let Some(state) = self.topics.of_mut(kind).get_mut(name) {
            state.members.remove(&session);
        }
        self.drop_if_unwanted(kind, name);
    }

    /// Counts one request less for each of these names.
    fn release(&mut self, kind: Kind, names: &[Name]) {
        for name in names {
            if let Some(state) = self.topics.of_mut(kind).get_mut(name) {
                state.requests = state.requests.saturating_sub(1);
            }
            self.drop_if_unwanted(kind, name);
        }
    }

    /// Removes a name that no session wants. If the server has it, lists it in `unwanted`, so that a command ends it first.
    fn drop_if_unwanted(&mut self, kind: Kind, name: &Name) {
        let topics = self.topics.of_mut(kind);
        match topics.get_mut(name) {
            Some(state) if state.is_wanted() || state.unwanted => {}
            Some(state) if state.active => {
                state.unwanted = true;
                self.unwanted.push((kind, name.clone()));
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
