//! Checks every connection once a second, so that nothing on the data path needs a timer.

use std::rc::Rc;
use std::time::Duration;

use super::config::Reauth;
use super::connection::probe::{may_ping, probe_request};
use super::parts::Parts;

/// The time between two checks.
const PERIOD: Duration = Duration::from_secs(1);

/// Closes idle and old connections, pings quiet ones and notices silent servers, until the upstream ends.
pub(super) async fn keep(parts: Parts) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Parts { dialing, pool, lanes, fans, replicas: _ } = &parts;
    let identities = &dialing.identities;
    let nobody = lanes.nobody();
    loop {
        ticks.tick().await;
        let config = dialing.config.get();
        for timeline in dialing.reports.timelines.finished() {
            timeline.log(&config.name);
        }
        parts.refresh_users();
        if config.reauth == Reauth::Refresh {
            pool.refresh_again();
        }
        let asks = pool
            .tend(config.lease_idle_timeout, config.ping_interval, |identity| may_ping(identities, identity));
        asks.into_iter().for_each(|key| pool.ask_about(key));
        let response_timeout = dialing.pause.response_timeout(config.response_timeout);
        pool.expire(response_timeout);
        fans.inspect();
        for lane in lanes.every_lane() {
            // The copy in hand is one reference more than the map and the driver hold.
            let references = Rc::strong_count(&lane) - 1;
            lane.inspect(references, response_timeout, config.lease_idle_timeout);
            if references > 2 && !config.ping_interval.is_zero() {
                // The first check only sees the progress, so one second of the interval has passed before it.
                let ticks = config.ping_interval.as_secs().saturating_sub(1);
                lane.keep_alive(ticks, &nobody, || probe_request(identities, &lane.key().identity));
            }
        }
    }
}
