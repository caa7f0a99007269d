use std::sync::Arc;

use super::*;
use crate::cluster::slot::Slot;
use crate::cluster::slots::SlotTable;
use crate::cluster::{Shard, ShardNumber};
use crate::latency::config::LatencyConfig;
use crate::topology::{Address, Outage, Primary};

fn plan(config: UpstreamConfig, topology: watch::Receiver<Topology>) -> UpstreamPlan {
    UpstreamPlan {
        number: 0,
        config,
        access: watch::channel(Access::default()).1,
        topology,
        hints: mpsc::channel(1).0,
        scripts: Scripts::default(),
        fair: false,
        timelines: Timelines::default(),
        replicas: ReplicaFeed::none(),
        cluster: watch::channel(None).1,
        shard_replicas: watch::channel(Arc::default()).1,
    }
}

/// Starts an upstream without a primary, in a local task set.
fn upstream(config: UpstreamConfig, buffers: Rc<Buffers>) -> (Rc<Upstream>, watch::Sender<Topology>) {
    let (topology, seen) = watch::channel(Topology::Unknown(Arc::new(Outage::Starting)));
    let meter = PollMeter::new();
    let latency = WorkerLatency::new(&LatencyConfig::default(), meter.clock());
    (Upstream::start(plan(config, seen), buffers, meter, latency), topology)
}

/// Returns the parts of an upstream without a primary, in a local task set.
pub(super) fn parts(buffers: Rc<Buffers>) -> (Parts, watch::Sender<Topology>) {
    let (upstream, topology) = upstream(UpstreamConfig::new("test"), buffers);
    (upstream.parts.clone(), topology)
}

/// Without a primary commands fail at once; but a connection to a known one is waited for.
#[tokio::test(start_paused = true)]
async fn no_hold_at_all_is_a_choice() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let config = UpstreamConfig { hold_timeout: Duration::ZERO, ..UpstreamConfig::new("main") };
            let (upstream, _topology) = upstream(config, Rc::new(Buffers::alone(1024)));
            assert!(upstream.hold.deadline().is_ok(), "nothing is known to be wrong");
            upstream.hold.begin();
            assert!(upstream.hold.deadline().is_err());
            upstream.hold.end();
            assert!(upstream.hold.deadline().is_ok());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_long_quiet_time_before_the_first_command_is_no_outage() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let buffers = Rc::new(Buffers::alone(1024));
            let (upstream, topology) = upstream(UpstreamConfig::new("main"), buffers);
            tokio::time::sleep(upstream.config.get().hold_timeout * 2).await;
            assert!(upstream.hold.deadline().is_err(), "no primary for so long");
            topology.send_replace(Topology::Known(Arc::new(Primary {
                generation: Generation(1),
                address: Address::tcp("127.0.0.1", 1),
                config_epoch: None,
                server: None,
                node: None,
            })));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(upstream.hold.deadline().is_ok());
        })
        .await;
}

/// Returns a cluster whose shard `number` serves the slots of each range, and whose generations are the shards' numbers.
fn cluster(shards: &[(u32, std::ops::Range<u16>)]) -> Arc<ClusterTopology> {
    let mut slots = SlotTable::default();
    for (number, range) in shards {
        let served = range.clone().filter_map(Slot::new);
        served.for_each(|slot| slots.assign(slot, Some(ShardNumber(*number))));
    }
    let shard = |number: u32| Shard {
        number: ShardNumber(number),
        topology: Topology::Known(Arc::new(Primary {
            generation: Generation(u64::from(number)),
            address: Address::tcp("127.0.0.1", u16::try_from(number).unwrap()),
            config_epoch: None,
            server: None,
            node: None,
        })),
        replicas: Vec::new(),
    };
    let mut numbers: Vec<u32> = shards.iter().map(|(number, _)| *number).collect();
    numbers.dedup();
    Arc::new(ClusterTopology {
        shards: numbers.into_iter().map(shard).collect(),
        slots: Arc::new(slots),
        ..ClusterTopology::default()
    })
}

#[tokio::test(start_paused = true)]
async fn slots_follow_the_topology_of_a_cluster() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (publish, seen) = watch::channel(Some(Arc::default()));
            let (_topology, home) = watch::channel(Topology::Unknown(Arc::new(Outage::Starting)));
            let plan = UpstreamPlan { cluster: seen, ..plan(UpstreamConfig::new("main"), home) };
            let meter = PollMeter::new();
            let latency = WorkerLatency::new(&LatencyConfig::default(), meter.clock());
            let upstream = Upstream::start(plan, Rc::new(Buffers::alone(1024)), meter, latency);
            let shards = upstream.shards().unwrap().clone();
            let pass = || tokio::time::sleep(Duration::from_millis(1));
            let slot = |number| Slot::new(number).unwrap();
            let number = |of: u16| shards.of(slot(of)).number();
            let serving = || {
                let serving = shards.serving();
                serving.iter().map(|(slot, shard)| (slot.number(), shard.generation())).collect::<Vec<_>>()
            };

            pass().await;
            assert!(shards.of(slot(5)).in_hold(), "no shard serves any slot");
            publish.send_replace(Some(cluster(&[(1, 0..100), (2, 100..16_384)])));
            pass().await;
            assert_eq!((number(5), number(100)), (Some(ShardNumber(1)), Some(ShardNumber(2))));
            assert_eq!(serving(), [(0, Some(Generation(1))), (100, Some(Generation(2)))]);

            // A node says so before discovery does, which then has the last word.
            let version = shards.version();
            let second = shards.at(&Address::tcp("127.0.0.1", 2)).unwrap();
            shards.moved(slot(5), &second);
            assert_eq!((number(5), shards.version() > version), (Some(ShardNumber(2)), true));
            let gained = || [1, 2].map(|port| shards.at(&Address::tcp("127.0.0.1", port)).unwrap().gained());
            let [of_first, of_second] = gained();
            assert!(
                of_second > of_first,
                "a replica of the second has the slot's keys only if it has applied what came before"
            );
            let version = shards.version();
            shards.moved(slot(5), &second);
            assert_eq!(shards.version(), version);
            pass().await;
            publish.send_replace(Some(cluster(&[(1, 0..100), (2, 100..16_384)])));
            pass().await;
            assert_eq!(number(5), Some(ShardNumber(1)));
            assert!(gained()[0] > of_second && gained()[1] == of_second);

            // Reads of a slot on its way go to primaries.
            let moving = [slot(7)].into();
            publish.send_replace(Some(Arc::new(ClusterTopology {
                moving,
                ..ClusterTopology::clone(&cluster(&[(1, 0..100), (2, 100..16_384)]))
            })));
            pass().await;
            assert!(shards.is_moving(slot(7)) && !shards.is_moving(slot(8)));

            // A shard goes, and with it the slots that no other one has taken over.
            publish.send_replace(Some(cluster(&[(2, 50..16_384), (3, 0..10)])));
            pass().await;
            assert_eq!(
                (number(5), number(20), number(60)),
                (Some(ShardNumber(3)), None, Some(ShardNumber(2)))
            );
            assert!(shards.of(slot(20)).in_hold() && !shards.of(slot(5)).in_hold());
            assert!(shards.at(&Address::tcp("127.0.0.1", 1)).is_none());
            assert_eq!(serving(), [(0, Some(Generation(3))), (10, None), (50, Some(Generation(2)))]);
        })
        .await;
}

/// A switch replaces one primary by a cluster, and back, and publishes the cluster first.
#[tokio::test(start_paused = true)]
async fn a_cluster_replaces_one_primary_and_goes_again() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (publish, seen) = watch::channel(None);
            let known = |generation| {
                Topology::Known(Arc::new(Primary {
                    generation: Generation(generation),
                    address: Address::tcp("127.0.0.1", 9),
                    config_epoch: None,
                    server: None,
                    node: None,
                }))
            };
            let (topology, home) = watch::channel(known(1));
            let plan = UpstreamPlan { cluster: seen, ..plan(UpstreamConfig::new("main"), home) };
            let meter = PollMeter::new();
            let latency = WorkerLatency::new(&LatencyConfig::default(), meter.clock());
            let upstream = Upstream::start(plan, Rc::new(Buffers::alone(1024)), meter, latency);
            let pass = || tokio::time::sleep(Duration::from_millis(1));
            let slot = Slot::new(5).unwrap();

            pass().await;
            assert!(!upstream.is_cluster() && !upstream.has_been_cluster() && upstream.shards().is_none());
            let version = upstream.layout_version();
            publish.send_replace(Some(cluster(&[(2, 0..100), (3, 100..16_384)])));
            topology.send_replace(known(2));
            pass().await;
            assert!(upstream.is_cluster() && upstream.layout_version() > version);
            let shards = upstream.shards().unwrap().clone();
            assert_eq!(shards.of(slot).generation(), Some(Generation(2)));
            assert_eq!(upstream.generation(), Some(Generation(2)));

            let (version, slots) = (upstream.layout_version(), shards.version());
            let left = shards.of(slot);
            publish.send_replace(None);
            topology.send_replace(known(4));
            pass().await;
            assert!(!upstream.is_cluster() && upstream.has_been_cluster() && upstream.shards().is_none());
            assert!(upstream.layout_version() > version && shards.version() > slots);
            assert_eq!(left.generation(), None, "nothing is sent to a shard that is gone");
            // What was begun in the cluster goes on at the primary.
            let only = upstream.present_or_former_shards().unwrap().of(slot);
            assert_eq!((only.number(), only.generation()), (None, Some(Generation(4))));
            assert_eq!(shards.serving().len(), 1);

            publish.send_replace(Some(cluster(&[(7, 0..16_384)])));
            pass().await;
            assert_eq!(upstream.shards().unwrap().of(slot).number(), Some(ShardNumber(7)));
        })
        .await;
}
