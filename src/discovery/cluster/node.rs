//! Asks one node for its view of the cluster, round after round, on a connection that stays open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::machine::ClusterEvent;
use super::reply::{self, ClusterView};
use super::status::NodeError;
use crate::discovery::config::ClusterConfig;
use crate::net::backoff::Backoff;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::greeting::{GreetError, Greeting, greet};
use crate::rotation::login::Login;
use crate::topology::Address;

/// The shortest and the longest delay between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// The number of rounds of which one asks for the endpoints although nothing shows that they have changed: a node may be told to prefer
/// another kind of endpoint.
const ENDPOINT_ROUNDS: u32 = 10;

/// The last answers of a node. The reply to CLUSTER SLOTS is long where slots are scattered, and hardly ever changes.
struct LastView {
    /// The reply to CLUSTER NODES, as [`reply::without_times`] returns it.
    nodes: String,
    view: ClusterView,
    /// The number of rounds in which CLUSTER NODES has said this.
    rounds: u32,
}

/// Asks one node in a task of its own.
pub(super) struct NodeFollower {
    pub(super) address: Address,
    pub(super) config: Arc<ClusterConfig>,
    pub(super) login: Login,
    pub(super) dialer: Dialer,
    /// The queue for this node's events. A full queue delays only this node's task.
    pub(super) news: mpsc::Sender<ClusterEvent>,
    /// The number of the present round: a change requests a question.
    pub(super) rounds: watch::Receiver<u64>,
}

impl NodeFollower {
    /// Asks until the task is aborted, or discovery has closed the queue.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        loop {
            let Err(error) = self.ask_until_lost(&mut backoff).await else { return };
            let event = ClusterEvent::Failed { node: self.address.clone(), error };
            if self.news.send(event).await.is_err() {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Returns `Ok` if discovery has closed the queue.
    async fn ask_until_lost(&mut self, backoff: &mut Backoff) -> Result<(), NodeError> {
        let mut control = self.open().await?;
        let mut last = None;
        loop {
            self.rounds.mark_unchanged();
            let view = self.ask(&mut control, &mut last).await?;
            backoff.reset();
            let event = ClusterEvent::Viewed { node: self.address.clone(), view };
            if self.news.send(event).await.is_err() || self.rounds.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn open(&self) -> Result<Control<Stream>, NodeError> {
        let credentials = self
            .login
            .newest_within(self.config.timeout)
            .await
            .map_err(|why| NodeError::Refused(format!("{} is not asked: {why}", self.address)))?;
        let stream = self
            .dialer
            .dial(&self.address)
            .await
            .map_err(|error| NodeError::Unreachable(error.to_string()))?;
        let denied = self.login.denied(credentials.as_deref());
        let greeting = Greeting {
            accepted_before: self.login.has_worked(),
            denied: Some(&denied),
            ..Greeting::new(credentials.as_deref(), Resp::V2, 0)
        };
        let mut control = Control::new(stream);
        match (greet(&mut control, &greeting, self.deadline()).await, &credentials) {
            (Ok(_), Some(_)) => self.login.accepted(),
            (Ok(_), None) => {}
            (Err(error), credentials) => {
                if let (GreetError::AuthRefused(line), Some(credentials)) = (&error, credentials) {
                    self.login.refused(&self.address, credentials, line);
                }
                let text = format!("{}: {error}", self.address);
                return Err(match error {
                    GreetError::AuthRequired(_) | GreetError::AuthRefused(_) => NodeError::Refused(text),
                    _ => NodeError::Unreachable(text),
                });
            }
        }
        Ok(control)
    }

    async fn ask(
        &self,
        control: &mut Control<Stream>,
        last: &mut Option<LastView>,
    ) -> Result<ClusterView, NodeError> {
        let deadline = self.deadline();
        let unreachable = |error: ControlError| NodeError::Unreachable(format!("{}: {error}", self.address));
        let nodes = control.call(&[b"CLUSTER", b"NODES"], deadline).await.map_err(unreachable)?;
        if let Some(line) = nodes.error() {
            return Err(self.refusal(line));
        }
        let said = reply::without_times(nodes.text().unwrap_or_default());
        if let Some(last) = last
            && last.nodes == said
            && last.rounds < ENDPOINT_ROUNDS
        {
            last.rounds += 1;
            return Ok(last.view.clone());
        }
        let slots = control.call(&[b"CLUSTER", b"SLOTS"], deadline).await.map_err(unreachable)?;
        let view = reply::view(&nodes, &slots, &self.address, &self.config.nat).ok_or_else(|| {
            NodeError::Unreachable(format!("{} answers CLUSTER NODES with something unusable", self.address))
        })?;
        *last = slots.error().is_none().then(|| LastView { nodes: said, view: view.clone(), rounds: 1 });
        Ok(view)
    }

    fn refusal(&self, line: &[u8]) -> NodeError {
        let (address, said) = (&self.address, line.escape_ascii());
        if line.starts_with(b"ERR This instance has cluster support disabled") {
            return NodeError::NoCluster(format!(
                "{address} is no node of a cluster: its `cluster-enabled` is no; for a single server, begin the url with redis://"
            ));
        }
        if line.starts_with(b"NOPERM") {
            return NodeError::Refused(format!(
                "{address} refuses CLUSTER NODES: {said}; allow respgate's user +cluster|nodes +cluster|slots +role"
            ));
        }
        NodeError::Unreachable(format!("{address} refuses CLUSTER NODES: {said}"))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }
}
