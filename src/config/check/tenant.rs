//! Checks tenants: their members, and what these may do.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use super::super::report::{Place, Report, suggestion};
use super::super::schema::{TenantDefaults, TenantKeys};
use super::super::setting::Setting;
use super::super::typed::Named;
use super::limits::{self, Stores};
use crate::tenant::config::TenantConfig;
use crate::tenant::members::MembersConfig;
use crate::tenant::policy::Policy;
use crate::tenant::policy::config::{PolicyConfig, What};
use crate::upstream::shared::fair::fair_queue::ShareConfig;

/// Maximum number of tenants, because each has its own metrics.
const MAX_TENANTS: usize = 1024;

/// The largest weight of a tenant; the smallest is 1.
const MAX_WEIGHT: u16 = 1000;

/// Checks all tenants. A rule that assigns a client to two tenants is an error.
pub(super) fn check_all(
    typed: Vec<Named<TenantKeys>>,
    stores: Stores<'_>,
    report: &mut Report,
) -> Vec<TenantConfig> {
    if let Some(beyond) = typed.get(MAX_TENANTS) {
        report.error(
            &beyond.place,
            format!("is one tenant too many; at most {MAX_TENANTS}, as each has its own metrics"),
        );
    }
    once(&typed, |tenant| &tenant.certificates, report);
    once(&typed, |tenant| &tenant.users, report);
    once(&typed, |tenant| &tenant.networks, report);
    once(&typed, |tenant| &tenant.uids, report);
    once(&typed, |tenant| &tenant.client_names, report);
    let mut first: Option<&Place> = None;
    for tenant in &typed {
        if let Setting::Given(true, place) = &tenant.keys.is_default {
            match first {
                Some(other) => report
                    .error(place, format!("is set in {other} already; only one tenant can be the default")),
                None => first = Some(place),
            }
        }
    }
    typed.into_iter().map(|tenant| check(tenant, stores, report)).collect()
}

/// Reports an entry that two tenants' lists share, or that one list has twice.
fn once<T: Hash + Eq + Debug>(
    tenants: &[Named<TenantKeys>],
    list: impl Fn(&TenantKeys) -> &Setting<Vec<T>>,
    report: &mut Report,
) {
    let mut seen: HashMap<&T, &Place> = HashMap::new();
    for tenant in tenants {
        let Setting::Given(elements, place) = list(&tenant.keys) else { continue };
        for element in elements {
            if let Some(other) = seen.insert(element, place) {
                report.error(
                    place,
                    format!("{element:?} is in {other} already; a client belongs to one tenant"),
                );
            }
        }
    }
}

fn check(tenant: Named<TenantKeys>, stores: Stores<'_>, report: &mut Report) -> TenantConfig {
    let Named { name, place, keys: typed } = tenant;
    let rules = typed.commands.place().cloned();
    let config = PolicyConfig {
        commands: typed.commands.value().cloned(),
        key_prefixes: typed.key_prefixes.or(Vec::new()),
        channel_prefixes: typed.channel_prefixes.or(Vec::new()),
        read_only: typed.read_only.or(TenantDefaults::read_only()),
        scripts: typed.scripts.or(TenantDefaults::scripts()),
    };
    let policy = Policy::new(&config);
    if let (Some(place), Some(policy)) = (&rules, &policy) {
        if policy.allows_nothing() {
            report.error(
                place,
                "allows nothing: as in the server's ACL, only what a rule allows is; begin with \"+@all\"",
            );
        }
        for name in unlisted(&config) {
            let what = match policy.looks_at_arguments() || config.read_only {
                true => "it is refused here unless the server says where its keys are and whether it writes",
                false => "it is allowed if the server has it",
            };
            report.warn(place, format!("names {name}, which respgate's table lacks; {what}"));
        }
    }
    if let Some(policy) = policy.as_ref().filter(|policy| policy.allows_scripts()) {
        report.advise(
            &place,
            format!(
                "its clients can run scripts, and respgate does not see what a script does; the server's ACL holds it to \
                 this policy, for each user of the server that they act as: ACL SETUSER NAME {}",
                policy.acl_rules()
            ),
        );
    }
    let place = typed.weight.place().cloned();
    let weight = typed.weight.or(TenantDefaults::weight());
    let fit = u16::try_from(weight).ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
    if let (None, Some(place)) = (fit, &place) {
        report.error(place, format!("is {weight}; a weight is 1 to {MAX_WEIGHT}"));
    }
    let weight = fit.unwrap_or(1);
    let share = ShareConfig { weight, priority: typed.priority.or(TenantDefaults::priority()) };
    TenantConfig {
        name,
        members: MembersConfig {
            certificates: typed.certificates.or(Vec::new()),
            users: typed.users.or(Vec::new()),
            networks: typed.networks.or(Vec::new()),
            uids: typed.uids.or(Vec::new()),
            client_names: typed.client_names.or(Vec::new()),
            default: typed.is_default.or(TenantDefaults::is_default()),
        },
        limits: limits::check(typed.limits, stores, report),
        share,
        pubsub: typed.pubsub.or(TenantDefaults::pubsub()),
        reads: typed.reads.value().copied(),
        policy: policy.map(Arc::new),
    }
}

/// Returns the allowed commands that may be misspelt. A module's command has a dot in its name and
/// is not checked.
fn unlisted(config: &PolicyConfig) -> Vec<String> {
    let rules = config.commands.as_deref().unwrap_or_default().iter().filter(|rule| rule.allow);
    let names = rules.filter_map(|rule| match &rule.what {
        What::Unlisted(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.filter(|name| !name.contains('.')).collect()
}

/// Returns the tenant that a setting names.
pub(super) fn named<'a>(
    tenant: &Setting<String>,
    tenants: &'a [TenantConfig],
    report: &mut Report,
) -> Option<&'a TenantConfig> {
    let Setting::Given(name, place) = tenant else { return None };
    let found = tenants.iter().find(|tenant| tenant.name == *name);
    if found.is_none() {
        let hint = suggestion(name, tenants.iter().map(|tenant| tenant.name.as_str()));
        report.error(place, format!("no tenant is named {name:?}{hint}"));
    }
    found
}
