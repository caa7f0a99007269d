//! Who may send on a shared connection when sessions together want to send more than its window. No I/O; time is
//! passed in.
//!
//! Below the window everybody sends at will, and nothing here is looked at. From the first request that finds the
//! window full until the rush is over, a session sends only what it has been given: whatever room replies leave is
//! dealt out among those who wait, in the order of [`FairQueue`]. So the window bounds what a request waits behind.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::upstream::shared::fair::fair_queue::{FairQueue, Share};
use crate::upstream::shared::fair::window::Window;

/// Who asks whether it may send one request.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The session.
    pub who: u64,
    /// For whom.
    pub share: Share,
    /// Nothing of it is under way.
    pub idle: bool,
}

/// See the module.
#[derive(Debug)]
pub(in crate::upstream) struct FairScheduler {
    pub(in crate::upstream) window: Window,
    turns: FairQueue,
    /// What sessions may send and have not sent yet.
    given: HashMap<u64, Grant>,
    round: u64,
    /// What was given in this round and has not been sent.
    reserved: usize,
    begun: bool,
}

#[derive(Debug)]
struct Grant {
    count: u32,
    round: u64,
}

impl FairScheduler {
    /// Nobody has sent anything yet.
    pub(in crate::upstream) fn new(window: Window) -> Self {
        Self {
            window,
            turns: FairQueue::default(),
            given: HashMap::new(),
            round: 0,
            reserved: 0,
            begun: false,
        }
    }

    /// Requests that may be under way while anybody may send.
    pub(in crate::upstream) fn depth(&self) -> usize {
        if self.begun { 0 } else { self.window.size() }
    }

    /// Whether one request may be sent now, while `under_way` of all have no reply.
    pub(in crate::upstream) fn admits(&mut self, asker: Asker, under_way: usize) -> bool {
        let Asker { who, share, idle } = asker;
        if let Some(given) = self.given.get_mut(&who) {
            given.count -= 1;
            if given.round == self.round {
                self.reserved = self.reserved.saturating_sub(1);
            }
            if given.count == 0 {
                self.given.remove(&who);
            }
            return true;
        }
        let free = self.turns.is_empty() && under_way + self.reserved < self.window.size();
        if !free {
            self.begun = true;
            // Who asks for little need not wait for the next deal.
            return idle && under_way < self.window.size() * 2 && self.turns.try_bypass(who, share);
        } else if self.is_over(under_way) {
            self.end();
        }
        free
    }

    /// `who` waits to send about `wanted` requests.
    pub(in crate::upstream) fn join(&mut self, who: u64, share: Share, wanted: u32) {
        self.begun = true;
        self.turns.join(who, share, wanted);
    }

    /// `who` has left.
    pub(in crate::upstream) fn leave(&mut self, who: u64) {
        self.turns.leave(who);
        self.given.remove(&who);
    }

    /// Deals out the room that there is; whoever gets some is told to `wake`. `replies`: how many have come in all.
    /// True: call it once more when those who were woken have had their turn.
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
            && let Some((who, count)) = self.turns.next(room)
        {
            room -= count;
            self.reserved += count as usize;
            let given = self.given.entry(who).or_insert(Grant { count: 0, round: 0 });
            if given.round != self.round {
                given.round = self.round;
                woken.push(who);
            }
            given.count = given.count.saturating_add(count);
        }
        for who in woken {
            // It asks again for what it was not given.
            self.turns.withdraw(who);
            wake(who);
        }
        if self.turns.is_empty() && earlier == 0 && self.is_over(under_way) {
            self.end();
        }
        !self.turns.is_empty() && self.reserved + earlier > 0
    }

    fn is_over(&self, under_way: usize) -> bool {
        self.reserved == 0 && under_way < self.window.size() / 2
    }

    /// Everybody may send at will.
    pub(in crate::upstream) fn end(&mut self) {
        self.turns.clear();
        self.given.clear();
        self.window.pause_sampling();
        (self.reserved, self.begun) = (0, false);
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

    /// A connection whose server has not answered yet.
    struct Bench {
        contention: FairScheduler,
        under_way: Vec<u64>,
        replies: u64,
    }

    impl Default for Bench {
        fn default() -> Self {
            Self { contention: FairScheduler::new(Window::adaptive()), under_way: Vec::new(), replies: 0 }
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
                let open = self.under_way.len() < self.contention.depth();
                if !open
                    && !self.contention.admits(Asker { who, share, idle: who == 100 }, self.under_way.len())
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

        fn deal(&mut self) -> (Vec<u64>, bool) {
            let mut woken = Vec::new();
            let now = Instant::now();
            let again = self.contention.grant(self.under_way.len(), self.replies, now, |who| woken.push(who));
            (woken, again)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_behind_one_window_at_most() {
        let mut bench = Bench::default();
        let window = bench.contention.window.size();
        for who in 0..50 {
            bench.send(who, 1000);
            bench.contention.join(who, FLOOD, 1000);
        }
        assert_eq!(bench.under_way.len(), window);
        for _ in 0..100 {
            let polite = bench.send(100, 1);
            if polite == 0 {
                bench.contention.join(100, POLITE, 1);
            }
            bench.answer(40);
            let (woken, _) = bench.deal();
            assert!(polite == 1 || woken.contains(&100), "{woken:?}");
            for who in woken.into_iter().filter(|who| *who != 100) {
                assert!(bench.send(who, 1000) < 1000);
                bench.contention.join(who, FLOOD, 1000);
            }
            bench.send(100, 1 - polite);
            let size = bench.contention.window.size();
            assert!(bench.under_way.len() <= size + 1, "{} of {size}", bench.under_way.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn weights_count_between_two_sessions() {
        let mut bench = Bench::default();
        let (mut light_sent, mut heavy_sent) = (0, 0);
        bench.send(1, 10_000);
        for _ in 0..1000 {
            bench.contention.join(1, FLOOD, 1000);
            bench.contention.join(2, HEAVY, 1000);
            bench.answer(64);
            bench.deal();
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
            bench.contention.join(who, FLOOD, 1000);
        }
        bench.answer(bench.under_way.len());
        let mut rounds = 0;
        while bench.deal().1 {
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(bench.contention.turns.is_empty(), "everybody was given some, though none took it");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_rush() {
        let mut bench = Bench::default();
        bench.send(1, 10_000);
        assert_eq!(bench.contention.depth(), 0);
        bench.contention.join(1, FLOOD, 10);
        bench.answer(bench.under_way.len() - 10);
        assert_eq!(bench.deal().0, [1]);
        assert_eq!(bench.send(1, 11), 11, "nobody else waits");
        assert_eq!(bench.contention.depth(), bench.contention.window.size());
        bench.send(1, 10_000);
        bench.contention.join(1, FLOOD, 10);
        bench.contention.leave(1);
        bench.answer(bench.under_way.len());
        bench.deal();
        assert_eq!(bench.contention.depth(), bench.contention.window.size());
    }
}
