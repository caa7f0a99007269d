//! Shard channels whose slot leaves the server. A server of a cluster takes shard channels of one slot in each command, ends those of a
//! slot that it does not serve any more, and says so with confirmations that nothing asked for. No I/O.

use std::collections::BTreeMap;

use super::Table;
use super::entries::{CommandPurpose, Name, SUBSCRIPTION_SIZE, SentCommand, Subscriber};
use crate::cluster::slot::Slot;
use crate::resp::pubsub::{Confirmation, Kind};

/// The reply to requests for shard channels that wait when their shard leaves, in a server's words: another shard serves their slots.
const GONE: &[u8] = b"-TRYAGAIN another node serves this channel";

impl<S: Subscriber + Clone> Table<S> {
    /// Sets the request that follows the end of shard channels. It changes nothing, and the server answers it.
    pub(in crate::upstream::fanin) fn set_probe(&mut self, probe: &'static [u8]) {
        self.probe = probe;
    }

    /// Has sessions told when the server has confirmed every end of a shard channel. A table with few sessions can afford that.
    pub(in crate::upstream::fanin) fn tell_ends(&mut self) {
        self.tells_ends = true;
    }

    /// Tells the sessions, if no end of a shard channel is unconfirmed.
    pub(super) fn note_ends(&self) {
        if self.tells_ends
            && self.unwanted.is_empty()
            && !self.sent.iter().any(SentCommand::is_end_of_channels)
        {
            self.sessions.values().for_each(|entry| entry.subscriber.settled());
        }
    }

    /// Reports the shard channels for whose slots `leaves` returns true to their sessions as moved, and refuses the requests for them
    /// that wait. The connection must be lost.
    pub(in crate::upstream::fanin) fn evict(&mut self, leaves: impl Fn(Slot) -> bool) {
        let queued = std::mem::take(&mut self.queued);
        let (refused, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            queued.into_iter().partition(|(_, request)| {
                request.kind == Kind::Shard && request.names.iter().any(|name| leaves(Slot::of(name)))
            });
        self.queued = rest;
        refused.into_values().for_each(|request| self.refuse(request, GONE));
        let topics = self.topics.of(Kind::Shard).iter();
        let subscribed = topics.filter(|(name, state)| !state.members.is_empty() && leaves(Slot::of(name)));
        let names: Vec<Name> = subscribed.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.displace(&name);
            self.drop_if_unwanted(Kind::Shard, &name);
        }
    }

    /// Returns true if no command has asked for the end of a subscription.
    pub(super) fn is_unasked(&self, confirmation: &Confirmation<'_>) -> bool {
        let asked = |front: &SentCommand| {
            front.is_end_of_channels() && front.names.iter().any(|name| confirmation.name == Some(&**name))
        };
        confirmation.kind == Kind::Shard && !confirmation.begins && !self.sent.front().is_some_and(asked)
    }

    /// Handles the end of the subscription to a shard channel that nothing asked for.
    pub(super) fn end_moved(&mut self, name: &[u8]) {
        let Some((name, _)) = self.topics.of(Kind::Shard).get_key_value(name) else { return };
        let name = name.clone();
        let state = self.topic(Kind::Shard, &name);
        if std::mem::take(&mut state.active) {
            self.displace(&name);
            self.drop_if_unwanted(Kind::Shard, &name);
        }
    }

    /// Ends the subscriptions of all sessions to a shard channel without confirmations, and reports it as moved.
    pub(super) fn displace(&mut self, name: &Name) {
        for (session, subscriber) in std::mem::take(&mut self.topic(Kind::Shard, name).members) {
            self.size -= SUBSCRIPTION_SIZE + name.len();
            if let Some(entry) = self.sessions.get_mut(&session)
                && entry.names.shard.remove(name)
            {
                entry.name_bytes -= name.len();
            }
            subscriber.moved(name);
        }
    }
}

impl SentCommand {
    /// Returns true if the command ends shard channels. The server may have ended them itself before it ran the command, and then it
    /// refuses the command: only the reply to the probe behind it tells that all has come.
    pub(super) fn is_end_of_channels(&self) -> bool {
        self.kind == Kind::Shard && matches!(self.purpose, CommandPurpose::End)
    }
}

/// Returns true if one command may have both names.
pub(super) fn is_same_slot(kind: Kind, first: Option<&Name>, name: &Name) -> bool {
    kind != Kind::Shard || first.is_none_or(|first| Slot::of(first) == Slot::of(name))
}

/// Divides names so that one command may have those of each part: shard channels by their slot, with their order in each slot.
pub(super) fn one_slot_each(kind: Kind, mut names: Vec<Name>) -> Vec<Vec<Name>> {
    if kind != Kind::Shard || names.len() < 2 {
        return vec![names];
    }
    names.sort_by_cached_key(|name| Slot::of(name));
    names.chunk_by(|one, other| Slot::of(one) == Slot::of(other)).map(<[Name]>::to_vec).collect()
}

#[cfg(test)]
mod tests;
