//! Configures one tenant.

use std::sync::Arc;

use super::limits::config::LimitsConfig;
use super::members::MembersConfig;
use super::policy::Policy;
use crate::replica::Reads;
use crate::upstream::shared::fair::fair_queue::ShareConfig;

/// Says how subscriptions travel to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pubsub {
    /// Each client's subscriptions have a connection of their own.
    #[default]
    Dedicated,
    /// The subscriptions of all clients of one worker and upstream user share one connection.
    FanIn,
}

/// Configures one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantConfig {
    /// The tenant's name, for logs and metrics, and for listeners to refer to.
    pub name: String,
    /// The rules that select the tenant's clients.
    pub members: MembersConfig,
    /// The limits of the tenant and of each of its clients.
    pub limits: LimitsConfig,
    /// The tenant's share where clients wait for each other.
    pub share: ShareConfig,
    /// How its clients' subscriptions travel.
    pub pubsub: Pubsub,
    /// The nodes that answer its clients' reads; `None` leaves that to the listener.
    pub reads: Option<Reads>,
    /// Which commands its clients may run, and on which keys and channels; `None` allows everything.
    pub policy: Option<Arc<Policy>>,
}
