//! The links of one client: its subscription at each shard of whose slots it has channels.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::book::{LinkId, LinkRequest};
use crate::resp::Resp;
use crate::resp::pubsub::Kind;
use crate::upstream::connection::identity::Identity;
use crate::upstream::fanin::drive::owned_subscription;
use crate::upstream::fanin::sink::{Owned, SubscriberOwner};
use crate::upstream::fanin::subscription::Subscription;
use crate::upstream::replies::Replies;
use crate::upstream::shards::{Shard, Shards};
use crate::upstream::shared::fair::fair_queue::Share;

/// The length up to which an error line is logged, in bytes.
const SHOWN: usize = 256;

/// The links of one client. The number of each is its place.
pub(super) struct Links {
    shards: Rc<Shards>,
    identity: Rc<Identity>,
    /// Set if each link has a connection to itself: the share as which it waits for the room.
    private: Option<Share>,
    all: RefCell<Vec<Link>>,
}

struct Link {
    shard: Rc<Shard>,
    /// Opened by the first request.
    subscription: Option<Rc<Subscription>>,
}

impl Links {
    pub(super) fn new(shards: &Rc<Shards>, identity: &Rc<Identity>, private: Option<Share>) -> Self {
        Self { shards: shards.clone(), identity: identity.clone(), private, all: RefCell::default() }
    }

    pub(super) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    pub(super) fn shards(&self) -> &Rc<Shards> {
        &self.shards
    }

    /// Returns the link at a shard; `None` for the shard without a primary.
    pub(super) fn at(&self, shard: &Rc<Shard>) -> Option<LinkId> {
        if shard.number().is_none() && self.shards.has(shard) {
            return None;
        }
        let mut all = self.all.borrow_mut();
        let place = all.iter().position(|link| Rc::ptr_eq(&link.shard, shard)).unwrap_or_else(|| {
            all.push(Link { shard: shard.clone(), subscription: None });
            all.len() - 1
        });
        LinkId::try_from(place).ok()
    }

    /// Returns the shard of a link.
    pub(super) fn shard(&self, link: LinkId) -> Option<Rc<Shard>> {
        self.all.borrow().get(link as usize).map(|link| link.shard.clone())
    }

    /// Returns true if a link waits for its shard's primary.
    pub(super) fn is_held(&self) -> bool {
        let waits = |link: &Link| link.subscription.as_ref().is_some_and(|known| known.asks().is_some());
        self.all.borrow().iter().any(|link| waits(link) && link.shard.in_hold())
    }

    /// Has a link do a request. Its events go to `owner`.
    pub(super) fn request(
        &self,
        id: LinkId,
        request: &LinkRequest,
        (resp, replies): (Resp, &Rc<Replies>),
        owner: Weak<dyn SubscriberOwner>,
    ) {
        let subscription = {
            let mut all = self.all.borrow_mut();
            let Some(link) = all.get_mut(id as usize) else { return };
            let shard = &link.shard;
            let open = || {
                let owned = Owned { owner, number: id };
                let fans = &shard.parts.fans;
                Rc::new(owned_subscription(fans, &self.identity, (resp, replies), self.private, owned))
            };
            link.subscription.get_or_insert_with(open).clone()
        };
        let (LinkRequest::Begin(names) | LinkRequest::End(names)) = request;
        let bytes = names.iter().map(|name| name.len()).sum();
        let names: Vec<&[u8]> = names.iter().map(AsRef::as_ref).collect();
        match request {
            LinkRequest::Begin(_) => subscription.begin(Kind::Shard, bytes, names.into_iter()),
            LinkRequest::End(_) => subscription.end(Kind::Shard, bytes, names.into_iter()),
        }
    }

    /// Sends the messages of all links to other replies from now on.
    pub(super) fn redirect(&self, replies: &Rc<Replies>) {
        let all = self.all.borrow();
        all.iter().filter_map(|link| link.subscription.as_ref()).for_each(|known| known.redirect(replies));
    }

    /// Starts a task for the client. It must end by itself.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shards.spawn(task);
    }

    /// Returns how long a channel may be without a node.
    pub(super) fn hold_timeout(&self) -> Duration {
        self.shards.config().hold_timeout
    }

    /// Returns the error line for a channel that no node has taken for `time`. The last one has answered with `line`.
    pub(super) fn expired_error(&self, time: Duration, line: &[u8]) -> Vec<u8> {
        let said: String = String::from_utf8_lossy(line.strip_prefix(b"-").unwrap_or(line))
            .chars()
            .filter(|char| !char.is_control())
            .collect();
        format!(
            "-ERR respgate: no node of the cluster has taken this channel for {} s (upstream '{}', hold-timeout); the last one said: {said}",
            time.as_secs(),
            self.shards.config().name,
        )
        .into_bytes()
    }

    /// Ends all links.
    pub(super) fn clear(&self) {
        let links = std::mem::take(&mut *self.all.borrow_mut());
        drop(links);
    }

    /// Logs that the client loses a channel because of this error line.
    pub(super) fn log_lost(&self, line: &[u8]) {
        let upstream = &self.shards.config().name;
        let error = line.get(..SHOWN).unwrap_or(line).escape_ascii().to_string();
        tracing::warn!(
            upstream,
            error,
            "respgate disconnects a client: no node of the cluster takes one of its shard channels"
        );
    }
}
