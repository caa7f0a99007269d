//! The listeners in force, and their change by a reload.
//!
//! A change has two steps. [`Listeners::prepare`] binds every new socket; if one cannot be bound, nothing has changed.
//! [`Listeners::commit`] cannot fail: new listeners begin to accept, and removed ones end. Two listeners that exchange their
//! addresses, or one that gets another name, keep the socket, so that no connection is refused meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::socket::{self, Bind};
use super::{AcceptSettings, Listener, ListenerConfig, ListenerCounts, ListenerState};
use crate::descriptors::Capacity;
use crate::drain::{ClientCounts, Draining};
use crate::net::listening::{InheritedSockets, ListeningSocket, OpenSockets, SocketOwner};
use crate::worker::Worker;

/// The listeners in force.
pub struct Listeners {
    running: Vec<Running>,
    /// Listeners that a reload has removed, while clients of theirs are left.
    removed: Vec<Removed>,
    /// The number of the next new listener.
    next: usize,
    ids: Arc<AtomicU64>,
    capacity: Capacity,
    /// The sockets that an upgrade passes on.
    open: OpenSockets,
    /// The number of accept loops.
    accepting: Arc<watch::Sender<usize>>,
}

/// A listener that accepts clients. Dropping it ends the accept loop.
struct Running {
    number: usize,
    name: String,
    bind: Bind,
    upstream: String,
    tenant: Option<String>,
    state: ListenerState,
    connected: Arc<AtomicUsize>,
    settings: watch::Sender<AcceptSettings>,
    /// The socket belongs to the accept loop: it is closed when the loop ends.
    socket: Weak<ListeningSocket>,
}

struct Removed {
    number: usize,
    tenant: Option<String>,
    connected: Arc<AtomicUsize>,
}

/// The listeners of a new configuration, bound and not in force.
pub struct Prepared {
    listeners: Vec<PreparedListener>,
    removed: Vec<Removed>,
    next: usize,
    modes: ChangedModes,
}

/// The former permissions of unix sockets. Dropping it restores them.
#[derive(Default)]
struct ChangedModes(Vec<(PathBuf, u32)>);

impl Drop for ChangedModes {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..) {
            let _ = fs::set_permissions(path, Permissions::from_mode(before));
        }
    }
}

struct PreparedListener {
    number: usize,
    config: ListenerConfig,
    state: ListenerState,
    connected: Arc<AtomicUsize>,
    /// The socket that a new accept loop takes over; `None` keeps the loop.
    socket: Option<Arc<ListeningSocket>>,
}

impl Listeners {
    /// Creates a set without listeners. `capacity` counts the clients of all listeners, and `open` lists their sockets.
    pub fn new(capacity: Capacity, open: OpenSockets) -> Self {
        Self {
            running: Vec::new(),
            removed: Vec::new(),
            next: 0,
            ids: Arc::new(AtomicU64::new(1)),
            capacity,
            open,
            accepting: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Binds the sockets of a new configuration, and sets the permissions of unix sockets. A socket in `inherited` that fits is
    /// used instead.
    ///
    /// # Errors
    /// Returns why a socket cannot be bound. Nothing has changed then, and nothing has if the result is dropped.
    pub fn prepare(
        &self,
        configs: &[ListenerConfig],
        inherited: &mut InheritedSockets,
    ) -> Result<Prepared, String> {
        let mut next = self.next;
        let mut listeners: Vec<PreparedListener> = Vec::with_capacity(configs.len());
        for config in configs {
            let cannot =
                |why: String| format!("listener '{}' cannot listen on {}: {why}", config.name, config.bind);
            if listeners.iter().any(|other| other.config.bind.same_address(&config.bind)) {
                return Err(cannot("another listener has the address".into()));
            }
            let known = self.running.iter().find(|known| known.name == config.name);
            // Clients stay with the upstream that they began with, so a listener with another upstream is another one to them.
            let same = known.filter(|known| known.upstream == config.upstream);
            let number = same.map_or(next, |known| known.number);
            next += usize::from(same.is_none());
            let keeps_loop =
                same.is_some_and(|known| known.bind.same_address(&config.bind) || known.is_of_systemd());
            let socket = match keeps_loop {
                true => None,
                false => Some(self.socket(config, inherited).map_err(|error| cannot(error.to_string()))?),
            };
            let state =
                known.map_or_else(|| ListenerState::new(&config.source_rate), |known| known.state.clone());
            let connected = same.map_or_else(Arc::default, |known| known.connected.clone());
            listeners.push(PreparedListener { number, config: config.clone(), state, connected, socket });
        }
        let modes = self.set_modes(configs)?;
        let stays = |known: &&Running| listeners.iter().any(|listener| listener.number == known.number);
        let removed = self.running.iter().filter(|known| !stays(known)).map(|known| Removed {
            number: known.number,
            tenant: known.tenant.clone(),
            connected: known.connected.clone(),
        });
        Ok(Prepared { removed: removed.collect(), listeners, next, modes })
    }

    /// Returns the socket at an address: that of a listener in force, or a new one.
    fn socket(
        &self,
        config: &ListenerConfig,
        inherited: &mut InheritedSockets,
    ) -> std::io::Result<Arc<ListeningSocket>> {
        let known = self.running.iter().find(|known| known.bind.same_address(&config.bind));
        match known.and_then(|known| known.socket.upgrade()) {
            Some(socket) => Ok(socket),
            None => socket::open(&config.name, &config.bind, inherited).map(Arc::new),
        }
    }

    /// Sets the permissions of unix sockets that are in force with others. Sets all or none.
    fn set_modes(&self, configs: &[ListenerConfig]) -> Result<ChangedModes, String> {
        let mut done = ChangedModes::default();
        for config in configs {
            let Bind::Unix { path, mode } = &config.bind else { continue };
            let before = self.running.iter().find_map(|known| match &known.bind {
                Bind::Unix { path: bound, mode } if bound == path && !known.is_of_systemd() => Some(*mode),
                _ => None,
            });
            let Some(before) = before.filter(|before| before != mode) else { continue };
            if let Err(error) = fs::set_permissions(path, Permissions::from_mode(*mode)) {
                return Err(format!(
                    "listener '{}' cannot set the mode of {}: {error}",
                    config.name,
                    path.display()
                ));
            }
            done.0.push((path.clone(), before));
        }
        Ok(done)
    }

    /// Puts prepared listeners in force. The workers must know them already.
    pub fn commit(&mut self, mut prepared: Prepared, workers: &[Worker], draining: &Draining) {
        let mut former = std::mem::take(&mut self.running);
        prepared.modes.0.clear();
        for PreparedListener { number, config, state, connected, socket } in prepared.listeners {
            let at = former.iter().position(|known| known.number == number);
            let known = at.map(|at| former.swap_remove(at));
            let settings = AcceptSettings::of(&config);
            state.configure(&config, &self.capacity);
            let (settings, socket) = match (known, socket) {
                (Some(known), None) => {
                    known.settings.send_replace(settings);
                    (known.settings, known.socket)
                }
                (_, Some(socket)) => {
                    let (settings, seen) = watch::channel(settings);
                    tracing::info!(
                        listener = config.name,
                        address = shown(&socket),
                        upstream = config.upstream,
                        "listening"
                    );
                    self.open.add(&config.name, &socket);
                    let kept = Arc::downgrade(&socket);
                    let listener = Listener {
                        name: config.name.clone(),
                        number,
                        settings: seen,
                        state: state.clone(),
                        connected: connected.clone(),
                        capacity: self.capacity.clone(),
                        ids: self.ids.clone(),
                    };
                    let loops = LoopGuard::new(&self.accepting);
                    let (workers, draining) = (workers.to_vec(), draining.clone());
                    tokio::spawn(async move {
                        listener.serve(socket, workers, draining).await;
                        drop(loops);
                    });
                    (settings, kept)
                }
                (None, None) => continue,
            };
            let ListenerConfig { name, bind, upstream, tenant, .. } = config;
            self.running.push(Running {
                number,
                name,
                bind,
                upstream,
                tenant,
                state,
                connected,
                settings,
                socket,
            });
        }
        for known in former {
            tracing::info!(
                listener = known.name,
                address = %known.bind,
                clients = known.connected.load(Ordering::Relaxed),
                "no longer listening; clients that are connected stay"
            );
        }
        self.removed.retain(|removed| removed.connected.load(Ordering::Relaxed) > 0);
        self.removed.extend(prepared.removed);
        self.next = prepared.next;
    }

    /// Returns the tenants of the listeners that will be in force, and of removed ones with clients, by the listeners' numbers.
    pub fn tenants<'a>(&'a self, prepared: &'a Prepared) -> Vec<(usize, Option<&'a str>)> {
        let removed = self.removed.iter().chain(&prepared.removed);
        let removed = removed.map(|removed| (removed.number, removed.tenant.as_deref()));
        let others = prepared.listeners.iter();
        others.map(|listener| (listener.number, listener.config.tenant.as_deref())).chain(removed).collect()
    }

    /// Returns the counts of the clients of each listener in force, in this process and in former ones.
    pub fn client_counts(prepared: &Prepared) -> Vec<ClientCounts> {
        let counts = prepared.listeners.iter().map(|listener| ClientCounts {
            listener: listener.config.name.clone(),
            own: listener.state.counts.clients.clone(),
            former: listener.state.former_clients.clone(),
        });
        counts.collect()
    }

    /// Returns the name and the counts of each listener in force.
    pub fn counts(&self) -> Vec<(String, Arc<ListenerCounts>)> {
        self.running.iter().map(|known| (known.name.clone(), known.state.counts.clone())).collect()
    }

    /// Returns the address that a listener in force is bound to, with the real port if the configured one was 0.
    pub fn address(&self, name: &str) -> Option<String> {
        let socket = self.running.iter().find(|known| known.name == name)?.socket.upgrade()?;
        Some(shown(&socket))
    }

    /// Returns the number of each listener in force, by name.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.running.iter().find(|known| known.name == name).map(|known| known.number)
    }

    /// Completes when no listener accepts clients any longer.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut accepting = self.accepting.subscribe();
        async move {
            let _ = accepting.wait_for(|loops| *loops == 0).await;
        }
    }
}

impl Running {
    /// Returns true if a socket unit of systemd says the address, and not the configuration.
    fn is_of_systemd(&self) -> bool {
        self.socket.upgrade().is_some_and(|socket| socket.owner() == SocketOwner::Systemd)
    }
}

fn shown(socket: &ListeningSocket) -> String {
    socket.shown().unwrap_or_else(|error| error.to_string())
}

impl Prepared {
    /// Returns each listener's number, settings, and the count of the clients of this number.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &ListenerConfig, &Arc<AtomicUsize>)> {
        self.listeners.iter().map(|listener| (listener.number, &listener.config, &listener.connected))
    }
}

/// Counts one accept loop while it lives.
struct LoopGuard(Arc<watch::Sender<usize>>);

impl LoopGuard {
    fn new(loops: &Arc<watch::Sender<usize>>) -> Self {
        loops.send_modify(|loops| *loops += 1);
        Self(loops.clone())
    }
}

impl Drop for LoopGuard {
    fn drop(&mut self) {
        self.0.send_modify(|loops| *loops = loops.saturating_sub(1));
    }
}
