//! A session serves one client: it reads, classifies, routes and answers requests in order.
//!
//! [`turn`] is the data path: one poll function reads, sends requests by the shared lane, answers what respgate
//! answers itself, and writes replies. Every step that must wait for something outside the data path is an
//! [`AsyncOp`]: boxed async code, so that an idle session stays small.

pub mod client;
pub mod config;
mod denied;
mod diagnostics;
mod async_op;
mod shared_pubsub;
mod hello;
mod leased;
pub mod limit;
mod local;
mod activity;
mod refusal;
pub mod registry;
mod route;
mod setting;
mod scan;
mod turn;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Sleep;

use self::activity::{Activity, Expiry};
use self::async_op::AsyncOp;
use self::client::{Client, Origin};
use self::config::SessionConfig;
use self::limit::{PendingCharge, WorkerTenants};
use self::registry::SessionRegistry;
use self::scan::Scans;
use self::turn::{Pause, Step, Turn};
use crate::command::{self, Flags, Found, Verb};
use crate::metrics::Gauged;
use crate::net::budget::{Account, Charge};
use crate::net::buffers::Buffers;
use crate::net::byte_queue::ByteQueue;
use crate::net::stream::Stream;
use crate::net::tls::certificate::CertificateIdentity;
use crate::net::tls::handshake_error::HandshakeError;
use crate::resp::error_line;
use crate::resp::request::{RequestLimits, RequestScanner};
use crate::tenant::limits::member::Member;
use crate::tenant::policy::Policy;
use crate::upstream::Upstream;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::fanin::subscription::Subscription;
use crate::upstream::held::Held;
use crate::upstream::replies::Replies;
use crate::upstream::shared::lane::Lane;

/// Holds what all sessions of one listener on one worker share.
pub struct SessionContext {
    /// The bounds and permissions of a session.
    pub config: SessionConfig,
    /// The limits on requests of clients that have not authenticated.
    pub unauthenticated: RequestLimits,
    /// The upstream that receives the commands.
    pub upstream: Rc<Upstream>,
    /// The worker's buffers and byte budget.
    pub buffers: Rc<Buffers>,
    /// The registry of the worker's sessions.
    pub registry: Rc<SessionRegistry>,
    /// The worker's tenants, with their limits.
    pub tenants: Rc<WorkerTenants>,
    /// The index of the listener in the configuration.
    pub listener: usize,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client left, or its connection failed.
    Left,
    /// The client sent QUIT, or a drain ended the session.
    Finished,
    /// The client sent bytes that are not RESP.
    Protocol,
    /// The client speaks TLS to a plain-text port, or broke its TLS connection.
    Tls,
    /// The client did not take its replies.
    Slow,
    /// The byte budget of the process or of the tenant was spent, and this client held most of it.
    Memory,
    /// The session lost an upstream connection together with part of a reply or with connection state.
    UpstreamLost,
    /// One of the session's timeouts expired.
    Expired,
    /// The tenant has reached its limit of clients.
    Full,
    /// The client's user was removed, or the policy now denies one of the client's subscriptions.
    Removed,
    /// The server refuses the client's own password, which it accepted before.
    Credentials,
}

impl Close {
    /// Returns true if the session closes without waiting for the client to take its remaining replies. `blocked`
    /// is true if the client takes no bytes now.
    fn is_at_once(self, blocked: bool) -> bool {
        match self {
            Self::Slow | Self::Expired => true,
            Self::Memory => blocked,
            Self::Left
            | Self::Finished
            | Self::Protocol
            | Self::Tls
            | Self::UpstreamLost
            | Self::Full
            | Self::Removed
            | Self::Credentials => false,
        }
    }
}

/// Serves one client.
pub struct Session {
    stream: Stream,
    client: Client,
    /// The queue of replies to the client.
    replies: Rc<Replies>,
    ctx: Rc<SessionContext>,
    /// Bytes that were read but not handled: part of a request, or requests that wait for earlier replies.
    input: ByteQueue,
    /// Counts the bytes that respgate keeps for this client, and marks the client for eviction.
    account: Rc<Account>,
    /// The bytes allocated for `input`.
    input_charge: Charge,
    scanner: RequestScanner,
    /// The primaries that the client's SCAN cursors come from.
    scans: Scans,
    /// The policy of the client's tenant; `None` allows everything.
    policy: Option<Arc<Policy>>,
    /// The lane of the client's shared commands, once it is open for the current identity, database and version.
    lane: Option<Rc<Lane>>,
    /// The session's fan-in subscriptions, if it has any.
    subscription: Option<Box<Subscription>>,
    /// True if the newest configuration maps the client's user to another server identity than the current one.
    identity_stale: bool,
    closing: Option<Close>,
    /// True until the session has seen enough bytes to tell TLS from plain text.
    opening: bool,
    /// The client's TLS error, if there was one.
    tls_error: Option<Box<HandshakeError>>,
    /// True if the client has closed its sending side. The session still handles the requests that arrived
    /// before.
    ended: bool,
    /// An operation that was found while the session had a lease. It runs after the lease has ended.
    pending: Option<AsyncOp>,
    /// The account's count of moved bytes at the last look. An unchanged count means that the client makes no
    /// progress.
    progress: u64,
    /// The write timeout. It runs while the client takes no bytes.
    stall: Option<Pin<Box<Sleep>>>,
    /// The hold timeout. It runs while requests wait for a primary.
    hold: Option<Pin<Box<Sleep>>>,
    /// Counts this client as held. Present while its commands wait for a primary.
    held: Option<Held>,
    /// The client's membership in a tenant, with its limits. A client without a tenant is not limited.
    member: Option<Box<Member>>,
    /// The charge for the request at the front of `input`.
    pending_charge: PendingCharge,
    /// The timer of a request that waits for a limit.
    limit: Option<Pin<Box<Sleep>>>,
    activity: Rc<Activity>,
    _counted: Gauged,
}

impl Session {
    /// Creates the session of a client that has just connected.
    pub fn new(stream: Stream, origin: Origin, ctx: Rc<SessionContext>) -> Self {
        let upstream = &ctx.upstream;
        let identity = (!upstream.wants_auth()).then(|| upstream.identities.own().clone());
        let account = Account::new(ctx.buffers.share());
        let client = Client::new(origin, upstream.config.database, identity, &account);
        let replies = Replies::new(ctx.buffers.clone(), account.clone(), ctx.config.max_reply_buffer);
        let activity = Activity::new(replies.clone(), ctx.config.timeouts, ctx.registry.now.get());
        ctx.registry.join(client.id, activity.clone());
        upstream.counters.clients_accepted.inc();
        let counted = Gauged::new(&upstream.counters, |c| &c.clients);
        let certificate = client.known.certificate.as_deref().map(CertificateIdentity::shown);
        tracing::debug!(client = client.id, peer = client.peer, certificate, "session began");
        let mut session = Self {
            opening: !matches!(stream, Stream::Tls(_)),
            tls_error: None,
            stream,
            client,
            replies,
            ctx,
            input: ByteQueue::default(),
            input_charge: Charge::new(&account),
            account,
            scanner: RequestScanner::default(),
            scans: Scans::default(),
            policy: None,
            lane: None,
            subscription: None,
            identity_stale: false,
            closing: None,
            ended: false,
            pending: None,
            progress: 0,
            stall: None,
            hold: None,
            held: None,
            member: None,
            pending_charge: PendingCharge::Unseen,
            limit: None,
            activity,
            _counted: counted,
        };
        if let Err(line) = session.reassign() {
            session.refuse_for_limit(&line);
            session.closing = Some(Close::Full);
        }
        session
    }

    /// Serves the client until it leaves or respgate disconnects it, and returns the reason. The method borrows
    /// the session because a future that owned it would store it twice.
    pub async fn run(&mut self) -> Close {
        let close = loop {
            match poll_fn(|cx| self.poll_turn(cx)).await {
                Turn::AsyncOp(op) => Box::pin(self.run_op(op)).await,
                Turn::Close(close) => break close,
            }
        };
        self.stream.close();
        let close = if self.tls_error.is_some() { Close::Tls } else { close };
        let counters = &self.ctx.upstream.counters;
        match close {
            Close::Left | Close::Finished => {}
            Close::Protocol => counters.closed_protocol.inc(),
            Close::Tls => counters.closed_tls.inc(),
            Close::Slow => counters.closed_slow.inc(),
            Close::Memory => counters.closed_memory.inc(),
            Close::UpstreamLost => counters.closed_upstream_lost.inc(),
            Close::Expired => counters.closed_timeout.inc(),
            Close::Full => counters.closed_tenant_full.inc(),
            Close::Removed => counters.closed_removed.inc(),
            Close::Credentials => counters.closed_credentials.inc(),
        }
        let certificate = self.client.known.certificate.as_deref().map(CertificateIdentity::shown);
        tracing::debug!(
            client = self.client.id,
            peer = self.client.peer,
            certificate,
            ?close,
            "session ended"
        );
        close
    }

    /// Returns the client's TLS error and the client's address, if there was one.
    pub fn tls_error(&self) -> Option<(&HandshakeError, &str)> {
        self.tls_error.as_deref().map(|error| (error, self.client.peer.as_str()))
    }

    /// Drops the request at the front of the input, which has already been answered.
    fn skip_request(&mut self) {
        let mut first = true;
        let input = std::mem::take(&mut self.input);
        let (used, _) = self.handle_with(input.front(), |_, _| {
            if std::mem::take(&mut first) { Step::Done } else { Step::Stay(Pause::Replies) }
        });
        self.input = input;
        self.consume(used);
        self.pending_charge = PendingCharge::Unseen;
    }

    /// Handles an expired timeout. Returns the reason to close, or `None` if the session goes on: after
    /// `command-timeout`, the client gets an error for each awaited reply and keeps its connection.
    fn expire(&mut self, expiry: Expiry) -> Option<Close> {
        let registry = &self.ctx.registry;
        tracing::debug!(
            client = self.client.id,
            peer = self.client.peer,
            ?expiry,
            "a client reached a timeout"
        );
        match expiry {
            Expiry::SlowReader => Some(Close::Slow),
            Expiry::Command if self.client.replying == client::Replying::On && !self.replies.is_partial() => {
                let counters = &self.ctx.upstream.counters;
                let (buffers, account) = (self.ctx.buffers.clone(), self.account.clone());
                let replies = Replies::new(buffers, account, self.ctx.config.max_reply_buffer);
                let given_up = self.replies.awaited();
                self.replies.move_to(&replies);
                replies.answer(|out| {
                    (0..given_up).for_each(|_| out.extend_from_slice(refusal::COMMAND_TIMEOUT));
                });
                counters.command_timeouts.add(given_up.into());
                // The old queue drops late replies. Their entries stay in the lane's queue until the replies
                // arrive.
                std::mem::replace(&mut self.replies, replies).close();
                self.activity.replace(self.replies.clone());
                if let Some(subscription) = &self.subscription {
                    subscription.redirect(&self.replies);
                }
                self.activity.set_reply_due(registry.now.get(), false, true);
                self.progress = 0;
                None
            }
            Expiry::FirstCommand | Expiry::Idle | Expiry::Transaction | Expiry::Command => {
                Some(Close::Expired)
            }
        }
    }

    /// Returns true if the request at the front of the input waits for other clients: a blocking command, a
    /// subscription or MONITOR.
    fn waits_for_others(&mut self) -> bool {
        let mut waits = false;
        let input = std::mem::take(&mut self.input);
        self.handle_with(input.front(), |_, found| {
            waits = found.ok().and_then(command::find).is_some_and(|found| match found {
                Found::Spec(spec) => {
                    spec.flags.contains(Flags::BLOCKING)
                        || matches!(
                            spec.verb,
                            Verb::Subscribe | Verb::Psubscribe | Verb::Ssubscribe | Verb::Monitor
                        )
                }
                Found::NoSuchSubcommand(_) => false,
            });
            Step::Stay(Pause::Replies)
        });
        self.input = input;
        waits
    }

    /// Returns the key of the upstream connections that this client's commands may use, or `None` before the
    /// client has authenticated.
    fn key(&self) -> Option<ConnectionKey> {
        let identity = self.client.identity.clone()?;
        let Client { database, resp, selector, .. } = &self.client;
        Some(ConnectionKey::new(identity, *database, *resp).selected_by(selector.as_ref()))
    }

    /// Returns the lane of this client's shared commands, and opens it on the first call.
    fn lane(&mut self) -> Option<Rc<Lane>> {
        if self.lane.is_none() {
            self.lane = Some(self.ctx.upstream.lane(&self.key()?));
        }
        self.lane.clone()
    }

    /// Leaves the lane, because the client's identity, database or protocol version has changed.
    fn leave_lane(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.leave(self.client.id);
        }
    }

    /// Ends the session if the server refuses the client's own password on a new connection although it accepted
    /// the password before: a client library that is disconnected connects again and fetches a new password
    /// first. Call this once the command has been answered.
    fn close_if_dead(&mut self) {
        if self.client.identity.as_ref().is_some_and(|identity| identity.is_dead()) {
            tracing::info!(
                client = self.client.id,
                peer = self.client.peer,
                "respgate disconnects a client: the server no longer accepts the client's password"
            );
            self.closing.get_or_insert(Close::Credentials);
        }
    }

    /// Returns why a session ends after its pending replies were cut.
    fn cut(&self) -> Close {
        match &self.client.identity {
            Some(identity) if identity.is_dead() => Close::Credentials,
            _ => Close::UpstreamLost,
        }
    }

    /// Appends a reply of respgate's own, unless the client turned replies off.
    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.client.mutes() {
            self.replies.answer(write);
        }
    }

    /// Counts a refusal and answers with an error line.
    fn refuse(&mut self, line: &[u8]) {
        self.ctx.upstream.counters.refused_other.inc();
        self.answer_line(line);
    }

    /// Answers with an error line.
    fn answer_line(&mut self, line: &[u8]) {
        self.answer(|out| error_line::write(out, line));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_lane();
        self.ctx.registry.leave(self.client.id);
        self.replies.close();
    }
}
