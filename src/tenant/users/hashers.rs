//! Runs the threads that hash passwords. Their number is fixed, and each reuses its memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::hash::{Memory, PasswordHash};
use crate::secret::Secret;

/// Limit of threads, for any number of workers. With the usual hashes each thread keeps 19 MiB.
const MOST_THREADS: usize = 4;
/// Limit of passwords that wait for a thread.
const WAITING: usize = 1024;
/// A thread that was idle for this long gives its memory back.
const IDLE: Duration = Duration::from_secs(30);

/// A password that waits for a thread.
struct Job {
    hash: PasswordHash,
    password: Secret,
    /// Takes the result: `None` if there was no memory. Closed if the client has left.
    answer: oneshot::Sender<Option<bool>>,
}

/// Owns the threads. They end when it is dropped.
pub struct Hashers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled for each new job, and at the end.
    job_added: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: FairQueue<Job>,
    ended: bool,
}

impl Hashers {
    /// Starts `threads` threads, 4 at most.
    ///
    /// # Errors
    /// Returns an error if the system refuses a thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let hashers = Self(shared.clone());
        for number in 0..threads.clamp(1, MOST_THREADS) {
            let shared = shared.clone();
            thread::Builder::new().name(format!("hasher-{number}")).spawn(move || shared.work())?;
        }
        Ok(hashers)
    }

    /// Returns true if the password hashes to `hash`; `None` if too many passwords wait or there is no memory.
    /// Networks, given by a number, take turns. If the future is dropped before a thread has begun, nothing is
    /// hashed.
    pub async fn matches(&self, network: u64, hash: PasswordHash, password: Secret) -> Option<bool> {
        let (answer, result) = oneshot::channel();
        self.0.queue().jobs.push(network, Job { hash, password, answer });
        self.0.job_added.notify_one();
        result.await.ok().flatten()
    }

    /// Returns how many passwords wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.0.queue().jobs.length
    }
}

impl Drop for Hashers {
    fn drop(&mut self) {
        self.0.queue().ended = true;
        self.0.job_added.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes passwords until the end.
    fn work(&self) {
        let mut memory = Memory::default();
        while let Some(Job { hash, password, answer }) = self.next(&mut memory) {
            if !answer.is_closed() {
                let _ = answer.send(hash.matches(password.expose(), &mut memory));
            }
        }
    }

    /// Waits for the next job; `None` at the end.
    fn next(&self, memory: &mut Memory) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                return Some(job);
            }
            let (woken, timeout) =
                self.job_added.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && queue.jobs.length == 0 {
                memory.give_back();
            }
        }
    }
}

/// Queues jobs of networks that take turns: with `n` networks, each gets every `n`-th turn, however many jobs the
/// others have. The queue is limited to [`WAITING`] jobs. When it is full, a new job replaces the newest job of
/// the network that has most, unless the new job's network has as many. A job that finds no place is dropped.
struct FairQueue<J> {
    /// The networks that have jobs, in the order of their turns.
    networks: VecDeque<(u64, VecDeque<J>)>,
    /// Number of jobs of all networks.
    length: usize,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { networks: VecDeque::new(), length: 0 }
    }
}

impl<J> FairQueue<J> {
    fn push(&mut self, network: u64, job: J) {
        let own =
            self.networks.iter().find(|(number, _)| *number == network).map_or(0, |(_, jobs)| jobs.len());
        if self.length >= WAITING && !self.make_room(own) {
            return;
        }
        self.length += 1;
        // Search again: `make_room` may have changed the entry.
        match self.networks.iter_mut().find(|(number, _)| *number == network) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.networks.push_back((network, VecDeque::from([job]))),
        }
    }

    /// Drops the newest job of the network that has most. Returns false if no network has more than one job above
    /// `own`.
    fn make_room(&mut self, own: usize) -> bool {
        let most = self.networks.iter_mut().max_by_key(|(_, jobs)| jobs.len());
        let dropped = most.filter(|(_, jobs)| jobs.len() > own + 1).and_then(|(_, jobs)| jobs.pop_back());
        self.length -= usize::from(dropped.is_some());
        dropped.is_some()
    }

    fn pop(&mut self) -> Option<J> {
        let (network, mut jobs) = self.networks.pop_front()?;
        // The network goes to the end of the line, so that each other network has a turn before its next job.
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.networks.push_back((network, jobs));
        }
        self.length -= usize::from(job.is_some());
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::pin::pin;

    #[tokio::test]
    async fn hashes_on_a_few_threads() {
        let hashers = Hashers::start(100).unwrap();
        let hash = PasswordHash::quick(b"secret");
        let matches = |password: &str| hashers.matches(1, hash.clone(), Secret::new(password));
        assert_eq!(matches("secret").await, Some(true));
        assert_eq!(matches("Secret").await, Some(false));
    }

    /// A client that leaves while it waits causes no hashing.
    #[tokio::test]
    async fn dropped_waits_do_no_work() {
        let hashers = Hashers::start(1).unwrap();
        let slow = PasswordHash::with_memory(b"x", 64 * 1024);
        let mut first = pin!(hashers.matches(1, slow.clone(), Secret::new("y")));
        let began = std::time::Instant::now();
        for _ in 0..200 {
            let wait = hashers.matches(1, slow.clone(), Secret::new("y"));
            let _ = tokio::time::timeout(Duration::ZERO, wait).await;
        }
        assert_eq!((&mut first).await, Some(false));
        let once = began.elapsed();
        assert_eq!(hashers.matches(1, slow, Secret::new("x")).await, Some(true));
        assert_eq!(hashers.waiting(), 0);
        assert!(began.elapsed() < once * 20 + Duration::from_secs(1), "{:?} and {once:?}", began.elapsed());
    }

    #[test]
    fn a_network_with_few_jobs_does_not_wait_for_one_with_many() {
        let mut queue = FairQueue::default();
        (0..5000).for_each(|job| queue.push(1, job));
        assert_eq!(queue.length, WAITING);
        queue.push(2, 9000);
        assert_eq!(queue.length, WAITING);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(0), Some(9000), Some(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Bounded, in order within a network, and a network with no job gets a turn within as many turns as there are
        /// networks, unless every place is taken by a network of its own.
        #[test]
        fn turns_are_fair(jobs in proptest::collection::vec((0..1500_u64, any::<bool>()), 0..3000), newcomer in 2000..2010_u64) {
            let mut queue = FairQueue::default();
            for (at, (network, pops)) in jobs.into_iter().enumerate() {
                queue.push(if network > 1000 { 0 } else { network }, (network, at));
                prop_assert!(queue.length <= WAITING);
                if pops {
                    queue.pop();
                }
                let counted: usize = queue.networks.iter().map(|(_, jobs)| jobs.len()).sum();
                prop_assert_eq!(counted, queue.length);
                prop_assert!(queue.networks.iter().all(|(_, jobs)| !jobs.is_empty()));
            }
            let networks = queue.networks.len();
            queue.push(newcomer, (newcomer, usize::MAX));
            if networks < WAITING {
                let turn = std::iter::from_fn(|| queue.pop()).position(|(network, _)| network == newcomer);
                prop_assert!(turn.is_some_and(|turn| turn <= networks), "{turn:?} of {networks}");
            }
        }
    }
}
