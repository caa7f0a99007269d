//! Checks tenants: who belongs to them, and what they may use.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use super::super::report::{Place, Report, suggestion};
use super::super::typed::{Setting, TypedRates, TypedTenant};
use super::super::value::Bytes;
use super::LEAST_SIZE;
use crate::tenant::config::TenantConfig;
use crate::tenant::identity::MembersConfig;
use crate::tenant::limits::config::{LimitsConfig, Rates};
use crate::tenant::limits::rate::Rate;
use crate::tenant::policy::config::PolicyConfig;

/// The most tenants, since each has its own metrics.
const MAX_TENANTS: usize = 1024;

/// Checks all tenants. A rule that names a client for two of them is a fault.
pub(super) fn check_all(typed: Vec<TypedTenant>, report: &mut Report) -> Vec<TenantConfig> {
    if let Some(beyond) = typed.get(MAX_TENANTS) {
        report.fault(
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
        if let Setting::Given(true, place) = &tenant.default {
            match first {
                Some(other) => report
                    .fault(place, format!("stands in {other} already; only one tenant can be the default")),
                None => first = Some(place),
            }
        }
    }
    typed.into_iter().map(|tenant| check(tenant, report)).collect()
}

/// Reports what stands in one list of two tenants, or twice in one.
fn once<T: Hash + Eq + Debug>(
    tenants: &[TypedTenant],
    list: impl Fn(&TypedTenant) -> &Setting<Vec<T>>,
    report: &mut Report,
) {
    let mut seen: HashMap<&T, &Place> = HashMap::new();
    for tenant in tenants {
        let Setting::Given(elements, place) = list(tenant) else { continue };
        for element in elements {
            if let Some(other) = seen.insert(element, place) {
                report.fault(
                    place,
                    format!("{element:?} stands in {other} already; a client belongs to one tenant"),
                );
            }
        }
    }
}

fn check(typed: TypedTenant, report: &mut Report) -> TenantConfig {
    let builtin = LimitsConfig::default();
    let mut count = |setting: Setting<usize>| setting.at_least(1, "1", report).value().copied();
    let (connections, in_flight) = (count(typed.connections), count(typed.in_flight));
    let (leased, blocked) = (count(typed.leased), count(typed.blocked));
    let (subscribed, transactions) = (count(typed.subscribed), count(typed.transactions));
    let mut size =
        |setting: Setting<Bytes>| setting.at_least(LEAST_SIZE, "1KiB", report).value().map(|bytes| bytes.0);
    let (request, buffered) = (size(typed.max_request), size(typed.max_buffered));
    TenantConfig {
        name: typed.name,
        members: MembersConfig {
            certificates: typed.certificates.or(Vec::new()),
            users: typed.users.or(Vec::new()),
            networks: typed.networks.or(Vec::new()),
            uids: typed.uids.or(Vec::new()),
            client_names: typed.client_names.or(Vec::new()),
            default: typed.default.or(false),
        },
        limits: LimitsConfig {
            over_limit: typed.over_limit.or(builtin.over_limit),
            max_delay: typed
                .max_delay
                .at_least(Duration::from_millis(1), "1ms", report)
                .or(builtin.max_delay),
            rates: rates(typed.rates, report),
            client_rates: rates(typed.client_rates, report),
            connections,
            in_flight,
            leased,
            blocked,
            subscribed,
            transactions,
            request,
            buffered,
        },
        policy: PolicyConfig {
            commands: typed.commands.or(Vec::new()),
            key_prefixes: typed.key_prefixes.or(Vec::new()),
            channel_prefixes: typed.channel_prefixes.or(Vec::new()),
            read_only: typed.read_only.or(false),
        },
    }
}

fn rates(typed: TypedRates, report: &mut Report) -> Rates {
    let size = |setting: Setting<Bytes>, report: &mut Report| {
        setting.at_least(LEAST_SIZE, "1KiB", report).map(|bytes| bytes.0)
    };
    Rates {
        commands: rate(
            typed.commands.at_least(1, "1", report),
            typed.commands_burst.at_least(1, "1", report),
            report,
        ),
        bytes_in: {
            let (rated, burst) = (size(typed.bytes_in, report), size(typed.bytes_in_burst, report));
            rate(rated, burst, report)
        },
        bytes_out: {
            let (rated, burst) = (size(typed.bytes_out, report), size(typed.bytes_out_burst, report));
            rate(rated, burst, report)
        },
    }
}

/// A rate with its burst, which means nothing alone.
fn rate(per_second: Setting<usize>, burst: Setting<usize>, report: &mut Report) -> Option<Rate> {
    match (per_second, burst) {
        (Setting::Given(per_second, _), burst) => {
            let usual = Rate::with_usual_burst(per_second as u64);
            Some(Rate { burst: burst.value().map_or(usual.burst, |burst| *burst as u64), ..usual })
        }
        (Setting::Absent, Setting::Given(_, place)) => {
            let rate = place.key().rsplit('.').next().unwrap_or_default().replace("-burst", "-per-second");
            report.fault(&place, format!("means nothing without {rate}; add that or leave this out"));
            None
        }
        _ => None,
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
