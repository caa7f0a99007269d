//! A worker: one thread with one current-thread runtime. Its sessions and upstream connections
//! never leave the thread.

mod accepted;
mod listeners;
mod upstreams;

pub use accepted::{AcceptedClient, CountGuard, Socket};
pub use listeners::ListenerPlan;

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::clients::directory::{Directory, Query};
use crate::latency::config::LatencyConfig;
use crate::latency::entry::Entry;
use crate::latency::tap::{TapBatch, TapFilter};
use crate::latency::{LatencySnapshot, WorkerLatency};
use crate::metrics::Snapshot;
use crate::net::budget::{Budget, Share};
use crate::net::buffers::Buffers;
use crate::net::tls::accept::Handshakes;
use crate::net::tls::gate::HandshakeGate;
use crate::poll_meter::{PollClock, PollFigures, PollMeter};
use crate::session::answers::Answerer;
use crate::session::maintenance::Move;
use crate::session::registry::SessionRegistry;
use crate::session::worker_tenants::WorkerTenants;
use crate::tenant::{Tenants, figures};
use crate::topology::Address;
use crate::upstream::replica::counters::ReplicaCounts;
use crate::upstream::{IdentityUse, UpstreamActivity, UpstreamPlan};
use listeners::{Shared, WorkerListeners};
use upstreams::WorkerUpstreams;

/// Maximum number of accepted clients that wait for the worker to take them over.
const ACCEPT_QUEUE: usize = 1024;
/// Clients taken over before other tasks run, at least, which takes about 0.5 ms.
const CLIENTS_PER_BATCH: usize = 8;
/// The part of the time that other tasks take between two batches, for which a batch goes on with more clients: one in this many. With many
/// busy sessions, a new client would otherwise wait for many of their turns.
const BATCH_PART: u32 = 8;
/// The time after which a batch ends in any case.
const LONGEST_BATCH: Duration = Duration::from_millis(5);
/// Maximum number of requests that wait for the worker's answer.
const REQUEST_QUEUE: usize = 64;

/// The settings of every worker.
#[derive(Clone)]
pub struct Plan {
    /// The listeners.
    pub listeners: Vec<ListenerPlan>,
    /// The tenants, their clients and their limits.
    pub tenants: Tenants,
    /// The upstreams.
    pub upstreams: Vec<UpstreamPlan>,
    /// The byte budget that all workers share.
    pub budget: Arc<Budget>,
    /// Reaches the clients of all workers.
    pub directory: Directory,
    /// What is measured of commands.
    pub latency: LatencyConfig,
}

/// The settings that a reload replaces.
#[derive(Clone)]
pub struct Update {
    /// The tenants, their clients and their limits.
    pub tenants: Tenants,
    /// The listeners.
    pub listeners: Vec<ListenerPlan>,
    /// The upstreams.
    pub upstreams: Vec<UpstreamPlan>,
    /// What is measured of commands.
    pub latency: LatencyConfig,
}

/// Holds what a worker has counted.
pub struct Counted {
    /// TLS handshakes, each with the number of the listener.
    pub handshakes: Vec<(usize, Handshakes)>,
    /// Counts by upstream, each with the upstream's number.
    pub upstreams: Vec<(usize, Snapshot)>,
    /// Counts by replica, each with the number of the upstream and the replica's address.
    pub replicas: Vec<((usize, Address), ReplicaCounts)>,
    /// Where the time of commands went by upstream, each with the upstream's number.
    pub latency: Vec<(usize, LatencySnapshot)>,
    /// Counts by tenant, each with the tenant's number.
    pub tenants: Vec<(usize, figures::Counted)>,
    /// Bytes that the worker holds for clients now.
    pub buffered: usize,
    /// Durations of the polls of the worker's tasks.
    pub polls: PollFigures,
}

enum WorkerRequest {
    Snapshot(oneshot::Sender<Counted>),
    Adopt(Box<Update>, oneshot::Sender<()>),
    Drain(Move, oneshot::Sender<()>),
    Ping(oneshot::Sender<()>),
    AskToMove(Move),
    /// Asks what the worker does at the upstream of this number.
    Activity(usize, oneshot::Sender<UpstreamActivity>),
    /// Asks which identities sessions use at the upstream of this number.
    Identities(usize, oneshot::Sender<Vec<IdentityUse>>),
    /// Asks in which databases of the upstream of this number sessions are.
    Databases(usize, oneshot::Sender<BTreeSet<u32>>),
    /// Has the connections to the upstream of this number replaced.
    Reconnect(usize, oneshot::Sender<()>),
    /// Ends the upstream of this number, and its sessions within this time.
    EndUpstream(usize, Duration, oneshot::Sender<()>),
    SlowCommands(oneshot::Sender<Vec<Entry>>),
    Tap(Arc<TapFilter>, mpsc::Sender<TapBatch>),
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

    /// Returns the worker's newest slow commands, the oldest first; `None` if it is gone.
    pub async fn slow_commands(&self) -> Option<Vec<Entry>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(WorkerRequest::SlowCommands(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Begins a tap, which ends when the receiver of `batches` is dropped.
    pub async fn tap(&self, filter: Arc<TapFilter>, batches: mpsc::Sender<TapBatch>) {
        let _ = self.requests.send(WorkerRequest::Tap(filter, batches)).await;
    }

    /// Replaces what a reload may replace. New clients use it once this returns. Existing sessions
    /// are woken and use it from their next poll on.
    pub async fn adopt(&self, update: Update) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(WorkerRequest::Adopt(Box::new(update), answer)).await.is_ok() {
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

    /// Returns the databases in which sessions of the upstream of this number are; `None` if the worker is gone.
    pub async fn databases_in_use(&self, upstream: usize) -> Option<BTreeSet<u32>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(WorkerRequest::Databases(upstream, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Has the connections to the upstream of this number replaced.
    pub async fn reconnect(&self, upstream: usize) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(WorkerRequest::Reconnect(upstream, answer)).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Ends the upstream of this number: its sessions as soon as no command is under way, those that are left after `within` at
    /// once. Returns when it is gone. Listeners no longer lead to it.
    pub async fn end_upstream(&self, upstream: usize, within: Duration) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(WorkerRequest::EndUpstream(upstream, within, answer)).await.is_ok() {
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
    let latency = WorkerLatency::new(&plan.latency, meter.clock());
    let upstreams = WorkerUpstreams::new(plan.upstreams, buffers.clone(), meter.clone(), latency.clone());
    let worker_tenants = WorkerTenants::new(&plan.tenants);
    let gate = HandshakeGate::new(&meter);
    meter.spawn_local(check_timeouts(sessions.clone(), meter.clone()));
    let shared = Shared {
        upstreams: upstreams.table(),
        latency: latency.clone(),
        tenants: worker_tenants.clone(),
        directory,
        buffers,
        registry: sessions.clone(),
        meter: meter.clone(),
        gate,
    };
    let mut listeners = WorkerListeners::new(shared, plan.listeners);
    let answerer = Answerer {
        worker: number,
        registry: sessions.clone(),
        upstreams: upstreams.table(),
        listeners: listeners.names(),
    };
    meter.spawn_local(answerer.serve(queries));
    let mut batch = Batch::begin(Duration::ZERO);
    loop {
        // A burst of connections is taken over in small batches, so that existing sessions run
        // between them.
        if batch.is_over() {
            let left = Instant::now();
            tokio::task::yield_now().await;
            batch = Batch::begin(left.elapsed());
        }
        tokio::select! {
            client = accepted.recv() => match client {
                Some(client) => {
                    batch.clients += 1;
                    listeners.receive(client, &load);
                }
                None => return,
            },
            request = requested.recv() => match request {
                Some(WorkerRequest::Snapshot(answer)) => {
                    let latency = upstreams.latency_snapshots();
                    let (upstreams, replicas) = (upstreams.snapshots(), upstreams.replica_counts());
                    let tenants = worker_tenants.figures();
                    let handshakes = listeners.handshakes();
                    let (buffered, polls) = (share.bytes(), meter.figures());
                    let _ = answer.send(Counted { handshakes, upstreams, replicas, latency, tenants, buffered, polls });
                }
                Some(WorkerRequest::Adopt(update, answer)) => {
                    let Update { tenants, listeners: plans, upstreams: upstream_plans, latency: measured } = *update;
                    latency.reconfigure(&measured);
                    upstreams.adopt(upstream_plans);
                    worker_tenants.adopt(&tenants);
                    listeners.adopt(plans);
                    sessions.notify_reload();
                    let _ = answer.send(());
                }
                Some(WorkerRequest::Ping(answer)) => {
                    let _ = answer.send(());
                }
                Some(WorkerRequest::AskToMove(plan)) => listeners.begin_move(plan),
                Some(WorkerRequest::SlowCommands(answer)) => {
                    let _ = answer.send(latency.slow_commands());
                }
                Some(WorkerRequest::Tap(filter, batches)) => {
                    meter.spawn_local(latency.clone().tap(filter, batches));
                }
                Some(WorkerRequest::Drain(plan, answer)) => {
                    listeners.begin_move(plan);
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
                Some(WorkerRequest::Databases(upstream, answer)) => {
                    let databases = sessions.clone().databases_of(upstream);
                    meter.spawn_local(async move { drop(answer.send(databases.await)) });
                }
                Some(WorkerRequest::EndUpstream(upstream, within, answer)) => {
                    listeners.forget_upstream(upstream);
                    upstreams.end(upstream, within, sessions.clone(), answer);
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

/// Clients that a worker takes over before other tasks run.
struct Batch {
    began: Instant,
    clients: usize,
    /// The time for which the batch goes on when it has enough clients.
    time: Duration,
}

impl Batch {
    /// Begins a batch after other tasks have run for `others`.
    fn begin(others: Duration) -> Self {
        Self { began: Instant::now(), clients: 0, time: (others / BATCH_PART).min(LONGEST_BATCH) }
    }

    fn is_over(&self) -> bool {
        self.clients >= CLIENTS_PER_BATCH && self.began.elapsed() >= self.time
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

async fn answer_when_empty(sessions: Rc<SessionRegistry>, answer: oneshot::Sender<()>) {
    sessions.emptied().await;
    let _ = answer.send(());
}
