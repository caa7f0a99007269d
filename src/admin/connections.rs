//! The connections of the admin listener: how many there are, how long each may last, and which one goes when a new one
//! needs its place.
//!
//! A new connection always gets a place, so a probe is answered however many clients hold theirs: when all are taken, the
//! oldest connection is closed, of those first that respgate does not keep waiting. Requests do not make a connection
//! younger: who sends one after the other would otherwise keep its place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// A request's head must arrive within this time, and the next one's after the answer.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From a request's head on, its answer must be made and taken, and the next request must begin, within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection answers no further request after this time.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);
/// A connection keeps its place at least for this time, in which it can have a request answered.
const GRACE: Duration = Duration::from_millis(50);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionsState {
    accepted: Instant,
    /// When its newest request began, or it was accepted.
    since: Instant,
    /// respgate is making the answer: the peer is not to blame for the time.
    answering: bool,
}

/// Follows what a connection is doing; clones follow the same.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<ConnectionsState>>);

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(ConnectionsState { accepted: now, since: now, answering: false })))
    }

    fn state(&self) -> ConnectionsState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: ConnectionsState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// A request's head has arrived.
    pub(super) fn request(&self) {
        self.set(ConnectionsState { since: Instant::now(), answering: true, ..self.state() });
    }

    /// The answer is ready, and is the peer's to take.
    pub(super) fn answered(&self) {
        self.set(ConnectionsState { answering: false, ..self.state() });
    }

    /// Ends when no request has begun for [`REQUEST_TIMEOUT`].
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

/// All open connections.
#[derive(Default)]
pub(super) struct Connections(Vec<(Activity, JoinHandle<()>)>);

impl Connections {
    /// Starts a connection's task. Where no place is free, it closes another one first, which may take [`GRACE`].
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

/// Which connection is closed for a new one: the oldest of those that respgate does not keep waiting; else, of all. An
/// error: how long to wait until one may be closed.
fn victim(states: &[ConnectionsState], now: Instant) -> Result<usize, Duration> {
    let left = |state: &ConnectionsState| GRACE.saturating_sub(now.saturating_duration_since(state.accepted));
    let old = || states.iter().enumerate().filter(|(_, state)| left(state).is_zero());
    match old().min_by_key(|(_, state)| (state.answering, state.accepted)) {
        Some((at, _)) => Ok(at),
        None => Err(states.iter().map(left).min().unwrap_or(GRACE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_a_place_longest_loses_it() {
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
    async fn a_new_connection_always_gets_a_place() {
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
            activity.request();
            activity.answered();
        };
        tokio::join!(activity.overdue(), later);
        assert_eq!(started.elapsed(), Duration::from_secs(25));
    }
}
