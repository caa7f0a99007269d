//! Measures how long the polls of one worker's tasks take.
//!
//! A worker runs one task at a time: while a poll lasts, every other session of that worker waits. The meter therefore
//! shows the longest stall that respgate itself caused.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use quanta::Clock;
use tokio::task::AbortHandle;

/// A poll of at least this duration is counted as a long one.
const LONG: Duration = Duration::from_millis(20);
/// Length of a window, in seconds. [`PollFigures::longest`] covers the present window and the one
/// before it.
const WINDOW: u32 = 60;

/// Holds what one worker's meter has measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollFigures {
    /// The longest poll of the last 60 to 120 seconds, in wall time: a thread that the system suspends during a poll
    /// adds that time.
    pub longest: Duration,
    /// Number of polls of at least 20 ms since the start.
    pub long: u64,
}

/// The moment from which a worker's next poll is measured: the moment its thread woke or its last
/// poll ended. Each poll thus needs only one reading of the clock.
#[derive(Clone)]
pub struct PollClock {
    clock: Clock,
    /// The moment, in ticks. One thread writes it. It is atomic because the runtime's hook shares
    /// it and must be `Sync`.
    since: Arc<AtomicU64>,
    /// The clock's start, in ticks.
    start: u64,
    /// Microseconds in 2^32 ticks.
    scale: u64,
}

impl PollClock {
    /// Creates a clock that starts now. The first clock of a process takes up to 0.2 s to
    /// calibrate.
    pub fn start() -> Self {
        Self::with(Clock::new())
    }

    fn with(clock: Clock) -> Self {
        let start = clock.raw();
        let scale = clock.delta_as_nanos(0, 1 << 32) / 1000;
        Self { clock, since: Arc::new(AtomicU64::new(start)), start, scale }
    }

    /// Returns when the present poll began, in microseconds since the clock's start. The value wraps after 71 minutes.
    /// Reads no clock.
    #[inline]
    pub fn poll_began(&self) -> u32 {
        let ticks = self.since.load(Ordering::Relaxed).wrapping_sub(self.start);
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u32
    }

    /// Notes that the thread woke from sleep. The runtime's `on_thread_unpark` calls this.
    pub fn awoke(&self) {
        self.since.store(self.clock.raw(), Ordering::Relaxed);
    }

    /// Returns the ticks since the last call, or since the thread woke if that is later.
    fn lap(&self) -> u64 {
        let now = self.clock.raw();
        let since = self.since.load(Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        now.saturating_sub(since)
    }
}

/// Measures the polls of one worker. Reads a clock once per poll: the CPU's counter if its rate is
/// constant.
pub struct PollMeter {
    clock: PollClock,
    /// [`LONG`], in ticks of the clock.
    long_ticks: u64,
    /// A poll of more ticks than this changes `current` or the number of long polls.
    threshold: Cell<u64>,
    /// The longest poll of the present window, in ticks.
    current: Cell<u64>,
    /// The longest poll of the previous window, in ticks.
    previous: Cell<u64>,
    /// Seconds since the present window began.
    age: Cell<u32>,
    long: Cell<u64>,
}

impl PollMeter {
    /// Creates an empty meter without a hook that tells it when its thread wakes, for tests.
    #[cfg(test)]
    pub fn new() -> Rc<Self> {
        Self::with(PollClock::start())
    }

    /// Creates an empty meter. The runtime's `on_thread_unpark` must call [`PollClock::awoke`] of
    /// `clock`.
    pub fn with(clock: PollClock) -> Rc<Self> {
        const TICKS: u64 = 1 << 32;
        let nanoseconds = clock.clock.delta_as_nanos(0, TICKS).max(1);
        let long_ticks = LONG.as_nanos() * u128::from(TICKS) / u128::from(nanoseconds);
        Rc::new(Self {
            clock,
            long_ticks: u64::try_from(long_ticks).unwrap_or(u64::MAX),
            threshold: Cell::new(0),
            current: Cell::new(0),
            previous: Cell::new(0),
            age: Cell::new(0),
            long: Cell::new(0),
        })
    }

    /// Returns the clock by which the polls are measured.
    pub fn clock(&self) -> PollClock {
        self.clock.clone()
    }

    /// Wraps `future` so that every poll of it is measured.
    pub fn measure<F: Future>(self: &Rc<Self>, future: F) -> Measured<F> {
        Measured { future, meter: self.clone() }
    }

    /// Spawns `future` on this thread's runtime and measures every poll of it. The handle can end it.
    pub fn spawn_local(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) -> AbortHandle {
        tokio::task::spawn_local(self.measure(future)).abort_handle()
    }

    /// Advances the windows by one second. The worker calls it once a second.
    pub fn tick(&self) {
        let age = self.age.get() + 1;
        if age < WINDOW {
            return self.age.set(age);
        }
        self.age.set(0);
        self.previous.set(self.current.replace(0));
        self.threshold.set(0);
    }

    /// Returns what the meter has measured so far.
    pub fn figures(&self) -> PollFigures {
        let ticks = self.current.get().max(self.previous.get());
        let longest = Duration::from_nanos(self.clock.clock.delta_as_nanos(0, ticks));
        PollFigures { longest, long: self.long.get() }
    }

    #[cold]
    fn note(&self, ticks: u64) {
        if ticks >= self.long_ticks {
            self.long.set(self.long.get() + 1);
        }
        self.current.set(self.current.get().max(ticks));
        // Only a poll that is longer than the longest, or that is a long one, must call this
        // function again.
        self.threshold.set(self.current.get().min(self.long_ticks.saturating_sub(1)));
    }
}

pin_project! {
    /// A future whose polls are measured.
    pub struct Measured<F> {
        #[pin]
        future: F,
        meter: Rc<PollMeter>,
    }
}

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.future.poll(cx);
        let ticks = this.meter.clock.lap();
        if ticks > this.meter.threshold.get() {
            this.meter.note(ticks);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_for(meter: &Rc<PollMeter>, mock: &quanta::Mock, duration: Duration) {
        let mut measured = Box::pin(meter.measure(std::future::poll_fn(|_| {
            mock.increment(duration);
            Poll::Ready(())
        })));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(measured.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn the_longest_poll_is_kept_for_two_windows_and_long_ones_are_counted() {
        let (clock, mock) = Clock::mock();
        let meter = PollMeter::with(PollClock::with(clock));
        for milliseconds in [3, 25, 7, 20, 19, 30] {
            poll_for(&meter, &mock, Duration::from_millis(milliseconds));
        }
        assert_eq!(meter.figures(), PollFigures { longest: Duration::from_millis(30), long: 3 });
        (0..WINDOW).for_each(|_| meter.tick());
        poll_for(&meter, &mock, Duration::from_millis(4));
        assert_eq!(meter.figures().longest, Duration::from_millis(30), "the window before counts, too");
        (0..WINDOW).for_each(|_| meter.tick());
        assert_eq!(meter.figures(), PollFigures { longest: Duration::from_millis(4), long: 3 });
    }

    #[test]
    fn moments_are_microseconds_since_the_start() {
        let (clock, mock) = Clock::mock();
        mock.increment(Duration::from_secs(7));
        let clock = PollClock::with(clock);
        mock.increment(Duration::from_millis(20));
        assert_eq!(clock.poll_began(), 0, "no poll has ended");
        clock.lap();
        assert!((19_990..=20_000).contains(&clock.poll_began()), "{}", clock.poll_began());
    }

    #[test]
    fn a_real_clock_measures_a_real_poll() {
        let meter = PollMeter::new();
        let mut measured = Box::pin(meter.measure(std::future::poll_fn(|_| {
            std::thread::sleep(LONG);
            Poll::Ready(())
        })));
        let _ = measured.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        let PollFigures { longest, long } = meter.figures();
        assert!(longest >= LONG - LONG / 100 && longest < Duration::from_secs(10), "{longest:?}");
        assert!(long <= 1);
    }
}
