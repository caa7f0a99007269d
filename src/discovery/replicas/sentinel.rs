//! Asks a Sentinel which replicas the primary has.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::listed_replicas;
use crate::discovery::sentinel::Follower;
use crate::discovery::sentinel_table::SentinelState;
use crate::discovery::{Dialers, DiscoveryStatus, Logins};
use crate::net::stream::Stream;
use crate::resp::control::Control;
use crate::topology::Address;

/// The time between two questions.
const INTERVAL: Duration = Duration::from_secs(5);
/// The time between two questions while no Sentinel has answered yet.
const FIRST: Duration = Duration::from_millis(500);

/// Asks one of the Sentinels that answer discovery, on a connection that stays open.
pub(in crate::discovery) struct ReplicaList {
    /// Opens connections to Sentinels. Its address is replaced by that of a Sentinel that answers.
    follower: Follower,
    status: watch::Receiver<DiscoveryStatus>,
}

/// Why there is no list.
enum ListError {
    /// Another attempt may succeed.
    Failed,
    /// The Sentinel does not let respgate's user ask.
    Denied,
}

impl ReplicaList {
    pub(in crate::discovery) fn new(
        config: &SentinelConfig,
        logins: &Logins,
        dialers: &Dialers,
        status: watch::Receiver<DiscoveryStatus>,
    ) -> Self {
        let mut dialer = dialers.sentinels.clone();
        dialer.connect_timeout = dialer.connect_timeout.min(config.timeout);
        let follower = Follower {
            address: Address::tcp("", 0),
            config: Arc::new(config.clone()),
            dialer,
            login: logins.sentinels.clone(),
            // This follower only opens connections and reports nothing to discovery.
            news: mpsc::channel(1).0,
            asks: watch::channel(0).1,
        };
        Self { follower, status }
    }

    /// Sends the newest list every few seconds, and `None` if the Sentinels' ACL denies the question. Then it ends.
    pub(in crate::discovery) async fn follow(mut self, lists: mpsc::Sender<Option<Vec<Address>>>) {
        let mut open = None;
        loop {
            let asked = self.ask(&mut open).await;
            let pause = if asked.is_ok() { INTERVAL } else { FIRST };
            match asked {
                Ok(list) => {
                    if lists.send(Some(list)).await.is_err() {
                        return;
                    }
                }
                Err(ListError::Failed) => open = None,
                Err(ListError::Denied) => {
                    tracing::info!(
                        sentinel = %self.follower.address,
                        "the Sentinel does not allow SENTINEL REPLICAS, so respgate shows the replicas that the primary lists"
                    );
                    let _ = lists.send(None).await;
                    return;
                }
            }
            sleep(pause).await;
        }
    }

    async fn ask(&mut self, open: &mut Option<Control<Stream>>) -> Result<Vec<Address>, ListError> {
        let control = match open {
            Some(control) => control,
            None => {
                self.follower.address = self.answering().ok_or(ListError::Failed)?;
                open.insert(self.follower.open().await.map_err(|_| ListError::Failed)?)
            }
        };
        let config = &self.follower.config;
        let question: [&[u8]; 3] = [b"SENTINEL", b"REPLICAS", config.primary_name.as_bytes()];
        let reply = control.call(&question, Instant::now() + config.timeout).await;
        let reply = reply.map_err(|_| ListError::Failed)?;
        match reply.error() {
            Some(line) if line.starts_with(b"NOPERM") => Err(ListError::Denied),
            Some(_) => Err(ListError::Failed),
            None => Ok(listed_replicas(&reply, config)),
        }
    }

    /// Returns the address of a Sentinel that answers discovery, at random.
    fn answering(&self) -> Option<Address> {
        let status = self.status.borrow();
        let answering: Vec<_> = status
            .sentinels
            .iter()
            .filter(|sentinel| matches!(sentinel.state, SentinelState::Answered(_)))
            .collect();
        let chosen = answering.get(fastrand::usize(..answering.len().max(1)))?;
        Some(chosen.address.clone())
    }
}
