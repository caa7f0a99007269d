//! What is looked after once a second, so that nothing on the data path needs a timer.

use std::rc::{Rc, Weak};
use std::time::Duration;

use super::Upstream;

const PERIOD: Duration = Duration::from_secs(1);

/// Retires idle and old connections, pings quiet ones and notices silent servers, until the upstream is gone.
pub(super) async fn keep(upstream: Weak<Upstream>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Some(nobody) = upstream.upgrade().map(|upstream| upstream.nobody()) else { return };
    loop {
        ticks.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        for timeline in upstream.timelines.finished() {
            timeline.log(&upstream.config.name);
        }
        upstream.refresh_users();
        if upstream.refreshes() {
            upstream.leases.refresh_again();
        }
        let asks = upstream.leases.tend(
            upstream.config.lease_idle_timeout,
            upstream.config.ping_interval,
            |identity| upstream.may_ping(identity),
        );
        asks.into_iter().for_each(|key| upstream.ask_about(key));
        upstream.leases.expire(upstream.config.response_timeout);
        upstream.fans.borrow().values().for_each(|fan| fan.inspect(&upstream));
        for lane in upstream.every_lane() {
            // The copy in hand is one reference more than the map and the driver hold.
            let references = Rc::strong_count(&lane) - 1;
            lane.inspect(references, upstream.config.response_timeout, upstream.config.lease_idle_timeout);
            if references > 2 && !upstream.config.ping_interval.is_zero() {
                // The first look sees that nothing has come since the one before.
                let ticks = upstream.config.ping_interval.as_secs().saturating_sub(1);
                lane.keep_alive(ticks, &nobody, || upstream.probe_request(&lane.key().identity));
            }
        }
    }
}
