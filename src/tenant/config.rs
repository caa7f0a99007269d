//! What a user can say of one tenant.

use super::policy::config::PolicyConfig;

/// One tenant.
#[derive(Clone, Debug)]
pub struct TenantConfig {
    /// For logs and metrics, and for listeners to name.
    pub name: String,
    /// Which commands its clients may run, and on what.
    pub policy: PolicyConfig,
}
