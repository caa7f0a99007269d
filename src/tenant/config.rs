//! What a user can say of one tenant.

use std::sync::Arc;

use super::identity::MembersConfig;
use super::limits::config::LimitsConfig;
use super::policy::Policy;
use crate::upstream::turns::Due;

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
    pub due: Due,
    /// Which commands its clients may run, and on what; `None`: everything.
    pub policy: Option<Arc<Policy>>,
}
