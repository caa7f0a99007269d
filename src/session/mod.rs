//! A session serves one client: it reads, classifies, routes and answers requests in order.
//!
//! [`data_path`] is the data path: one poll function reads, sends requests by the shared lane, answers what respgate
//! answers itself, and writes replies. Every step that must wait for something outside the data path is an
//! [`AsyncOp`]: boxed async code, so that an idle session stays small.

mod activity;
pub mod answers;
mod asker;
mod assign;
mod async_op;
mod certified;
mod authenticate;
mod by_shard;
mod charge;
pub mod client;
mod cluster;
mod clients;
mod close;
pub mod config;
mod data_path;
mod deliver;
mod denied;
mod departure;
mod diagnostics;
mod dispatch;
mod handle;
mod hello;
mod hold;
mod info;
mod input;
mod lanes;
mod leased;
mod limit;
mod local;
pub mod maintenance;
pub mod newest;
mod measure;
mod order;
mod output;
mod read;
mod read_place;
mod read_state;
mod reads;
mod refusal;
pub mod registry;
mod route;
mod route_unlisted;
mod scan;
mod seen;
mod setting;
mod shared_pubsub;
mod step;
mod tenancy;
mod timeout;
mod timer;
mod view;
pub mod worker_tenants;

use std::future::poll_fn;
use std::rc::Rc;

use self::activity::Activity;
use self::client::{Client, Origin};
pub use self::close::Close;
use self::config::SessionConfig;
use self::hold::Hold;
use self::input::Input;
use self::lanes::Lanes;
use self::maintenance::Maintenance;
use self::measure::Measured;
use self::newest::Newest;
use self::output::Output;
use self::registry::SessionRegistry;
use self::step::{AsyncOp, Exit};
use self::tenancy::Tenancy;
use self::view::ClientView;
use self::worker_tenants::WorkerTenants;
use crate::clients::directory::Directory;
use crate::latency::WorkerLatency;
use crate::metrics::Gauged;
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::net::stream::Stream;
use crate::net::tls::certificate::CertificateIdentity;
use crate::net::tls::handshake_error::HandshakeError;
use crate::resp::error_line;
use crate::resp::request::RequestLimits;
use crate::upstream::Upstream;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::replies::Replies;
use crate::upstream::shared::lane::Lane;

/// Holds what all sessions of one listener on one worker share. A reload replaces it; each session takes over the newest one.
#[derive(Clone)]
pub struct SessionContext {
    /// The bounds and permissions of a session.
    pub config: SessionConfig,
    /// The limits on requests of clients that have not authenticated.
    pub unauthenticated: RequestLimits,
    /// The upstream that receives the commands.
    pub upstream: Rc<Upstream>,
    /// The upstream's settings.
    pub upstream_config: Rc<UpstreamConfig>,
    /// The worker's measurements.
    pub latency: Rc<WorkerLatency>,
    /// The worker's buffers and byte budget.
    pub buffers: Rc<Buffers>,
    /// The registry of the worker's sessions.
    pub registry: Rc<SessionRegistry>,
    /// The worker's tenants, with their limits.
    pub tenants: Rc<WorkerTenants>,
    /// The listener's clients that asked for notifications of maintenance.
    pub maintenance: Rc<Maintenance>,
    /// The listener's number.
    pub listener: usize,
    /// The index of `upstream` in the configuration.
    pub upstream_number: usize,
    /// Reaches the clients of all workers.
    pub directory: Directory,
    /// Leads to the context that has replaced this one.
    pub newest: Rc<Newest<SessionContext>>,
}

/// Serves one client.
pub struct Session {
    stream: Stream,
    client: Client,
    ctx: Rc<SessionContext>,
    activity: Rc<Activity>,
    /// What others see of the session.
    view: Rc<ClientView>,
    /// Counts the bytes that respgate keeps for this client, and marks the client for eviction.
    account: Rc<Account>,
    input: Input,
    output: Output,
    tenancy: Tenancy,
    lanes: Lanes,
    hold: Hold,
    measured: Measured,
    /// Why the session ends, once that is decided. It then only delivers its last replies.
    closing: Option<Close>,
    /// The client's TLS error, if there was one.
    tls_error: Option<Box<HandshakeError>>,
    /// An operation that was found while the session had a lease. It runs after the lease has ended.
    pending_op: Option<AsyncOp>,
    _counted: Gauged,
}

impl Session {
    /// Creates the session of a client that has just connected.
    pub fn new(stream: Stream, origin: Origin, ctx: Rc<SessionContext>) -> Self {
        let upstream = &ctx.upstream;
        let identity = (!upstream.wants_auth()).then(|| upstream.identities.own().clone());
        let account = Account::new(ctx.buffers.share());
        let client = Client::new(origin, ctx.upstream_config.database, identity, &account);
        let replies = Replies::new(ctx.buffers.clone(), account.clone(), ctx.config.max_reply_buffer);
        let activity = Activity::new(replies.clone(), ctx.config.timeouts, ctx.registry.now.get());
        let view = ClientView::new(&client, (ctx.upstream_number, ctx.listener), &activity);
        ctx.registry.join(activity.clone(), view.clone());
        upstream.counters.clients_accepted.inc();
        let counted = Gauged::new(&upstream.counters, |c| &c.clients);
        let certificate = client.known.certificate.as_deref().map(CertificateIdentity::shown);
        tracing::debug!(client = client.id, peer = client.peer, certificate, "session began");
        let mut session = Self {
            input: Input::new(&account, !matches!(stream, Stream::Tls(_))),
            output: Output::new(replies, ctx.registry.spare.clone()),
            stream,
            client,
            ctx,
            activity,
            view,
            account,
            tenancy: Tenancy::default(),
            lanes: Lanes::default(),
            hold: Hold::default(),
            measured: Measured::default(),
            closing: None,
            tls_error: None,
            pending_op: None,
            _counted: counted,
        };
        session.apply_certificate();
        if let Err(line) = session.reassign() {
            session.refuse_for_limit(&line);
            session.closing = Some(Close::Full);
        }
        session.follow_read_policy();
        session.update_view();
        session
    }

    /// Serves the client until it leaves or respgate disconnects it, and returns the reason. The method borrows
    /// the session because a future that owned it would store it twice.
    pub async fn run(&mut self) -> Close {
        let close = loop {
            match poll_fn(|cx| self.poll_data_path(cx)).await {
                Exit::AsyncOp(op) => Box::pin(self.run_op(op)).await,
                Exit::Close(close) => break close,
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
            Close::Killed => counters.closed_killed.inc(),
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

    /// Shows others what has changed about the client.
    fn update_view(&self) {
        let tenant = self.tenancy.member.as_ref().map(|member| member.worker_tenant());
        self.view.update(&self.client, tenant);
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
        if self.lanes.shared.is_none() {
            self.lanes.shared = Some(self.ctx.upstream.lane(&self.key()?));
        }
        self.lanes.shared.clone()
    }

    /// Leaves the lane, because the client's identity, database or protocol version has changed.
    fn leave_lane(&mut self) {
        self.lanes.leave_shared(self.client.id);
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
    fn close_for_cut_replies(&self) -> Close {
        match &self.client.identity {
            Some(identity) if identity.is_dead() => Close::Credentials,
            _ => Close::UpstreamLost,
        }
    }

    /// Appends a reply of respgate's own, unless the client turned replies off.
    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.client.mutes() {
            self.output.answer(write);
        }
    }

    /// Counts a refusal and answers with an error line.
    pub(super) fn refuse(&mut self, line: &[u8]) {
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
        if let Some(reads) = &mut self.lanes.reads {
            reads.stop_waiting(self.client.id);
        }
        self.leave_lane();
        self.note_left();
        self.ctx.registry.leave(self.client.id);
        self.ctx.maintenance.leave(self.client.id);
        self.output.close();
    }
}
