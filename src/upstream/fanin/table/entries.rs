//! The types of which the subscription table consists. No I/O.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::resp::pubsub::Kind;

/// A channel's name, or a pattern.
pub(in crate::upstream::fanin) type Name = Rc<[u8]>;

/// The estimated size of one subscription of one session without its name, in bytes.
pub(super) const SUBSCRIPTION_SIZE: usize = 128;

/// A session with subscriptions, as the table sees it.
pub(in crate::upstream::fanin) trait Subscriber {
    /// Confirms that a subscription of this kind to `name` began or ended. `name` is `None` if the session had no subscription to
    /// end. `count`: the session's subscriptions now (channels and patterns together, shard channels apart).
    fn confirmed(&self, kind: Kind, begins: bool, name: Option<&[u8]>, count: usize);

    /// Ends the session's request: it is done, or it is refused with this error line. `size`: the estimated size of
    /// the session's subscriptions now, in bytes.
    fn decided(&self, refusal: Option<&[u8]>, size: usize);

    /// Reports that a confirmed subscription is lost.
    fn lost(&self);

    /// Reports that the server has confirmed the end of every subscription that was to end. See [`super::Table::tell_ends`].
    fn settled(&self) {}

    /// Reports that the server has ended the subscription to a shard channel, because it does not serve the channel's slot any more.
    fn moved(&self, _name: &Name) {
        self.lost();
    }
}

/// One value for each kind of subscription.
#[derive(Default)]
pub(super) struct PerKind<T> {
    pub(super) channel: T,
    pub(super) pattern: T,
    pub(super) shard: T,
}

impl<T> PerKind<T> {
    pub(super) fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Channel => &self.channel,
            Kind::Pattern => &self.pattern,
            Kind::Shard => &self.shard,
        }
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Channel => &mut self.channel,
            Kind::Pattern => &mut self.pattern,
            Kind::Shard => &mut self.shard,
        }
    }

    pub(super) fn all(&self) -> [&T; 3] {
        Kind::ALL.map(|kind| self.of(kind))
    }
}

impl<T: Default> PerKind<T> {
    /// Takes the value of one kind, and leaves the default.
    pub(super) fn take(&mut self, kind: Kind) -> T {
        std::mem::take(self.of_mut(kind))
    }
}

/// The table's entry of one name.
pub(super) struct TopicState<S> {
    /// True if the server has confirmed the subscription, and no command that ends it was sent.
    pub(super) active: bool,
    /// The number of unanswered requests that name it.
    pub(super) requests: usize,
    /// The subscribed sessions, by number.
    pub(super) members: HashMap<u64, S>,
    /// True if the name is in `Table::unwanted`.
    pub(super) unwanted: bool,
}

impl<S> TopicState<S> {
    pub(super) fn new() -> Self {
        Self { active: false, requests: 0, members: HashMap::new(), unwanted: false }
    }

    /// Returns true if a session is subscribed, or asks to be.
    pub(super) fn is_wanted(&self) -> bool {
        self.requests > 0 || !self.members.is_empty()
    }
}

/// The table's entry of one session.
pub(super) struct SessionEntry<S> {
    pub(super) subscriber: S,
    pub(super) names: PerKind<HashSet<Name>>,
    /// The length of all names, in bytes.
    pub(super) name_bytes: usize,
    /// The session's unanswered request to subscribe.
    pub(super) open: Option<OpenRequest>,
}

impl<S> SessionEntry<S> {
    /// Creates the entry of a session without subscriptions.
    pub(super) fn new(subscriber: S) -> Self {
        Self { subscriber, names: PerKind::default(), name_bytes: 0, open: None }
    }

    /// Returns the estimated size of the session's subscriptions, in bytes.
    pub(super) fn size(&self) -> usize {
        self.name_bytes + self.total() * SUBSCRIPTION_SIZE
    }

    /// Returns the number that a confirmation for `kind` carries.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.names.channel.len() + self.names.pattern.len(),
            Kind::Shard => self.names.shard.len(),
        }
    }

    /// Returns the number of the session's subscriptions of all kinds.
    pub(super) fn total(&self) -> usize {
        self.names.all().iter().map(|names| names.len()).sum()
    }
}

/// A session's unanswered request to subscribe.
pub(super) struct OpenRequest {
    pub(super) kind: Kind,
    pub(super) names: Rc<[Name]>,
    /// The request's key in `Table::queued`, while it is there.
    pub(super) position: Option<i64>,
}

/// One session's request to subscribe.
pub(super) struct SubscribeRequest {
    pub(super) session: u64,
    pub(super) kind: Kind,
    pub(super) names: Rc<[Name]>,
}

/// A command that was sent to the server.
pub(super) struct SentCommand {
    pub(super) kind: Kind,
    /// The names in the command. The first `confirmed` of them are confirmed.
    pub(super) names: Vec<Name>,
    pub(super) confirmed: usize,
    pub(super) purpose: CommandPurpose,
    /// True for the end of shard channels that the server has refused. The reply to the probe behind it is still due.
    pub(super) refused: bool,
}

/// The reason why a command was sent.
pub(super) enum CommandPurpose {
    /// A session asked to subscribe.
    Request(SubscribeRequest),
    /// A session asked to subscribe to shard channels of several slots, and [`Self::Request`] follows for the last of these.
    Part,
    /// Subscriptions of a lost connection are restored.
    Restore,
    /// No session wants the names any more.
    End,
    /// The server has been quiet.
    Ping,
}

/// Work of the table that may take more than one turn.
pub(super) enum Work {
    /// The server has confirmed all names of the request. The session gets the confirmations from `next` on.
    Grant { request: SubscribeRequest, next: usize },
    /// The session ends the subscriptions to these names.
    End { session: u64, kind: Kind, names: std::vec::IntoIter<Name> },
    /// The session has left. Its subscriptions end without confirmations.
    Leave { session: u64, kind: Kind, names: std::vec::IntoIter<Name> },
}

impl Work {
    /// Returns the number of names that are left.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Grant { request, next } => request.names.len() - next,
            Self::End { names, .. } | Self::Leave { names, .. } => names.len(),
        }
    }
}
