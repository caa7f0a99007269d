//! Asks one node for its replication, round after round, on a connection that stays open.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::reply::{self, Report};
use crate::discovery::probe::{ANSWER_TIMEOUT, greeting};
use crate::net::backoff::Backoff;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::control::Control;
use crate::resp::greeting::{GreetError, greet};
use crate::rotation::denials::Probe;
use crate::rotation::login::Login;
use crate::topology::Address;

/// The shortest and the longest delay between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// What a node answered, or why it did not.
pub(super) struct NodeNews {
    pub(super) address: Address,
    pub(super) said: Result<Report, String>,
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

/// Why a node was not asked.
enum AskError {
    /// Another attempt may succeed.
    Failed(String),
    /// The server does not let respgate's user ask.
    Denied(String),
}

/// An open connection, and the question that the user may ask.
struct Asking {
    control: Control<Stream>,
    info: bool,
}

impl NodeWatch {
    /// Asks until the task is aborted, or the server says that the user may not ask.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        loop {
            match self.ask_until_lost(&mut backoff).await {
                AskError::Failed(why) => self.send(Err(why)).await,
                AskError::Denied(why) => {
                    tracing::info!(address = %self.address, why, "respgate does not sample the replication of this node");
                    return self.send(Err(why)).await;
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn send(&self, said: Result<Report, String>) {
        // The receiver is gone while the sampler is being dropped.
        let _ = self.news.send(NodeNews { address: self.address.clone(), said }).await;
    }

    async fn ask_until_lost(&mut self, backoff: &mut Backoff) -> AskError {
        let mut asking = match self.open().await {
            Ok(asking) => asking,
            Err(error) => return error,
        };
        loop {
            if self.rounds.changed().await.is_err() {
                return AskError::Failed("the sampler ends".into());
            }
            match asking.ask().await {
                Ok(Some(report)) => self.send(Ok(report)).await,
                // LOADING and BUSY tell nothing.
                Ok(None) => {}
                Err(error) => return error,
            }
            backoff.reset();
        }
    }

    async fn open(&self) -> Result<Asking, AskError> {
        let credentials = self.login.newest().map_err(|why| AskError::Failed(why.to_string()))?;
        let stream =
            self.dialer.dial(&self.address).await.map_err(|error| AskError::Failed(error.to_string()))?;
        let denied = self.login.denied(credentials.as_deref());
        let mut control = Control::new(stream);
        let greeting = greeting(credentials.as_deref(), &self.login, &denied);
        let greeted = greet(&mut control, &greeting, Instant::now() + ANSWER_TIMEOUT).await;
        match greeted {
            Ok(_) if denied.contains(Probe::Role) && denied.contains(Probe::Info) => Err(AskError::Denied(
                "the server's ACL allows respgate's user neither ROLE nor INFO; allow +role".into(),
            )),
            Ok(_) => Ok(Asking { control, info: denied.contains(Probe::Role) }),
            Err(error @ GreetError::AuthRequired(_)) if credentials.is_none() => {
                Err(AskError::Denied(error.to_string()))
            }
            Err(error) => Err(AskError::Failed(error.to_string())),
        }
    }
}

impl Asking {
    /// Asks once. Returns `None` if the server cannot answer now.
    ///
    /// # Errors
    /// Returns why the connection is of no further use.
    async fn ask(&mut self) -> Result<Option<Report>, AskError> {
        let question: &[&[u8]] = if self.info { &[b"INFO", b"replication"] } else { &[b"ROLE"] };
        let reply = self.control.call(question, Instant::now() + ANSWER_TIMEOUT).await;
        let reply = reply.map_err(|error| AskError::Failed(error.to_string()))?;
        match reply.error() {
            Some(line) if line.starts_with(b"NOPERM") => {
                Err(AskError::Denied(line.escape_ascii().to_string()))
            }
            Some(_) => Ok(None),
            None if self.info => Ok(reply.text().and_then(reply::from_info)),
            None => Ok(reply::from_role(&reply)),
        }
    }
}
