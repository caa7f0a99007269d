use std::sync::Arc;

use super::*;
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
        cluster: None,
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
