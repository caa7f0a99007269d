//! Warns of `reads` that no replica can serve, and of a bound of lag that is hardly one.

use std::time::Duration;

use super::super::model::Upstream;
use super::super::report::{Place, Report};
use super::super::setting::Setting;
use crate::discovery::config::DiscoveryConfig;
use crate::replica::Reads;
use crate::upstream::config::Pool;

/// The greatest `max-lag` without a warning.
const USUAL_LAG: Duration = Duration::from_secs(60);

/// Warns if a listener's clients shall read from replicas, and `upstream` has none that can serve them.
pub(super) fn warn_of_listener(reads: &Setting<Reads>, upstream: Option<&Upstream>, report: &mut Report) {
    let (Setting::Given(reads, place), Some(why)) = (reads, upstream.and_then(obstacle)) else { return };
    let effect = match reads {
        Reads::Primary => return,
        Reads::Replica => "reads fail after hold-timeout",
        Reads::OnRequest | Reads::PreferReplica => "all reads go to the primary",
    };
    report.warn(place, format!("{effect}, because {why}"));
}

/// Warns if a tenant's clients shall read from replicas, and no upstream has one that can serve them. `places` are those of the
/// tenants' `reads`.
pub(super) fn warn_of_tenants(places: &[Place], upstreams: &[Upstream], report: &mut Report) {
    let mut obstacles = upstreams.iter().map(obstacle);
    // Another upstream may serve the tenant's reads.
    let Some(Some(why)) = obstacles.next() else { return };
    if obstacles.all(|why| why.is_some()) {
        for place in places {
            report.warn(place, format!("no replica serves reads, because {why}"));
        }
    }
}

/// Warns if data may be so old that the bound is hardly one.
pub(super) fn warn_of_lag(max_lag: &Setting<Duration>, report: &mut Report) {
    if let Setting::Given(time, place) = max_lag
        && *time > USUAL_LAG
    {
        report.warn(
            place,
            format!(
                "reads may show data that are {} s old, also while a replica has lost its primary; replicas usually lag by \
                 less than 1s",
                time.as_secs()
            ),
        );
    }
}

/// Returns why no replica of the upstream can ever serve reads; `None` if one can.
fn obstacle(upstream: &Upstream) -> Option<String> {
    let name = &upstream.config.name;
    if upstream.config.pool == Pool::Session {
        return Some(format!(
            "pool = \"session\" of upstream {name} gives each client a connection of its own, to the primary"
        ));
    }
    let is_fixed = matches!(upstream.discovery, DiscoveryConfig::Fixed(_));
    (is_fixed && upstream.replicas.is_empty()).then(|| {
        format!("upstream {name} is at a fixed address and names no replicas; add replicas = [\"HOST:PORT\"]")
    })
}
