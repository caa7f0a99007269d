//! Checks tenants.

use super::super::report::{Report, suggestion};
use super::super::typed::{Setting, TypedTenant};
use crate::tenant::config::TenantConfig;
use crate::tenant::policy::config::PolicyConfig;

pub(super) fn check(typed: TypedTenant) -> TenantConfig {
    TenantConfig {
        name: typed.name,
        policy: PolicyConfig {
            commands: typed.commands.or(Vec::new()),
            key_prefixes: typed.key_prefixes.or(Vec::new()),
            channel_prefixes: typed.channel_prefixes.or(Vec::new()),
            read_only: typed.read_only.or(false),
        },
    }
}

/// The tenant that something names, which must be one of `names`.
pub(super) fn named(tenant: &Setting<String>, names: &[String], report: &mut Report) -> Option<String> {
    let Setting::Given(name, place) = tenant else { return None };
    if names.contains(name) {
        return Some(name.clone());
    }
    let hint = suggestion(name, names.iter().map(String::as_str));
    report.fault(place, format!("no tenant is named {name:?}{hint}"));
    None
}
