//! How much may be under way on one shared connection at once: enough to keep the server busy, and not so much that
//! whoever comes next waits long behind it. No I/O; time is passed in.
//!
//! It is found as TCP Vegas finds its window: by how much longer an answer takes when the window is full.

use std::time::Duration;

use tokio::time::Instant;

/// The first window, in requests.
const FIRST: usize = 512;
/// A window is never smaller, nor larger. Eight costly commands still keep a server busy, and an eighth more is one more.
const LEAST: usize = 8;
const MOST: usize = 16 * 1024;
/// The window where there are no tenants.
const WIDE: usize = 64 * 1024;
/// What a full window may add to the time of an answer.
const STANDING: Duration = Duration::from_micros(200);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Window {
    size: usize,
    fixed: bool,
    /// The shortest time in which this connection's server answered.
    round_trip: Option<Duration>,
    /// The reply, counted from the first, that ends the current look, and when it began.
    look: Option<(u64, Instant)>,
}

impl Window {
    /// One that is as large as the server is fast and far.
    pub(in crate::upstream) fn adaptive() -> Self {
        Self { size: FIRST, fixed: false, round_trip: None, look: None }
    }

    /// One that only bounds memory: with nobody to be fair to, throughput counts.
    pub(in crate::upstream) fn fixed() -> Self {
        Self { size: WIDE, fixed: true, round_trip: None, look: None }
    }

    /// The same connection's, from now on `fair` (as [`Self::adaptive`]) or not.
    pub(in crate::upstream) fn turned(self, fair: bool) -> Self {
        match (fair, self.fixed) {
            (true, true) => Self { round_trip: self.round_trip, ..Self::adaptive() },
            (false, false) => Self { round_trip: self.round_trip, ..Self::fixed() },
            _ => self,
        }
    }

    /// Requests that may be under way.
    pub(in crate::upstream) fn size(&self) -> usize {
        self.size
    }

    /// It is another connection now, whose server answered its greeting in `round_trip`.
    pub(in crate::upstream) fn reopened(&mut self, round_trip: Duration) {
        (self.round_trip, self.look) = (Some(round_trip), None);
    }

    /// The window is not full any more: what is seen says nothing of it.
    pub(in crate::upstream) fn pause_sampling(&mut self) {
        self.look = None;
    }

    /// The window is full, and has been since the last call: `replies` have come in all, and `under_way` are still to
    /// come.
    pub(in crate::upstream) fn observe(&mut self, replies: u64, under_way: usize, now: Instant) {
        if self.fixed {
            return;
        }
        match self.look {
            Some((until, _)) if replies < until => return,
            Some((_, since)) => self.took(now - since),
            None => {}
        }
        self.look = Some((replies + under_way as u64, now));
    }

    /// A request was answered after so long, behind a full window of others.
    fn took(&mut self, time: Duration) {
        let round_trip = self.round_trip.map_or(time, |known| known.min(time));
        self.round_trip = Some(round_trip);
        let size =
            if time > round_trip + STANDING { self.size - self.size / 8 } else { self.size + self.size / 8 };
        self.size = size.clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window beside a server that is so far away and answers one request in so long.
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
        let found = wide.turned(true);
        assert_eq!((found.size(), found.fixed, found.round_trip), (FIRST, false, Some(MS)));
        let grown = Window { size: 2 * FIRST, ..found };
        assert_eq!(grown.turned(true).size(), 2 * FIRST, "it stays as it is");
        assert_eq!((grown.turned(false).size(), grown.turned(false).round_trip), (WIDE, Some(MS)));
    }

    #[test]
    fn it_is_as_large_as_the_server_is_fast_and_far() {
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
