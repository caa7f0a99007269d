//! Watches a working primary between two probes: asks it for its role on a connection that stays open, and looks up the
//! name of a fixed address. Neither costs the server a new connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::discovery::machine::Event;
use crate::discovery::probe::{self, MonitorError, RoleMonitor};
use crate::hint::Hint;
use crate::net::backoff::Backoff;
use crate::net::connect::{Dialer, look_up};
use crate::rotation::login::Login;
use crate::topology::Primary;

/// Returns delays of 80 % to 100 % of `interval`, so that many processes do not ask at the same moment.
fn jittered(interval: Duration) -> Backoff {
    Backoff::new(interval.mul_f64(0.8), interval)
}

/// Looks up the name every `interval` and reports its addresses. Reports no failed look-up: it tells nothing about the
/// node, and the next probe names the cause.
pub(super) async fn watch_name(host: String, port: u16, interval: Duration, news: mpsc::Sender<Event>) {
    let mut delays = jittered(interval);
    loop {
        if let Ok(found) = look_up(&host, port).await {
            let addresses = found.iter().map(|peer| peer.ip()).collect();
            // The receiver is gone while discovery is being dropped.
            let _ = news.send(Event::Resolved(addresses)).await;
        }
        sleep(delays.next_delay()).await;
    }
}

/// Asks the node of one generation for its role. If the address leads to another node by now, only a connection that was
/// opened before shows the former node's role.
pub(super) struct RoleWatch {
    pub(super) primary: Arc<Primary>,
    pub(super) login: Login,
    pub(super) dialer: Dialer,
    pub(super) news: mpsc::Sender<Event>,
    /// The time between two queries.
    pub(super) interval: Duration,
    /// The time after which a lost connection is opened again.
    pub(super) reopen: Duration,
    /// How much later than the answer before an answer may come. After that, the node may be frozen: a hint makes discovery
    /// probe the address.
    pub(super) late: Duration,
}

impl RoleWatch {
    pub(super) async fn run(self) {
        loop {
            let opened = Instant::now();
            match probe::monitor_role(&self.primary, &self.login, &self.dialer).await {
                Ok(monitor) => self.ask_until_lost(monitor, opened.elapsed()).await,
                Err(MonitorError::OtherNode) => self.hint(Hint::OtherNode(self.primary.generation)).await,
                Err(MonitorError::Lost) => self.hint(Hint::Lost(self.primary.generation)).await,
                Err(MonitorError::Denied) => {}
            }
            sleep(self.reopen).await;
        }
    }

    async fn hint(&self, hint: Hint) {
        let _ = self.news.send(Event::Hinted(hint)).await;
    }

    /// Asks until the connection is lost. `usual` is the time that the node took to answer before.
    async fn ask_until_lost(&self, mut monitor: RoleMonitor, mut usual: Duration) {
        let generation = self.primary.generation;
        let mut delays = jittered(self.interval);
        loop {
            sleep(delays.next_delay()).await;
            let asked = Instant::now();
            let answer = monitor.ask();
            tokio::pin!(answer);
            let answer = match timeout(self.late + usual, &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.hint(Hint::Lost(generation)).await;
                    answer.await
                }
            };
            match answer {
                Some(None) => {}
                Some(Some(text)) => {
                    let _ = self.news.send(Event::Denied { generation, text }).await;
                }
                None => {
                    self.hint(Hint::Lost(generation)).await;
                    return;
                }
            }
            usual = asked.elapsed();
        }
    }
}
