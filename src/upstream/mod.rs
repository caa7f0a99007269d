//! Connections to the primary: the shared lane, the leased lane, and what opens both.
//!
//! [`Upstream`] is the side that sessions see. Its parts do not import it: read [`connection::open`] for how a connection is opened,
//! [`shared`] for the connections that many sessions share, [`leased`] for those that one session has to itself, [`fanin`] for
//! subscriptions that share a connection, and [`hold`] for commands that wait for a primary.

pub mod access;
mod activity;
mod cluster_room;
pub mod config;
pub mod connection;
mod credentials;
mod disconnect;
pub mod fanin;
mod follow;
pub mod held;
mod hold;
mod housekeeping;
mod layout;
mod learn;
pub mod leased;
mod parts;
mod pause;
mod redirects;
pub mod replica;
pub mod replies;
pub mod reply_sizes;
mod reports;
mod room;
mod shard_channels;
pub mod shards;
pub mod shared;
mod tasks;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use self::access::Access;
pub use self::activity::{IdentityUse, UpstreamActivity};
use self::cluster_room::ClusterRoom;
use self::config::{ClientAuth, LiveConfig, UpstreamConfig};
use self::connection::identities::Identities;
use self::connection::identity::Identity;
use self::connection::open::ConnectionKey;
use self::connection::probe;
use self::connection::scripts::Scripts;
use self::fanin::drive::subscription;
use self::fanin::subscription::Subscription;
use self::held::{Held, HeldBytes};
use self::hold::Hold;
use self::layout::Layout;
use self::learn::{Inquiries, NO_PRIMARY};
use self::leased::lease::Lease;
use self::parts::{Common, Parts};
use self::redirects::Redirects;
use self::replica::counters::ReplicaCounts;
use self::replica::reads::ReplicaReads;
use self::replies::Replies;
use self::reports::Reports;
pub use self::shard_channels::{ShardChannelCounter, ShardChannels};
use self::shards::Shards;
use self::shared::drive;
use self::shared::fair::fair_queue::Share;
use self::shared::fair::scheduler::Asker;
use self::shared::lane::{Admission, Lane};
use crate::cluster::ClusterTopology;
use crate::command::learned::Learned;
use crate::hint::Hint;
use crate::latency::{LatencySnapshot, UpstreamLatency, WorkerLatency};
use crate::metrics::{Counters, Snapshot};
use crate::net::buffers::Buffers;
use crate::poll_meter::PollMeter;
use crate::replica::answered_writes::AnsweredWrites;
use crate::replica::{ReplicaFeed, ShardFeeds};
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::resp::value::Value;
use crate::timeline::Timelines;
use crate::topology::{Address, Generation, Primary, ServerInfo, Topology};

/// The parts of one worker's side of an upstream.
#[derive(Clone)]
pub struct UpstreamPlan {
    /// The upstream's number, which no other upstream of the process ever has.
    pub number: usize,
    /// The configuration, with this worker's share of the limits.
    pub config: UpstreamConfig,
    /// How connections are dialled, and respgate's own credentials at the server.
    pub access: watch::Receiver<Access>,
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
    /// What is known of its replicas.
    pub replicas: ReplicaFeed,
    /// The shards of a cluster, as discovery publishes them. `topology` then shows the home shard. `None` for one primary. When one
    /// replaces the other, this is published before `topology`.
    pub cluster: watch::Receiver<Option<Arc<ClusterTopology>>>,
    /// What is known of the replicas of each shard of a cluster.
    pub shard_replicas: watch::Receiver<Arc<ShardFeeds>>,
}

/// One worker's side of one upstream.
pub struct Upstream {
    /// The configuration, with this worker's share of the limits.
    pub config: Rc<LiveConfig>,
    /// The counters of this worker for this upstream.
    pub counters: Rc<Counters>,
    /// Where the time of commands goes.
    pub latency: Rc<UpstreamLatency>,
    /// The identities that act on the connections.
    pub identities: Rc<Identities>,
    /// Scripts that clients have sent.
    pub scripts: Scripts,
    /// True if `client-auth` says that clients must authenticate.
    auth_required: Cell<bool>,
    /// True if the upstream is being removed, so that its sessions end.
    is_leaving: Cell<bool>,
    hold: Rc<Hold>,
    reports: Rc<Reports>,
    inquiries: Inquiries,
    replicas: Rc<ReplicaReads>,
    /// One primary, or the shards of a cluster. `parts` then belongs to its home shard.
    layout: Rc<Layout>,
    parts: Parts,
}

impl Upstream {
    /// Starts the tasks that follow the topology and keep house. They end when the upstream is dropped.
    pub fn start(
        plan: UpstreamPlan,
        buffers: Rc<Buffers>,
        meter: Rc<PollMeter>,
        latency: Rc<WorkerLatency>,
    ) -> Rc<Self> {
        let counters = Rc::new(Counters::default());
        let UpstreamPlan {
            number: _,
            config,
            access,
            topology,
            hints,
            scripts,
            fair,
            timelines,
            replicas,
            cluster,
            shard_replicas,
        } = plan;
        let config = Rc::new(LiveConfig::new(config));
        let login = access.borrow().login.clone();
        let common = Rc::new(Common {
            latency: UpstreamLatency::new(latency, &config.get().name, counters.clone()),
            identities: Rc::new(Identities::new(login)),
            counters: counters.clone(),
            config: config.clone(),
            room: ClusterRoom::new(config.clone()),
            redirects: Redirects::new(config.clone(), counters.clone(), hints.clone()),
            hints,
            scripts: scripts.clone(),
            access: access.clone(),
            buffers,
            meter,
            held: HeldBytes::default(),
            timelines: timelines.clone(),
        });
        let parts = Parts::new(&common, timelines, replicas, fair);
        let Parts { dialing, pool, lanes: _, fans: _, replicas } = &parts;
        let inquiries = Inquiries::new(pool.clone());
        let tasks = &dialing.tasks;
        tasks.spawn(common.room.clone().serve_waiting());
        let newest = cluster.borrow().clone();
        let layout = Layout::new(common.clone(), parts.clone(), fair, shard_replicas, newest.as_deref());
        tasks.spawn(layout.clone().follow(topology, cluster));
        tasks.spawn(replicas.clone().follow());
        tasks.spawn(housekeeping::keep(parts.clone()));
        tasks.spawn(credentials::follow(parts.clone(), access));
        let auth_required = Cell::new(config.get().client_auth == ClientAuth::Required);
        Rc::new(Self {
            config,
            counters,
            latency: common.latency.clone(),
            identities: common.identities.clone(),
            scripts,
            auth_required,
            is_leaving: Cell::new(false),
            hold: dialing.hold.clone(),
            reports: dialing.reports.clone(),
            inquiries,
            replicas: replicas.clone(),
            layout,
            parts,
        })
    }

    /// Returns the counters of this worker for this upstream.
    pub fn snapshot(&self) -> Snapshot {
        let config = self.config.get();
        self.counters.max_connections.set(config.max_connections as u64);
        self.counters.max_leased.set(config.max_leased as u64);
        let (idle, waiting) = self.layout.shards().map_or((0, 0), |shards| shards.idle_and_waiting());
        self.counters.leased_idle.set((self.parts.pool.idle() + idle) as u64);
        self.counters.lease_waiting.set((self.parts.pool.waiting() + waiting) as u64);
        let of_shards = self.layout.shards().map_or(0, |shards| shards.fan_in_size().0);
        self.counters.fanin_channels.set((self.parts.fans.names() + of_shards) as u64);
        self.counters.snapshot()
    }

    /// Returns where the time of this worker's commands for this upstream went.
    pub fn latency_snapshot(&self) -> LatencySnapshot {
        self.latency.snapshot()
    }

    /// Returns what this worker has counted for each replica.
    pub fn replica_counts(&self) -> Vec<(Address, ReplicaCounts)> {
        let mut counts = self.replicas.counts();
        counts.extend(self.shards().iter().flat_map(|shards| shards.replica_counts()));
        counts
    }

    /// Turns the fair scheduler on or off: it is needed while tenants share the connections.
    pub fn set_fair(&self, fair: bool) {
        self.layout.set_fair(fair);
    }

    /// Replaces the settings, from the next command, connection and check of timeouts on. Sessions take them over when they follow
    /// the reload.
    pub fn reconfigure(&self, config: UpstreamConfig) {
        let max_leased = config.max_leased;
        self.auth_required.set(config.client_auth == ClientAuth::Required);
        if self.config.replace(config) {
            self.parts.pool.set_limit(max_leased.max(1));
            if let Some(shards) = self.layout.shards() {
                shards.set_lease_limit(max_leased.max(1));
            }
        }
    }

    /// Returns the current primary's generation.
    pub fn generation(&self) -> Option<Generation> {
        self.hold.generation()
    }

    /// Completes with the next news from discovery.
    pub async fn changed(&self) {
        self.hold.changed().await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // No session is left, and the tasks would run for ever.
        self.parts.dialing.tasks.end();
        if let Some(shards) = self.layout.shards() {
            shards.end();
        }
    }
}

/// Operators' orders.
impl Upstream {
    /// Has each session end as soon as none of its requests is under way. The caller wakes them.
    pub fn leave(&self) {
        self.is_leaving.set(true);
    }

    /// Returns true if the upstream is being removed.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.get()
    }

    /// Returns what this worker does at the upstream.
    pub fn activity(&self) -> UpstreamActivity {
        let home = self.parts.activity();
        self.layout.shards().map_or(home, |shards| shards.activity(home))
    }

    /// Returns the identities that sessions of this worker use.
    pub fn identities_in_use(&self) -> Vec<IdentityUse> {
        let mut uses = self.parts.identities_in_use();
        if let Some(shards) = self.layout.shards() {
            shards.add_identities_in_use(&mut uses);
        }
        uses
    }

    /// Opens new connections to the same primary, and retires the present ones.
    pub fn reconnect(&self) {
        self.parts.reconnect();
        if let Some(shards) = self.layout.shards() {
            shards.reconnect();
        }
    }
}

/// The shards of a cluster.
impl Upstream {
    /// Returns true if the upstream is a cluster.
    #[inline]
    pub fn is_cluster(&self) -> bool {
        self.layout.is_cluster()
    }

    /// Returns true if the upstream is a cluster, or has been one: then sessions may go on there with what they began in the cluster.
    #[inline]
    pub fn has_been_cluster(&self) -> bool {
        self.layout.has_been_cluster()
    }

    /// Returns a number that rises whenever a cluster replaces one primary, and back.
    pub fn layout_version(&self) -> u64 {
        self.layout.version()
    }

    /// Returns the shards of a cluster; `None` for one primary.
    #[inline]
    pub fn shards(&self) -> Option<&Rc<Shards>> {
        self.layout.shards().filter(|_| self.is_cluster())
    }

    /// Returns the shards for what was begun in a cluster. If the upstream is no cluster any more, every slot belongs to its primary.
    pub fn present_or_former_shards(&self) -> Option<&Rc<Shards>> {
        self.layout.shards()
    }
}

/// Commands that wait for a primary.
impl Upstream {
    /// Returns true while a failover is under way, so that no new request may be sent.
    pub fn holding(&self) -> bool {
        self.hold.is_failing_over()
    }

    /// Completes when [`Self::in_hold`] returns `state`.
    pub async fn hold_is(&self, state: bool) {
        self.hold.becomes(state).await;
    }

    /// Returns how long commands may still wait for a primary.
    pub fn hold_left(&self) -> Duration {
        self.hold.left()
    }

    /// Returns true if commands wait for a primary.
    pub fn in_hold(&self) -> bool {
        self.hold.is_active()
    }

    /// Completes when commands next begin to wait for a primary.
    pub async fn hold_begun(&self) {
        self.hold.begun().await;
    }

    /// Returns true if commands wait for a primary, and `more` bytes would exceed `hold-buffer`.
    pub fn hold_full(&self, more: usize) -> bool {
        self.hold.is_full(more)
    }

    /// Returns the error line, for a command that finds `hold-buffer` full.
    pub fn hold_overflow(&self) -> ErrorLine {
        self.hold.overflow_error()
    }

    /// Returns the time until which commands may wait for a primary.
    ///
    /// # Errors
    /// Returns the error line, if the hold has lasted longer than `hold-timeout`.
    pub fn held_until(&self) -> Result<Instant, ErrorLine> {
        self.hold.held_until()
    }

    /// Returns the error line, for a command that waited for `time`.
    pub fn held_for(&self, time: Duration) -> ErrorLine {
        self.hold.timeout_error(time)
    }

    /// Counts one more client whose commands wait for a primary.
    pub fn client_held(&self) -> Held {
        self.hold.client_held()
    }
}

/// The server, as it has described itself, and as its replies show it.
impl Upstream {
    /// Returns what the server says of itself; `None` before the first greeting.
    pub fn server(&self) -> Option<Rc<ServerInfo>> {
        self.parts.dialing.server.info()
    }

    /// Returns true if a client must authenticate before it may do anything else.
    pub fn wants_auth(&self) -> bool {
        self.auth_required.get() || self.parts.dialing.server.is_auth_required()
    }

    /// Returns true if respgate must open a connection to learn whether clients have to authenticate.
    pub fn auth_unclear(&self) -> bool {
        self.parts.dialing.server.is_auth_unclear()
    }

    /// Takes note that a connection was opened or refused, which shows whether clients have to authenticate.
    pub fn auth_cleared(&self) {
        self.parts.dialing.server.clear_auth_unclear();
    }

    /// Returns the server's description of commands that the static table lacks, once the server has been asked.
    pub fn learned(&self) -> Option<Rc<Learned>> {
        self.parts.dialing.server.learned()
    }

    /// Asks the server for its commands, for [`Self::learned`]. Returns false if the server could not be asked.
    pub async fn learn(&self, key: &ConnectionKey) -> bool {
        self.inquiries.learn(key).await
    }

    /// Returns true if the server has one user only. Returns `None` if it has not been asked lately.
    pub fn has_one_user(&self) -> Option<bool> {
        self.parts.dialing.server.has_one_user()
    }

    /// Asks the server for its users, for [`Self::has_one_user`].
    pub async fn count_users(&self, key: &ConnectionKey) {
        self.inquiries.count_users(key).await;
    }

    /// Returns a request that changes nothing, for a connection of `identity`.
    pub fn probe_request(&self, identity: &Identity) -> &'static [u8] {
        probe::probe_request(&self.identities, identity)
    }

    /// Counts an error reply. Tells discovery about an error that only a node gives that is not the primary.
    pub fn note_error(&self, line: &[u8], generation: Generation) {
        self.reports.note_error(line, generation);
    }

    /// Has discovery ask the node for its role: a reply holds an error that only a node gives that is not the primary, or that a
    /// script has forged.
    pub fn suspect(&self, generation: Generation) {
        self.reports.hint(Hint::NotPrimary(generation));
    }

    /// Sends a hint to discovery.
    pub fn hint(&self, hint: Hint) {
        self.reports.hint(hint);
    }

    /// Counts the lost connection of a lease to the primary of this generation. It may be the first sign of a failover.
    pub fn note_lease_lost(&self, generation: Generation) {
        self.reports.note_lease_lost(generation);
    }

    /// Counts what became of the requests of a lost lease, also in the failover's timeline.
    pub fn note_settled(&self, resent: usize, unknown: usize, migrated: usize) {
        self.reports.note_settled(resent, unknown, migrated);
    }

    /// Takes note that the primary of this generation gave a reply.
    pub fn succeeded(&self, generation: Generation) {
        self.reports.succeeded(generation);
    }
}

/// The connections.
impl Upstream {
    /// Returns the lane for this key. Starts one if there is none.
    pub fn lane(&self, key: &ConnectionKey) -> Rc<Lane> {
        drive::lane(&self.parts.lanes, key)
    }

    /// Returns whether `lane` takes a request of this client, and if not, why.
    pub fn admission(&self, lane: &Lane, asker: Asker) -> Admission {
        lane.admission(asker, || self.hold.held_until())
    }

    /// Returns true if a session can have a leased connection without waiting for another to give one back.
    pub fn has_free_lease(&self) -> bool {
        self.parts.pool.has_room()
    }

    /// Leases a connection for `key`: an idle one, a new one, or, when all are in use, the next that is given back when it is the
    /// turn of `share`. Waits for room for `lease-timeout` at most, and for a primary for `hold-timeout` at most.
    ///
    /// # Errors
    /// Returns the error line for the client.
    pub async fn lease(
        &self,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<Lease, ErrorLine> {
        self.parts.pool.lease(key, replies, share).await
    }

    /// Opens a connection as `identity` and keeps it for later use, so that its password is verified by the
    /// server itself. A password that the server accepted within the last minute is believed.
    ///
    /// # Errors
    /// Returns the error line for the client: the server's own, or respgate's if there is no server.
    pub async fn verify(&self, key: &ConnectionKey) -> Result<(), ErrorLine> {
        if key.identity.believed() {
            return Ok(());
        }
        let nobody = Replies::nobody(&self.parts.dialing.buffers);
        if let Some(unused) = self.parts.pool.lease_fresh(key, &nobody).await?.proven() {
            unused.give_back();
        }
        Ok(())
    }

    /// Sends SELECT on a connection for `key`, which is in that database already.
    ///
    /// # Errors
    /// Returns the error line for the client: the server's own, if the user may not SELECT.
    pub async fn ask_to_select(
        &self,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<(), ErrorLine> {
        self.inquiries.ask_to_select(key, replies, share).await
    }

    /// Returns true if a request for subscriptions by fan-in exceeds what all clients of this worker may have together.
    pub fn fan_in_full(&self, request: &Request<'_>) -> bool {
        let fans = &self.parts.fans;
        let of_shards = self.layout.shards().map_or(0, |shards| shards.fan_in_size().1);
        fans.is_full(fans.size() + of_shards, request.len())
    }

    /// Returns the shard channels of a session that acts as `identity`, speaks `resp`, and gets its messages by `replies`; `None` if the
    /// upstream has never been a cluster. With `private`, they have connections to themselves, and wait as that share for their room.
    pub fn shard_channels(
        &self,
        identity: &Rc<Identity>,
        (resp, replies): (Resp, &Rc<Replies>),
        private: Option<Share>,
    ) -> Option<ShardChannels> {
        let shards = self.present_or_former_shards()?;
        Some(ShardChannels::new(shards, identity, (resp, replies), private))
    }

    /// Returns the subscription by fan-in of a session that acts as `identity`, speaks `resp`, and gets its messages by `replies`.
    pub fn subscription(&self, identity: &Rc<Identity>, resp: Resp, replies: &Rc<Replies>) -> Subscription {
        subscription(&self.parts.fans, identity, resp, replies)
    }
}

/// The replicas.
impl Upstream {
    /// Returns the replicas of the primary. Those of a cluster's shards are apart.
    pub fn replicas(&self) -> &Rc<ReplicaReads> {
        &self.replicas
    }

    /// Returns when the newest write of the clients without a tenant was answered.
    pub fn answered_writes(&self) -> &Arc<AnsweredWrites> {
        self.replicas.answered_writes()
    }
}

/// Commands of respgate's own about clients.
impl Upstream {
    /// Sends a command that leaves no state on its connection, as `identity`, and returns the reply. Takes
    /// `connect-timeout` at most, and does not wait for a primary.
    ///
    /// # Errors
    /// Returns the error line for the client: the server's own, or respgate's.
    pub async fn ask(&self, identity: &Rc<Identity>, words: &[&[u8]]) -> Result<Value, ErrorLine> {
        match self.inquire(identity, words).await? {
            Value::Error(line) => Err(ErrorLine::of_server(&line)),
            reply => Ok(reply),
        }
    }

    /// As [`Self::ask`], but an error reply is a value.
    async fn inquire(&self, identity: &Rc<Identity>, words: &[&[u8]]) -> Result<Value, ErrorLine> {
        if self.in_hold() {
            return Err(NO_PRIMARY.into());
        }
        let key = ConnectionKey::new(identity.clone(), 0, Resp::V2);
        let deadline = Instant::now() + self.config.get().connect_timeout;
        let unanswered =
            |why: &str| ErrorLine::from(format!("-ERR respgate: the server did not answer: {why}"));
        timeout_at(deadline, self.inquiries.ask(&key, words, deadline))
            .await
            .unwrap_or_else(|_| Err(unanswered("connect-timeout has passed")))
    }

    /// Waits for a primary as commands do.
    ///
    /// # Errors
    /// Returns the error line if there is none within `hold-timeout`.
    pub async fn until_primary(&self) -> Result<(), ErrorLine> {
        while self.in_hold() {
            if timeout(self.hold_left(), self.changed()).await.is_err() {
                return Err(NO_PRIMARY.into());
            }
        }
        Ok(())
    }

    /// Asks the server whether its ACL lets `identity` run a command. `words` must be a form of the command that does
    /// nothing. Waits for a primary as commands do.
    ///
    /// # Errors
    /// Returns the server's refusal, or the error line that says why the server could not be asked.
    pub async fn check_permission(&self, identity: &Rc<Identity>, words: &[&[u8]]) -> Result<(), ErrorLine> {
        let mut retried = false;
        loop {
            self.until_primary().await?;
            match self.inquire(identity, words).await {
                Ok(Value::Error(line)) if line.starts_with(b"NOPERM ") => {
                    return Err(ErrorLine::of_server(&line));
                }
                // Servers check the permission before everything that another error can be about.
                Ok(_) => return Ok(()),
                // A failover that has just begun loses connections before there is a hold.
                Err(line) if line.is_of_server() || retried => return Err(line),
                Err(_) => retried = !self.in_hold(),
            }
        }
    }

    /// Returns the identity that may unblock a client of `identity`: respgate's own, unless clients must authenticate
    /// themselves.
    pub fn identity_to_unblock<'a>(&'a self, identity: &'a Rc<Identity>) -> &'a Rc<Identity> {
        if self.parts.dialing.server.is_auth_required() { identity } else { self.identities.own() }
    }

    /// Returns the primary; `None` while there is none.
    pub fn primary(&self) -> Option<Arc<Primary>> {
        self.hold.primary()
    }

    /// Returns the server's ids of this worker's open connections.
    pub fn connection_ids(&self) -> Vec<u64> {
        self.parts.dialing.ids.all()
    }

    /// Takes note that the server may be silent until then, because a client has paused it.
    pub fn suspend_response_timeout(&self, until: Instant) {
        self.parts.dialing.pause.suspend(until);
    }
}

#[cfg(test)]
mod tests;
