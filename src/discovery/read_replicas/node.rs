//! Asks one node for its replication, on a connection that stays open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::reply::{self, Report};
use crate::discovery::probe::{ANSWER_TIMEOUT, greeting};
use crate::net::backoff::Backoff;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::control::Control;
use crate::resp::greeting::{ask_server, greet, node_from_info, zone_from_info};
use crate::rotation::login::Login;
use crate::topology::{Address, NodeId};

/// The shortest and the longest delay between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// What a node answered.
pub(super) struct NodeNews {
    pub(super) address: Address,
    /// `None` if the connection was lost, could not be opened, or the node cannot answer now.
    pub(super) answer: Option<NodeAnswer>,
}

/// One answer of a node.
pub(super) struct NodeAnswer {
    /// When the question was sent.
    pub(super) asked: Instant,
    /// The process that answered; `None` if the user may not ask for its id.
    pub(super) node: Option<NodeId>,
    /// The availability zone that the node named when the connection was opened.
    pub(super) zone: Option<Arc<str>>,
    pub(super) report: Report,
}

/// Asks one node in a task of its own.
pub(super) struct NodeWatch {
    pub(super) address: Address,
    pub(super) login: Login,
    pub(super) dialer: Dialer,
    pub(super) news: mpsc::Sender<NodeNews>,
    /// The number of the present round: a change requests a question.
    pub(super) rounds: watch::Receiver<u64>,
}

impl NodeWatch {
    /// Asks until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        loop {
            if let Err(why) = self.ask_until_lost(&mut backoff).await {
                tracing::debug!(address = %self.address, why, "respgate cannot ask this node for its replication");
            }
            self.send(None).await;
            sleep(backoff.next_delay()).await;
            // Without demand, a node that cannot be reached is not dialled again and again.
            if self.rounds.changed().await.is_err() {
                return;
            }
        }
    }

    async fn send(&self, answer: Option<NodeAnswer>) {
        // The receiver is gone while the sampler is being dropped.
        let _ = self.news.send(NodeNews { address: self.address.clone(), answer }).await;
    }

    async fn ask_until_lost(&mut self, backoff: &mut Backoff) -> Result<(), String> {
        let (mut control, node, zone) = self.open().await?;
        loop {
            let asked = Instant::now();
            let reply = control.call(&[b"INFO", b"replication"], asked + ANSWER_TIMEOUT).await;
            let reply = reply.map_err(|error| error.to_string())?;
            if let Some(line) = reply.error() {
                return Err(line.escape_ascii().to_string());
            }
            let report = reply.text().and_then(reply::parse);
            let answer =
                report.map(|report| NodeAnswer { asked, node: node.clone(), zone: zone.clone(), report });
            self.send(answer).await;
            backoff.reset();
            self.rounds.changed().await.map_err(|_| "the sampler ends")?;
        }
    }

    async fn open(&self) -> Result<(Control<Stream>, Option<NodeId>, Option<Arc<str>>), String> {
        let credentials = self.login.newest().map_err(|why| why.to_string())?;
        let stream = self.dialer.dial(&self.address).await.map_err(|error| error.to_string())?;
        let denied = self.login.denied(credentials.as_deref());
        let mut control = Control::new(stream);
        let greeting = greeting(credentials.as_deref(), &self.login, &denied);
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        greet(&mut control, &greeting, deadline).await.map_err(|error| error.to_string())?;
        let server =
            ask_server(&mut control, Some(&denied), deadline).await.map_err(|error| error.to_string())?;
        let server = server.as_deref().unwrap_or_default();
        let zone = zone_from_info(server).map(Arc::from);
        Ok((control, node_from_info(server).map(|node| node.id), zone))
    }
}
