//! Asks all workers about their clients. Each worker answers in small steps, so that no session waits long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::filter::Filter;
use super::listing::Lines;
use crate::secret::Credentials;

/// Maximum number of questions that wait for one worker.
const QUEUE: usize = 64;

/// The time that one step of an answer may take. A worker handles one question at a time.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// An error line on its way between workers.
pub type ErrorText = Vec<u8>;

/// The clients that may be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only clients of the upstream with this number.
    pub upstream: Option<usize>,
    /// Only clients of the tenant with this number.
    pub tenant: Option<usize>,
}

/// Selects clients among those that may be seen.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The clients that may be seen.
    pub scope: Scope,
    /// What they must match.
    pub filter: Arc<Filter>,
    /// The name of the tenant that they belong to, whatever the scope.
    pub tenant_name: Option<Arc<str>>,
    /// The id of a client that is left out.
    pub except: Option<u64>,
}

/// The form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As the server shows it.
    Server,
    /// With the client's worker, upstream, listener and tenant.
    Extended,
}

/// A question to one worker.
pub enum Query {
    /// Sends the lines of the selected clients.
    List(Selection, Shape, mpsc::Sender<Lines>),
    /// Disconnects the selected clients. Answers with their number. The client with the second argument's id counts and
    /// stays, because it disconnects itself once it has its reply.
    Kill(Selection, Option<u64>, oneshot::Sender<Killed>),
    /// Ends the wait of a blocked client. Answers `None` if the worker has no such client.
    Unblock(Unblock, oneshot::Sender<Option<Result<bool, ErrorText>>>),
    /// Answers with the server's ids of the connections to the upstream with this number.
    Connections(usize, oneshot::Sender<Vec<u64>>),
    /// Sends the server's own CLIENT LIST, of the upstream with this number.
    ServerList(usize, oneshot::Sender<Result<Vec<u8>, ErrorText>>),
    /// Has the server of the upstream with this number be silent until then.
    Suspend(usize, Instant),
    /// Answers with figures of the upstream with this number.
    Figures(usize, oneshot::Sender<Figures>),
}

/// A client to unblock.
#[derive(Clone, Debug)]
pub struct Unblock {
    /// The clients that may be seen.
    pub scope: Scope,
    /// The id of the client.
    pub id: u64,
    /// True if the client gets an error.
    pub error: bool,
    /// The credentials of the server's user as whom the client that asks authenticated, if it did.
    pub credentials: Option<Arc<Credentials>>,
}

/// The clients that were disconnected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Their number.
    pub clients: usize,
    /// True if the client that asks is one of them.
    pub asker: bool,
}

/// Figures of one worker about one upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connected clients.
    pub clients: u64,
    /// Clients that have a lease.
    pub pinned: u64,
    /// Clients whose commands wait for a primary.
    pub held: u64,
    /// Subscribers by fan-in.
    pub subscribers: u64,
    /// Open connections that clients share, are leased, carry fan-in, and are idle.
    pub connections: [u64; 4],
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.clients += other.clients;
        self.pinned += other.pinned;
        self.held += other.held;
        self.subscribers += other.subscribers;
        for (sum, more) in self.connections.iter_mut().zip(other.connections) {
            *sum += more;
        }
    }
}

/// A worker did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker did not answer in time")]
pub struct Unanswered;

/// The error line for a client whose question was not answered.
pub const UNANSWERED: &[u8] = b"-ERR respgate: a worker did not answer in time; try again";

/// Reaches all workers.
#[derive(Clone)]
pub struct Directory {
    workers: Arc<[mpsc::Sender<Query>]>,
    /// When respgate started.
    began: Instant,
}

impl Directory {
    /// Creates the directory of this many workers, and the receiver of each worker's questions.
    pub fn new(workers: usize) -> (Self, Vec<mpsc::Receiver<Query>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(QUEUE)).unzip();
        (Self { workers: senders.into(), began: Instant::now() }, receivers)
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns the time since respgate started.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asks all workers for the lines of the selected clients. [`Self::next_lines`] receives them.
    ///
    /// # Errors
    /// Returns an error if a worker takes no question.
    pub async fn list(
        &self,
        selection: Selection,
        shape: Shape,
    ) -> Result<mpsc::Receiver<Lines>, Unanswered> {
        // Each worker waits with its next lines until the last ones are taken.
        let (answer, lines) = mpsc::channel(1);
        for worker in &*self.workers {
            send(worker, Query::List(selection.clone(), shape, answer.clone())).await?;
        }
        Ok(lines)
    }

    /// Returns the next lines; `None` after the last.
    ///
    /// # Errors
    /// Returns an error if none came in time.
    pub async fn next_lines(lines: &mut mpsc::Receiver<Lines>) -> Result<Option<Lines>, Unanswered> {
        timeout_at(Instant::now() + STEP_TIMEOUT, lines.recv()).await.map_err(|_| Unanswered)
    }

    /// Asks all workers one question, and returns the answers.
    ///
    /// # Errors
    /// Returns an error if a worker did not answer in time.
    pub async fn ask<T>(&self, query: impl Fn(oneshot::Sender<T>) -> Query) -> Result<Vec<T>, Unanswered> {
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &*self.workers {
            let (answer, answered) = oneshot::channel();
            send(worker, query(answer)).await?;
            answers.push(answered);
        }
        let mut all = Vec::with_capacity(answers.len());
        let deadline = Instant::now() + STEP_TIMEOUT;
        for answered in answers {
            all.push(timeout_at(deadline, answered).await.ok().and_then(Result::ok).ok_or(Unanswered)?);
        }
        Ok(all)
    }

    /// Asks the first worker a question.
    ///
    /// # Errors
    /// Returns an error if it did not answer in time.
    pub async fn ask_one<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        send(self.workers.first().ok_or(Unanswered)?, query(answer)).await?;
        let deadline = Instant::now() + STEP_TIMEOUT;
        timeout_at(deadline, answered).await.ok().and_then(Result::ok).ok_or(Unanswered)
    }

    /// Disconnects the selected clients of all workers. See [`Query::Kill`].
    ///
    /// # Errors
    /// Returns an error if a worker did not answer in time.
    pub async fn kill(&self, selection: &Selection, asker: Option<u64>) -> Result<Killed, Unanswered> {
        let killed = self.ask(|answer| Query::Kill(selection.clone(), asker, answer)).await?;
        Ok(Killed {
            clients: killed.iter().map(|killed| killed.clients).sum(),
            asker: killed.iter().any(|killed| killed.asker),
        })
    }

    /// Tells all workers that the server of an upstream may be silent until then.
    pub fn suspend(&self, upstream: usize, until: Instant) {
        for worker in &*self.workers {
            // A worker whose queue is full goes on to expect replies in time.
            let _ = worker.try_send(Query::Suspend(upstream, until));
        }
    }
}

async fn send(worker: &mpsc::Sender<Query>, query: Query) -> Result<(), Unanswered> {
    match timeout_at(Instant::now() + STEP_TIMEOUT, worker.send(query)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Unanswered),
    }
}
