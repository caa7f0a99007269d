//! One client: read, classify, route, answer in order.
//!
//! [`turn`] is the data path: one poll function that reads, sends what goes by the shared lane, answers what
//! respgate answers itself, and writes. Everything that must wait for something else is an [`AsyncOp`], async
//! code in a box, so that an idle session stays small.

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
use crate::net::tls::fault::HandshakeError;
use crate::resp::request::{RequestLimits, RequestScanner};
use crate::tenant::limits::member::Member;
use crate::tenant::policy::Policy;
use crate::upstream::Upstream;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::fanin::subscription::Subscription;
use crate::upstream::held::Held;
use crate::upstream::replies::Replies;
use crate::upstream::shared::lane::Lane;

/// What all sessions of one listener on one worker share.
pub struct SessionContext {
    /// Bounds and permissions.
    pub config: SessionConfig,
    /// What a client may send before it has authenticated.
    pub unauthenticated: RequestLimits,
    /// Where commands go.
    pub upstream: Rc<Upstream>,
    /// The worker's buffers and byte budget.
    pub buffers: Rc<Buffers>,
    /// The worker's sessions.
    pub roster: Rc<SessionRegistry>,
    /// Whose clients are under which limits.
    pub offices: Rc<WorkerTenants>,
    /// The number of the listener.
    pub listener: usize,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client left, or its connection failed.
    Left,
    /// QUIT, or the end of a drain.
    Finished,
    /// What it sent is not RESP.
    Protocol,
    /// It speaks TLS where plain text is spoken, or broke its TLS connection.
    Tls,
    /// It did not take its replies.
    Slow,
    /// The byte budget was spent, of the process or of its tenant, and this client held most of it.
    Memory,
    /// A reply was cut short, or state was lost, with an upstream connection.
    UpstreamLost,
    /// It was still, or at one thing, for too long.
    Expired,
    /// Its tenant has as many clients as it may have.
    Full,
    /// Its user is no more, or what it listens to is denied from now on.
    Removed,
    /// The server refuses the password that the client brought and that worked before.
    Credentials,
}

impl Close {
    /// Whether the client is not waited for to take the replies that it is owed; `blocked`: it takes none now.
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

/// One client's session.
pub struct Session {
    stream: Stream,
    client: Client,
    replies: Rc<Replies>,
    ctx: Rc<SessionContext>,
    /// Bytes read and not handled: part of a request, or requests that must wait for earlier replies.
    input: ByteQueue,
    /// Counts what the client makes respgate keep, and says whether it must go because of that.
    account: Rc<Account>,
    /// What is allocated for `input`.
    input_charge: Charge,
    scanner: RequestScanner,
    scans: Scans,
    /// What the client may do; `None`: everything.
    policy: Option<Arc<Policy>>,
    lane: Option<Rc<Lane>>,
    /// Its subscriptions, where they travel by fan-in.
    seat: Option<Box<Subscription>>,
    /// Its user is somebody else on the server by the newest configuration.
    identity_stale: bool,
    closing: Option<Close>,
    /// What the client says first has not been looked at.
    opening: bool,
    /// What was wrong with the client's TLS.
    fault: Option<Box<HandshakeError>>,
    /// The client has closed its sending side: what it sent is still handled.
    ended: bool,
    /// Found while leased, to be done without the lease.
    pending: Option<AsyncOp>,
    /// Bytes read and written when they were last looked at.
    progress: u64,
    /// Runs while the client takes no bytes.
    stall: Option<Pin<Box<Sleep>>>,
    /// Runs while requests wait for a primary.
    hold: Option<Pin<Box<Sleep>>>,
    /// Its commands wait for a primary.
    held: Option<Held>,
    /// Whose client it is, and what that allows; nobody's is not limited.
    member: Option<Box<Member>>,
    front: PendingCharge,
    /// Runs while a request waits for a limit.
    limit: Option<Pin<Box<Sleep>>>,
    activity: Rc<Activity>,
    _counted: Gauged,
}

impl Session {
    /// A session for a client that has just connected.
    pub fn new(stream: Stream, origin: Origin, around: Rc<SessionContext>) -> Self {
        let upstream = &around.upstream;
        let identity = (!upstream.wants_auth()).then(|| upstream.identities.own().clone());
        let account = Account::new(around.buffers.share());
        let client = Client::new(origin, upstream.config.database, identity, &account);
        let replies = Replies::new(around.buffers.clone(), account.clone(), around.config.max_reply_buffer);
        let presence = Activity::new(replies.clone(), around.config.timeouts, around.roster.now.get());
        around.roster.join(client.id, presence.clone());
        upstream.counters.clients_total.inc();
        let counted = Gauged::new(&upstream.counters, |c| &c.clients);
        let certificate = client.known.certificate.as_deref().map(CertificateIdentity::shown);
        tracing::debug!(client = client.id, peer = client.peer, certificate, "session began");
        let mut session = Self {
            opening: !matches!(stream, Stream::Tls(_)),
            fault: None,
            stream,
            client,
            replies,
            ctx: around,
            input: ByteQueue::default(),
            input_charge: Charge::new(&account),
            account,
            scanner: RequestScanner::default(),
            scans: Scans::default(),
            policy: None,
            lane: None,
            seat: None,
            identity_stale: false,
            closing: None,
            ended: false,
            pending: None,
            progress: 0,
            stall: None,
            hold: None,
            held: None,
            member: None,
            front: PendingCharge::Unseen,
            limit: None,
            activity: presence,
            _counted: counted,
        };
        if let Err(line) = session.reassign() {
            session.refuse_for_limit(&line);
            session.closing = Some(Close::Full);
        }
        session
    }

    /// Serves the client until it leaves or must go. Borrowed: a future that owned it would hold it twice.
    pub async fn run(&mut self) -> Close {
        let close = loop {
            match poll_fn(|cx| self.poll_turn(cx)).await {
                Turn::AsyncOp(errand) => Box::pin(self.run_op(errand)).await,
                Turn::Close(close) => break close,
            }
        };
        self.stream.close();
        let close = if self.fault.is_some() { Close::Tls } else { close };
        let counters = &self.ctx.upstream.counters;
        match close {
            Close::Left | Close::Finished => {}
            Close::Protocol => counters.closed_fault.inc(),
            Close::Tls => counters.closed_tls.inc(),
            Close::Slow => counters.closed_slow.inc(),
            Close::Memory => counters.closed_memory.inc(),
            Close::UpstreamLost => counters.closed_lost.inc(),
            Close::Expired => counters.closed_timeout.inc(),
            Close::Full => counters.closed_limit.inc(),
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

    /// What was wrong with the client's TLS, and the client's address.
    pub fn tls_fault(&self) -> Option<(&HandshakeError, &str)> {
        self.fault.as_deref().map(|fault| (fault, self.client.peer.as_str()))
    }

    /// Drops the request at the front of the input: it has been answered.
    fn skip_request(&mut self) {
        let mut first = true;
        let input = std::mem::take(&mut self.input);
        let (used, _) = self.handle_with(input.front(), |_, _| {
            if std::mem::take(&mut first) { Step::Done } else { Step::Stay(Pause::Replies) }
        });
        self.input = input;
        self.consume(used);
        self.front = PendingCharge::Unseen;
    }

    /// What is to be done with a session whose time is up.
    fn expire(&mut self, expiry: Expiry) -> Option<Close> {
        let roster = &self.ctx.roster;
        tracing::debug!(client = self.client.id, peer = self.client.peer, ?expiry, "a client's time is up");
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
                // What still comes for these is dropped; their places in the lane's queue stay until then.
                std::mem::replace(&mut self.replies, replies).close();
                self.activity.replace(self.replies.clone());
                if let Some(seat) = &self.seat {
                    seat.redirect(&self.replies);
                }
                self.activity.set_reply_due(roster.now.get(), false, true);
                self.progress = 0;
                None
            }
            Expiry::FirstCommand | Expiry::Idle | Expiry::Transaction | Expiry::Command => {
                Some(Close::Expired)
            }
        }
    }

    /// Whether the request at the front of the input waits for what others do.
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

    /// The key of the connections that this client's commands may travel on.
    fn key(&self) -> Option<ConnectionKey> {
        let identity = self.client.identity.clone()?;
        let Client { database, resp, selector, .. } = &self.client;
        Some(ConnectionKey::new(identity, *database, *resp).selected_by(selector.as_ref()))
    }

    /// The lane that this client's shared commands travel on.
    fn lane(&mut self) -> Option<Rc<Lane>> {
        if self.lane.is_none() {
            self.lane = Some(self.ctx.upstream.lane(&self.key()?));
        }
        self.lane.clone()
    }

    /// The client's identity, database or protocol version has changed.
    fn leave_lane(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.leave(self.client.id);
        }
    }

    /// Ends the session if the server refuses the client's own password, which it accepted before, on a new connection: a
    /// library that is disconnected connects again, and fetches a new password for that. To be called once the command has
    /// been answered.
    fn close_if_dead(&mut self) {
        if self.client.identity.as_ref().is_some_and(|identity| identity.is_dead()) {
            tracing::info!(
                client = self.client.id,
                peer = self.client.peer,
                "a client is disconnected: the server no longer accepts its password"
            );
            self.closing.get_or_insert(Close::Credentials);
        }
    }

    /// Why a session ends whose replies were cut.
    fn cut(&self) -> Close {
        match &self.client.identity {
            Some(identity) if identity.is_dead() => Close::Credentials,
            _ => Close::UpstreamLost,
        }
    }

    /// Appends a reply of respgate's own, unless the client asked not to see it.
    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.client.mutes() {
            self.replies.answer(write);
        }
    }

    /// Appends an error line.
    fn refuse(&mut self, line: &[u8]) {
        self.ctx.upstream.counters.refused.inc();
        self.answer_line(line);
    }

    /// Answers with an error line.
    fn answer_line(&mut self, line: &[u8]) {
        self.answer(|out| {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_lane();
        self.ctx.roster.leave(self.client.id);
        self.replies.close();
    }
}
