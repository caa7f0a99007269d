//! The replicas that the configuration names, or the nodes of a cluster. Pure.

use crate::discovery::config::DiscoveryConfig;
use crate::discovery::replicas::MAX_REPLICAS;
use crate::topology::Address;

/// The replicas of one primary, as the configuration or the nodes of a cluster name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredReplicas {
    /// The address of the primary that they replicate, if that is a fixed one.
    pub primary: Option<Address>,
    /// Their addresses.
    pub replicas: Vec<Address>,
}

impl ConfiguredReplicas {
    /// Returns the replicas of the place that `config` describes. An operator may have switched the upstream to another place, to
    /// which the configured replicas do not belong.
    pub(super) fn of(&self, config: &DiscoveryConfig) -> Vec<Address> {
        match config {
            DiscoveryConfig::Fixed(address) if self.primary.as_ref() == Some(address) => {
                self.replicas.iter().take(MAX_REPLICAS).cloned().collect()
            }
            DiscoveryConfig::Cluster(_) => self.replicas.iter().take(MAX_REPLICAS).cloned().collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replicas_belong_to_one_primary() {
        let (here, elsewhere) = (Address::tcp("10.0.0.5", 6379), Address::tcp("10.0.0.9", 6379));
        let replicas = vec![Address::tcp("10.0.0.6", 6379)];
        let configured = ConfiguredReplicas { primary: Some(here.clone()), replicas: replicas.clone() };
        assert_eq!(configured.of(&DiscoveryConfig::Fixed(here)), replicas);
        assert_eq!(configured.of(&DiscoveryConfig::Fixed(elsewhere)), []);
    }
}
