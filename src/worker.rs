//! A worker: one thread with one current-thread runtime. Its sessions and upstream connections
//! never leave the thread.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::clients::directory::{Directory, Query};
use crate::metrics::{Counters, Snapshot};
use crate::net::budget::{Budget, Share};
use crate::net::buffers::Buffers;
use crate::net::stream::Stream;
use crate::net::tls::accept::{HandshakeLog, Handshakes, ServerTls, Welcomed};
use crate::net::tls::gate::HandshakeGate;
use crate::poll_meter::{PollClock, PollFigures, PollMeter};
use crate::session::answers::Answerer;
use crate::session::client::Origin;
use crate::session::config::SessionConfig;
use crate::session::maintenance::{Maintenance, Move};
use crate::session::registry::SessionRegistry;
use crate::session::worker_tenants::WorkerTenants;
use crate::session::{Session, SessionContext};
use crate::tenant::{Tenants, figures};
use crate::upstream::{IdentityUse, Upstream, UpstreamActivity, UpstreamPlan};

/// Maximum number of accepted clients that wait for the worker to take them over.
const ACCEPT_QUEUE: usize = 1024;
/// Clients taken over before other tasks run, which takes about 0.5 ms.
const CLIENTS_PER_BATCH: usize = 8;
/// Maximum number of requests that wait for the worker's answer.
const REQUEST_QUEUE: usize = 64;

/// An accepted client on its way to a worker.
pub struct AcceptedClient {
    /// The client's socket, not yet registered with a runtime.
    pub socket: Socket,
    /// Index of the client's listener in [`Plan::listeners`].
    pub listener: usize,
    /// The addresses and attributes that the client comes with.
    pub origin: Origin,
    /// Counts the client against its listener's limit until it is dropped.
    pub guard: CountGuard,
}

/// An accepted socket.
pub enum Socket {
    /// A TCP socket.
    Tcp(std::net::TcpStream),
    /// A unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Counts one client while it lives, and subtracts it again when it is dropped.
pub struct CountGuard {
    taken: Arc<AtomicUsize>,
    /// The guard of another count for the same client.
    joined: Option<Box<CountGuard>>,
}

impl CountGuard {
    /// Adds one to `taken` and returns its guard, or `None` if the count has reached `limit`.
    pub fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        // The guard exists before the check. If the count was full, dropping the guard subtracts
        // the 1 again.
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let guard = Self { taken: taken.clone(), joined: None };
        (before < limit).then_some(guard)
    }

    /// Joins two guards in one. Dropping it releases both.
    pub fn and(mut self, other: Self) -> Self {
        self.joined = Some(Box::new(other));
        self
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The settings of every worker.
#[derive(Clone)]
pub struct Plan {
    /// The listeners, by their index.
    pub listeners: Vec<ListenerPlan>,
    /// The tenants, their clients and their limits.
    pub tenants: Tenants,
    /// The upstreams, by their index.
    pub upstreams: Vec<UpstreamPlan>,
    /// The byte budget that all workers share.
    pub budget: Arc<Budget>,
    /// Reaches the clients of all workers.
    pub directory: Directory,
}

/// The settings of one listener's clients on a worker.
#[derive(Clone)]
pub struct ListenerPlan {
    /// The listener's name, for logs.
    pub name: String,
    /// Settings of the listener's sessions.
    pub session: SessionConfig,
    /// Index of the upstream that serves the listener's clients.
    pub upstream: usize,
    /// TLS settings; `None` speaks plain text.
    pub tls: Option<ServerTls>,
    /// The `host:port` that clients are asked to move to when respgate drains.
    pub moving_endpoint: Option<String>,
}

/// Holds what a worker has counted.
pub struct Counted {
    /// TLS handshakes, by listener.
    pub handshakes: Vec<Handshakes>,
    /// Counts by upstream.
    pub upstreams: Vec<Snapshot>,
    /// Counts by tenant, each with the tenant's number.
    pub tenants: Vec<(usize, figures::Counted)>,
    /// Bytes that the worker holds for clients now.
    pub buffered: usize,
    /// Durations of the polls of the worker's tasks.
    pub polls: PollFigures,
}

enum WorkerRequest {
    Snapshot(oneshot::Sender<Counted>),
    Adopt(Tenants, oneshot::Sender<()>),
    Drain(Move, oneshot::Sender<()>),
    Ping(oneshot::Sender<()>),
    AskToMove(Move),
    /// Asks what the worker does at the upstream of this number.
    Activity(usize, oneshot::Sender<UpstreamActivity>),
    /// Asks which identities sessions use at the upstream of this number.
    Identities(usize, oneshot::Sender<Vec<IdentityUse>>),
    /// Has the connections to the upstream of this number replaced.
    Reconnect(usize, oneshot::Sender<()>),
}

/// The handle through which the rest of the process talks to a running worker.
#[derive(Clone)]
pub struct Worker {
    clients: mpsc::Sender<AcceptedClient>,
    requests: mpsc::Sender<WorkerRequest>,
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts a worker's thread. The thread ends when every handle is dropped.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread. If the thread cannot create its
    /// runtime, it logs that and ends.
    pub fn start(
        number: usize,
        plan: Plan,
        queries: mpsc::Receiver<Query>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (clients, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (requests, requested) = mpsc::channel(REQUEST_QUEUE);
        let load = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn({
            let load = load.clone();
            move || {
                let clock = PollClock::start();
                let meter = PollMeter::with(clock.clone());
                let mut builder = Builder::new_current_thread();
                builder.enable_all().on_thread_unpark(move || clock.awoke());
                match builder.build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        runtime.block_on(meter.measure(run(
                            number,
                            plan,
                            accepted,
                            requested,
                            queries,
                            load,
                            meter.clone(),
                        )));
                    }
                    Err(error) => tracing::error!(worker = number, %error, "a worker could not start"),
                }
            }
        })?;
        Ok((Self { clients, requests, load }, thread))
    }

    /// Returns the number of the worker's sessions, including clients that are on their way to it.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Hands a client over. Waits while the worker's queue is full. Returns false if the worker is
    /// gone.
    pub async fn take(&self, client: AcceptedClient) -> bool {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.clients.send(client).await.is_ok()
    }

    /// Returns true once the worker's thread has answered; false if it is gone.
    pub async fn answers(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.requests.send(WorkerRequest::Ping(answer)).await.is_ok() && answered.await.is_ok()
    }

    /// Asks the clients that want to know of maintenance to connect elsewhere. Ends no session.
    pub async fn ask_to_move(&self, plan: Move) {
        let _ = self.requests.send(WorkerRequest::AskToMove(plan)).await;
    }

    /// Returns what the worker has counted; `None` if it is gone.
    pub async fn snapshot(&self) -> Option<Counted> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(WorkerRequest::Snapshot(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Replaces the users and tenants. New clients use them once this returns. Existing sessions
    /// are woken and use them from their next poll on.
    pub async fn adopt(&self, tenants: Tenants) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(WorkerRequest::Adopt(tenants, answer)).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Returns what the worker does at the upstream of this number; `None` if there is no such upstream, or the worker is
    /// gone.
    pub async fn activity(&self, upstream: usize) -> Option<UpstreamActivity> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(WorkerRequest::Activity(upstream, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Returns the identities that sessions use at the upstream of this number; `None` if there is no such upstream, or the
    /// worker is gone.
    pub async fn identities_in_use(&self, upstream: usize) -> Option<Vec<IdentityUse>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(WorkerRequest::Identities(upstream, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Has the connections to the upstream of this number replaced.
    pub async fn reconnect(&self, upstream: usize) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(WorkerRequest::Reconnect(upstream, answer)).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Ends each session as soon as it has no unanswered command. Asks the clients that want to know of maintenance
    /// to move, and leaves them time for it. Returns when no session is left.
    pub async fn drain(&self, plan: Move) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(WorkerRequest::Drain(plan, answer)).await.is_ok() {
            let _ = answered.await;
        }
    }
}

async fn run(
    number: usize,
    plan: Plan,
    mut accepted: mpsc::Receiver<AcceptedClient>,
    mut requested: mpsc::Receiver<WorkerRequest>,
    queries: mpsc::Receiver<Query>,
    load: Arc<AtomicUsize>,
    meter: Rc<PollMeter>,
) {
    let directory = plan.directory;
    let share = Rc::new(Share::new(plan.budget, number));
    let buffers = Rc::new(Buffers::new(share.clone()));
    let sessions = Rc::new(SessionRegistry::default());
    meter.spawn_local(sessions.clone().relieve(buffers.clone()));
    let upstreams: Vec<Rc<Upstream>> = plan
        .upstreams
        .into_iter()
        .map(|plan| Upstream::start(plan, buffers.clone(), meter.clone(), Rc::new(Counters::default())))
        .collect();
    let worker_tenants = WorkerTenants::new(&plan.tenants);
    let gate = HandshakeGate::new(&meter);
    meter.spawn_local(check_timeouts(sessions.clone(), meter.clone()));
    let answerer = Answerer {
        worker: number,
        registry: sessions.clone(),
        upstreams: upstreams.clone(),
        listeners: plan.listeners.iter().map(|listener| listener.name.clone()).collect(),
    };
    meter.spawn_local(answerer.serve(queries));
    let listeners: Vec<Rc<ListenerContext>> = plan
        .listeners
        .into_iter()
        .enumerate()
        .filter_map(|(listener, plan)| {
            let ctx = Rc::new(SessionContext {
                unauthenticated: plan.session.request.unauthenticated(),
                config: plan.session,
                listener,
                upstream_index: plan.upstream,
                directory: directory.clone(),
                tenants: worker_tenants.clone(),
                upstream: upstreams.get(plan.upstream)?.clone(),
                buffers: buffers.clone(),
                registry: sessions.clone(),
                maintenance: Maintenance::new(plan.moving_endpoint),
            });
            meter.spawn_local(ctx.maintenance.clone().follow_holds(ctx.upstream.clone()));
            let (meter, gate) = (meter.clone(), gate.clone());
            let log = HandshakeLog::default();
            Some(Rc::new(ListenerContext { name: plan.name, tls: plan.tls, log, ctx, meter, gate }))
        })
        .collect();
    let mut in_batch = 0;
    loop {
        // A burst of connections is taken over in small batches, so that existing sessions run
        // between them.
        if in_batch == CLIENTS_PER_BATCH {
            in_batch = 0;
            tokio::task::yield_now().await;
        }
        tokio::select! {
            client = accepted.recv() => match client {
                Some(client) => {
                    in_batch += 1;
                    receive(client, &listeners, &load);
                }
                None => return,
            },
            request = requested.recv() => match request {
                Some(WorkerRequest::Snapshot(answer)) => {
                    let upstreams = upstreams.iter().map(|upstream| upstream.snapshot()).collect();
                    let tenants = worker_tenants.figures();
                    let handshakes = listeners.iter().map(|listener| listener.log.count()).collect();
                    let (buffered, polls) = (share.bytes(), meter.figures());
                    let _ = answer.send(Counted { handshakes, upstreams, tenants, buffered, polls });
                }
                Some(WorkerRequest::Adopt(tenants, answer)) => {
                    upstreams.iter().for_each(|upstream| upstream.set_fair(!tenants.all.is_empty()));
                    worker_tenants.adopt(&tenants);
                    sessions.notify_reload();
                    let _ = answer.send(());
                }
                Some(WorkerRequest::Ping(answer)) => {
                    let _ = answer.send(());
                }
                Some(WorkerRequest::AskToMove(plan)) => begin_move(&listeners, plan),
                Some(WorkerRequest::Drain(plan, answer)) => {
                    begin_move(&listeners, plan);
                    sessions.drain();
                    tokio::task::spawn_local(answer_when_empty(sessions.clone(), answer));
                }
                Some(WorkerRequest::Activity(upstream, answer)) => {
                    if let Some(upstream) = upstreams.get(upstream) {
                        let _ = answer.send(upstream.activity());
                    }
                }
                Some(WorkerRequest::Identities(upstream, answer)) => {
                    if let Some(upstream) = upstreams.get(upstream) {
                        let _ = answer.send(upstream.identities_in_use());
                    }
                }
                Some(WorkerRequest::Reconnect(upstream, answer)) => {
                    if let Some(upstream) = upstreams.get(upstream) {
                        upstream.reconnect();
                    }
                    let _ = answer.send(());
                }
                None => return,
            },
        }
    }
}

/// One listener's state on a worker.
struct ListenerContext {
    name: String,
    tls: Option<ServerTls>,
    log: HandshakeLog,
    ctx: Rc<SessionContext>,
    meter: Rc<PollMeter>,
    gate: Rc<HandshakeGate>,
}

fn receive(client: AcceptedClient, listeners: &[Rc<ListenerContext>], load: &Arc<AtomicUsize>) {
    let session_guard = CountGuard { taken: load.clone(), joined: None };
    let Some(listener) = listeners.get(client.listener).cloned() else { return };
    let AcceptedClient { socket, origin, guard, .. } = client;
    let stream = match socket {
        Socket::Tcp(socket) => TcpStream::from_std(socket).map(Stream::Tcp),
        Socket::Unix(socket) => tokio::net::UnixStream::from_std(socket).map(Stream::Unix),
    };
    match stream {
        Ok(stream) => listener.accept(stream, origin, (guard, session_guard)),
        Err(error) => tracing::warn!(%error, "a worker could not take over a client's connection"),
    }
}

/// Checks the sessions' timeouts and advances the poll meter once a second.
async fn check_timeouts(sessions: Rc<SessionRegistry>, meter: Rc<PollMeter>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sessions.inspect();
        meter.tick();
    }
}

/// The guards that count a client from its accept to its end.
type CountGuards = (CountGuard, CountGuard);

impl ListenerContext {
    /// Serves a client in a task of its own. A TLS handshake runs in a separate task first, so that
    /// a slow handshake delays no other client and its memory is free once it is done.
    fn accept(self: Rc<Self>, stream: Stream, origin: Origin, guards: CountGuards) {
        match stream {
            Stream::Tcp(stream) if self.tls.is_some() => {
                self.meter.clone().spawn_local(async move {
                    if let Some((stream, origin)) = self.handshake(stream, origin).await {
                        self.serve(stream, origin, guards);
                    }
                });
            }
            stream => self.serve(stream, origin, guards),
        }
    }

    /// Does the TLS handshake. Returns `None` if it failed; the failure is counted and logged.
    async fn handshake(&self, stream: TcpStream, mut origin: Origin) -> Option<(Stream, Origin)> {
        match self.tls.as_ref()?.accept(stream, &self.log, &self.gate).await {
            Ok(Welcomed { stream, identity }) => {
                origin.known.certificate = identity.map(Box::new);
                Some((Stream::Tls(Box::new(stream.into())), origin))
            }
            Err(error) => {
                self.log.failed(&self.name, &origin.peer, &error);
                None
            }
        }
    }

    fn serve(self: &Rc<Self>, stream: Stream, origin: Origin, guards: CountGuards) {
        let mut session = Session::new(stream, origin, self.ctx.clone());
        let listener = self.clone();
        self.meter.spawn_local(async move {
            session.run().await;
            if let Some((error, peer)) = session.tls_error() {
                listener.log.broken(&listener.name, peer, error);
            }
            drop((session, guards));
        });
    }
}

/// Asks the clients that want to know of maintenance to connect elsewhere.
fn begin_move(listeners: &[Rc<ListenerContext>], plan: Move) {
    listeners.iter().for_each(|listener| listener.ctx.maintenance.begin_move(plan));
    tokio::task::spawn_local(end_move(listeners.to_vec(), plan));
}

/// Lets the drain end the clients that did not move in time.
async fn end_move(listeners: Vec<Rc<ListenerContext>>, plan: Move) {
    tokio::time::sleep(plan.within).await;
    listeners.iter().for_each(|listener| listener.ctx.maintenance.end_move());
}

async fn answer_when_empty(sessions: Rc<SessionRegistry>, answer: oneshot::Sender<()>) {
    sessions.emptied().await;
    let _ = answer.send(());
}
