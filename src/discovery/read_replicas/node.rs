//! Asks one node for its replication, on a connection that stays open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep};

use super::health::Obstacle;
use super::reply::{self, Report};
use crate::discovery::probe::{ANSWER_TIMEOUT, greeting};
use crate::net::backoff::Backoff;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::control::Control;
use crate::resp::greeting::{GreetError, ask_server, greet, node_from_info, zone_from_info};
use crate::resp::server_error::ServerError;
use crate::rotation::login::Login;
use crate::topology::{Address, NodeId};

/// The shortest and the longest delay between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// What a node answered.
pub(super) struct NodeNews {
    pub(super) address: Address,
    /// The answer, or why there is none.
    pub(super) answer: Result<NodeAnswer, Obstacle>,
}

/// One answer of a node.
pub(super) struct NodeAnswer {
    /// When the question was sent.
    pub(super) asked: Instant,
    /// The process that answered; `None` if the user may not ask for its id.
    pub(super) node: Option<NodeId>,
    /// The availability zone that the node named when the connection was opened.
    pub(super) zone: Option<Arc<str>>,
    /// The other end of the connection.
    pub(super) peer: Arc<str>,
    pub(super) report: Report,
}

/// A connection that the node has accepted.
struct Opened {
    control: Control<Stream>,
    /// The other end of the connection.
    peer: Arc<str>,
    node: Option<NodeId>,
    /// The availability zone that the node names.
    zone: Option<Arc<str>>,
}

/// Asks one node in a task of its own.
pub(super) struct NodeWatch {
    pub(super) address: Address,
    pub(super) login: Login,
    pub(super) dialer: Dialer,
    pub(super) news: mpsc::Sender<NodeNews>,
    /// The room for the connection, in front of a cluster. Without room, the node is not asked.
    pub(super) room: Option<Arc<Semaphore>>,
    /// The number of the present round: a change requests a question.
    pub(super) rounds: watch::Receiver<u64>,
}

impl NodeWatch {
    /// Asks until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        loop {
            let permit = match &self.room {
                Some(room) => room.clone().acquire_owned().await.ok(),
                None => None,
            };
            if let Err(why) = self.ask_until_lost(&mut backoff).await {
                tracing::debug!(address = %self.address, %why, "respgate cannot ask this node for its replication");
                self.send(Err(why)).await;
            }
            drop(permit);
            sleep(backoff.next_delay()).await;
            // Without demand, a node that cannot be reached is not dialled again and again.
            if self.rounds.changed().await.is_err() {
                return;
            }
        }
    }

    async fn send(&self, answer: Result<NodeAnswer, Obstacle>) {
        // The receiver is gone while the sampler is being dropped.
        let _ = self.news.send(NodeNews { address: self.address.clone(), answer }).await;
    }

    /// Returns `Ok` when the sampler ends, else why the node cannot be asked.
    async fn ask_until_lost(&mut self, backoff: &mut Backoff) -> Result<(), Obstacle> {
        let mut opened = self.open().await?;
        loop {
            let asked = Instant::now();
            let reply = opened.control.call(&[b"INFO", b"replication"], asked + ANSWER_TIMEOUT).await;
            let reply = reply.map_err(unreachable)?;
            if let Some(line) = reply.error() {
                return Err(refusal(line));
            }
            let report = reply.text().and_then(reply::parse);
            let report = report.ok_or_else(|| unreachable("its answer to INFO makes no sense"))?;
            let Opened { node, zone, peer, .. } = &opened;
            let (node, zone, peer) = (node.clone(), zone.clone(), peer.clone());
            self.send(Ok(NodeAnswer { asked, node, zone, peer, report })).await;
            backoff.reset();
            if self.rounds.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn open(&self) -> Result<Opened, Obstacle> {
        let credentials = self.login.newest().map_err(unreachable)?;
        let stream = self.dialer.dial(&self.address).await.map_err(unreachable)?;
        let peer = stream.peer().into();
        let denied = self.login.denied(credentials.as_deref());
        let mut control = Control::new(stream);
        let greeting = greeting(credentials.as_deref(), &self.login, &denied);
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        greet(&mut control, &greeting, deadline).await.map_err(|error| match &error {
            GreetError::AuthRefused(line) | GreetError::AuthRequired(line) | GreetError::NotReady(line) => {
                refusal(line)
            }
            _ => unreachable(error),
        })?;
        let server = ask_server(&mut control, Some(&denied), deadline).await.map_err(unreachable)?;
        let server = server.as_deref().unwrap_or_default();
        let (node, zone) =
            (node_from_info(server).map(|node| node.id), zone_from_info(server).map(Arc::from));
        Ok(Opened { control, peer, node, zone })
    }
}

fn unreachable(why: impl ToString) -> Obstacle {
    Obstacle::Unreachable(why.to_string().into())
}

/// Returns what an error reply of the node means for reads.
fn refusal(line: &[u8]) -> Obstacle {
    match ServerError::of(line) {
        ServerError::MasterDown => Obstacle::LinkDown,
        ServerError::Loading => Obstacle::Syncing,
        _ => Obstacle::Refused(line.escape_ascii().to_string().into()),
    }
}
