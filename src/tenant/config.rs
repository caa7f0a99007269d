//! What a user can say of one tenant.

use std::sync::Arc;

use super::identity::MembersConfig;
use super::limits::config::LimitsConfig;
use super::policy::Policy;

/// One tenant.
#[derive(Clone, Debug, Default)]
pub struct TenantConfig {
    /// For logs and metrics, and for listeners to name.
    pub name: String,
    /// Which clients are its.
    pub members: MembersConfig,
    /// How much they may use.
    pub limits: LimitsConfig,
    /// Which commands its clients may run, and on what; `None`: everything.
    pub policy: Option<Arc<Policy>>,
}
