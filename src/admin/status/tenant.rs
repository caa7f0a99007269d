//! The part of `/status` about one tenant.

use serde_json::{Value, json};

use super::sampler::{Sample, rounded};
use crate::tenant::Tenant;
use crate::tenant::limits::config::OverLimit;
use crate::tenant::limits::refusal::Limit;

/// Returns the tenant's clients, its rate of commands, and the limits that apply now.
pub(super) fn json(tenant: &Tenant, sample: &Sample) -> Value {
    let counted = sample.sums.tenants.get(&tenant.number).copied().unwrap_or_default();
    let rate = sample.tenant_rates.get(&tenant.number).copied().map(rounded).unwrap_or_default();
    let count = |figures: &[u64], limit: Limit| figures.get(limit as usize).copied().unwrap_or_default();
    let limits = Limit::ALL.into_iter().filter_map(|limit| {
        let max = maximum(tenant, limit)?;
        Some(json!({
            "limit": limit.key(),
            "max": max,
            "used": used(tenant, limit, rate),
            "delayed": count(&counted.delayed, limit),
            "refused": count(&counted.refused, limit),
        }))
    });
    json!({
        "name": tenant.config.name,
        "clients": tenant.connections.taken(),
        "commands": counted.commands,
        "commands_per_second": rate,
        "denied": counted.denied,
        "leased": tenant.leased.taken(),
        "blocked": tenant.blocked.taken(),
        "subscribed": tenant.subscribed.taken(),
        "transactions": tenant.transactions.taken(),
        "over_limit": match tenant.config.limits.over_limit {
            OverLimit::Delay => "delay",
            OverLimit::Reject => "reject",
        },
        "shared_with": tenant.config.limits.sharing.as_ref().map(|sharing| sharing.processes),
        "limits": limits.collect::<Vec<_>>(),
    })
}

/// Returns the limit that applies; `None` if there is none.
fn maximum(tenant: &Tenant, limit: Limit) -> Option<u64> {
    let limits = &tenant.config.limits;
    let number = |limit: Option<usize>| limit.map(|limit| limit as u64);
    match limit {
        Limit::Connections => number(limits.connections),
        Limit::Commands => limits.rates.commands.map(|rate| rate.per_second),
        Limit::BytesIn => limits.rates.bytes_in.map(|rate| rate.per_second),
        Limit::BytesOut => limits.rates.bytes_out.map(|rate| rate.per_second),
        Limit::ClientCommands => limits.client_rates.commands.map(|rate| rate.per_second),
        Limit::ClientBytesIn => limits.client_rates.bytes_in.map(|rate| rate.per_second),
        Limit::ClientBytesOut => limits.client_rates.bytes_out.map(|rate| rate.per_second),
        Limit::InFlight => number(limits.in_flight),
        Limit::Leased => number(limits.leased),
        Limit::Blocked => number(limits.blocked),
        Limit::Subscribed => number(limits.subscribed),
        Limit::Transactions => number(limits.transactions),
        Limit::Request => number(limits.request),
        Limit::Buffered => number(limits.buffered),
    }
}

/// Returns how much of a limit is in use; `None` where it is not counted for the tenant as a whole.
fn used(tenant: &Tenant, limit: Limit, rate: f64) -> Option<f64> {
    let count = match limit {
        Limit::Connections => &tenant.connections,
        Limit::InFlight => &tenant.in_flight,
        Limit::Leased => &tenant.leased,
        Limit::Blocked => &tenant.blocked,
        Limit::Subscribed => &tenant.subscribed,
        Limit::Transactions => &tenant.transactions,
        Limit::Buffered => &tenant.buffered,
        Limit::Commands => return Some(rate),
        _ => return None,
    };
    Some(count.taken() as f64)
}
