//! Clients at work, each on a connection of its own: writers count up and note every answer, readers read along.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use crate::connection::{Connection, ask};
use crate::verdict::{Counter, Verdict};

/// One writer for each counter, and a reader for every other one.
const COUNTERS: usize = 8;

/// Between two commands of one client: a visible load, not a benchmark.
const PAUSE: Duration = Duration::from_millis(2);

/// A reply that takes longer has failed. It outlasts what respgate holds commands for.
const PATIENCE: Duration = Duration::from_secs(50);

/// Running clients.
pub struct Workload {
    books: Arc<Mutex<Books>>,
    /// Each client holds it while a command is under way; who holds it alone sees none.
    turn: Arc<RwLock<()>>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients have noted.
pub struct Books {
    verdict: Verdict,
    counters: Vec<Counter>,
    /// Commands that were answered since the start.
    pub operations: u64,
    /// When any writer last had a success.
    pub last_success: Instant,
    /// The longest time since the accounts were opened in which no writer had a success.
    pub silence: (Instant, Instant),
    /// The slowest answer since this was last taken.
    pub slowest: Duration,
    /// The slowest success of a writer since the accounts were opened.
    pub longest_wait: Duration,
}

impl Workload {
    /// Starts clients of the port.
    pub fn start(port: u16) -> Self {
        let now = Instant::now();
        let books = Arc::new(Mutex::new(Books {
            verdict: Verdict::default(),
            counters: vec![Counter::default(); COUNTERS],
            operations: 0,
            last_success: now,
            silence: (now, now),
            slowest: Duration::ZERO,
            longest_wait: Duration::ZERO,
        }));
        let turn = Arc::new(RwLock::new(()));
        let mut clients = Vec::new();
        for counter in 0..COUNTERS {
            let mut roles = vec![Role::Writer];
            roles.extend((counter % 2 == 0).then_some(Role::Reader));
            for role in roles {
                let client = Client { role, counter, books: Arc::clone(&books), turn: Arc::clone(&turn) };
                clients.push(tokio::spawn(client.work(port)));
            }
        }
        Self { books, turn, clients }
    }

    /// What the clients have noted so far.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// For another task to look at.
    pub fn shared_books(&self) -> Arc<Mutex<Books>> {
        Arc::clone(&self.books)
    }

    /// Lets every command under way end, compares with what the server at `port` holds, and opens new accounts.
    pub async fn settle(&self, port: u16) -> io::Result<Verdict> {
        let _alone = self.turn.write().await;
        let mut surviving = Vec::new();
        for counter in 0..COUNTERS {
            let value = ask(port, &format!("GET {}", key(counter))).await?;
            surviving.push(number(&value)?);
        }
        let mut books = self.books();
        let Books { verdict, counters, .. } = &mut *books;
        for (counter, surviving) in counters.iter_mut().zip(surviving) {
            verdict.close(counter, surviving);
        }
        let verdict = std::mem::take(verdict);
        let now = Instant::now();
        (books.silence, books.last_success, books.longest_wait) = ((now, now), now, Duration::ZERO);
        Ok(verdict)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}

impl Books {
    fn answered(&mut self, took: Duration) {
        self.operations += 1;
        self.slowest = self.slowest.max(took);
    }

    fn acknowledged(&mut self, counter: usize, value: i64, took: Duration) {
        let now = Instant::now();
        if now - self.last_success > self.silence.1 - self.silence.0 {
            self.silence = (self.last_success, now);
        }
        self.last_success = now;
        self.longest_wait = self.longest_wait.max(took);
        self.verdict.acknowledge(&mut self.counters[counter], value);
    }
}

#[derive(Clone, Copy)]
enum Role {
    Writer,
    Reader,
}

struct Client {
    role: Role,
    counter: usize,
    books: Arc<Mutex<Books>>,
    turn: Arc<RwLock<()>>,
}

impl Client {
    /// After a lost connection it connects again and goes on.
    async fn work(self, port: u16) {
        loop {
            let lost = match Connection::open(port).await {
                Ok(connection) => self.converse(connection).await,
                Err(error) => error,
            };
            lock(&self.books).verdict.fail(format!("connection: {lost}"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Works on one connection until it is lost, and says how.
    async fn converse(&self, mut connection: Connection) -> io::Error {
        let command = match self.role {
            Role::Writer => format!("INCR {}", key(self.counter)),
            Role::Reader => format!("GET {}", key(self.counter)),
        };
        loop {
            let turn = self.turn.read().await;
            let asked = Instant::now();
            let answer = match tokio::time::timeout(PATIENCE, connection.ask(&command)).await {
                Ok(answer) => answer.and_then(|texts| number(&texts)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            if let Err(lost) = self.note(answer, asked.elapsed()) {
                return lost;
            }
            drop(turn);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes down an answer. An error says that the connection is of no more use.
    fn note(&self, answer: io::Result<i64>, took: Duration) -> io::Result<()> {
        let mut books = lock(&self.books);
        let Books { verdict, counters, .. } = &mut *books;
        match (answer, self.role) {
            (Ok(value), role) => {
                books.answered(took);
                if matches!(role, Role::Writer) {
                    books.acknowledged(self.counter, value, took);
                }
            }
            (Err(error), Role::Writer) if error.to_string().starts_with("OUTCOMEUNKNOWN ") => {
                verdict.unknown += 1;
                verdict.doubt(&mut counters[self.counter]);
            }
            (Err(error), _) if error.kind() == io::ErrorKind::Other => verdict.fail(error.to_string()),
            (Err(lost), role) => {
                if matches!(role, Role::Writer) {
                    verdict.doubt(&mut counters[self.counter]);
                }
                return Err(lost);
            }
        }
        Ok(())
    }
}

/// The key of each counter.
pub fn keys() -> impl Iterator<Item = String> {
    (0..COUNTERS).map(key)
}

fn key(counter: usize) -> String {
    format!("demo:counter:{counter}")
}

/// The number that a reply is; a key that does not exist yet counts as 0.
fn number(texts: &[String]) -> io::Result<i64> {
    match texts {
        [none] if none.is_empty() => Ok(0),
        [digits] => digits.parse().map_err(|_| io::ErrorKind::InvalidData.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The books, also after a panic elsewhere: every note in them is whole.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
