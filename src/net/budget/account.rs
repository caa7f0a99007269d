//! Counts what respgate keeps for one client.

use std::cell::Cell;
use std::rc::Rc;

use super::share::Share;

/// A byte that has been held for 1 s weighs as much as this many others.
const SETTLED_WEIGHT: usize = 16;
/// Bytes that a client may hold and still send more while the budget is spent.
const SMALL_HOLDING: usize = 16 * 1024;

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

    /// Returns the weight of the client's bytes, by which [`relief`](super::relief::relief) chooses. Bytes that the client
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
        let wait = self.held.get() > SMALL_HOLDING && self.share.budget().overdraft() > 0;
        if wait {
            self.waits.set(true);
        }
        wait
    }

    /// Ends the client's wait once the budget is relieved. Returns true if the client has waited.
    pub fn end_wait(&self) -> bool {
        self.waits.replace(false)
    }

    /// Marks the client for disconnection because the budget is spent and [`relief`](super::relief::relief) chose the
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
        self.account.share.budget().overdraft() > 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::budget::Budget;

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
}
