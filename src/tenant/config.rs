//! What a user can say of one tenant.

use std::sync::Arc;

use super::identity::MembersConfig;
use super::limits::config::LimitsConfig;
use super::policy::Policy;
use crate::upstream::shared::fair::fair_queue::ShareConfig;

/// How subscriptions travel to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pubsub {
    /// Each client's on a connection of its own.
    #[default]
    Dedicated,
    /// Those of all clients of one worker and upstream user on one connection.
    FanIn,
}

/// One tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantConfig {
    /// For logs and metrics, and for listeners to name.
    pub name: String,
    /// Which clients are its.
    pub members: MembersConfig,
    /// How much they may use.
    pub limits: LimitsConfig,
    /// Its share where clients wait for each other.
    pub due: ShareConfig,
    /// How its clients' subscriptions travel.
    pub pubsub: Pubsub,
    /// Which commands its clients may run, and on what; `None`: everything.
    pub policy: Option<Arc<Policy>>,
}
