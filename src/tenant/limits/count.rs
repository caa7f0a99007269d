//! Counts what a tenant uses at once, over all workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Counts something up to a limit.
#[derive(Debug)]
pub struct Count {
    taken: AtomicUsize,
    /// The limit; [`UNLIMITED`] if there is none.
    limit: AtomicUsize,
    /// The number of entries in `line`, so that no thread locks an empty line.
    waiting: AtomicUsize,
    line: Mutex<Line>,
}

/// Holds the wakers of all workers' clients that wait for room, the first one first.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

const UNLIMITED: usize = usize::MAX;

impl Count {
    /// Creates an empty count with a limit.
    pub fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit.unwrap_or(UNLIMITED)),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
        })
    }

    /// Sets another limit. If the count exceeds it, nothing is taken away, but nothing new is let in until the
    /// count has fallen below it. Wakes all waiters, which then look again.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or(UNLIMITED), Ordering::SeqCst);
        for (_, waker) in self.change_line(|line| std::mem::take(&mut line.wakers)) {
            waker.wake();
        }
    }

    /// Returns the current count.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Returns the limit; `None` if there is none.
    pub fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// Returns true if the limit is reached.
    pub fn full(&self) -> bool {
        self.taken() >= self.limit.load(Ordering::Relaxed)
    }

    /// Reduces the count by `parts`, and wakes as many waiters as there is now room for.
    fn give_back(&self, parts: usize) {
        let before = self.taken.fetch_sub(parts, Ordering::SeqCst);
        // A waiter enters the line before it looks at `taken` once more, so one of the two sees the other's
        // change.
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let room = self.limit.load(Ordering::SeqCst).saturating_sub(before.saturating_sub(parts));
        for _ in 0..room {
            let first = self.change_line(|line| line.wakers.pop_first());
            let Some((_, waker)) = first else { return };
            waker.wake();
        }
    }

    /// Changes the line, and updates the number of waiters.
    fn change_line<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        let mut line: MutexGuard<'_, Line> = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut line);
        self.waiting.store(line.wakers.len(), Ordering::SeqCst);
        changed
    }

    /// Adds one, unless the limit is reached.
    pub fn take(self: &Arc<Self>) -> Option<Taken> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let taken = Taken(self.clone());
        (before < self.limit.load(Ordering::Relaxed)).then_some(taken)
    }

    /// Adds one even beyond the limit, for a client or lease that already exists and belonged to another tenant.
    pub fn take_over(self: &Arc<Self>) -> Taken {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Taken(self.clone())
    }
}

/// Counts as one until it is dropped.
#[derive(Debug)]
pub struct Taken(Arc<Count>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Holds a place in the line for room. A waiter that is woken and finds no room keeps its place.
#[derive(Debug)]
pub struct CountedPlace {
    count: Arc<Count>,
    number: u64,
}

impl CountedPlace {
    fn new(count: &Arc<Count>) -> Self {
        let number = count.change_line(|line| {
            line.next += 1;
            line.next
        });
        Self { count: count.clone(), number }
    }

    /// Returns true if there is room now. Otherwise `waker` is called once, when there may be.
    pub fn room(&self, waker: &Waker) -> bool {
        self.count.change_line(|line| line.wakers.insert(self.number, waker.clone()));
        self.count.taken.load(Ordering::SeqCst) < self.count.limit.load(Ordering::SeqCst)
    }
}

impl Drop for CountedPlace {
    fn drop(&mut self) {
        self.count.change_line(|line| line.wakers.remove(&self.number));
    }
}

/// Holds one client's part of a count that changes often.
#[derive(Debug)]
pub struct Part {
    count: Arc<Count>,
    mine: usize,
}

impl Part {
    /// Creates an empty part.
    pub fn new(count: &Arc<Count>) -> Self {
        Self { count: count.clone(), mine: 0 }
    }

    /// Sets the client's part.
    pub fn set(&mut self, now: usize) {
        if now > self.mine {
            self.count.taken.fetch_add(now - self.mine, Ordering::Relaxed);
        } else if now < self.mine {
            self.count.give_back(self.mine - now);
        }
        self.mine = now;
    }

    /// Returns the count of all clients.
    pub fn count(&self) -> &Count {
        &self.count
    }

    /// Returns a place behind all current waiters.
    pub fn line_up(&self) -> CountedPlace {
        CountedPlace::new(&self.count)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_and_free_again() {
        let count = Count::new(Some(2));
        let first = count.take().unwrap();
        let second = count.take();
        assert!(count.full());
        assert!(count.take().is_none());
        assert_eq!(count.taken(), 2);
        drop((first, second));
        assert_eq!(count.taken(), 0);
        assert!(Count::new(None).take().is_some());
    }

    #[test]
    fn a_lower_limit_drives_nobody_out() {
        let count = Count::new(None);
        let held: Vec<_> = (0..3).map(|_| count.take().unwrap()).collect();
        count.set_limit(Some(2));
        assert!(count.full() && count.take().is_none());
        assert_eq!(count.taken(), 3);
        drop(held);
        let over: Vec<_> = (0..3).map(|_| count.take_over()).collect();
        assert!(count.take().is_none());
        count.set_limit(Some(4));
        assert!(count.take().is_some());
        drop(over);
        assert_eq!(count.taken(), 0);
    }

    #[test]
    fn parts_add_up() {
        let count = Count::new(Some(10));
        let (mut one, mut two) = (Part::new(&count), Part::new(&count));
        one.set(7);
        two.set(5);
        assert!(count.full());
        one.set(1);
        assert!(!two.count().full());
        drop(one);
        assert_eq!(count.taken(), 5);
    }

    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn as_many_are_woken_as_there_is_room_for_and_in_their_order() {
        let count = Count::new(Some(4));
        let mut part = Part::new(&count);
        part.set(5);
        let wakers: [Arc<Woken>; 4] = std::array::from_fn(|_| Arc::new(Woken(AtomicUsize::new(0))));
        let mut places: Vec<_> = wakers.iter().map(|_| part.line_up()).collect();
        for (place, waker) in places.iter().zip(&wakers) {
            assert!(!place.room(&waker.clone().into()));
            assert!(!place.room(&waker.clone().into()), "asking again is no second place");
        }
        let woken = || wakers.each_ref().map(|waker| waker.0.load(Ordering::Relaxed));
        part.set(4);
        assert_eq!(woken(), [0; 4], "still one too many");
        drop(places.remove(1));
        part.set(2);
        assert_eq!(woken(), [1, 0, 1, 0], "who left has no turn");
        part.set(4);
        assert!(!places[0].room(&wakers[0].clone().into()), "somebody else was quicker");
        part.set(3);
        assert_eq!(woken(), [2, 0, 1, 0], "and its place is kept");
        assert!(places[2].room(&wakers[3].clone().into()));
        drop(places);
        assert_eq!(count.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn threads_never_exceed_the_limit() {
        let count = Count::new(Some(3));
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let held: Vec<_> = (0..1000).filter_map(|_| count.take()).collect();
                    most.fetch_add(held.len(), Ordering::Relaxed);
                    std::mem::forget(held);
                });
            }
        });
        assert!(most.into_inner() <= 3);
    }
}
