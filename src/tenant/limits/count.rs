//! Counts of what a tenant has at once, over all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are, and how many there may be.
#[derive(Debug)]
pub struct Count {
    taken: AtomicUsize,
    /// [`UNLIMITED`]: as many as come.
    limit: AtomicUsize,
}

const UNLIMITED: usize = usize::MAX;

impl Count {
    /// None yet; `limit`: at most so many.
    pub fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), limit: AtomicUsize::new(limit.unwrap_or(UNLIMITED)) })
    }

    /// From now on there may be so many. Those beyond it stay; there are no new ones until enough have gone.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// How many there are now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// Whether there may be no more.
    pub fn full(&self) -> bool {
        self.taken() >= self.limit.load(Ordering::Relaxed)
    }

    /// One more, unless there may be no more.
    pub fn take(self: &Arc<Self>) -> Option<Taken> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let taken = Taken(self.clone());
        (before < self.limit.load(Ordering::Relaxed)).then_some(taken)
    }

    /// One more, however many there may be: it is there already, and was another's.
    pub fn take_over(self: &Arc<Self>) -> Taken {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Taken(self.clone())
    }
}

/// One that is counted as long as it lives.
#[derive(Debug)]
pub struct Taken(Arc<Count>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One client's part of a count, which changes often.
#[derive(Debug)]
pub struct Part {
    count: Arc<Count>,
    mine: usize,
}

impl Part {
    /// Nothing yet.
    pub fn new(count: &Arc<Count>) -> Self {
        Self { count: count.clone(), mine: 0 }
    }

    /// What this client has now.
    pub fn set(&mut self, now: usize) {
        if now > self.mine {
            self.count.taken.fetch_add(now - self.mine, Ordering::Relaxed);
        } else if now < self.mine {
            self.count.taken.fetch_sub(self.mine - now, Ordering::Relaxed);
        }
        self.mine = now;
    }

    /// Of all clients.
    pub fn count(&self) -> &Count {
        &self.count
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
