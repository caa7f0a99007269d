//! Connections to the primary: the shared lane, the leased lane, and what opens both.
//!
//! Read [`connection::open`] for how a connection is opened, [`shared`] for the connections that many sessions share,
//! [`leased`] for those that one session has to itself, and [`fanin`] for subscriptions that share a connection.

pub mod config;
pub mod connection;
pub mod fanin;
mod follow;
pub mod held;
mod hold;
mod housekeeping;
pub mod leased;
pub mod replies;
pub mod reply_sizes;
pub mod shared;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use self::config::{ClientAuth, UpstreamConfig};
use self::connection::auth_backoff::Refused;
use self::connection::identity::{Identities, Identity};
use self::connection::open::ConnectionKey;
use self::connection::scripts::Scripts;
use self::fanin::FanIn;
use self::held::HeldBytes;
use self::leased::pool::Leases;
use self::shared::fair::scheduler::Asker;
use self::shared::lane::{Admission, Lane, Order};
use crate::command::learned::Learned;
use crate::metrics::{Counters, Snapshot};
use crate::net::buffers::Buffers;
use crate::net::connect::Dialer;
use crate::net::tls::client::ClientTls;
use crate::poll_meter::PollMeter;
use crate::rotation::denials::Probe;
use crate::rotation::login::{Login, Principal};
use crate::timeline::Timelines;
use crate::topology::{Generation, Hint, Primary, ServerInfo, Topology};

/// The PING that respgate sends by itself.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The parts of one worker's side of an upstream.
#[derive(Clone)]
pub struct UpstreamPlan {
    /// The configuration, with this worker's share of the limits.
    pub config: UpstreamConfig,
    /// Dials the connections.
    pub dialer: Dialer,
    /// respgate's own credentials at the server.
    pub login: Login,
    /// The topology, as discovery publishes it.
    pub topology: watch::Receiver<Topology>,
    /// The channel for hints to discovery.
    pub hints: mpsc::Sender<Hint>,
    /// Scripts that clients have sent; the workers share them.
    pub scripts: Scripts,
    /// True if tenants share the connections, so that the fair scheduler is in use.
    pub fair: bool,
    /// Its failovers; the workers share them.
    pub timelines: Timelines,
}

/// One worker's side of one upstream.
pub struct Upstream {
    /// The configuration, with this worker's share of the limits.
    pub config: UpstreamConfig,
    /// The counters of this worker for this upstream.
    pub counters: Rc<Counters>,
    /// The identities that act on the connections.
    pub identities: Identities,
    /// Scripts that clients have sent.
    pub scripts: Scripts,
    fair: Cell<bool>,
    timelines: Timelines,
    /// The generation that last gave a reply.
    proven: Cell<Option<Generation>>,
    buffers: Rc<Buffers>,
    /// Measures the polls of the tasks that drive connections.
    meter: Rc<PollMeter>,
    dialer: Dialer,
    hints: mpsc::Sender<Hint>,
    primary: RefCell<Option<Arc<Primary>>>,
    /// The reason why there is no primary, or why it cannot be reached.
    fault: RefCell<String>,
    held_since: Cell<Option<Instant>>,
    /// True if the server refuses respgate's own user or password, and has never accepted them. Commands then fail at once.
    never_authenticated: Cell<bool>,
    hold_begun: Notify,
    held_bytes: HeldBytes,
    /// True while a failover is under way and the old primary still answers.
    holding: Cell<bool>,
    news: Notify,
    lanes: RefCell<HashMap<ConnectionKey, Rc<Lane>>>,
    /// Lanes that carry the last requests of clients whose replies a shared connection could not carry.
    side_lanes: RefCell<Vec<Rc<Lane>>>,
    shared_open: Rc<Cell<usize>>,
    leases: Leases,
    /// The fan-in of each identity, by the identity's number.
    fans: RefCell<HashMap<u64, Rc<FanIn>>>,
    server: RefCell<Option<Rc<ServerInfo>>>,
    /// True if the server wants clients of the configured identity to authenticate themselves.
    auth_required: Cell<bool>,
    /// True while that is not known: respgate has no credentials, and discovery has not been greeted yet.
    auth_unclear: Cell<bool>,
    learned: RefCell<Option<Rc<Learned>>>,
    learning: Cell<bool>,
    /// True while a session asks the server for its users.
    counting_users: Cell<bool>,
    /// True if the server has one user only, and the time until which that counts.
    one_user: Cell<Option<(Instant, bool)>>,
}

impl Upstream {
    /// Starts the tasks that follow the topology and keep house; they end with the runtime.
    pub fn start(
        plan: UpstreamPlan,
        buffers: Rc<Buffers>,
        meter: Rc<PollMeter>,
        counters: Rc<Counters>,
    ) -> Rc<Self> {
        let UpstreamPlan { config, dialer, login, topology, hints, scripts, fair, timelines } = plan;
        let changes = login.subscribe();
        let upstream = Rc::new(Self {
            identities: Identities::new(login),
            leases: Leases::new(config.max_leased),
            config,
            counters,
            scripts,
            fair: Cell::new(fair),
            timelines,
            proven: Cell::default(),
            buffers,
            meter,
            dialer,
            hints,
            primary: RefCell::default(),
            fault: RefCell::default(),
            held_since: Cell::default(),
            never_authenticated: Cell::default(),
            hold_begun: Notify::new(),
            held_bytes: HeldBytes::default(),
            holding: Cell::default(),
            news: Notify::new(),
            lanes: RefCell::default(),
            side_lanes: RefCell::default(),
            shared_open: Rc::default(),
            fans: RefCell::default(),
            server: RefCell::default(),
            auth_required: Cell::default(),
            auth_unclear: Cell::default(),
            learned: RefCell::default(),
            learning: Cell::default(),
            counting_users: Cell::default(),
            one_user: Cell::default(),
        });
        let meter = &upstream.meter;
        meter.spawn_local(upstream.clone().follow(topology));
        meter.spawn_local(housekeeping::keep(Rc::downgrade(&upstream)));
        let certificates = upstream.dialer.tls.as_ref().map(ClientTls::changes);
        meter.spawn_local(shared::replace::follow(Rc::downgrade(&upstream), changes, certificates));
        upstream
    }

    /// Returns the counters of this worker for this upstream.
    pub fn snapshot(&self) -> Snapshot {
        self.counters.leased_idle.set(self.leases.idle() as u64);
        let names: usize = self.fans.borrow().values().map(|fan| fan.names()).sum();
        self.counters.fanin_channels.set(names as u64);
        self.counters.snapshot()
    }

    /// Returns the primary, if one is known.
    pub fn primary(&self) -> Option<Arc<Primary>> {
        self.primary.borrow().clone()
    }

    /// Returns the current primary's generation.
    pub fn generation(&self) -> Option<Generation> {
        self.primary.borrow().as_ref().map(|primary| primary.generation)
    }

    /// Completes with the next news from discovery.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Returns the lane for this key. Starts one if there is none.
    pub fn lane(self: &Rc<Self>, key: &ConnectionKey) -> Rc<Lane> {
        if let Some(lane) = self.lanes.borrow().get(key) {
            return lane.clone();
        }
        let lane = Lane::new(key.clone(), self.fair.get());
        lane.close_gate(self.holding());
        self.lanes.borrow_mut().insert(key.clone(), lane.clone());
        self.meter.spawn_local(shared::drive::drive(lane.clone(), self.clone(), None));
        lane
    }

    /// Returns every lane, side lanes included.
    fn every_lane(&self) -> Vec<Rc<Lane>> {
        self.lanes.borrow().values().chain(self.side_lanes.borrow().iter()).cloned().collect()
    }

    /// Returns true if a session can have a leased connection without waiting for another to give one back.
    pub fn has_free_lease(&self) -> bool {
        self.leases.has_room()
    }

    /// Returns the receiver of replies that no client waits for. It drops them.
    fn nobody(&self) -> Rc<replies::Replies> {
        replies::Replies::nobody(&self.buffers)
    }

    /// Turns the fair scheduler on or off: it is needed while tenants share the connections.
    pub fn set_fair(&self, fair: bool) {
        if self.fair.replace(fair) != fair {
            self.lanes.borrow().values().for_each(|lane| lane.set_fair(fair));
        }
    }

    /// Returns whether `lane` takes a request of this client, and if not, why.
    pub fn admission(&self, lane: &Lane, asker: Asker) -> Admission {
        lane.admission(asker, || self.held_until())
    }

    /// Removes the lane if only its driver still holds it. Returns true if it did.
    fn forget_unused(&self, lane: &Rc<Lane>) -> bool {
        let mut lanes = self.lanes.borrow_mut();
        // One reference is the map's, one the driver's.
        let unused = Rc::strong_count(lane) <= 2;
        if unused {
            lanes.remove(lane.key());
        }
        unused
    }

    /// Takes room for one more shared connection; `None` if the limit is reached.
    fn shared_permit(&self) -> Option<SharedPermit> {
        let limit = self.config.max_connections.saturating_sub(self.config.max_leased).max(1);
        (self.shared_open.get() < limit).then(|| SharedPermit::new(&self.shared_open))
    }

    /// Closes the shared connection that has been unused for longest, to make room. Returns false if all are in use.
    fn spare_unused(&self) -> bool {
        let lanes = self.lanes.borrow();
        let unused = lanes.values().filter(|lane| Rc::strong_count(lane) <= 2 && lane.is_idle());
        let oldest = unused.min_by_key(|lane| lane.unused_since());
        oldest.inspect(|lane| lane.order(Order::Retire)).is_some()
            || self.fans.borrow().values().any(|fan| fan.retire_unused())
    }

    fn at_limit(&self) -> Rc<[u8]> {
        let limit = self.config.max_connections.saturating_sub(self.config.max_leased).max(1);
        format!(
            "-ERR respgate: upstream '{}' has all {limit} shared connections of this worker open (one per user, database and protocol version, and one per user for fan-in); raise max-connections",
            self.config.name
        )
        .into_bytes()
        .into()
    }

    /// Sends a hint to discovery. Drops it if 64 hints wait already: one more would add nothing.
    fn hint(&self, hint: Hint) {
        let _ = self.hints.try_send(hint);
    }

    /// Returns what the server says of itself; `None` before the first greeting.
    pub fn server(&self) -> Option<Rc<ServerInfo>> {
        self.server.borrow().clone()
    }

    fn learn_server(&self, server: ServerInfo) {
        *self.server.borrow_mut() = Some(Rc::new(server));
    }

    /// Returns false if the server has denied PING to this identity. Each further PING would be an entry in the server's
    /// `ACL LOG`.
    pub fn may_ping(&self, identity: &Identity) -> bool {
        let own = self.identities.own().login();
        own.is_none_or(|own| !own.denials().of(&identity.user()).contains(Probe::Ping))
    }

    /// Returns a request that changes nothing: PING, or HELLO for an identity that the server has denied PING. The server's
    /// ACL lets every user send HELLO.
    pub fn probe_request(&self, identity: &Identity) -> &'static [u8] {
        if self.may_ping(identity) { PING } else { b"*1\r\n$5\r\nHELLO\r\n" }
    }

    /// Returns true if a client must authenticate before it may do anything else.
    pub fn wants_auth(&self) -> bool {
        self.config.client_auth == ClientAuth::Required || self.auth_required.get()
    }

    /// Returns true if respgate must open a connection to learn whether clients have to authenticate.
    pub fn auth_unclear(&self) -> bool {
        self.auth_unclear.get()
    }

    /// A connection has been opened, or refused: now it is known.
    pub fn auth_cleared(&self) {
        self.auth_unclear.set(false);
    }

    /// With credentials of respgate's own, which it has just sent, this says nothing of what clients must do.
    fn note_auth_required(&self, key: &ConnectionKey) {
        if key.identity.login().is_some_and(|login| matches!(login.newest(), Ok(None))) {
            self.auth_required.set(true);
        }
    }

    /// Counts an error reply, and tells discovery of those that only a node that is not the primary gives.
    pub fn note_error(&self, line: &[u8], generation: Generation) {
        self.counters.error_replies.inc();
        if line.strip_prefix(b"-").is_some_and(not_primary) {
            self.hint(Hint::NotPrimary(generation));
        }
    }

    /// Has discovery ask the node for its role: a reply holds an error that only a node gives that is not the primary, or that a
    /// script has forged.
    pub fn suspect(&self, generation: Generation) {
        self.hint(Hint::NotPrimary(generation));
    }

    /// Takes note that the server refuses the credentials that respgate keeps for this identity. Commands wait for new ones, as
    /// they wait for a primary, and fail with the returned error line after `hold-timeout`. They fail at once if the server has
    /// never accepted any. The refusal of one user's credentials does not hold the commands of others.
    fn on_auth_rejected(&self, identity: &Identity, refused: &Refused) -> Option<Vec<u8>> {
        let Refused { line, since } = refused;
        let said = String::from_utf8_lossy(line.get(1..).unwrap_or_default());
        let of_a_user = identity.is_of_a_user();
        let hopeful = !of_a_user || identity.has_worked() || identity.credentials().is_err();
        let whose = identity.login().map_or(&Principal::Own, Login::principal);
        if hopeful && since.elapsed() < self.config.hold_timeout {
            if !of_a_user {
                self.note_fault(format!("the server refuses {whose}: {said}"));
                self.begin_hold();
            }
            return None;
        }
        let name = &self.config.name;
        Some(format!("-ERR respgate: the server refuses {whose} (upstream '{name}'): {said}").into_bytes())
    }

    fn note_fault(&self, why: String) {
        *self.fault.borrow_mut() = why;
    }

    /// Opens a connection as `identity` and keeps it for later use, so that its password is verified by the
    /// server itself. A password that the server accepted within the last minute is believed.
    ///
    /// # Errors
    /// Returns the error line for the client: the server's own, or respgate's if there is no server.
    pub async fn verify(self: &Rc<Self>, key: &ConnectionKey) -> Result<(), Rc<[u8]>> {
        if key.identity.believed() {
            return Ok(());
        }
        let replies = replies::Replies::nobody(&self.buffers);
        if let Some(unused) = self.lease_fresh(key, &replies).await?.proven() {
            unused.give_back();
        }
        Ok(())
    }
}

/// Returns true if an error (without the leading `-`) says that the command did not run because the node is not the
/// primary, no longer or not yet. READONLY, MASTERDOWN and LOADING are judged before execution (valkey's server.c,
/// processCommand); REDIRECT comes to clients with CLIENT CAPA redirect (valkey 8); a demotion unblocks clients with
/// this UNBLOCKED text.
pub fn not_primary(error: &[u8]) -> bool {
    [&b"READONLY "[..], b"MASTERDOWN ", b"LOADING ", b"REDIRECT ", b"UNBLOCKED force unblock"]
        .iter()
        .any(|start| error.starts_with(start))
}

struct SharedPermit(Rc<Cell<usize>>);

impl SharedPermit {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(open.clone())
    }
}

impl Drop for SharedPermit {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::topology::{Address, Outage};

    fn plan(config: UpstreamConfig, topology: watch::Receiver<Topology>) -> UpstreamPlan {
        UpstreamPlan {
            config,
            dialer: Dialer::default(),
            login: Login::default(),
            topology,
            hints: mpsc::channel(1).0,
            scripts: Scripts::default(),
            fair: false,
            timelines: Timelines::default(),
        }
    }

    /// Without a primary commands fail at once; but a connection to a known one is waited for.
    #[tokio::test(start_paused = true)]
    async fn no_hold_at_all_is_a_choice() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (_topology, seen) = watch::channel(Topology::Unknown(Arc::new(Outage::Starting)));
                let config = UpstreamConfig { hold_timeout: Duration::ZERO, ..UpstreamConfig::new("main") };
                let buffers = Rc::new(Buffers::alone(1024));
                let upstream = Upstream::start(plan(config, seen), buffers, PollMeter::new(), Rc::default());
                assert!(upstream.hold_deadline().is_ok(), "nothing is known to be wrong");
                upstream.begin_hold();
                assert!(upstream.hold_deadline().is_err());
                upstream.end_hold();
                assert!(upstream.hold_deadline().is_ok());
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_quiet_time_before_the_first_command_is_no_outage() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (topology, seen) = watch::channel(Topology::Unknown(Arc::new(Outage::Starting)));
                let plan = plan(UpstreamConfig::new("main"), seen);
                let buffers = Rc::new(Buffers::alone(1024));
                let upstream = Upstream::start(plan, buffers, PollMeter::new(), Rc::default());
                tokio::time::sleep(upstream.config.hold_timeout * 2).await;
                assert!(upstream.hold_deadline().is_err(), "no primary for so long");
                topology.send_replace(Topology::Known(Arc::new(Primary {
                    generation: Generation(1),
                    address: Address::tcp("127.0.0.1", 1),
                    config_epoch: None,
                    server: None,
                    node: None,
                })));
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert!(upstream.hold_deadline().is_ok());
            })
            .await;
    }
}
