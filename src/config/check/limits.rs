//! Checks how much tenants may use.

use std::time::Duration;

use super::super::report::Report;
use super::super::typed::{Setting, TypedQuota, TypedRates};
use super::super::value::Bytes;
use super::LEAST_SIZE;
use crate::tenant::limits::config::{LimitsConfig, Rates};
use crate::tenant::limits::rate::Rate;

pub(super) fn check(typed: TypedQuota, report: &mut Report) -> LimitsConfig {
    let builtin = LimitsConfig::default();
    let mut count = |setting: Setting<usize>| setting.at_least(1, "1", report).value().copied();
    let (connections, in_flight) = (count(typed.connections), count(typed.in_flight));
    let (leased, blocked) = (count(typed.leased), count(typed.blocked));
    let (subscribed, transactions) = (count(typed.subscribed), count(typed.transactions));
    let mut size =
        |setting: Setting<Bytes>| setting.at_least(LEAST_SIZE, "1KiB", report).value().map(|bytes| bytes.0);
    let (request, buffered) = (size(typed.max_request), size(typed.max_buffered));
    LimitsConfig {
        over_limit: typed.over_limit.or(builtin.over_limit),
        max_delay: typed.max_delay.at_least(Duration::from_millis(1), "1ms", report).or(builtin.max_delay),
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
