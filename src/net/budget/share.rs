//! The budget of the process, and each worker's part of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The smallest and the largest chunk of the budget that a worker takes at once, in bytes.
const LEAST_CHUNK: usize = 4 * 1024;
const MOST_CHUNK: usize = 256 * 1024;
/// All workers together hold at most one part in this many of the budget in unused chunks.
const CHUNKS: usize = 64;
/// When the budget is spent, relief frees the overdraft and one part in this many of the budget, so
/// that the remaining clients have room.
const HEADROOM: usize = 8;

/// The budget of the process.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    chunk: AtomicUsize,
    taken: AtomicUsize,
    workers: Box<[BudgetWorker]>,
}

/// One worker, as the other workers know it.
#[derive(Debug, Default)]
struct BudgetWorker {
    /// Wakes the worker's task that disconnects clients.
    spent: Notify,
    /// Bytes that the worker's largest client held when the worker last compared.
    largest: AtomicUsize,
}

impl Budget {
    /// Creates a budget of `limit` bytes, which all clients together may hold.
    pub fn new(limit: usize, workers: usize) -> Arc<Self> {
        let workers = workers.max(1);
        Arc::new(Self {
            limit: limit.into(),
            chunk: chunk(limit, workers).into(),
            taken: AtomicUsize::new(0),
            workers: (0..workers).map(|_| BudgetWorker::default()).collect(),
        })
    }

    /// Returns the bytes that all clients may hold together.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Replaces the bytes that all clients may hold together. If they hold more, respgate disconnects those that hold most.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.chunk.store(chunk(limit, self.workers()), Ordering::Relaxed);
        if self.overdraft() > 0 {
            self.workers.iter().for_each(|worker| worker.spent.notify_one());
        }
    }

    fn chunk(&self) -> usize {
        self.chunk.load(Ordering::Relaxed)
    }

    /// Returns the number of workers that share the budget.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns by how many bytes the budget is overdrawn.
    pub(super) fn overdraft(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_sub(self.limit())
    }

    /// Returns how many bytes must become free, or 0 if the budget is not spent.
    pub fn missing(&self) -> usize {
        match self.overdraft() {
            0 => 0,
            overdraft => overdraft + self.limit() / HEADROOM,
        }
    }

    fn take(&self, bytes: usize) {
        if self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limit() {
            self.workers.iter().for_each(|worker| worker.spent.notify_one());
        }
    }

    fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Returns the bytes of a budget of `limit` that one of `workers` workers takes at once.
fn chunk(limit: usize, workers: usize) -> usize {
    (limit / CHUNKS / workers).clamp(LEAST_CHUNK, MOST_CHUNK)
}

/// One worker's part of the budget.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    worker: usize,
    used: Cell<usize>,
    taken: Cell<usize>,
}

impl Share {
    /// Creates the part of the worker with the number `worker`, from 0.
    pub fn new(budget: Arc<Budget>, worker: usize) -> Self {
        Self { budget, worker, used: Cell::new(0), taken: Cell::new(0) }
    }

    /// Returns the budget of the process.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the bytes that this worker holds.
    pub fn bytes(&self) -> usize {
        self.used.get()
    }

    /// Adds `bytes` to the worker's count.
    #[inline]
    pub fn charge(&self, bytes: usize) {
        let used = self.used.get() + bytes;
        self.used.set(used);
        if used > self.taken.get() {
            self.take(used);
        }
    }

    /// Subtracts `bytes` from the worker's count.
    #[inline]
    pub fn discharge(&self, bytes: usize) {
        let used = self.used.get().saturating_sub(bytes);
        self.used.set(used);
        // The worker keeps one spare chunk, so that a count that rises and falls does not touch the
        // shared count each time.
        if used + 2 * self.budget.chunk() < self.taken.get() {
            self.give(used);
        }
    }

    #[cold]
    fn take(&self, used: usize) {
        let taken = used.next_multiple_of(self.budget.chunk());
        self.budget.take(taken - self.taken.replace(taken));
    }

    #[cold]
    fn give(&self, used: usize) {
        let taken = used.next_multiple_of(self.budget.chunk());
        self.budget.give(self.taken.replace(taken) - taken);
    }

    /// Waits until a worker has spent the budget since the last call. The budget may have been
    /// relieved since.
    pub async fn spent(&self) {
        let Some(worker) = self.budget.workers.get(self.worker) else { return std::future::pending().await };
        worker.spent.notified().await;
    }

    /// Tells the other workers how many bytes this worker's largest client holds. Returns how many
    /// bytes the largest client of any other worker held when that worker last compared.
    pub fn compare_largest(&self, largest: usize) -> usize {
        let mut others = 0;
        for (number, worker) in self.budget.workers.iter().enumerate() {
            if number == self.worker {
                worker.largest.store(largest, Ordering::Relaxed);
            } else {
                others = others.max(worker.largest.load(Ordering::Relaxed));
            }
        }
        others
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give(self.taken.get());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn every_worker_notices_that_the_budget_is_spent() {
        let budget = Budget::new(1 << 20, 2);
        let shares: Vec<Share> = (0..2).map(|worker| Share::new(budget.clone(), worker)).collect();
        shares[0].charge(900_000);
        assert_eq!(budget.missing(), 0);
        shares[1].charge(900_000);
        assert!(budget.missing() > 1 << 17);
        for share in &shares {
            share.spent().await;
        }
        shares[0].discharge(900_000);
        assert_eq!(budget.missing(), 0);
        drop(shares);
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }

    proptest! {
        /// The shared count is never less than what the workers hold, and exceeds it by their
        /// chunks at most.
        #[test]
        fn the_shared_count_follows_the_workers(steps in proptest::collection::vec((0..3usize, any::<bool>(), 0..100_000usize), 1..200)) {
            let budget = Budget::new(10 << 20, 3);
            let shares: Vec<Share> = (0..3).map(|worker| Share::new(budget.clone(), worker)).collect();
            for (worker, more, bytes) in steps {
                let share = &shares[worker];
                let less = bytes.min(share.bytes());
                if more { share.charge(bytes) } else { share.discharge(less) }
                let used: usize = shares.iter().map(Share::bytes).sum();
                let taken = budget.taken.load(Ordering::Relaxed);
                prop_assert!(taken >= used && taken <= used + 3 * 3 * budget.chunk(), "{taken} for {used}");
            }
        }
    }
}
