//! Moves an upstream to another target: checks the target, holds commands, lets those under way finish, checks again, and
//! sends the waiting commands to the target. If anything fails, commands go to the present server again.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::check::{self, Candidate};
use super::follow::{Adopted, Order};
use super::operators::{DRAIN_LIMIT, Operators, Steered, busy};
use super::target::{DataProof, Target};
use crate::topology::{Address, Topology};
use crate::upstream::config::{Pool, UpstreamConfig};

/// A switch that succeeded.
#[derive(Clone, Debug)]
pub struct Switched {
    /// The address before, or the cluster; `None` if no primary was known.
    pub from: Option<String>,
    /// The address of the new primary, or the cluster.
    pub to: String,
    /// The time for which commands waited.
    pub held: Duration,
    /// Commands that the present server knows and the target does not.
    pub missing_commands: Vec<String>,
    /// True if the configuration names another address, which the next start will use.
    pub until_start: bool,
}

/// A switch whose target has passed every check. Dropping it leaves the upstream where it is.
pub struct PreparedSwitch {
    steered: Steered,
    candidate: Candidate,
    target: Target,
    proof: DataProof,
    missing_commands: Vec<String>,
    /// True if the configuration orders the switch.
    is_configured: bool,
    _turn: OwnedMutexGuard<()>,
}

impl Operators {
    /// Switches the upstream to `target`. Clients notice a pause; if the switch is refused or fails, they notice at most a pause.
    /// The switch goes on to its end even if the returned future is dropped. It ends a pause that was ordered before it if it succeeds.
    ///
    /// # Errors
    /// Returns the reason why the upstream stays where it was.
    pub async fn switch(&self, upstream: &str, target: Target, proof: DataProof) -> Result<Switched, String> {
        let (operators, upstream) = (self.clone(), upstream.to_owned());
        let task = tokio::spawn(async move {
            let config = {
                let steered = operators.find(&upstream)?;
                if *steered.target.borrow() == target {
                    return Err(format!("upstream '{upstream}' is at {target} already"));
                }
                steered.config.borrow().clone()
            };
            let shown = target.to_string();
            let prepared = operators.prepare(&config, target, proof, false).await;
            let prepared = prepared
                .map_err(|why| format!("{shown} cannot take over, and nothing has changed: {why}"))?;
            operators.carry_out(prepared).await
        });
        task.await.unwrap_or_else(|_| Err("respgate is stopping".into()))
    }

    /// Checks the target of a switch that the configuration orders. `config` has the new settings of the upstream. The target must
    /// hold the data of the present server.
    ///
    /// # Errors
    /// Returns the reason why the target cannot take over.
    pub async fn prepare_configured(
        &self,
        config: &UpstreamConfig,
        target: Target,
    ) -> Result<PreparedSwitch, String> {
        self.prepare(config, target, DataProof::Replication, true).await
    }

    async fn prepare(
        &self,
        config: &UpstreamConfig,
        target: Target,
        proof: DataProof,
        is_configured: bool,
    ) -> Result<PreparedSwitch, String> {
        let steered = self.find(&config.name)?;
        if target.is_cluster() && config.pool == Pool::Session {
            return Err("pool is \"session\", which gives each client one connection, and a client of a cluster needs several".into());
        }
        let Ok(turn) = steered.turn.clone().try_lock_owned() else { return Err(busy(&config.name)) };
        let mut candidate = check::open(self, &steered, &target, config).await?;
        let missing_commands = candidate.check(proof).await?;
        Ok(PreparedSwitch { steered, candidate, target, proof, missing_commands, is_configured, _turn: turn })
    }

    /// Switches an upstream to the checked target.
    ///
    /// # Errors
    /// Returns the reason why the upstream stays where it was.
    pub async fn carry_out(&self, prepared: PreparedSwitch) -> Result<Switched, String> {
        let PreparedSwitch { steered, mut candidate, target, proof, missing_commands, is_configured, _turn } =
            prepared;
        let (to, by) = (target.to_string().into(), self.by.clone());
        let former = steered.target.borrow().clone();
        let from = self.order(&steered, |done| Order::BeginSwitch { to, by, done }).await??;
        let began = Instant::now();
        match self.hold_and_verify(&steered, &mut candidate, proof).await {
            Ok(()) => {}
            Err(why) => {
                self.order(&steered, |done| Order::EndSwitch { done }).await?;
                self.followed(&steered).await;
                let held = began.elapsed().as_millis();
                return Err(format!("commands waited {held} ms and go to the present server again: {why}"));
            }
        }
        let to = place(&target, &candidate.address);
        let adopted = Box::new(Adopted { reach: candidate.reach, target, is_configured });
        self.order(&steered, |done| Order::Adopt { adopted, done }).await?;
        self.followed(&steered).await;
        let held = began.elapsed();
        let until_start = steered.status.borrow().switched.is_some();
        if until_start {
            tracing::warn!(
                upstream = steered.name(),
                to,
                "an operator has switched the upstream until the next start: change its url in the configuration too"
            );
        }
        let from = from.map(|primary| place(&former, &primary.address));
        Ok(Switched { from, to, held, missing_commands, until_start })
    }

    /// Waits until no command is under way, and checks the target once more.
    async fn hold_and_verify(
        &self,
        chosen: &Steered,
        candidate: &mut Candidate,
        proof: DataProof,
    ) -> Result<(), String> {
        let limit = DRAIN_LIMIT.min(chosen.config.borrow().hold_timeout / 2);
        let activity = self.drained(chosen, limit).await;
        if !activity.holds || activity.unanswered > 0 {
            return Err(format!(
                "{} commands were not answered within {} ms",
                activity.unanswered,
                limit.as_millis()
            ));
        }
        let failover = match &*chosen.topology.borrow() {
            Topology::Failing(_, sign) if !sign.is_ordered() => Some(sign.to_string()),
            _ => None,
        };
        match failover {
            Some(sign) => Err(format!("a failover has begun ({sign})")),
            None => candidate.verify(proof).await,
        }
    }
}

/// Returns what a target is called once its primary is known: a cluster has several.
fn place(target: &Target, primary: &Address) -> String {
    if target.is_cluster() { target.to_string() } else { primary.to_string() }
}
