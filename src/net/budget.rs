//! The byte budget of the process (`max-buffered`): all workers share it, and each client's part of
//! it is counted.
//!
//! A worker counts in a plain number and takes from the shared count in chunks (`Budget::chunk`), so
//! that a command touches no atomic. A client's [`Account`] counts the allocated capacity of
//! everything that respgate keeps for the client. When the budget is spent, [`relief`] chooses the
//! clients that hold most, on all workers, and respgate disconnects them.

use std::cell::Cell;
use std::rc::Rc;
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
/// A byte that has been held for 1 s weighs as much as this many others.
const SETTLED_WEIGHT: usize = 16;
/// Bytes that a client may hold and still send more while the budget is spent.
const SMALL_HOLDING: usize = 16 * 1024;

/// The budget of the process.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    chunk: usize,
    taken: AtomicUsize,
    workers: Box<[BudgetWorker]>,
}

/// What the other workers know of one worker.
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
            limit,
            chunk: (limit / CHUNKS / workers).clamp(LEAST_CHUNK, MOST_CHUNK),
            taken: AtomicUsize::new(0),
            workers: (0..workers).map(|_| BudgetWorker::default()).collect(),
        })
    }

    /// Returns the bytes that all clients may hold together.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number of workers that share the budget.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns by how many bytes the budget is overdrawn.
    fn overdraft(&self) -> usize {
        self.taken.load(Ordering::Relaxed).saturating_sub(self.limit)
    }

    /// Returns how many bytes must become free, or 0 if the budget is not spent.
    pub fn missing(&self) -> usize {
        match self.overdraft() {
            0 => 0,
            overdraft => overdraft + self.limit / HEADROOM,
        }
    }

    fn take(&self, bytes: usize) {
        if self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limit {
            self.workers.iter().for_each(|worker| worker.spent.notify_one());
        }
    }

    fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One worker's part of the budget.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    worker: usize,
    held: Cell<usize>,
    taken: Cell<usize>,
}

impl Share {
    /// Creates the part of the worker with the number `worker`, from 0.
    pub fn new(budget: Arc<Budget>, worker: usize) -> Self {
        Self { budget, worker, held: Cell::new(0), taken: Cell::new(0) }
    }

    /// Returns the budget of the process.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the bytes that this worker holds.
    pub fn bytes(&self) -> usize {
        self.held.get()
    }

    /// Adds `bytes` to the worker's count.
    #[inline]
    pub fn charge(&self, bytes: usize) {
        let held = self.held.get() + bytes;
        self.held.set(held);
        if held > self.taken.get() {
            self.take(held);
        }
    }

    /// Subtracts `bytes` from the worker's count.
    #[inline]
    pub fn discharge(&self, bytes: usize) {
        let held = self.held.get().saturating_sub(bytes);
        self.held.set(held);
        // The worker keeps one spare chunk, so that a count that rises and falls does not touch the
        // shared count each time.
        if held + 2 * self.budget.chunk < self.taken.get() {
            self.give(held);
        }
    }

    #[cold]
    fn take(&self, held: usize) {
        let taken = held.next_multiple_of(self.budget.chunk);
        self.budget.take(taken - self.taken.replace(taken));
    }

    #[cold]
    fn give(&self, held: usize) {
        let taken = held.next_multiple_of(self.budget.chunk);
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

/// Counts what respgate keeps for one client, in allocated bytes.
#[derive(Debug)]
pub struct Account {
    share: Rc<Share>,
    held: Cell<usize>,
    moved: Cell<u64>,
    seen: Cell<usize>,
    at_tick: Cell<usize>,
    settled: Cell<usize>,
    evicted: Cell<bool>,
    waits: Cell<bool>,
}

impl Account {
    /// Creates an account of 0 bytes.
    pub fn new(share: &Rc<Share>) -> Rc<Self> {
        Rc::new(Self {
            share: share.clone(),
            held: Cell::default(),
            moved: Cell::default(),
            seen: Cell::default(),
            at_tick: Cell::default(),
            settled: Cell::default(),
            evicted: Cell::default(),
            waits: Cell::default(),
        })
    }

    /// Counts bytes that were read from the client or written to it.
    #[inline]
    pub fn note_moved(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    /// Returns the total of bytes that were read from the client or written to it.
    pub fn moved(&self) -> u64 {
        self.moved.get()
    }

    /// Notes what the client has held since the last call. The worker calls it once a second.
    pub fn tick(&self) {
        let held = self.held.get();
        // A byte is settled if it was held at this tick and at the one before. The smaller of the
        // two counts is a cheap approximation of that.
        self.settled.set(self.at_tick.replace(held).min(held));
    }

    /// Returns the weight of the client's bytes, by which [`relief`] chooses. Bytes that the client
    /// did not hold at the last call of this function weigh nothing: it may need them for a moment
    /// only. Bytes that it has held for 1 s weigh `SETTLED_WEIGHT` times as much as others. So a client
    /// that works is not mistaken for one that keeps what it holds.
    pub fn weigh(&self) -> usize {
        let held = self.held.get();
        // `lasting` already counts a settled byte once, hence `SETTLED_WEIGHT - 1`.
        let lasting = self.seen.replace(held).min(held);
        lasting + self.settled.get().min(held) * (SETTLED_WEIGHT - 1)
    }

    /// Returns the bytes that the client holds.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Replaces `before` bytes by `now` bytes.
    #[inline]
    pub fn change(&self, before: usize, now: usize) {
        self.held.set((self.held.get() + now).saturating_sub(before));
        if now > before {
            self.share.charge(now - before);
        } else {
            self.share.discharge(before - now);
        }
    }

    /// Returns true if the session must not read from the client now: the budget is spent, and the
    /// client holds more than `SMALL_HOLDING` bytes. The account then notes that the client waits;
    /// [`Self::end_wait`] ends the wait. Thus the overdraft is at most one read per client, however
    /// fast clients send and however long relief takes.
    #[inline]
    pub fn must_wait(&self) -> bool {
        let wait = self.held.get() > SMALL_HOLDING && self.share.budget.overdraft() > 0;
        if wait {
            self.waits.set(true);
        }
        wait
    }

    /// Ends the client's wait once the budget is relieved. Returns true if the client has waited.
    pub fn end_wait(&self) -> bool {
        self.waits.replace(false)
    }

    /// Marks the client for disconnection because the budget is spent and [`relief`] chose the
    /// client.
    pub fn evict(&self) {
        self.evicted.set(true);
    }

    /// Returns true if the client must be disconnected.
    pub fn is_evicted(&self) -> bool {
        self.evicted.get()
    }
}

/// Counts one thing that respgate keeps for a client. Dropping the charge subtracts its bytes.
#[derive(Debug)]
pub struct Charge {
    account: Rc<Account>,
    bytes: usize,
}

impl Charge {
    /// Creates a charge of 0 bytes.
    pub fn new(account: &Rc<Account>) -> Self {
        Self { account: account.clone(), bytes: 0 }
    }

    /// Sets the number of bytes allocated now.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.account.change(std::mem::replace(&mut self.bytes, bytes), bytes);
        }
    }

    /// Returns true while the budget of the process is overdrawn.
    pub fn is_budget_spent(&self) -> bool {
        self.account.share.budget.overdraft() > 0
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counted bytes that respgate keeps for a client while it is connected.
#[derive(Debug)]
pub struct Counted {
    bytes: Vec<u8>,
    charge: Charge,
}

impl Counted {
    /// Creates an empty value.
    pub fn new(account: &Rc<Account>) -> Self {
        Self { bytes: Vec::new(), charge: Charge::new(account) }
    }

    /// Replaces the bytes and counts the new ones.
    pub fn set(&mut self, bytes: &[u8]) {
        self.bytes = bytes.to_vec();
        self.charge.set(self.bytes.capacity());
    }
}

impl std::ops::Deref for Counted {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What [`relief`] must know of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The client's weight; see [`Account::weigh`].
    pub weight: usize,
    /// Bytes that become free when the client is disconnected.
    pub held: usize,
}

impl Holding {
    /// Returns the client's weight beside others. While any client holds more than the equal
    /// `share`, a client that holds at most that share weighs nothing.
    fn weight_above(&self, share: usize) -> usize {
        if self.held > share { self.weight } else { 0 }
    }
}

/// Returns the weight of the weightiest client that holds more than the equal `share`, or 0 if no
/// client does.
pub fn weightiest(clients: &[Holding], share: usize) -> usize {
    clients.iter().map(|client| client.weight_above(share)).max().unwrap_or(0)
}

/// Chooses the clients that a worker disconnects so that `missing` bytes become free. It takes the
/// worker's weightiest clients first, and only clients that weigh at least `others`, the largest
/// weight on any other worker. While any client holds more than an equal `share`, it chooses no
/// client that holds at most that share. `leaving` is the number of bytes of clients that are
/// already ending; they count as free.
///
/// Returns indexes of `clients`, the weightiest first.
pub fn relief(
    clients: &[Holding],
    share: usize,
    leaving: usize,
    missing: usize,
    others: usize,
) -> Vec<usize> {
    // `others` is above 0 only if a client of another worker holds more than the equal share,
    // because `weightiest` ignores smaller clients. If no worker has such a client, all clients are
    // compared by their full weight.
    let above = clients.iter().any(|client| client.held > share) || others > 0;
    let weight = |client: &Holding| if above { client.weight_above(share) } else { client.weight };
    let mut order: Vec<(usize, usize, usize)> = clients
        .iter()
        .enumerate()
        .map(|(index, client)| (weight(client), client.held, index))
        .filter(|(weight, ..)| *weight > 0 && *weight >= others)
        .collect();
    order.sort_unstable_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
    let mut missing = missing.saturating_sub(leaving);
    let mut chosen = Vec::new();
    for (_, held, index) in order {
        if missing == 0 {
            break;
        }
        missing = missing.saturating_sub(held);
        chosen.push(index);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_charge_ends_with_its_owner() {
        let share = Rc::new(Share::new(Budget::new(1 << 20, 1), 0));
        let account = Account::new(&share);
        let mut charge = Charge::new(&account);
        charge.set(70);
        charge.set(30);
        assert_eq!((account.held(), share.bytes()), (30, 30));
        drop(charge);
        assert_eq!((account.held(), share.bytes()), (0, 0));
    }

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

    #[test]
    fn a_large_client_waits_while_the_budget_is_spent() {
        let share = Rc::new(Share::new(Budget::new(1 << 20, 1), 0));
        let (modest, large) = (Account::new(&share), Account::new(&share));
        modest.change(0, SMALL_HOLDING);
        large.change(0, 1 << 20);
        assert!(!modest.must_wait() && large.must_wait());
        assert!(!modest.end_wait() && large.end_wait() && !large.end_wait());
        large.change(1 << 20, 1 << 19);
        assert!(!large.must_wait(), "there is room again");
    }

    fn clients(held: &[usize]) -> Vec<Holding> {
        held.iter().map(|held| Holding { weight: *held, held: *held }).collect()
    }

    #[test]
    fn the_client_that_holds_most_goes_first_wherever_it_is() {
        let clients = clients(&[10, 500, 0, 300, 400]);
        assert_eq!(relief(&clients, 0, 0, 1, 0), [1]);
        assert_eq!(relief(&clients, 0, 0, 900, 0), [1, 4]);
        assert_eq!(relief(&clients, 0, 0, 900, 450), [1], "the next largest is another worker's");
        assert!(relief(&clients, 0, 0, 1, 501).is_empty(), "the largest is another worker's");
        assert!(relief(&clients, 0, 1, 1, 0).is_empty(), "what leaves is enough");
        assert_eq!(relief(&clients, 0, 0, usize::MAX, 0), [1, 4, 3, 0], "who holds nothing stays");
    }

    /// Clients that hold more than an equal share go first, however long smaller clients have held
    /// their bytes.
    #[test]
    fn a_client_below_an_equal_share_stays_while_another_is_above() {
        let small = Holding { weight: 16 * 64, held: 64 };
        let (large, new) = (Holding { weight: 900, held: 900 }, Holding { weight: 0, held: 3000 });
        assert_eq!(relief(&[small, large, small, new], 500, 0, 10_000, 0), [1]);
        assert!(relief(&[small, new], 500, 0, 10_000, 0).is_empty(), "the large one is looked at again");
        assert!(relief(&[small, small], 500, 0, 10_000, 900).is_empty(), "another worker has a large one");
        assert_eq!(relief(&[small, small], 500, 0, 1, 0).len(), 1);
        assert_eq!((weightiest(&[small, large], 500), weightiest(&[small], 500)), (900, 0));
    }

    #[test]
    fn bytes_held_for_a_moment_weigh_nothing_and_settled_bytes_weigh_most() {
        let share = Rc::new(Share::new(Budget::new(1 << 20, 1), 0));
        let (works, keeps) = (Account::new(&share), Account::new(&share));
        keeps.change(0, 100);
        keeps.tick();
        keeps.tick();
        keeps.weigh();
        works.change(0, 1000);
        assert_eq!((works.weigh(), keeps.weigh()), (0, 1600));
        assert_eq!(works.weigh(), 1000);
        works.change(1000, 0);
        assert_eq!((works.weigh(), works.held()), (0, 0));
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
                let held: usize = shares.iter().map(Share::bytes).sum();
                let taken = budget.taken.load(Ordering::Relaxed);
                prop_assert!(taken >= held && taken <= held + 3 * 3 * budget.chunk, "{taken} for {held}");
            }
        }

        /// No spared client holds more than a chosen one, and no more clients are chosen than
        /// needed.
        #[test]
        fn relief_is_fair_and_enough(held in proptest::collection::vec(0..1000usize, 0..40), overdraft in 0..20_000usize) {
            let chosen = relief(&clients(&held), 0, 0, overdraft, 0);
            let freed: usize = chosen.iter().map(|at| held[*at]).sum();
            prop_assert!(freed >= overdraft.min(held.iter().sum()));
            if let Some(last) = chosen.last() {
                prop_assert!(freed - held[*last] < overdraft);
                let spared = (0..held.len()).filter(|at| !chosen.contains(at));
                prop_assert!(spared.map(|at| held[at]).all(|bytes| bytes <= held[*last]));
            }
        }
    }
}
