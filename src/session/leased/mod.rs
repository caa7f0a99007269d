//! Serves a session on a leased connection: from the request that needs the lease until no state is left on the
//! connection.
//!
//! [`admit`] decides what is sent, [`replies`] interprets the replies, and [`pins`] records why the lease is
//! kept.

mod admit;
mod admit_known;
mod admit_local;
mod expect;
mod hold;
mod maintain;
mod measure;
mod migrate;
mod name;
mod newest;
mod note;
mod outbound;
mod pin_counts;
mod pins;
mod placed;
mod placement;
mod poll;
mod queued;
mod relocate;
mod reapply_policy;
mod reconnect;
mod replies;
mod selects;
mod send;
mod settle;
mod vacate;
mod version;

use std::future::poll_fn;

use tokio::time::Instant;

use self::expect::Expected;
use self::outbound::Outbound;
use self::pin_counts::PinCounts;
use self::pins::Pins;
use self::placement::Placement;
use self::reconnect::ReconnectBackoff;
use super::Session;
use super::close::Close;
use super::hello::Hello;
use super::step::AsyncOp;
use crate::latency::Wait;
use crate::metrics::Gauged;
use crate::net::budget::Charge;
use crate::resp::reply::ReplyScanner;
use crate::tenant::limits::refusal::Limit;
use crate::upstream::config::Pool;
use crate::upstream::leased::lease::Lease;

/// Says how a lease ended.
enum LeaseEnd {
    /// The session needs the lease no longer. The connection returns to the pool if the commands that ran on it
    /// provably left no state.
    Clean,
    /// The session runs this operation beside the lease, and goes on with it.
    Beside(Box<AsyncOp>),
    /// The session asks the server for its commands, and goes on with the lease.
    Learn,
    /// HELLO asks for another protocol version, and the connection's state can move to a connection of that
    /// version.
    Version(Hello),
    /// The session gave up its connection state, so the connection is closed.
    Abandoned,
    /// The connection was lost.
    Lost,
    /// The session is over.
    Close(Close),
}

impl From<Close> for LeaseEnd {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

/// Serves a session whose next request needs a connection of its own, until no request does.
///
/// # Errors
/// Returns the reason to close if the session is over.
pub(super) async fn serve(session: &mut Session) -> Result<(), Close> {
    let Some(key) = session.key() else { return Ok(()) };
    let upstream = session.ctx.upstream.clone();
    if let Err(line) = session.tenancy.acquire(Limit::Leased) {
        let line = session.fail_unplaced_transaction(line);
        session.skip_request();
        session.refuse_for_limit(&line);
        return Ok(());
    }
    let target = session.lease_target();
    let shard = session.shard_of(&target);
    let full = shard.as_ref().map_or_else(
        || upstream.hold_full(session.input.len()),
        |shard| shard.hold_full(session.input.len()),
    );
    if full {
        let line = session.fail_unplaced_transaction(upstream.hold_overflow());
        session.skip_request();
        session.refuse(&line);
        return Ok(());
    }
    if shard.map_or_else(|| upstream.in_hold(), |shard| shard.in_hold()) {
        session.measured.wait_for(Wait::Primary);
    }
    let leasing = session.leasing(&target, &key);
    let lease = tokio::select! {
        lease = leasing => lease,
        () = session.until_abandoned() => return Err(Close::Left),
    };
    session.end_wait();
    let (lease, shard) = match lease {
        Ok(leased) => leased,
        Err(line) => {
            let line = session.fail_unplaced_transaction(line);
            // Skip the request first: a full backlog of replies would keep the session from skipping it, and it
            // would be answered twice.
            session.note_unleased();
            session.skip_request();
            session.refuse(&line);
            session.close_if_dead();
            return Ok(());
        }
    };
    let gauge = Gauged::new(&upstream.counters, |c| &c.clients_pinned);
    let own = session.ctx.upstream_config.pool == Pool::Session;
    let mut leased = Leased::new(lease, own, session);
    leased.placement = Placement::at(&target, shard, upstream.layout_version());
    leased.begin(session);
    leased.begin_transaction(session);
    let mut backoff = ReconnectBackoff::new();
    let end = loop {
        match poll_fn(|cx| leased.poll(cx, session)).await {
            LeaseEnd::Lost => match leased.migrate(session, &mut backoff).await? {
                Some(next) => leased = next,
                None => return Ok(()),
            },
            LeaseEnd::Version(hello) => leased = leased.change_version(session, &hello).await?,
            LeaseEnd::Beside(op) => {
                Box::pin(session.execute_op(*op)).await;
                if let Some(close) = session.closing.take() {
                    break LeaseEnd::Close(close);
                }
            }
            LeaseEnd::Learn => leased.learn(session).await,
            end => break end,
        }
    };
    drop(gauge);
    session.end_wait();
    match end {
        // A request that unblocks this connection must not reach the next client's command.
        LeaseEnd::Clean if leased.is_clean() && !leased.untrusted && !session.view.is_unblocking() => {
            if leased.end_name()
                && let Some(clean) = leased.lease.proven()
            {
                clean.give_back();
            }
        }
        LeaseEnd::Clean
        | LeaseEnd::Abandoned
        | LeaseEnd::Version(_)
        | LeaseEnd::Beside(_)
        | LeaseEnd::Learn
        | LeaseEnd::Lost => {}
        LeaseEnd::Close(close) => return Err(close),
    }
    Ok(())
}

/// Holds a session's use of one lease.
struct Leased {
    lease: Lease,
    since: Instant,
    pins: Pins,
    pin_counts: PinCounts,
    expected: Expected,
    scanner: ReplyScanner,
    outbound: Outbound,
    /// The bytes allocated for the lease's requests, its state and the bytes read from the server.
    charge: Charge,
    /// True if the client has closed its sending side. Requests under way are finished.
    client_left: bool,
    /// True if the session keeps this lease until it ends (`pool = "session"`).
    for_session: bool,
    /// True if an error or an unexpected reply left the connection's state unknown. The connection is then closed.
    state_unknown: bool,
    /// True if the node refused a command as only a replica does, or a script's reply contains such a refusal.
    /// Other sessions must not use the connection.
    untrusted: bool,
    /// Whether a frame is being passed on in pieces, and of which kind: `Some(true)` is a message, `Some(false)`
    /// a reply.
    streaming: Option<bool>,
    /// The error reply to the PUBLISH that precedes a WAIT, if it failed.
    publish_error: Option<Vec<u8>>,
    /// How the lease ends, once that is decided. The next round ends it.
    decided_end: Option<LeaseEnd>,
    /// True if a request was sent on this lease.
    used: bool,
    /// True if the server refused the front request because the server is not the primary.
    front_refused: bool,
    /// True if the connection may have the client's name.
    named: bool,
    /// Where the lease is, in a cluster.
    placement: Placement,
}

impl Leased {
    fn new(lease: Lease, for_session: bool, session: &Session) -> Self {
        Self {
            lease,
            since: Instant::now(),
            charge: Charge::new(&session.account),
            pins: Pins::default(),
            pin_counts: PinCounts::new(&session.ctx.upstream.counters),
            expected: Expected::default(),
            scanner: ReplyScanner::default(),
            outbound: Outbound::default(),
            client_left: false,
            for_session,
            state_unknown: false,
            untrusted: false,
            streaming: None,
            publish_error: None,
            decided_end: None,
            used: false,
            front_refused: false,
            named: false,
            placement: Placement::default(),
        }
    }

    /// Begins the session's use of the connection.
    fn begin(&mut self, session: &Session) {
        session.view.set_leased_as(Some(self.lease.identity().clone()));
        self.begin_name(session);
    }

    /// Begins the transaction whose MULTI was answered and not sent.
    fn begin_transaction(&mut self, session: &mut Session) {
        let unplaced = session.lanes.cluster.as_mut().and_then(|lanes| lanes.transaction.take());
        if let Some(unplaced) = unplaced {
            self.open_transaction(unplaced.poisoned);
        }
    }

    /// Returns true if every reply has come, and the server's replies confirmed the end of all state that
    /// respgate tracks.
    fn is_clean(&self) -> bool {
        !self.state_unknown && self.expected.is_empty() && self.streaming.is_none() && !self.pins.any()
    }
}
