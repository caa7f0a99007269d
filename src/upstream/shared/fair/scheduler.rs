//! Decides which session sends next when sessions want to send more than the window of a shared connection. No I/O; time is
//! passed in.
//!
//! While the window has room, every session sends at will, and the scheduler is not asked. Contention begins with the first
//! request that finds the window full. From then on a session sends only what it was granted: the room that replies leave is
//! granted to the waiting sessions in the order of [`FairQueue`]. So a request waits behind at most one window. Contention
//! ends when nobody waits and less than half of the window is under way.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::upstream::shared::fair::fair_queue::{FairQueue, Share};
use crate::upstream::shared::fair::window::Window;

/// A session that asks whether it may send one request.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The session's number.
    pub who: u64,
    /// The owner whose share the request counts against.
    pub share: Share,
    /// True if none of the session's requests is under way.
    pub idle: bool,
}

/// The scheduler of one connection. See the module.
#[derive(Debug)]
pub(in crate::upstream) struct FairScheduler {
    pub(in crate::upstream) window: Window,
    queue: FairQueue,
    /// The grants that sessions have not used up, by session.
    grants: HashMap<u64, Grant>,
    /// The number of the last round of grants.
    round: u64,
    /// Requests granted in this round and not sent yet. They take room in the window, too.
    reserved: usize,
    /// True while sessions send only what they were granted.
    contended: bool,
}

#[derive(Debug)]
struct Grant {
    /// The requests that the session may still send.
    count: u32,
    /// The round in which the session last got some.
    round: u64,
}

impl FairScheduler {
    /// Creates the scheduler of a connection on which nothing was sent yet.
    pub(in crate::upstream) fn new(window: Window) -> Self {
        Self {
            window,
            queue: FairQueue::default(),
            grants: HashMap::new(),
            round: 0,
            reserved: 0,
            contended: false,
        }
    }

    /// Returns the number of requests up to which every session may send at will; 0 under contention.
    pub(in crate::upstream) fn depth(&self) -> usize {
        if self.contended { 0 } else { self.window.size() }
    }

    /// Returns true if `asker` may send one request now. `under_way`: the unanswered requests of all sessions.
    pub(in crate::upstream) fn admits(&mut self, asker: Asker, under_way: usize) -> bool {
        let Asker { who, share, idle } = asker;
        if let Some(grant) = self.grants.get_mut(&who) {
            grant.count -= 1;
            // A new round takes back what earlier rounds reserved, because their sessions have not used it.
            if grant.round == self.round {
                self.reserved = self.reserved.saturating_sub(1);
            }
            if grant.count == 0 {
                self.grants.remove(&who);
            }
            return true;
        }
        let free = self.queue.is_empty() && under_way + self.reserved < self.window.size();
        if !free {
            self.contended = true;
            // A session with nothing under way asks for little, and need not wait for the next round of grants. Twice the
            // window bounds what such sessions add.
            return idle && under_way < self.window.size() * 2 && self.queue.try_bypass(who, share);
        } else if self.is_over(under_way) {
            self.end();
        }
        free
    }

    /// Queues session `who`, which wants to send about `wanted` requests.
    pub(in crate::upstream) fn join(&mut self, who: u64, share: Share, wanted: u32) {
        self.contended = true;
        self.queue.join(who, share, wanted);
    }

    /// Forgets session `who`.
    pub(in crate::upstream) fn leave(&mut self, who: u64) {
        self.queue.leave(who);
        self.grants.remove(&who);
    }

    /// Grants the free room of the window, and calls `wake` for each session that gets some. `replies`: the replies so far.
    /// Returns true if the caller must call again when the woken sessions have run.
    pub(in crate::upstream) fn grant(
        &mut self,
        under_way: usize,
        replies: u64,
        now: Instant,
        mut wake: impl FnMut(u64),
    ) -> bool {
        self.window.observe(replies, under_way, now);
        let earlier = std::mem::take(&mut self.reserved);
        self.round += 1;
        let room = self.window.size().saturating_sub(under_way + earlier);
        let mut room = u32::try_from(room).unwrap_or(u32::MAX);
        let mut woken = Vec::new();
        while room > 0
            && let Some((who, count)) = self.queue.next(room)
        {
            room -= count;
            self.reserved += count as usize;
            let grant = self.grants.entry(who).or_insert(Grant { count: 0, round: 0 });
            if grant.round != self.round {
                grant.round = self.round;
                woken.push(who);
            }
            grant.count = grant.count.saturating_add(count);
        }
        for who in woken {
            // The session asks again for what it was not granted.
            self.queue.withdraw(who);
            wake(who);
        }
        if self.queue.is_empty() && earlier == 0 && self.is_over(under_way) {
            self.end();
        }
        !self.queue.is_empty() && self.reserved + earlier > 0
    }

    /// Returns true if no grant is unused and less than half of the window is under way. At a higher bound, contention would begin
    /// again with the next burst.
    fn is_over(&self, under_way: usize) -> bool {
        self.reserved == 0 && under_way < self.window.size() / 2
    }

    /// Ends the contention: every session may send at will.
    pub(in crate::upstream) fn end(&mut self) {
        self.queue.clear();
        self.grants.clear();
        self.window.pause_sampling();
        (self.reserved, self.contended) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::shared::fair::fair_queue::{Priority, ShareConfig};

    const FLOOD: Share =
        Share { owner: Some(1), config: ShareConfig { weight: 1, priority: Priority::Normal } };
    const POLITE: Share =
        Share { owner: Some(2), config: ShareConfig { weight: 1, priority: Priority::Normal } };
    const HEAVY: Share =
        Share { owner: Some(3), config: ShareConfig { weight: 3, priority: Priority::Normal } };

    /// A connection whose server has not answered yet, and its scheduler.
    struct Bench {
        scheduler: FairScheduler,
        under_way: Vec<u64>,
        replies: u64,
    }

    impl Default for Bench {
        fn default() -> Self {
            Self { scheduler: FairScheduler::new(Window::adaptive()), under_way: Vec::new(), replies: 0 }
        }
    }

    impl Bench {
        /// Sends what may be sent, at most `most`.
        fn send(&mut self, who: u64, most: usize) -> usize {
            let share = match who {
                2 => HEAVY,
                100 => POLITE,
                _ => FLOOD,
            };
            for sent in 0..most {
                let open = self.under_way.len() < self.scheduler.depth();
                if !open
                    && !self.scheduler.admits(Asker { who, share, idle: who == 100 }, self.under_way.len())
                {
                    return sent;
                }
                self.under_way.push(who);
            }
            most
        }

        fn answer(&mut self, count: usize) {
            self.under_way.drain(..count);
            self.replies += count as u64;
        }

        fn grant(&mut self) -> (Vec<u64>, bool) {
            let mut woken = Vec::new();
            let now = Instant::now();
            let again = self.scheduler.grant(self.under_way.len(), self.replies, now, |who| woken.push(who));
            (woken, again)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_behind_one_window_at_most() {
        let mut bench = Bench::default();
        let window = bench.scheduler.window.size();
        for who in 0..50 {
            bench.send(who, 1000);
            bench.scheduler.join(who, FLOOD, 1000);
        }
        assert_eq!(bench.under_way.len(), window);
        for _ in 0..100 {
            let polite = bench.send(100, 1);
            if polite == 0 {
                bench.scheduler.join(100, POLITE, 1);
            }
            bench.answer(40);
            let (woken, _) = bench.grant();
            assert!(polite == 1 || woken.contains(&100), "{woken:?}");
            for who in woken.into_iter().filter(|who| *who != 100) {
                assert!(bench.send(who, 1000) < 1000);
                bench.scheduler.join(who, FLOOD, 1000);
            }
            bench.send(100, 1 - polite);
            let size = bench.scheduler.window.size();
            assert!(bench.under_way.len() <= size + 1, "{} of {size}", bench.under_way.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn weights_count_between_two_sessions() {
        let mut bench = Bench::default();
        let (mut light_sent, mut heavy_sent) = (0, 0);
        bench.send(1, 10_000);
        for _ in 0..1000 {
            bench.scheduler.join(1, FLOOD, 1000);
            bench.scheduler.join(2, HEAVY, 1000);
            bench.answer(64);
            bench.grant();
            light_sent += bench.send(1, 1000);
            heavy_sent += bench.send(2, 1000);
        }
        assert!((heavy_sent * 100 / light_sent).abs_diff(300) < 10, "{heavy_sent} and {light_sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn room_given_to_one_that_does_not_take_it_goes_to_others() {
        let mut bench = Bench::default();
        bench.send(1, 10_000);
        for who in 1..=20 {
            bench.scheduler.join(who, FLOOD, 1000);
        }
        bench.answer(bench.under_way.len());
        let mut rounds = 0;
        while bench.grant().1 {
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(bench.scheduler.queue.is_empty(), "everybody was given some, though none took it");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_rush() {
        let mut bench = Bench::default();
        bench.send(1, 10_000);
        assert_eq!(bench.scheduler.depth(), 0);
        bench.scheduler.join(1, FLOOD, 10);
        bench.answer(bench.under_way.len() - 10);
        assert_eq!(bench.grant().0, [1]);
        assert_eq!(bench.send(1, 11), 11, "nobody else waits");
        assert_eq!(bench.scheduler.depth(), bench.scheduler.window.size());
        bench.send(1, 10_000);
        bench.scheduler.join(1, FLOOD, 10);
        bench.scheduler.leave(1);
        bench.answer(bench.under_way.len());
        bench.grant();
        assert_eq!(bench.scheduler.depth(), bench.scheduler.window.size());
    }
}
