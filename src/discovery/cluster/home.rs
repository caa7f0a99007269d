//! The home shard as the only primary that the rest of respgate sees. Its generations only rise, also when another shard becomes the
//! home shard. Pure.

use std::sync::Arc;

use super::shard::Generations;
use crate::cluster::ShardNumber;
use crate::topology::{Generation, Primary, Topology};

/// The generations under which the home shard was published.
#[derive(Debug, Default)]
pub(super) struct HomeShard {
    /// The shard, its generation, and what that was published as.
    published: Option<(ShardNumber, Generation, Generation)>,
}

impl HomeShard {
    /// Returns the topology of the home shard as it may be published.
    pub(super) fn topology(
        &mut self,
        shard: ShardNumber,
        topology: &Topology,
        generations: &mut Generations,
    ) -> Topology {
        match topology {
            Topology::Known(primary) => Topology::Known(self.renumbered(shard, primary, generations)),
            Topology::Failing(primary, sign) => {
                Topology::Failing(self.renumbered(shard, primary, generations), *sign)
            }
            Topology::Unknown(_) => topology.clone(),
        }
    }

    /// Returns the shard and its own generation for a generation that was published for the home shard.
    pub(super) fn inner(&self, generation: Generation) -> Option<(ShardNumber, Generation)> {
        let (shard, inner, outer) = self.published?;
        (outer == generation).then_some((shard, inner))
    }

    fn renumbered(
        &mut self,
        shard: ShardNumber,
        primary: &Arc<Primary>,
        generations: &mut Generations,
    ) -> Arc<Primary> {
        let own = primary.generation;
        let outer = match self.published {
            Some((known, inner, outer)) if (known, inner) == (shard, own) => outer,
            Some((_, _, highest)) if own <= highest => generations.next(),
            _ => own,
        };
        self.published = Some((shard, own, outer));
        if outer == own {
            return primary.clone();
        }
        Arc::new(Primary { generation: outer, ..Primary::clone(primary) })
    }
}
