//! The shard channels of one client in front of a cluster: channels of any slots, which follow their slots.
//!
//! The client has a link at each shard of whose slots it has channels: a [subscription](super::fanin) of its own connection there, or of
//! the connection that all fan-in subscribers of its user share. [`book`] decides which channel is at which link, and what the client
//! sees; [`links`] has the links, [`retry`] the channels that no node takes at present, and [`client`] has all of them work together. This file is
//! the session's side.

mod book;
mod client;
mod links;
mod retry;

use std::rc::{Rc, Weak};

use self::book::Name;
use self::client::Client;
use super::connection::identity::Identity;
use super::replies::Replies;
use super::shards::Shards;
use super::shared::fair::fair_queue::Share;
use crate::cluster::slot::Slot;
use crate::metrics::Gauged;
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;

/// The shard channels of one client, or its request for some. Dropping it ends them.
pub struct ShardChannels(Rc<Client>);

impl ShardChannels {
    /// Creates the channels of a session. See [`Upstream::shard_channels`](super::Upstream::shard_channels).
    pub(super) fn new(
        shards: &Rc<Shards>,
        identity: &Rc<Identity>,
        (resp, replies): (Resp, &Rc<Replies>),
        private: Option<Share>,
    ) -> Self {
        let gauge = private.is_none().then(|| Gauged::new(shards.counters(), |c| &c.fanin_subscribers));
        Self(Client::new(shards, identity, (resp, replies), private, gauge))
    }

    /// Returns true if the channels have connections to themselves.
    pub fn is_private(&self) -> bool {
        self.0.links.is_private()
    }

    /// Returns the size of the unanswered request, in bytes; `None` if there is none.
    pub fn asks(&self) -> Option<usize> {
        self.0.request.get()
    }

    /// Returns true if the client has any channel.
    pub fn is_subscribed(&self) -> bool {
        self.0.book.borrow().count() > 0
    }

    /// Returns true if `matches` holds for a channel that the client has, or asks for.
    pub fn hears(&self, mut matches: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        self.0.book.borrow().any(|name| matches(Kind::Shard, name))
    }

    /// Returns true if a request for more channels exceeds what one client may have.
    pub fn would_exceed(&self, request: &Request<'_>) -> bool {
        let names = (request.argc() as usize).saturating_sub(1);
        self.0.book.borrow().would_exceed(names, request.len())
    }

    /// Returns the error line for a request that must wait for a primary, if `hold-buffer` has no room for it.
    pub fn hold_overflow(&self, request: &Request<'_>) -> Option<ErrorLine> {
        let mut shards = request.args().skip(1).map(|name| self.0.links.shards().of(Slot::of(name)));
        shards.find(|shard| shard.hold_full(request.len())).map(|shard| shard.hold_overflow())
    }

    /// Returns true if a request waits for the primary of a shard.
    pub fn is_held(&self) -> bool {
        !self.0.retries.is_empty() || self.0.links.is_held()
    }

    /// Asks for the channels that `request` names. The client gets confirmations once the servers have confirmed all of them; until then
    /// it [`Self::asks`]. `mute`: the client sees confirmations, but no refusal.
    pub fn subscribe(&self, request: &Request<'_>, mute: bool) {
        self.0.mute.set(mute);
        self.0.request.set(Some(request.len()));
        self.0.book.borrow_mut().subscribe(names_of(request));
        self.0.proceed();
        self.0.go_on();
    }

    /// Takes over channels that the client has on another connection, which is lost. The client sees nothing of that.
    pub fn adopt(&self, names: impl IntoIterator<Item = Box<[u8]>>) {
        self.0.book.borrow_mut().adopt(names.into_iter().map(Name::from));
        self.0.proceed();
        self.0.go_on();
    }

    /// Ends the channels that `request` names, or all. A few are confirmed at once; while more are left, the client [`Self::asks`].
    pub fn unsubscribe(&self, request: &Request<'_>) {
        self.0.request.set(Some(request.len()));
        let client = &self.0;
        client.book.borrow_mut().unsubscribe(names_of(request), |shown| client.show(&shown));
        client.proceed();
        client.go_on();
    }

    /// Sends the client's messages to other replies from now on.
    pub fn redirect(&self, replies: &Rc<Replies>) {
        *self.0.replies.borrow_mut() = replies.clone();
        self.0.links.redirect(replies);
    }

    /// Returns what counts the client's channels while they exist.
    pub fn counter(&self) -> ShardChannelCounter {
        ShardChannelCounter(Rc::downgrade(&self.0))
    }
}

impl Drop for ShardChannels {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Counts the shard channels of one client, for others.
pub struct ShardChannelCounter(Weak<Client>);

impl ShardChannelCounter {
    /// Returns the number of channels.
    pub fn count(&self) -> usize {
        self.0.upgrade().map_or(0, |client| client.book.borrow().count())
    }
}

fn names_of(request: &Request<'_>) -> Vec<Name> {
    request.args().skip(1).map(Name::from).collect()
}
