//! The listeners as one worker sees them: how each client is served, and what a reload changes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;

use super::accepted::{AcceptedClient, CountGuard, Socket};
use crate::clients::directory::Directory;
use crate::latency::WorkerLatency;
use crate::net::buffers::Buffers;
use crate::net::stream::Stream;
use crate::net::tls::accept::{HandshakeLog, Handshakes, ServerTls, Welcomed};
use crate::net::tls::gate::HandshakeGate;
use crate::poll_meter::PollMeter;
use crate::session::answers::{ListenerNames, UpstreamTable};
use crate::session::client::Origin;
use crate::session::config::SessionConfig;
use crate::session::maintenance::{Maintenance, Move};
use crate::session::registry::SessionRegistry;
use crate::session::worker_tenants::WorkerTenants;
use crate::session::{Session, SessionContext};

/// The settings of one listener's clients on a worker.
#[derive(Clone)]
pub struct ListenerPlan {
    /// The listener's number, which no other listener of the process ever has.
    pub number: usize,
    /// The listener's name, for logs.
    pub name: String,
    /// Settings of the listener's sessions.
    pub session: SessionConfig,
    /// The number of the upstream that serves the listener's clients.
    pub upstream: usize,
    /// TLS settings; `None` speaks plain text.
    pub tls: Option<ServerTls>,
    /// The `host:port` that clients are asked to move to when respgate drains.
    pub moving_endpoint: Option<String>,
    /// The number of the clients of this listener number, in the whole process.
    pub clients: Arc<AtomicUsize>,
}

/// The parts of a worker that all its listeners use.
pub(super) struct Shared {
    pub(super) upstreams: Rc<UpstreamTable>,
    pub(super) latency: Rc<WorkerLatency>,
    pub(super) tenants: Rc<WorkerTenants>,
    pub(super) directory: Directory,
    pub(super) buffers: Rc<Buffers>,
    pub(super) registry: Rc<SessionRegistry>,
    pub(super) meter: Rc<PollMeter>,
    pub(super) gate: Rc<HandshakeGate>,
}

/// The listeners of one worker, by their numbers.
pub(super) struct WorkerListeners {
    by_number: BTreeMap<usize, Rc<ListenerContext>>,
    names: Rc<ListenerNames>,
    shared: Shared,
}

/// One listener's state on a worker.
struct ListenerContext {
    name: String,
    tls: Option<ServerTls>,
    log: Rc<HandshakeLog>,
    ctx: Rc<SessionContext>,
    meter: Rc<PollMeter>,
    gate: Rc<HandshakeGate>,
    /// The number of the listener's clients in the whole process, those on their way to a worker included.
    clients: Arc<AtomicUsize>,
    /// True if a reload has removed the listener. Its clients stay.
    removed: bool,
}

impl WorkerListeners {
    /// Creates the listeners of `plans`.
    pub(super) fn new(shared: Shared, plans: Vec<ListenerPlan>) -> Self {
        let mut listeners = Self { by_number: BTreeMap::new(), names: Rc::default(), shared };
        listeners.adopt(plans);
        listeners
    }

    /// Takes over the listeners of a new configuration. New clients use the new settings at once; sessions take them over when the
    /// caller tells them. A listener that `plans` does not have stays until its clients have left.
    pub(super) fn adopt(&mut self, plans: Vec<ListenerPlan>) {
        let mut former = std::mem::take(&mut self.by_number);
        for plan in plans {
            let known = former.remove(&plan.number);
            if let Some(context) = self.context(plan, known.as_deref()) {
                self.by_number.insert(context.ctx.listener, Rc::new(context));
            }
        }
        for (number, context) in former {
            // At the reload that removes a listener, a client may just be accepted and not counted yet.
            if !context.removed || context.clients.load(Ordering::Relaxed) > 0 {
                self.by_number.insert(number, Rc::new(self.removed(&context)));
            }
        }
        let names = self.by_number.iter().map(|(number, listener)| (*number, listener.name.clone()));
        *self.names.borrow_mut() = names.collect();
    }

    /// Forgets the removed listeners that lead to an upstream. Clients on their way to one are disconnected.
    pub(super) fn forget_upstream(&mut self, upstream: usize) {
        self.by_number.retain(|_, listener| !listener.removed || listener.ctx.upstream_number != upstream);
    }

    /// Returns the names of the listeners, which follow each change.
    pub(super) fn names(&self) -> Rc<ListenerNames> {
        self.names.clone()
    }

    /// Returns the state of a listener by its new plan; `known` is its state so far.
    fn context(&self, plan: ListenerPlan, known: Option<&ListenerContext>) -> Option<ListenerContext> {
        let Shared { upstreams, latency, tenants, directory, buffers, registry, meter, gate } = &self.shared;
        let upstream = upstreams.borrow().get(&plan.upstream)?.clone();
        let ListenerPlan { number, name, session, upstream: upstream_number, tls, moving_endpoint, clients } =
            plan;
        let ctx = match known {
            Some(known) => {
                known.ctx.maintenance.set_endpoint(moving_endpoint);
                SessionContext {
                    unauthenticated: session.request.unauthenticated(),
                    config: session,
                    upstream_config: upstream.config.get(),
                    ..SessionContext::clone(&known.ctx)
                }
            }
            None => {
                let maintenance = Maintenance::new(moving_endpoint);
                let (list, ended) = (Rc::downgrade(&maintenance), maintenance.ended());
                meter.spawn_local(Maintenance::follow_holds(list, ended, upstream.clone()));
                SessionContext {
                    unauthenticated: session.request.unauthenticated(),
                    config: session,
                    listener: number,
                    upstream_number,
                    directory: directory.clone(),
                    tenants: tenants.clone(),
                    upstream_config: upstream.config.get(),
                    upstream,
                    latency: latency.clone(),
                    buffers: buffers.clone(),
                    registry: registry.clone(),
                    maintenance,
                    newest: Rc::default(),
                }
            }
        };
        let log = known.map_or_else(Rc::default, |known| known.log.clone());
        let (meter, gate) = (meter.clone(), gate.clone());
        Some(ListenerContext {
            name,
            tls,
            log,
            ctx: newest(ctx, known.map(|known| &known.ctx)),
            meter,
            gate,
            clients,
            removed: false,
        })
    }

    /// Returns the state of a removed listener: only its upstream's settings still change.
    fn removed(&self, known: &ListenerContext) -> ListenerContext {
        let upstream_config = known.ctx.upstream.config.get();
        let ctx = SessionContext { upstream_config, ..SessionContext::clone(&known.ctx) };
        ListenerContext {
            name: known.name.clone(),
            tls: known.tls.clone(),
            log: known.log.clone(),
            ctx: newest(ctx, Some(&known.ctx)),
            meter: known.meter.clone(),
            gate: known.gate.clone(),
            clients: known.clients.clone(),
            removed: true,
        }
    }

    /// Serves an accepted client. `load` counts the worker's sessions.
    pub(super) fn receive(&self, client: AcceptedClient, load: &Arc<AtomicUsize>) {
        let session_guard = CountGuard::counted(load);
        let Some(listener) = self.by_number.get(&client.listener).cloned() else { return };
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

    /// Returns the TLS handshakes of each listener, with the listener's number.
    pub(super) fn handshakes(&self) -> Vec<(usize, Handshakes)> {
        self.by_number.iter().map(|(number, listener)| (*number, listener.log.count())).collect()
    }

    /// Asks the clients that want to know of maintenance to connect elsewhere, and ends their time after that of `plan`.
    pub(super) fn begin_move(&self, plan: Move) {
        let lists: Vec<Rc<Maintenance>> =
            self.by_number.values().map(|listener| listener.ctx.maintenance.clone()).collect();
        lists.iter().for_each(|list| list.begin_move(plan));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(plan.within).await;
            lists.iter().for_each(|list| list.end_move());
        });
    }
}

/// Makes `ctx` the newest context of its listener, unless `known` has the same settings. Returns the newest one.
fn newest(ctx: SessionContext, known: Option<&Rc<SessionContext>>) -> Rc<SessionContext> {
    let same = known.filter(|known| {
        known.config == ctx.config && Rc::ptr_eq(&known.upstream_config, &ctx.upstream_config)
    });
    let ctx = same.cloned().unwrap_or_else(|| Rc::new(ctx));
    ctx.newest.set(&ctx);
    ctx
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
        // A reload may have come during the handshake.
        let ctx = self.ctx.newest.get().unwrap_or_else(|| self.ctx.clone());
        let mut session = Session::new(stream, origin, ctx);
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
