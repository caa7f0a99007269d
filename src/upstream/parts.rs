//! The parts of one worker's connections to one primary, for the tasks that act on all of them.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::{mpsc, watch};

use super::access::Access;
use super::cluster_room::{ClusterRoom, NodeConnections};
use super::config::LiveConfig;
use super::connection::identities::Identities;
use super::connection::ids::ConnectionIds;
use super::connection::open::Dialing;
use super::connection::scripts::Scripts;
use super::connection::server::ServerFacts;
use super::fanin::fans::FanIns;
use super::held::HeldBytes;
use super::hold::Hold;
use super::leased::pool::LeasePool;
use super::pause::ServerPause;
use super::redirects::Redirects;
use super::replica::reads::ReplicaReads;
use super::reports::Reports;
use super::room::SharedRoom;
use super::shared::lanes::Lanes;
use super::tasks::Tasks;
use crate::hint::Hint;
use crate::latency::UpstreamLatency;
use crate::metrics::Counters;
use crate::net::buffers::Buffers;
use crate::poll_meter::PollMeter;
use crate::replica::ReplicaFeed;
use crate::timeline::Timelines;

/// What the connections of one worker to all primaries of an upstream share.
pub(in crate::upstream) struct Common {
    pub(in crate::upstream) config: Rc<LiveConfig>,
    pub(in crate::upstream) counters: Rc<Counters>,
    /// Where the time of commands goes.
    pub(in crate::upstream) latency: Rc<UpstreamLatency>,
    pub(in crate::upstream) hints: mpsc::Sender<Hint>,
    pub(in crate::upstream) scripts: Scripts,
    pub(in crate::upstream) access: watch::Receiver<Access>,
    pub(in crate::upstream) identities: Rc<Identities>,
    pub(in crate::upstream) buffers: Rc<Buffers>,
    pub(in crate::upstream) meter: Rc<PollMeter>,
    /// The room for the connections to all nodes of a cluster.
    pub(in crate::upstream) room: Rc<ClusterRoom>,
    /// Follows the redirects of nodes while the upstream is a cluster.
    pub(in crate::upstream) redirects: Rc<Redirects>,
    /// The bytes of the commands that wait for any primary.
    pub(in crate::upstream) held: HeldBytes,
    /// The failovers of all primaries.
    pub(in crate::upstream) timelines: Timelines,
}

/// The parts of one worker's connections to one primary.
#[derive(Clone)]
pub(in crate::upstream) struct Parts {
    /// Opens the connections.
    pub(in crate::upstream) dialing: Rc<Dialing>,
    /// The leased connections.
    pub(in crate::upstream) pool: Rc<LeasePool>,
    /// The shared connections.
    pub(in crate::upstream) lanes: Rc<Lanes>,
    /// The connections of subscribers.
    pub(in crate::upstream) fans: Rc<FanIns>,
    /// The connections to replicas.
    pub(in crate::upstream) replicas: Rc<ReplicaReads>,
}

impl Parts {
    /// Creates parts without connections. `timelines` records the failovers of the primary, and `fair` is true if tenants share the
    /// connections. The caller starts the tasks.
    pub(in crate::upstream) fn new(
        common: &Common,
        timelines: Timelines,
        replicas: ReplicaFeed,
        fair: bool,
    ) -> Self {
        let Common {
            config,
            counters,
            latency,
            hints,
            scripts,
            access,
            identities,
            buffers,
            meter,
            room: cluster_room,
            redirects,
            held,
            timelines: _,
        } = common;
        let reports = Rc::new(Reports::new(counters.clone(), latency.clone(), timelines, hints.clone()));
        let hold = Rc::new(Hold::new(config.clone(), reports.clone(), held.clone()));
        let dialer = access.borrow().dialer.clone();
        let dialing = Rc::new(Dialing {
            config: config.clone(),
            hold,
            reports,
            identities: identities.clone(),
            server: ServerFacts::default(),
            ids: ConnectionIds::default(),
            pause: ServerPause::default(),
            scripts: scripts.clone(),
            dialer: RefCell::new(dialer),
            room: cluster_room.clone(),
            access: access.clone(),
            buffers: buffers.clone(),
            tasks: Tasks::new(meter.clone()),
            meter: meter.clone(),
        });
        let pool = Rc::new(LeasePool::new(dialing.clone()));
        let room = Rc::new(SharedRoom::of_primary(config.clone(), cluster_room));
        let lanes = Lanes::new(pool.clone(), room.clone(), fair).redirected_by(redirects.clone());
        let lanes = Rc::new(lanes);
        let fans = Rc::new(FanIns::new(dialing.clone(), room.clone(), pool.clone()));
        let (weak_lanes, weak_fans) = (Rc::downgrade(&lanes), Rc::downgrade(&fans));
        room.on_close_unused(move || {
            weak_lanes.upgrade().is_some_and(|lanes| lanes.close_unused())
                || weak_fans.upgrade().is_some_and(|fans| fans.close_unused())
        });
        let replicas = ReplicaReads::new(replicas, lanes.clone());
        let connections: Rc<dyn NodeConnections> = lanes.clone();
        cluster_room.add(Rc::downgrade(&connections));
        let connections: Rc<dyn NodeConnections> = replicas.clone();
        cluster_room.add(Rc::downgrade(&connections));
        Self { dialing, pool, lanes, fans, replicas }
    }
}
