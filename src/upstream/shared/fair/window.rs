//! Bounds the unanswered requests of one shared connection: enough to keep the server busy, and so few that the next
//! request does not wait long behind them. No I/O; time is passed in.
//!
//! The window adapts as that of TCP Vegas does: it compares the time of a reply behind a full window with the shortest
//! round trip, grows by an eighth while the difference is small, and shrinks by an eighth otherwise.

use std::time::Duration;

use tokio::time::Instant;

/// The first window, in requests.
const FIRST: usize = 512;
/// The bounds of a window, in requests. Eight costly commands still keep a server busy, and an eighth of eight is one.
const LEAST: usize = 8;
const MOST: usize = 16 * 1024;
/// The window where no tenants share the connection, in requests.
const WIDE: usize = 64 * 1024;
/// The delay that a full window may add to a reply.
const STANDING: Duration = Duration::from_micros(200);

/// The window of one connection. See the module.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Window {
    size: usize,
    fixed: bool,
    /// The shortest time in which the server answered on this connection.
    round_trip: Option<Duration>,
    /// The sample under way: the number of the reply that ends it, counted from the first reply, and when it began.
    sample: Option<(u64, Instant)>,
}

impl Window {
    /// Creates a window that adapts to the server's speed and distance.
    pub(in crate::upstream) fn adaptive() -> Self {
        Self { size: FIRST, fixed: false, round_trip: None, sample: None }
    }

    /// Creates a window that only bounds memory: without tenants there is nobody to be fair to, and throughput counts.
    pub(in crate::upstream) fn fixed() -> Self {
        Self { size: WIDE, fixed: true, round_trip: None, sample: None }
    }

    /// Returns the window of the same connection if tenants share it from now on (`fair`), or no longer do.
    pub(in crate::upstream) fn with_fairness(self, fair: bool) -> Self {
        match (fair, self.fixed) {
            (true, true) => Self { round_trip: self.round_trip, ..Self::adaptive() },
            (false, false) => Self { round_trip: self.round_trip, ..Self::fixed() },
            _ => self,
        }
    }

    /// Returns the number of requests that may be unanswered.
    pub(in crate::upstream) fn size(&self) -> usize {
        self.size
    }

    /// Starts anew for another connection, whose server answered its greeting in `round_trip`.
    pub(in crate::upstream) fn reopened(&mut self, round_trip: Duration) {
        (self.round_trip, self.sample) = (Some(round_trip), None);
    }

    /// Drops the sample under way: the window is not full any more, so the sample would say nothing about it.
    pub(in crate::upstream) fn pause_sampling(&mut self) {
        self.sample = None;
    }

    /// Takes note that the window is full, and has been since the last call. `replies`: the replies so far. `under_way`: the
    /// replies that are due.
    pub(in crate::upstream) fn observe(&mut self, replies: u64, under_way: usize, now: Instant) {
        if self.fixed {
            return;
        }
        match self.sample {
            // The request that was last in the full window has no reply yet.
            Some((until, _)) if replies < until => return,
            Some((_, since)) => self.took(now - since),
            None => {}
        }
        self.sample = Some((replies + under_way as u64, now));
    }

    /// Resizes the window after a request was answered in `time`, behind a full window of others.
    fn took(&mut self, time: Duration) {
        let round_trip = self.round_trip.map_or(time, |known| known.min(time));
        self.round_trip = Some(round_trip);
        // The excess over the shortest round trip is the time that requests waited in the window.
        let size =
            if time > round_trip + STANDING { self.size - self.size / 8 } else { self.size + self.size / 8 };
        self.size = size.clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the window for a server at this `distance` (the round trip) that needs `each` for one request.
    fn settled(distance: Duration, each: Duration) -> usize {
        let mut window = Window::adaptive();
        window.reopened(distance);
        let (mut now, mut replies) = (Instant::now(), 0);
        for _ in 0..200 {
            let size = window.size();
            window.observe(replies, size, now);
            now += distance.max(each * u32::try_from(size).unwrap());
            replies += size as u64;
        }
        window.size()
    }

    #[test]
    fn tenants_may_come_and_go_on_an_open_connection() {
        const MS: Duration = Duration::from_millis(1);
        let mut wide = Window::fixed();
        wide.reopened(MS);
        let found = wide.with_fairness(true);
        assert_eq!((found.size(), found.fixed, found.round_trip), (FIRST, false, Some(MS)));
        let grown = Window { size: 2 * FIRST, ..found };
        assert_eq!(grown.with_fairness(true).size(), 2 * FIRST, "it stays as it is");
        assert_eq!(
            (grown.with_fairness(false).size(), grown.with_fairness(false).round_trip),
            (WIDE, Some(MS))
        );
    }

    #[test]
    fn it_adapts_to_speed_and_distance() {
        let (near, far) = (Duration::from_micros(50), Duration::from_millis(2));
        // 250 µs of requests of 1 µs, and 2.2 ms of them.
        assert!((200..350).contains(&settled(near, Duration::from_micros(1))));
        assert!((1900..3000).contains(&settled(far, Duration::from_micros(1))));
        assert!((10..20).contains(&settled(near, Duration::from_micros(17))), "costly commands");
        assert_eq!(settled(near, Duration::from_millis(1)), LEAST);
        assert_eq!(settled(far, Duration::from_nanos(1)), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_window_that_was_full_all_the_time_counts() {
        let mut window = Window::adaptive();
        window.reopened(Duration::from_micros(50));
        window.observe(0, 512, Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        window.observe(511, 512, Instant::now());
        assert_eq!(window.size(), FIRST);
        window.pause_sampling();
        window.observe(512, 512, Instant::now());
        assert_eq!(window.size(), FIRST);
        window.observe(1024, 512, Instant::now() + Duration::from_secs(1));
        assert_eq!(window.size(), FIRST - FIRST / 8);
    }
}
