//! The connections of the admin listener: their number, their time limits, and which one is closed
//! to make room for a new one.
//!
//! A new connection is always accepted, so respgate answers a probe however many clients keep their
//! connections open. When all slots are taken, respgate closes the oldest connection that it does
//! not keep waiting for an answer, or the oldest of all if each one waits. A connection's age
//! counts from its accept. If it counted from the newest request, a client that sends one request
//! after another would keep its slot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Maximum number of connections at once.
const CONNECTIONS: usize = 64;
/// Time within which a request's head must arrive, after the accept or after the previous answer.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time from a request's head within which respgate must make the answer, the client must read it,
/// and the next request must begin.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Time after which a connection answers no further request.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);
/// Minimum time that a connection stays open, in which it can have one request answered.
const GRACE: Duration = Duration::from_millis(50);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionsState {
    accepted: Instant,
    /// When the newest request began; before the first one, when the connection was accepted.
    since: Instant,
    /// True while respgate makes the answer, so that the client does not cause the delay.
    answering: bool,
}

/// Tracks what a connection is doing. All clones share the state.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<ConnectionsState>>);

impl Activity {
    /// Creates the state of a connection that has just been accepted.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(ConnectionsState { accepted: now, since: now, answering: false })))
    }

    fn state(&self) -> ConnectionsState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: ConnectionsState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Notes that a request's head has arrived, whose answer may take `longer` than others.
    pub(super) fn request(&self, longer: Duration) {
        self.set(ConnectionsState { since: Instant::now() + longer, answering: true, ..self.state() });
    }

    /// Notes that the answer is ready for the client to read.
    pub(super) fn answered(&self) {
        self.set(ConnectionsState { answering: false, ..self.state() });
    }

    /// Notes that the client has read a part of a long answer.
    pub(super) fn moved(&self) {
        self.set(ConnectionsState { since: Instant::now(), ..self.state() });
    }

    /// Waits until no request has begun for [`REQUEST_TIMEOUT`].
    pub(super) async fn overdue(&self) {
        loop {
            let due = self.state().since + REQUEST_TIMEOUT;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Holds all open connections.
#[derive(Default)]
pub(super) struct Connections(Vec<(Activity, JoinHandle<()>)>);

impl Connections {
    /// Starts the task of a new connection. If no slot is free, it first closes another connection,
    /// which may take [`GRACE`].
    pub(super) async fn add<F>(&mut self, converse: impl FnOnce(Activity) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            self.0.retain(|(_, task)| !task.is_finished());
            if self.0.len() < CONNECTIONS {
                break;
            }
            let states: Vec<ConnectionsState> = self.0.iter().map(|(activity, _)| activity.state()).collect();
            match victim(&states, Instant::now()) {
                Ok(at) => self.0.swap_remove(at).1.abort(),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
        let activity = Activity::new();
        self.0.push((activity.clone(), tokio::spawn(converse(activity))));
    }
}

/// Chooses the connection to close for a new one: the oldest of those that do not wait for
/// respgate, or the oldest of all if each of them waits.
///
/// # Errors
/// Returns the time to wait until a connection may be closed.
fn victim(states: &[ConnectionsState], now: Instant) -> Result<usize, Duration> {
    let left = |state: &ConnectionsState| GRACE.saturating_sub(now.saturating_duration_since(state.accepted));
    let old = || states.iter().enumerate().filter(|(_, state)| left(state).is_zero());
    // `false` sorts before `true`, so connections that wait for respgate come last.
    match old().min_by_key(|(_, state)| (state.answering, state.accepted)) {
        Some((at, _)) => Ok(at),
        None => Err(states.iter().map(left).min().unwrap_or(GRACE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_connection_is_closed_first() {
        let start = Instant::now();
        let state = |ms, answering| ConnectionsState {
            accepted: start + Duration::from_millis(ms),
            since: start,
            answering,
        };
        let now = start + Duration::from_millis(100);
        assert_eq!(victim(&[state(20, false), state(10, false), state(0, true)], now), Ok(1));
        assert_eq!(victim(&[state(20, true), state(10, true)], now), Ok(1), "all are being answered");
        assert_eq!(victim(&[state(80, false), state(0, true)], now), Ok(1), "the other has no time yet");
        assert_eq!(victim(&[state(80, false), state(70, true)], now), Err(Duration::from_millis(20)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_is_always_accepted() {
        let mut connections = Connections::default();
        let started = Instant::now();
        for _ in 0..1000 {
            connections.add(|_| std::future::pending()).await;
            assert!(connections.0.len() <= CONNECTIONS);
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_its_time() {
        let (activity, started) = (Activity::new(), Instant::now());
        let later = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            activity.request(Duration::ZERO);
            activity.answered();
        };
        tokio::join!(activity.overdue(), later);
        assert_eq!(started.elapsed(), Duration::from_secs(25));
    }
}
