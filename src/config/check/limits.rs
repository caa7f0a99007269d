//! Checks the limits of tenants.

use std::time::Duration;

use super::super::report::{Report, suggestion};
use super::super::schema::{QuotaDefaults, QuotaKeys, RateKeys};
use super::super::setting::Setting;
use super::super::value::Bytes;
use super::size::LEAST_SIZE;
use crate::tenant::limits::config::{LimitsConfig, Rates, Sharing};
use crate::tenant::limits::rate::Rate;

/// The largest number of respgates that may share a rate.
const MOST_SHARING: usize = 1000;

/// The upstreams through which a rate can be shared.
#[derive(Clone, Copy)]
pub(super) struct Stores<'a> {
    /// The names of all upstreams.
    pub names: &'a [String],
    /// The upstream that is used if the tenant names none.
    pub usual: Option<&'a str>,
}

pub(super) fn check(typed: QuotaKeys, stores: Stores<'_>, report: &mut Report) -> LimitsConfig {
    let sharing = sharing(&typed, stores, report);
    let mut count = |setting: Setting<usize>| setting.at_least(1, "1", report).value().copied();
    let (connections, in_flight) = (count(typed.connections), count(typed.in_flight));
    let (leased, blocked) = (count(typed.leased), count(typed.blocked));
    let (subscribed, transactions) = (count(typed.subscribed), count(typed.transactions));
    let mut size =
        |setting: Setting<Bytes>| setting.at_least(LEAST_SIZE, "1KiB", report).value().map(|bytes| bytes.0);
    let (request, buffered) = (size(typed.max_request), size(typed.max_buffered));
    LimitsConfig {
        over_limit: typed.over_limit.or(QuotaDefaults::over_limit()),
        max_delay: typed
            .max_delay
            .at_least(Duration::from_millis(1), "1ms", report)
            .or(QuotaDefaults::max_delay()),
        rates: rates(typed.rates, report),
        sharing,
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

fn sharing(typed: &QuotaKeys, stores: Stores<'_>, report: &mut Report) -> Option<Sharing> {
    let by = typed.shared_by.clone().at_least(2, "2", report);
    let Setting::Given(processes, place) = &by else {
        if let (true, Some(place)) = (by.is_absent(), typed.shared_upstream.place()) {
            report.error(place, "means nothing without shared-by; add that or leave this out");
        }
        return None;
    };
    if *processes > MOST_SHARING {
        report.error(place, format!("is too many; at most {MOST_SHARING} respgates can share a rate"));
    }
    let RateKeys { commands, bytes_in, bytes_out, .. } = &typed.rates;
    if commands.is_absent() && bytes_in.is_absent() && bytes_out.is_absent() {
        report.error(
            place,
            "has nothing to share; add commands-per-second, bytes-in-per-second or bytes-out-per-second, or leave this out",
        );
    }
    let upstream = match &typed.shared_upstream {
        Setting::Given(name, _) if stores.names.contains(name) => name.clone(),
        Setting::Given(name, place) => {
            let hint = suggestion(name, stores.names.iter().map(String::as_str));
            report.error(place, format!("no upstream is named {name:?}{hint}"));
            return None;
        }
        Setting::Invalid => return None,
        Setting::Absent => match stores.usual {
            Some(usual) => usual.to_owned(),
            None => {
                if !stores.names.is_empty() {
                    let names = stores.names.join(", ");
                    report.error(
                        place,
                        format!("goes through an upstream; add shared-upstream, which can be: {names}"),
                    );
                }
                return None;
            }
        },
    };
    Some(Sharing { upstream, processes: *processes as u64 })
}

fn rates(typed: RateKeys, report: &mut Report) -> Rates {
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

/// Joins a rate and its burst. A burst without a rate is an error.
fn rate(per_second: Setting<usize>, burst: Setting<usize>, report: &mut Report) -> Option<Rate> {
    match (per_second, burst) {
        (Setting::Given(per_second, _), burst) => {
            let usual = Rate::with_usual_burst(per_second as u64);
            Some(Rate { burst: burst.value().map_or(usual.burst, |burst| *burst as u64), ..usual })
        }
        (Setting::Absent, Setting::Given(_, place)) => {
            let rate = place.key().rsplit('.').next().unwrap_or_default().replace("-burst", "-per-second");
            report.error(&place, format!("means nothing without {rate}; add that or leave this out"));
            None
        }
        _ => None,
    }
}
