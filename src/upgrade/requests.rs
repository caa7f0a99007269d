//! Answers the requests for an upgrade.

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::successor::{Successor, UpgradeError, UpgradePlan};
use crate::drain::{ClientCounts, Draining};

/// Upgrades when it is asked to.
pub struct Upgrader {
    /// How the new process is started.
    pub plan: UpgradePlan,
    /// The counts of the clients of this process.
    pub counts: Vec<ClientCounts>,
    /// Knows whether respgate drains.
    pub draining: Draining,
    /// The requests, each with where to send the result.
    pub requests: mpsc::Receiver<oneshot::Sender<Result<Value, String>>>,
}

impl Upgrader {
    /// Waits until a new process has taken over. A failed upgrade changes nothing. Dropping the future ends a new process
    /// that is not yet ready.
    pub async fn run(&mut self) -> Successor {
        loop {
            let Some(answer) = self.requests.recv().await else { std::future::pending().await };
            if self.draining.announced() {
                let _ = answer.send(Err("respgate drains, so there is nothing to hand over".into()));
                continue;
            }
            match self.upgrade().await {
                Ok(successor) => {
                    let clients: usize = self.counts.iter().map(ClientCounts::all).sum();
                    let result = json!({
                        "new-process": successor.pid,
                        "former-process": std::process::id(),
                        "clients-of-the-former": clients,
                    });
                    let _ = answer.send(Ok(result));
                    return successor;
                }
                Err(error) => {
                    tracing::error!(%error, "the upgrade failed, and this process goes on as before");
                    let _ = answer.send(Err(format!("{error}; the running process goes on as before")));
                }
            }
        }
    }

    async fn upgrade(&mut self) -> Result<Successor, UpgradeError> {
        let mut successor = self.plan.start().await?;
        self.plan.hand_over(&mut successor, &self.counts).await?;
        Ok(successor)
    }
}
