//! Ends the process in order: the announcement, the drain, and the deadline.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};

use crate::drain::{Draining, Switch};
use crate::session::maintenance::Move;
use crate::systemd::Notifier;
use crate::worker::Worker;

/// Pause between two looks at the number of clients that are left after an upgrade.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Receives the signals that end the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Registers the handlers: from now on, SIGTERM and SIGINT no longer kill the process.
    ///
    /// # Errors
    /// Returns an error if the system does not register them.
    pub fn register() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The parts that the end of the process acts on.
pub struct Shutdown {
    /// Begins the drain.
    pub switch: Switch,
    /// Knows whether the drain has begun.
    pub draining: Draining,
    /// The workers, which serve the clients.
    pub workers: Vec<Worker>,
    /// Tells the service manager.
    pub notifier: Notifier,
    /// Time in which respgate still accepts clients.
    pub delay: Duration,
    /// Time that running commands have to finish.
    pub deadline: Duration,
    /// Ends when every session has ended after the start of the drain.
    pub drained: JoinHandle<()>,
}

/// Why the time has ended in which clients leave for the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveEnd {
    /// No client is left, or the time has passed.
    Complete,
    /// A signal came.
    Asked,
    /// The new process has died, and this one accepts clients again.
    TakenBack,
}

impl Shutdown {
    /// Leaves new clients to another process, and asks the clients that understand it to connect anew. Ends when no
    /// client is left, when `within` has passed, or at a signal. `clients` counts the clients, those of former processes
    /// included: the new process learns their number from this one.
    pub async fn leave(
        &self,
        clients: impl Fn() -> usize,
        within: Duration,
        signals: &mut Signals,
    ) -> LeaveEnd {
        self.switch.hand_over();
        tracing::info!(
            clients = clients(),
            within_s = within.as_secs(),
            "upgrade: the new process accepts clients, and those of this process have time to leave (upgrade-drain-timeout)"
        );
        let plan = Move::during(self.deadline);
        for worker in &self.workers {
            worker.ask_to_move(plan).await;
        }
        let empty = async {
            loop {
                // The first pause is also the time in which the request for the upgrade is answered.
                tokio::time::sleep(LOOK_INTERVAL).await;
                if clients() == 0 {
                    break;
                }
            }
        };
        let mut draining = self.draining.clone();
        let taken_back = async {
            if !draining.taken_back().await {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = empty => LeaveEnd::Complete,
            () = tokio::time::sleep(within.max(LOOK_INTERVAL)) => LeaveEnd::Complete,
            () = taken_back => LeaveEnd::TakenBack,
            () = signals.next() => {
                tracing::info!("a signal came: upgrade-drain-timeout ends");
                LeaveEnd::Asked
            }
        }
    }

    /// Announces the drain, and goes on accepting clients for the delay. A signal ends the delay.
    pub async fn announce(&self, signals: &mut Signals) {
        self.notifier.stopping();
        self.switch.announce();
        if self.delay.is_zero() || self.draining.begun() {
            return;
        }
        tracing::info!(
            delay_ms = self.delay.as_millis(),
            "drain-delay: /readyz answers 503, and respgate still accepts clients"
        );
        tokio::select! {
            () = tokio::time::sleep(self.delay) => {}
            () = signals.next() => tracing::info!("a second signal came: drain-delay ends"),
        }
    }

    /// Drains: ends when all sessions have ended, at the deadline, or at a signal. `accepting` ends
    /// when no listener accepts clients any longer. If nobody has asked respgate to end (`is_asked`), the first signal only asks
    /// for what happens already, and the second one ends the drain.
    pub async fn drain(self, accepting: impl Future<Output = ()>, signals: &mut Signals, is_asked: bool) {
        tracing::info!(
            deadline_s = self.deadline.as_secs(),
            "draining: respgate accepts no new clients, and running commands finish"
        );
        self.switch.begin();
        accepting.await;
        let second_signal = async {
            if !is_asked {
                signals.next().await;
                tracing::info!("a signal came: the drain is under way already");
            }
            signals.next().await;
        };
        tokio::select! {
            _ = self.drained => tracing::info!("drained"),
            () = tokio::time::sleep(self.deadline) => {
                let left: usize = self.workers.iter().map(Worker::load).sum();
                tracing::warn!(clients = left, "drain-timeout has passed: respgate disconnects the remaining clients");
            }
            () = second_signal => tracing::warn!("a second signal came: respgate disconnects the remaining clients"),
        }
    }
}

/// Ends each session as soon as it has no unanswered command, once the drain has begun. Returns when no session is left.
pub async fn drain_sessions(mut draining: Draining, workers: Vec<Worker>, deadline: Duration) {
    draining.wait().await;
    let (mut drains, plan) = (JoinSet::new(), Move::during(deadline));
    for worker in workers {
        drains.spawn(async move { worker.drain(plan).await });
    }
    while drains.join_next().await.is_some() {}
}
