//! Tells the service manager at intervals that respgate serves: the watchdog, and the line that
//! `systemctl status` shows.
//!
//! The watchdog is for the part that serves: respgate is alive only if every worker has answered.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::operator::Steered;
use crate::systemd::Notifier;
use crate::worker::Worker;

/// Maximum time between two looks at the state.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// What the heartbeat looks at.
pub struct Heartbeat {
    /// The sender of the messages.
    pub notifier: Notifier,
    /// The time within which the service manager expects each sign of life; `None` if it expects
    /// none.
    pub watchdog: Option<Duration>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The upstreams in force.
    pub upstreams: watch::Receiver<Vec<Steered>>,
}

impl Heartbeat {
    /// Sends the messages for as long as the process runs.
    pub async fn beat(self) {
        // Two beats in each interval: one late beat does not end the service.
        let period = self.watchdog.map_or(STATUS_INTERVAL, |watchdog| (watchdog / 2).min(STATUS_INTERVAL));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = String::new();
        loop {
            ticks.tick().await;
            if let Some(watchdog) = self.watchdog {
                match self.every_worker_answers(watchdog / 2).await {
                    true => self.notifier.alive(),
                    false => tracing::error!(
                        within_ms = watchdog.as_millis() / 2,
                        "a worker does not answer: respgate sends the watchdog no sign of life, and systemd will restart it"
                    ),
                }
            }
            let status = self.status();
            if status != shown {
                self.notifier.status(&status);
                shown = status;
            }
        }
    }

    async fn every_worker_answers(&self, within: Duration) -> bool {
        let mut answers = JoinSet::new();
        for worker in self.workers.clone() {
            answers.spawn(async move { timeout(within, worker.answers()).await.unwrap_or(false) });
        }
        answers.join_all().await.into_iter().all(|answered| answered)
    }

    /// Returns the line for `systemctl status`.
    fn status(&self) -> String {
        let clients: usize = self.workers.iter().map(Worker::load).sum();
        let steered = self.upstreams.borrow();
        let upstreams = steered.iter().map(|steered| match steered.topology.borrow().primary() {
            Some(primary) => format!("{}: primary {}", steered.name(), primary.address),
            None => format!("{}: no primary", steered.name()),
        });
        format!("{clients} clients; {}", upstreams.collect::<Vec<_>>().join("; "))
    }
}
