//! Work of the table that concerns more names than one turn may handle: it is done in slices, so that a session with 64 Ki
//! names does not stop its worker. No I/O.

use super::{Ask, Each, Kind, Name, Subscriber, Table};

/// What is still to be done for one session.
pub(super) enum Work {
    /// The server has confirmed all names of the ask: the session is told of each from `next` on.
    Grant { ask: Ask, next: usize },
    /// The session ends the subscriptions to these names.
    End { seat: u64, kind: Kind, names: std::vec::IntoIter<Name> },
    /// The session has left: its subscriptions end without a word.
    Leave { seat: u64, kind: Kind, names: std::vec::IntoIter<Name> },
}

impl Work {
    /// Names that are left.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Grant { ask, next } => ask.names.len() - next,
            Self::End { names, .. } | Self::Leave { names, .. } => names.len(),
        }
    }
}

impl<L: Subscriber + Clone> Table<L> {
    /// Does `work` now if it is short and nothing waits, else later.
    pub(super) fn undertake(&mut self, work: Work) {
        if self.backlog.is_empty() && work.len() <= self.at_once {
            self.perform(work, usize::MAX);
        } else {
            self.backlog.push_back(work);
        }
    }

    /// Does some of the work that waits: `names` names of it. Returns true if there is more.
    pub(in crate::upstream::fanin) fn proceed(&mut self, mut names: usize) -> bool {
        while names > 0 {
            let Some(work) = self.backlog.pop_front() else { return false };
            let (before, rest) = (work.len(), self.perform(work, names));
            names = names.saturating_sub((before - rest.as_ref().map_or(0, Work::len)).max(1));
            if let Some(rest) = rest {
                self.backlog.push_front(rest);
            }
        }
        !self.backlog.is_empty()
    }

    /// Whether work waits for [`Self::proceed`].
    pub(in crate::upstream::fanin) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// The link is lost. Names that were to be granted on it are asked for again.
    pub(super) fn retract_grants(&mut self) {
        for work in std::mem::take(&mut self.backlog) {
            match work {
                Work::Grant { ask, next } => {
                    let names = ask.names.get(next..).unwrap_or_default().into();
                    self.ask_first(Ask { names, ..ask });
                }
                work => self.backlog.push_back(work),
            }
        }
    }

    /// Does at most `limit` names of `work`. Returns what is left of it.
    fn perform(&mut self, work: Work, limit: usize) -> Option<Work> {
        match work {
            Work::Grant { ask, next } => self.grant_some(ask, next, limit),
            Work::End { seat, kind, mut names } => {
                let done = names.len() <= limit;
                for name in names.by_ref().take(limit) {
                    self.end_one(seat, kind, &name);
                }
                if !done {
                    return Some(Work::End { seat, kind, names });
                }
                if let Some(seat) = self.seats.get(&seat) {
                    seat.listener.decided(None, seat.bytes());
                }
                None
            }
            Work::Leave { seat, kind, mut names } => {
                for name in names.by_ref().take(limit) {
                    self.part(seat, kind, &name);
                }
                (names.len() > 0).then_some(Work::Leave { seat, kind, names })
            }
        }
    }

    fn grant_some(&mut self, ask: Ask, next: usize, limit: usize) -> Option<Work> {
        let (seat, kind) = (ask.seat, ask.kind);
        let listener = self.seats.get(&seat).map(|mine| mine.listener.clone());
        let end = ask.names.len().min(next.saturating_add(limit));
        let names = ask.names.get(next..end).unwrap_or_default();
        for name in names {
            if let (Some(mine), Some(listener)) = (self.seats.get_mut(&seat), &listener) {
                if mine.names.of_mut(kind).insert(name.clone()) {
                    mine.bytes += name.len();
                    self.held += super::EACH + name.len();
                }
                listener.confirmed(kind, true, Some(name), mine.count(kind));
                self.state(kind, name).members.insert(seat, listener.clone());
            }
        }
        self.release(kind, names);
        if end < ask.names.len() {
            return Some(Work::Grant { ask, next: end });
        }
        if let Some(mine) = self.seats.get_mut(&seat) {
            mine.asking = None;
            mine.listener.decided(None, mine.bytes());
        }
        None
    }

    /// One subscription of a session ends, or it had none of that name.
    fn end_one(&mut self, seat: u64, kind: Kind, name: &Name) {
        // If it has left, [`Work::Leave`] ends what it had.
        let Some(mine) = self.seats.get_mut(&seat) else { return };
        let had = mine.names.of_mut(kind).remove(name);
        if had {
            mine.bytes -= name.len();
        }
        mine.listener.confirmed(kind, false, Some(name), mine.count(kind));
        if had {
            self.part(seat, kind, name);
        }
    }
}

impl<T: Default> Each<T> {
    /// Takes out what there is of one kind.
    pub(super) fn take(&mut self, kind: Kind) -> T {
        std::mem::take(self.of_mut(kind))
    }
}
