//! Says how far one request came, and what a session waits for before it can handle the next one. Types only.

use tokio::time::Instant;

use super::close::Close;
use super::hello::Hello;
use super::info::InfoRequest;
use crate::clients::arguments::ClientCommand;

/// Says what happened to one request.
pub(super) enum Step {
    /// The request was sent or answered.
    Done,
    /// The request stays in the input and is handled again later.
    Stay(Pause),
    /// The request was taken, and no request behind it can be handled now.
    Taken(Pause),
}

/// Says why no further request can be handled now.
pub(super) enum Pause {
    /// All input is handled: read more.
    More,
    /// More input can be handled, after other sessions have run.
    Yield,
    /// The client must get earlier replies first.
    Replies,
    /// A rate limit allows the request at this time.
    Limit(Instant),
    /// The tenant has reached its in-flight limit. The session checks again at this time at the latest.
    Room(Instant),
    /// The lane takes no requests. With a deadline, the lane waits for a primary until that time at most.
    Lane(Option<Instant>),
    /// Parts of a command for several shards wait for room in their lanes. With a deadline, one waits for a primary until that time at most.
    Parts(Option<Instant>),
    /// No replica can serve the session now. It checks again at this time at the latest.
    Replica(Instant),
    /// The server has not confirmed all requested subscriptions.
    Subscribing,
    /// See [`Exit::AsyncOp`].
    AsyncOp(AsyncOp),
    /// See [`Exit::Close`]. The session still delivers the replies that are under way.
    Close(Close),
}

/// Names an operation to wait for.
pub(super) enum AsyncOp {
    /// AUTH.
    Auth {
        /// The user; `None` for the one-argument form.
        user: Option<Vec<u8>>,
        /// The password.
        password: Vec<u8>,
    },
    /// HELLO with AUTH, or HELLO before any server has been greeted.
    Hello(Hello),
    /// SELECT of a database other than the current one.
    Select(u32),
    /// Finds out whether clients have to authenticate, which is not known yet.
    Greet,
    /// Asks the server about the command of the request at the front of the input, which the table lacks.
    Learn,
    /// Asks the server how many users it has. The request at the front of the input is allowed only if it has
    /// one.
    CountUsers,
    /// CLIENT LIST, KILL or UNBLOCK.
    Clients(Box<ClientCommand>),
    /// INFO with respgate's own section, or in front of a cluster.
    Info(InfoRequest),
    /// Leases a connection for the request at the front of the input.
    Lease,
    /// Runs the request at the front of the input by the shared lanes of a cluster, while the session keeps its lease.
    Aside,
}

/// Says why a session leaves its data path.
pub(super) enum Exit {
    /// The session must wait for an operation outside the data path.
    AsyncOp(AsyncOp),
    /// The session is over.
    Close(Close),
}
