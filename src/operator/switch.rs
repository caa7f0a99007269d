//! Moves an upstream to another target: checks the target, holds commands, lets those under way finish, checks again, and
//! sends the waiting commands to the target. If anything fails, commands go to the present server again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::check::{self, Candidate};
use super::follow::Order;
use super::operators::{Chosen, DRAIN_LIMIT, Operators, PACE, busy};
use super::target::{DataProof, Target};
use crate::topology::Topology;

/// The longest time that workers take to follow the new primary.
const FOLLOW_LIMIT: Duration = Duration::from_secs(2);

/// A switch that succeeded.
#[derive(Clone, Debug)]
pub struct Switched {
    /// The address before; `None` if no primary was known.
    pub from: Option<String>,
    /// The address of the new primary.
    pub to: String,
    /// The time for which commands waited.
    pub held: Duration,
    /// Commands that the present server knows and the target does not.
    pub missing_commands: Vec<String>,
    /// True if the configuration names another address, which the next start will use.
    pub until_start: bool,
}

impl Operators {
    /// Switches the upstream to `target`. Clients notice a pause; if the switch is refused or fails, they notice at most a pause.
    /// The switch goes on to its end even if the returned future is dropped. It ends a pause that was ordered before it if it succeeds.
    ///
    /// # Errors
    /// Returns the reason why the upstream stays where it was.
    pub async fn switch(&self, upstream: &str, target: Target, proof: DataProof) -> Result<Switched, String> {
        let (operators, upstream) = (self.clone(), upstream.to_owned());
        let task = tokio::spawn(async move { operators.do_switch(&upstream, target, proof).await });
        task.await.unwrap_or_else(|_| Err("respgate is stopping".into()))
    }

    async fn do_switch(&self, upstream: &str, target: Target, proof: DataProof) -> Result<Switched, String> {
        let chosen = self.find(upstream)?;
        let Ok(_turn) = chosen.steered.turn.try_lock() else { return Err(busy(upstream)) };
        if *chosen.steered.target.borrow() == target {
            return Err(format!("upstream '{upstream}' is at {target} already"));
        }
        let shown = target.to_string();
        let refused = |why: String| format!("{shown} cannot take over, and nothing has changed: {why}");
        let mut candidate = check::open(self, &chosen, &target).await.map_err(refused)?;
        let missing_commands = candidate.check(proof).await.map_err(refused)?;
        let (to, by) = (shown.as_str().into(), self.by.clone());
        let from = self.order(&chosen, |done| Order::BeginSwitch { to, by, done }).await??;
        let began = Instant::now();
        match self.hold_and_verify(&chosen, &mut candidate, proof).await {
            Ok(()) => {}
            Err(why) => {
                let _ = chosen.steered.orders.send(Order::EndSwitch).await;
                let held = began.elapsed().as_millis();
                return Err(format!("commands waited {held} ms and go to the present server again: {why}"));
            }
        }
        let to = candidate.address.to_string();
        let (reach, target) = (Box::new(candidate.reach), Box::new(target));
        let generation = self.order(&chosen, |done| Order::Adopt { reach, target, done }).await?;
        let limit = Instant::now() + FOLLOW_LIMIT;
        while self.activity(&chosen).await.generation < generation && Instant::now() < limit {
            sleep(PACE).await;
        }
        let held = began.elapsed();
        let until_start = chosen.steered.status.borrow().switched.is_some();
        if until_start {
            tracing::warn!(
                upstream,
                to,
                "an operator has switched the upstream until the next start: change its url in the configuration too"
            );
        }
        let from = from.map(|primary| primary.address.to_string());
        Ok(Switched { from, to, held, missing_commands, until_start })
    }

    /// Waits until no command is under way, and checks the target once more.
    async fn hold_and_verify(
        &self,
        chosen: &Chosen<'_>,
        candidate: &mut Candidate,
        proof: DataProof,
    ) -> Result<(), String> {
        let limit = DRAIN_LIMIT.min(chosen.steered.config.borrow().hold_timeout / 2);
        let activity = self.drained(chosen, limit).await;
        if !activity.holds || activity.unanswered > 0 {
            return Err(format!(
                "{} commands were not answered within {} ms",
                activity.unanswered,
                limit.as_millis()
            ));
        }
        let failover = match &*chosen.steered.topology.borrow() {
            Topology::Failing(_, sign) if !sign.is_ordered() => Some(sign.to_string()),
            _ => None,
        };
        match failover {
            Some(sign) => Err(format!("a failover has begun ({sign})")),
            None => candidate.verify(proof).await,
        }
    }
}
