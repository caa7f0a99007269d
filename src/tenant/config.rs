//! What a user can say of one tenant.

use std::sync::Arc;

use super::policy::Policy;

/// One tenant.
#[derive(Clone, Debug)]
pub struct TenantConfig {
    /// For logs and metrics, and for listeners to name.
    pub name: String,
    /// Which commands its clients may run, and on what; `None`: everything.
    pub policy: Option<Arc<Policy>>,
}
