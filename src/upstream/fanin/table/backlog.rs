//! The part of the table's work that takes more than one turn. It is done in slices, so that a session with 65,536 names does not
//! stop its worker. No I/O.

use super::Table;
use super::entries::{Name, SUBSCRIPTION_SIZE, SubscribeRequest, Subscriber, Work};
use crate::resp::pubsub::Kind;

impl<S: Subscriber + Clone> Table<S> {
    /// Does `work` now if it is short and no other work waits; otherwise adds it to the backlog.
    pub(super) fn undertake(&mut self, work: Work) {
        // Short work must not overtake the backlog: a session's confirmations keep their order.
        if self.backlog.is_empty() && work.len() <= self.at_once {
            self.run_slice(work, usize::MAX);
        } else {
            self.backlog.push_back(work);
        }
    }

    /// Does `names` names of the backlog. Returns true if more is left.
    pub(in crate::upstream::fanin) fn proceed(&mut self, mut names: usize) -> bool {
        while names > 0 {
            let Some(work) = self.backlog.pop_front() else { return false };
            let (before, rest) = (work.len(), self.run_slice(work, names));
            names = names.saturating_sub((before - rest.as_ref().map_or(0, Work::len)).max(1));
            if let Some(rest) = rest {
                self.backlog.push_front(rest);
            }
        }
        !self.backlog.is_empty()
    }

    /// Returns true if work waits for [`Self::proceed`].
    pub(in crate::upstream::fanin) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Queues the rest of unfinished grants again: the connection that confirmed them is lost.
    pub(super) fn retract_grants(&mut self) {
        for work in std::mem::take(&mut self.backlog) {
            match work {
                Work::Grant { request, next } => {
                    let names = request.names.get(next..).unwrap_or_default().into();
                    self.queue_first(SubscribeRequest { names, ..request });
                }
                work => self.backlog.push_back(work),
            }
        }
    }

    /// Does at most `limit` names of `work`. Returns the rest.
    fn run_slice(&mut self, work: Work, limit: usize) -> Option<Work> {
        match work {
            Work::Grant { request, next } => self.grant_slice(request, next, limit),
            Work::End { session, kind, mut names } => {
                let done = names.len() <= limit;
                for name in names.by_ref().take(limit) {
                    self.end_one(session, kind, &name);
                }
                if !done {
                    return Some(Work::End { session, kind, names });
                }
                if let Some(entry) = self.sessions.get(&session) {
                    entry.subscriber.decided(None, entry.size());
                }
                self.note_ends();
                None
            }
            Work::Leave { session, kind, mut names } => {
                for name in names.by_ref().take(limit) {
                    self.remove_member(session, kind, &name);
                }
                (names.len() > 0).then_some(Work::Leave { session, kind, names })
            }
        }
    }

    fn grant_slice(&mut self, request: SubscribeRequest, next: usize, limit: usize) -> Option<Work> {
        let (session, kind) = (request.session, request.kind);
        let subscriber = self.sessions.get(&session).map(|entry| entry.subscriber.clone());
        let end = request.names.len().min(next.saturating_add(limit));
        let names = request.names.get(next..end).unwrap_or_default();
        for name in names {
            if let (Some(entry), Some(subscriber)) = (self.sessions.get_mut(&session), &subscriber) {
                if entry.names.of_mut(kind).insert(name.clone()) {
                    entry.name_bytes += name.len();
                    self.size += SUBSCRIPTION_SIZE + name.len();
                }
                subscriber.confirmed(kind, true, Some(name), entry.count(kind));
                self.topic(kind, name).members.insert(session, subscriber.clone());
                if kind == Kind::Shard && !self.topic(kind, name).active {
                    // Its slot has left the server since the server confirmed it.
                    self.displace(name);
                }
            }
        }
        // Only now: the names must stay wanted until the session is a member.
        self.release(kind, names);
        if end < request.names.len() {
            return Some(Work::Grant { request, next: end });
        }
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.open = None;
            entry.subscriber.decided(None, entry.size());
        }
        None
    }

    /// Ends one subscription of a session, and confirms the end also if the session had no subscription of that name.
    fn end_one(&mut self, session: u64, kind: Kind, name: &Name) {
        // If the session has left, [`Work::Leave`] ends its subscriptions.
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        let had = entry.names.of_mut(kind).remove(name);
        if had {
            entry.name_bytes -= name.len();
        }
        entry.subscriber.confirmed(kind, false, Some(name), entry.count(kind));
        if had {
            self.remove_member(session, kind, name);
        }
    }
}
