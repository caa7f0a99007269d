//! Samples the replicas of an upstream that an operator may switch to another address.

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ReplicaSampler, Replication, spawn};
use crate::discovery::config::DiscoveryConfig;
use crate::discovery::{Dialers, DiscoveryStatus, Logins};
use crate::topology::Topology;

/// Where replicas are sampled, and how respgate reaches them.
#[derive(Clone, Debug)]
pub struct SampledPlace {
    /// How discovery finds the primary.
    pub config: DiscoveryConfig,
    /// respgate's own credentials there.
    pub logins: Logins,
    /// Dials the nodes and the Sentinels.
    pub dialers: Dialers,
    /// The topology there, as discovery publishes it.
    pub topology: watch::Receiver<Topology>,
    /// The Sentinels there, as discovery sees them.
    pub status: watch::Receiver<DiscoveryStatus>,
}

/// Starts to sample the newest place. `name` is the upstream's name, for logs.
pub fn follow(name: &str, places: watch::Receiver<SampledPlace>) -> ReplicaSampler {
    let (newest, seen) = watch::channel(Replication::default());
    let mut task = JoinSet::new();
    task.spawn(sample(name.to_owned(), places, newest));
    ReplicaSampler { newest: seen, _task: task }
}

async fn sample(name: String, mut places: watch::Receiver<SampledPlace>, newest: watch::Sender<Replication>) {
    // Each sampler counts its versions from 0, and the version must rise over a switch.
    let mut base = 0;
    loop {
        let SampledPlace { config, logins, dialers, topology, status } = places.borrow_and_update().clone();
        let mut sampler = spawn(&name, &config, logins, dialers, topology, status);
        newest.send_replace(Replication { version: base, ..Replication::default() });
        loop {
            tokio::select! {
                moved = places.changed() => match moved {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Ok(()) = sampler.newest.changed() => {
                    let mut replication = sampler.newest.borrow_and_update().clone();
                    replication.version += base;
                    newest.send_replace(replication);
                }
            }
        }
        base = newest.borrow().version + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::topology::{Address, Outage};

    fn place() -> SampledPlace {
        SampledPlace {
            config: DiscoveryConfig::Fixed(Address::tcp("127.0.0.1", 1)),
            logins: Logins::default(),
            dialers: Dialers::default(),
            topology: watch::channel(Topology::Unknown(Arc::new(Outage::Starting))).1,
            status: watch::channel(DiscoveryStatus::default()).1,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn versions_rise_over_a_switch() {
        let (places, seen) = watch::channel(place());
        let mut sampler = follow("main", seen);
        sampler.newest.changed().await.unwrap();
        assert_eq!(sampler.newest.borrow_and_update().version, 0);
        places.send_replace(place());
        sampler.newest.changed().await.unwrap();
        assert_eq!(*sampler.newest.borrow(), Replication { version: 1, ..Replication::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn sampling_ends_with_the_upstream() {
        let (places, seen) = watch::channel(place());
        let mut sampler = follow("main", seen);
        drop(places);
        while sampler.newest.changed().await.is_ok() {}
    }
}
