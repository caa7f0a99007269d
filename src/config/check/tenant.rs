//! Checks tenants.

use std::sync::Arc;

use super::super::report::{Report, suggestion};
use super::super::typed::{Setting, TypedTenant};
use crate::tenant::config::TenantConfig;
use crate::tenant::policy::Policy;
use crate::tenant::policy::config::{PolicyConfig, Scripts, What};

pub(super) fn check(typed: TypedTenant, report: &mut Report) -> TenantConfig {
    let rules = typed.commands.place().cloned();
    let config = PolicyConfig {
        commands: typed.commands.value().cloned(),
        key_prefixes: typed.key_prefixes.or(Vec::new()),
        channel_prefixes: typed.channel_prefixes.or(Vec::new()),
        read_only: typed.read_only.or(false),
        scripts: typed.scripts.or(Scripts::Deny),
    };
    let policy = Policy::new(&config);
    if let (Some(place), Some(policy)) = (&rules, &policy) {
        if policy.allows_nothing() {
            report.fault(
                place,
                "allows nothing: as in the server's ACL, only what a rule allows is; begin with \"+@all\"",
            );
        }
        for name in unlisted(&config) {
            let what = match policy.looks_at_arguments() || config.read_only {
                true => "its keys and effects are unknown, so it is refused here",
                false => "it is allowed if the server has it",
            };
            report.warn(place, format!("names {name}, which respgate's table lacks; {what}"));
        }
    }
    TenantConfig { name: typed.name, policy: policy.map(Arc::new) }
}

/// Commands that rules allow and that may be misspelt: a module's name has a dot.
fn unlisted(config: &PolicyConfig) -> Vec<String> {
    let rules = config.commands.as_deref().unwrap_or_default().iter().filter(|rule| rule.allow);
    let names = rules.filter_map(|rule| match &rule.what {
        What::Unlisted(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.filter(|name| !name.contains('.')).collect()
}

/// The tenant that something names.
pub(super) fn named<'a>(
    tenant: &Setting<String>,
    tenants: &'a [TenantConfig],
    report: &mut Report,
) -> Option<&'a TenantConfig> {
    let Setting::Given(name, place) = tenant else { return None };
    let found = tenants.iter().find(|tenant| tenant.name == *name);
    if found.is_none() {
        let hint = suggestion(name, tenants.iter().map(|tenant| tenant.name.as_str()));
        report.fault(place, format!("no tenant is named {name:?}{hint}"));
    }
    found
}
