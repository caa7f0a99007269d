//! The messages between a lease and the pool while a session holds the connection.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use crate::topology::Generation;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::reauth::Refresh;
use crate::upstream::replies::Replies;

/// An order to a session to leave its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vacate {
    /// There is none.
    #[default]
    No,
    /// The session moves to another connection once it can do so unnoticed: not in a transaction, for example.
    Unnoticed,
    /// The session moves to another connection once no reply is due.
    AtOnce,
}

/// The state of one lease. Housekeeping sets it, and the session looks at it in each turn.
pub(in crate::upstream::leased) struct LeaseState {
    /// The generation of the primary that the connection leads to.
    pub(in crate::upstream::leased) generation: Generation,
    /// The connection's identity.
    pub(in crate::upstream::leased) identity: Rc<Identity>,
    /// True once a newer primary has taken over: nothing more may be written.
    pub(in crate::upstream::leased) cut: Cell<bool>,
    /// Whether the session should leave the connection.
    pub(in crate::upstream::leased) vacate: Cell<Vacate>,
    /// The number of requests whose replies are due, without one that blocks.
    pub(in crate::upstream::leased) unanswered: Cell<usize>,
    /// The database that is selected.
    pub(in crate::upstream::leased) database: Cell<u32>,
    /// When the reply became due that the server has not begun to send.
    pub(in crate::upstream::leased) due: Cell<Option<Instant>>,
    /// True once that reply has been due for longer than `response-timeout`.
    pub(in crate::upstream::leased) silent: Cell<bool>,
    /// True if the server has sent something since housekeeping last looked.
    pub(in crate::upstream::leased) heard: Cell<bool>,
    /// The looks of housekeeping since the server last sent something.
    pub(in crate::upstream::leased) quiet: Cell<u64>,
    /// True if the session should ping the connection.
    pub(in crate::upstream::leased) ping: Cell<bool>,
    /// Whether the session should authenticate the connection again.
    pub(in crate::upstream::leased) refresh: Cell<Refresh>,
    /// The session's replies, by which it is woken.
    pub(in crate::upstream::leased) replies: Rc<Replies>,
}
