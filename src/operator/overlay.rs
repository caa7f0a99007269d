//! Combines what discovery finds with what an operator has ordered. Pure.
//!
//! Workers see one topology and one sequence of generations, although a switch replaces discovery, whose own generations
//! begin at 1:
//!
//! | discovery says | no order | paused, or switching |
//! |---|---|---|
//! | a primary | it | it, and commands wait |
//! | a failover is under way | it | it: the failover is the nearer reason |
//! | no primary | it | it |

use std::sync::Arc;

use crate::cluster::{ClusterTopology, Shard};
use crate::hint::Hint;
use crate::topology::{Generation, Outage, Primary, Sign, Topology};

/// What discovery says, and what an operator has ordered.
#[derive(Debug)]
pub(super) struct Overlay {
    /// The newest topology of the present discovery, with its own generations.
    discovered: Topology,
    /// The newest state of the present cluster, with its own generations; `None` if the upstream is none.
    cluster: Option<Arc<ClusterTopology>>,
    /// The number that turns a generation of the present discovery into one for workers.
    base: u64,
    /// The highest generation that workers have seen.
    highest: u64,
    /// The kind of the pause, if the upstream is paused.
    pause: Option<Pause>,
    switching: bool,
    /// True if the pause was ordered while the switch was under way. It goes on after the switch.
    outlasts_switch: bool,
}

/// How an upstream is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pause {
    /// What is under way goes on: blocked commands, subscriptions, transactions.
    Drained,
    /// Every connection is closed, once its replies have come or shortly afterwards. Sessions get others after the pause.
    AtOnce,
}

impl Overlay {
    pub(super) fn new() -> Self {
        Self {
            discovered: Topology::Unknown(Arc::new(Outage::Starting)),
            cluster: None,
            base: 0,
            highest: 0,
            pause: None,
            switching: false,
            outlasts_switch: false,
        }
    }

    /// Returns the topology for workers.
    pub(super) fn topology(&self) -> Topology {
        self.cover(&self.discovered)
    }

    /// Returns the cluster for workers; `None` if the upstream is none. Orders concern all its shards.
    pub(super) fn cluster(&self) -> Option<Arc<ClusterTopology>> {
        let discovered = self.cluster.as_ref()?;
        if !self.switching && self.pause.is_none() && self.base == 0 {
            return Some(Arc::clone(discovered));
        }
        let shards = discovered
            .shards
            .iter()
            .map(|shard| Shard { topology: self.cover(&shard.topology), ..Shard::clone(shard) });
        Some(Arc::new(ClusterTopology { shards: shards.collect(), ..ClusterTopology::clone(discovered) }))
    }

    fn cover(&self, discovered: &Topology) -> Topology {
        let order = match (self.switching, self.pause) {
            (true, _) => Some(Sign::Switching),
            (false, Some(Pause::Drained)) => Some(Sign::Paused),
            (false, Some(Pause::AtOnce)) => Some(Sign::PausedAtOnce),
            (false, None) => None,
        };
        match (discovered, order) {
            (Topology::Known(primary), None) => Topology::Known(self.renumbered(primary)),
            (Topology::Known(primary), Some(order)) => Topology::Failing(self.renumbered(primary), order),
            (Topology::Failing(primary, sign), _) => Topology::Failing(self.renumbered(primary), *sign),
            (Topology::Unknown(outage), _) => Topology::Unknown(outage.clone()),
        }
    }

    /// Takes over the newest topology of the present discovery.
    pub(super) fn discover(&mut self, topology: Topology) {
        self.note_generation(&topology);
        self.discovered = topology;
    }

    /// Takes over the newest state of the present cluster.
    pub(super) fn discover_cluster(&mut self, cluster: Arc<ClusterTopology>) {
        cluster.shards.iter().for_each(|shard| self.note_generation(&shard.topology));
        self.cluster = Some(cluster);
    }

    fn note_generation(&mut self, topology: &Topology) {
        if let Some(primary) = topology.primary() {
            self.highest = self.highest.max(self.base + primary.generation.0);
        }
    }

    /// Pauses the upstream. A pause at once stays one if it is ordered again with a drain. Returns the kind of the pause in force.
    pub(super) fn pause(&mut self, pause: Pause) -> Pause {
        let stricter = self.pause.map_or(pause, |before| before.max(pause));
        self.pause = Some(stricter);
        self.outlasts_switch = self.switching;
        stricter
    }

    /// Ends the pause. Returns false if there was none.
    pub(super) fn resume(&mut self) -> bool {
        self.pause.take().is_some()
    }

    /// Holds commands for a switch. Returns the primary that the switch leaves; `None` if there is none.
    ///
    /// # Errors
    /// Returns the reason why no switch may begin now.
    pub(super) fn begin_switch(&mut self) -> Result<Option<Arc<Primary>>, String> {
        match &self.discovered {
            Topology::Failing(_, sign) => {
                Err(format!("a failover is under way ({sign}); try again when it is over"))
            }
            topology => {
                self.switching = true;
                Ok(topology.primary().cloned())
            }
        }
    }

    /// Ends a switch that did not succeed.
    pub(super) fn end_switch(&mut self) {
        (self.switching, self.outlasts_switch) = (false, false);
    }

    /// Returns true if the upstream is paused.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Follows another discovery from now on, with generations above those of the former one. Ends the switch, and a
    /// pause that was ordered before it.
    pub(super) fn adopt(&mut self, discovered: Topology, cluster: Option<Arc<ClusterTopology>>) {
        self.base = self.highest;
        self.pause = self.pause.filter(|_| self.outlasts_switch);
        (self.switching, self.outlasts_switch) = (false, false);
        self.cluster = None;
        if let Some(cluster) = cluster {
            self.discover_cluster(cluster);
        }
        self.discover(discovered);
    }

    /// Returns a worker's hint for the present discovery; `None` if it concerns a former one.
    pub(super) fn inner(&self, hint: Hint) -> Option<Hint> {
        let inner = |generation: Generation| {
            let number = generation.0.checked_sub(self.base).filter(|number| *number > 0)?;
            Some(Generation(number))
        };
        Some(match hint {
            Hint::Lost(generation) => Hint::Lost(inner(generation)?),
            Hint::OtherNode(generation) => Hint::OtherNode(inner(generation)?),
            Hint::NotPrimary(generation) => Hint::NotPrimary(inner(generation)?),
            Hint::ClusterDown(generation) => Hint::ClusterDown(inner(generation)?),
            moved @ Hint::Moved { .. } => moved,
        })
    }

    fn outer(&self, generation: Generation) -> Generation {
        Generation(self.base + generation.0)
    }

    fn renumbered(&self, primary: &Arc<Primary>) -> Arc<Primary> {
        if self.base == 0 {
            return primary.clone();
        }
        Arc::new(Primary { generation: self.outer(primary.generation), ..Primary::clone(primary) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Address;

    fn primary(generation: u64) -> Arc<Primary> {
        Arc::new(Primary {
            generation: Generation(generation),
            address: Address::tcp("10.0.0.1", 6379),
            config_epoch: None,
            server: None,
            node: None,
        })
    }

    /// Returns what workers see: the generation, and why commands wait.
    fn seen(overlay: &Overlay) -> (Option<u64>, Option<Sign>) {
        match overlay.topology() {
            Topology::Known(primary) => (Some(primary.generation.0), None),
            Topology::Failing(primary, sign) => (Some(primary.generation.0), Some(sign)),
            Topology::Unknown(_) => (None, None),
        }
    }

    #[test]
    fn a_pause_holds_commands_until_it_ends() {
        let mut overlay = Overlay::new();
        assert_eq!(seen(&overlay), (None, None));
        overlay.discover(Topology::Known(primary(1)));
        assert_eq!(seen(&overlay), (Some(1), None));
        overlay.pause(Pause::Drained);
        assert_eq!(seen(&overlay), (Some(1), Some(Sign::Paused)));
        overlay.pause(Pause::AtOnce);
        overlay.pause(Pause::Drained);
        assert_eq!(seen(&overlay), (Some(1), Some(Sign::PausedAtOnce)), "the stricter one stays");
        assert!(overlay.resume());
        assert_eq!(seen(&overlay), (Some(1), None));
        assert!(!overlay.resume(), "nothing is paused");
    }

    #[test]
    fn a_failover_in_a_pause_is_followed_and_the_pause_goes_on() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Known(primary(1)));
        overlay.pause(Pause::Drained);
        overlay.discover(Topology::Failing(primary(1), Sign::Closing));
        assert_eq!(seen(&overlay), (Some(1), Some(Sign::Closing)));
        overlay.discover(Topology::Unknown(Arc::new(Outage::Verifying("x".into()))));
        assert_eq!(seen(&overlay), (None, None));
        overlay.discover(Topology::Known(primary(2)));
        assert_eq!(seen(&overlay), (Some(2), Some(Sign::Paused)));
        overlay.resume();
        assert_eq!(seen(&overlay), (Some(2), None));
    }

    #[test]
    fn a_pause_in_a_failover_begins_when_the_failover_ends() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Failing(primary(1), Sign::Election));
        overlay.pause(Pause::Drained);
        assert_eq!(seen(&overlay), (Some(1), Some(Sign::Election)));
        overlay.discover(Topology::Known(primary(2)));
        assert_eq!(seen(&overlay), (Some(2), Some(Sign::Paused)));
        // A resume before the end of the failover leaves the failover alone.
        overlay.discover(Topology::Failing(primary(2), Sign::Down));
        assert!(overlay.resume());
        assert_eq!(seen(&overlay), (Some(2), Some(Sign::Down)));
    }

    #[test]
    fn generations_rise_over_a_switch() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Known(primary(3)));
        assert_eq!(overlay.begin_switch().unwrap().unwrap().generation, Generation(3));
        assert_eq!(seen(&overlay), (Some(3), Some(Sign::Switching)));
        overlay.end_switch();
        assert_eq!(seen(&overlay), (Some(3), None));
        overlay.pause(Pause::Drained);
        overlay.begin_switch().unwrap();
        overlay.adopt(Topology::Known(primary(1)), None);
        assert_eq!(seen(&overlay), (Some(4), None), "the pause ends with the switch");
        overlay.discover(Topology::Known(primary(2)));
        assert_eq!(seen(&overlay), (Some(5), None));
        overlay.adopt(Topology::Known(primary(1)), None);
        assert_eq!(seen(&overlay), (Some(6), None));
    }

    #[test]
    fn a_pause_that_is_ordered_in_a_switch_outlasts_it() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Known(primary(1)));
        overlay.begin_switch().unwrap();
        overlay.pause(Pause::Drained);
        assert_eq!(seen(&overlay), (Some(1), Some(Sign::Switching)));
        overlay.adopt(Topology::Known(primary(1)), None);
        assert_eq!(seen(&overlay), (Some(2), Some(Sign::Paused)));
        assert!(overlay.is_paused());
        // The next switch ends it, because it was ordered before.
        overlay.begin_switch().unwrap();
        overlay.adopt(Topology::Known(primary(1)), None);
        assert_eq!(seen(&overlay), (Some(3), None));
        // One that is ended in the switch does not come back.
        overlay.begin_switch().unwrap();
        overlay.pause(Pause::AtOnce);
        assert!(overlay.resume());
        overlay.end_switch();
        assert_eq!(seen(&overlay), (Some(3), None));
    }

    /// Returns a cluster whose shards have primaries of these generations.
    fn cluster(generations: &[u64]) -> Arc<ClusterTopology> {
        let shard = |(number, generation)| Shard {
            number: crate::cluster::ShardNumber(number),
            topology: Topology::Known(primary(generation)),
            replicas: Vec::new(),
        };
        let shards = (0..).zip(generations.iter().copied()).map(shard);
        Arc::new(ClusterTopology { shards: shards.collect(), ..ClusterTopology::default() })
    }

    /// Returns the generation of each shard as workers see it, and why its commands wait; `None` for one primary.
    fn seen_of_shards(overlay: &Overlay) -> Option<Vec<(u64, Option<Sign>)>> {
        let seen = |shard: &Shard| match &shard.topology {
            Topology::Known(primary) => (primary.generation.0, None),
            Topology::Failing(primary, sign) => (primary.generation.0, Some(*sign)),
            Topology::Unknown(_) => unreachable!(),
        };
        overlay.cluster().map(|cluster| cluster.shards.iter().map(seen).collect())
    }

    #[test]
    fn generations_rise_from_a_primary_over_clusters_to_a_primary() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Known(primary(3)));
        assert_eq!(seen_of_shards(&overlay), None);
        overlay.begin_switch().unwrap();
        overlay.adopt(Topology::Known(primary(2)), Some(cluster(&[2, 1, 5])));
        assert_eq!(seen(&overlay), (Some(5), None));
        assert_eq!(seen_of_shards(&overlay), Some(vec![(5, None), (4, None), (8, None)]));
        assert_eq!(overlay.inner(Hint::Lost(Generation(8))), Some(Hint::Lost(Generation(5))));
        overlay.discover_cluster(cluster(&[2, 6, 5]));
        overlay.begin_switch().unwrap();
        let switching = Some(Sign::Switching);
        assert_eq!(seen_of_shards(&overlay), Some(vec![(5, switching), (9, switching), (8, switching)]));
        overlay.adopt(Topology::Known(primary(1)), Some(cluster(&[1, 2])));
        assert_eq!(
            seen_of_shards(&overlay),
            Some(vec![(10, None), (11, None)]),
            "above those of every shard"
        );
        overlay.begin_switch().unwrap();
        overlay.adopt(Topology::Known(primary(1)), None);
        assert_eq!((seen(&overlay), seen_of_shards(&overlay)), ((Some(12), None), None));
    }

    #[test]
    fn hints_reach_the_discovery_that_they_concern() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Known(primary(2)));
        assert_eq!(overlay.inner(Hint::Lost(Generation(2))), Some(Hint::Lost(Generation(2))));
        overlay.adopt(Topology::Known(primary(1)), None);
        assert_eq!(overlay.inner(Hint::Lost(Generation(2))), None);
        assert_eq!(overlay.inner(Hint::NotPrimary(Generation(3))), Some(Hint::NotPrimary(Generation(1))));
    }

    #[test]
    fn no_switch_begins_in_a_failover() {
        let mut overlay = Overlay::new();
        overlay.discover(Topology::Failing(primary(1), Sign::Promotion));
        assert!(overlay.begin_switch().unwrap_err().contains("a failover is under way"));
        overlay.discover(Topology::Unknown(Arc::new(Outage::Starting)));
        assert_eq!(overlay.begin_switch().unwrap().map(|primary| primary.generation), None);
    }
}
