//! Collects the commands that respgate refuses the clients of an upstream.

use crate::config::Config;
use crate::session::config::AdminCommands;

/// The commands that respgate refuses the clients of an upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusedCommands {
    /// True if a listener of the upstream refuses administrative commands.
    pub(super) administration: bool,
    /// The names of the tenants whose policies allow scripts, each with the ACL rules that enforce the policy on the
    /// server.
    pub(super) tenants: Vec<(String, String)>,
}

impl RefusedCommands {
    /// Returns what respgate refuses the clients of one upstream.
    pub(super) fn of(config: &Config, upstream: &str) -> Self {
        let denies = |admin| admin != AdminCommands::Allow;
        let mut listeners = config.listeners.iter().filter(|listener| listener.upstream == upstream);
        let tenants = config.tenants.iter().filter_map(|tenant| {
            let policy = tenant.policy.as_ref().filter(|policy| policy.allows_scripts())?;
            Some((tenant.name.clone(), policy.acl_rules().to_owned()))
        });
        Self {
            administration: listeners.any(|listener| denies(listener.session.admin_commands)),
            tenants: tenants.collect(),
        }
    }
}
