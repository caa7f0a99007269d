//! The task that asks one upstream for grants.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{StoreConnection, connect};
use super::grace::SharingGrace;
use super::grant::{Account, SCRIPT, StoreError, granted};
use super::state::{Rated, Store, StoreStatus};
use crate::net::backoff::Backoff;
use crate::resp::control::{Control, ControlError};
use crate::upstream::UpstreamPlan;

/// Interval between requests for grants. Each is shortened at random by up to a fifth.
const INTERVAL: Duration = Duration::from_millis(25);
/// The server is asked at least this often, to find out whether it still answers.
const CHECK: Duration = Duration::from_millis(500);
/// Timeout of a reply.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// First and longest delay between two attempts to reach the server.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Starts the task for one upstream. It ends when there are no rates to share.
pub(super) fn spawn(upstream: &UpstreamPlan, rates: Vec<Rated>) -> Store {
    let task = Task::new(upstream, rates);
    let store = task.store.clone();
    tokio::spawn(task.run(|task| Box::pin(connect(&mut task.upstream))));
    store
}

/// Says why the task gives up a working connection.
enum SharingEnd {
    /// The connection is outdated: another primary has taken over, credentials have changed, or it has reached
    /// its maximum age.
    Outdated,
    /// The server could not be asked, or refused.
    Failed(StoreError),
}

/// A future that opens a connection to the primary.
type Connecting<'a, S> = Pin<Box<dyn Future<Output = Result<StoreConnection<S>, StoreError>> + Send + 'a>>;

/// Shares the rates of one upstream.
struct Task {
    store: Store,
    rates: watch::Receiver<Vec<Rated>>,
    accounts: Vec<Account>,
    upstream: UpstreamPlan,
    /// When the server last answered.
    answered: Instant,
    grace: SharingGrace,
}

impl Task {
    fn new(upstream: &UpstreamPlan, rates: Vec<Rated>) -> Self {
        let status =
            StoreStatus { error: Some("the server has not been asked yet".into()), ..StoreStatus::default() };
        let (rates, mut newest) = watch::channel(rates);
        newest.mark_changed();
        let store = Store { upstream: upstream.config.name.clone(), status: watch::channel(status).0, rates };
        let now = Instant::now();
        Self {
            store,
            rates: newest,
            accounts: Vec::new(),
            upstream: upstream.clone(),
            answered: now,
            grace: SharingGrace::new(now),
        }
    }

    /// Shares the rates for as long as the upstream exists. `connect` opens a connection to its primary.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        connect: impl for<'a> Fn(&'a mut Self) -> Connecting<'a, S>,
    ) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut why = String::from("no primary could be reached in time");
        loop {
            self.follow_rates();
            if self.accounts.is_empty() {
                return;
            }
            let connected = match self.grace.ends() {
                Some(ends) => {
                    let late = |_| Err(StoreError::Away(why.clone()));
                    timeout_at(ends, connect(&mut self)).await.unwrap_or_else(late)
                }
                None => connect(&mut self).await,
            };
            let error = match connected {
                Ok(connection) => match self.serve(connection, &mut backoff).await {
                    SharingEnd::Outdated => continue,
                    SharingEnd::Failed(error) => error,
                },
                Err(error) => error,
            };
            if self.grace.failed(matches!(error, StoreError::Refused(_)), Instant::now()) {
                self.fall_back(&error);
            }
            why = error.to_string();
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                changed = self.upstream.topology.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }

    /// Follows the configured rates. Those that have not changed go on.
    fn follow_rates(&mut self) {
        if !self.rates.has_changed().unwrap_or(false) {
            return;
        }
        let mut known = std::mem::take(&mut self.accounts);
        for rated in self.rates.borrow_and_update().iter() {
            let at = known.iter().position(|account| Arc::ptr_eq(&account.ledger, &rated.ledger));
            self.accounts.push(at.map_or_else(|| Account::new(rated.clone()), |at| known.swap_remove(at)));
        }
        // Close the ledgers of rates that are no longer shared: nothing grants them units any more.
        known.iter().for_each(|account| account.ledger.close());
    }

    /// Asks for grants until that fails or the connection is outdated.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        mut connection: StoreConnection<S>,
        backoff: &mut Backoff,
    ) -> SharingEnd {
        loop {
            if let Err(error) = self.ask(&mut connection.control).await {
                return SharingEnd::Failed(error);
            }
            backoff.reset();
            self.grace.reconnected(Instant::now());
            sleep(INTERVAL.mul_f64(1.0 - 0.2 * fastrand::f64())).await;
            self.follow_rates();
            if self.accounts.is_empty() {
                return SharingEnd::Outdated;
            }
            if connection.outdated(&self.upstream) {
                return SharingEnd::Outdated;
            }
        }
    }

    /// Asks for all wanted grants in one pipeline.
    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        control: &mut Control<S>,
    ) -> Result<(), StoreError> {
        let first = !self.grace.shares();
        let idle = self.answered.elapsed() >= CHECK;
        let mut asked = Vec::new();
        for (at, account) in self.accounts.iter().enumerate() {
            let wanted = account.ledger.wanted();
            if wanted > 0 || first || (idle && at == 0) {
                let units = wanted.to_string();
                let Account { key, per_second, burst, .. } = account;
                let numbers = [per_second.as_bytes(), burst.as_bytes(), units.as_bytes()];
                let [per_second, burst, units] = numbers;
                control.send(&[b"EVAL", SCRIPT.as_bytes(), b"1", key.as_bytes(), per_second, burst, units]);
                asked.push((at, wanted));
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let away = |error: ControlError| StoreError::Away(error.to_string());
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        control.flush(deadline).await.map_err(away)?;
        for (at, wanted) in asked {
            let reply = control.reply(deadline).await.map_err(away)?;
            let granted = granted(&reply)?;
            if let Some(account) = self.accounts.get_mut(at) {
                account.grant(granted, wanted);
            }
        }
        self.answered = Instant::now();
        if self.grace.granted() {
            let upstream = &self.store.upstream;
            tracing::info!(upstream, "respgate shares rates of tenants with other respgates from now on");
            self.store.status.send_modify(|status| {
                status.error = None;
                status.logged = false;
            });
        }
        Ok(())
    }

    /// Makes the local parts apply from now on. Logs the first reason. A later reason is only shown in the
    /// status.
    fn fall_back(&self, error: &StoreError) {
        self.accounts.iter().for_each(|account| account.ledger.close());
        let why: Arc<str> = error.to_string().into();
        let mut logged = true;
        self.store.status.send_modify(|status| {
            logged = status.logged;
            status.fallbacks += u64::from(status.error.is_none());
            status.error = Some(why.clone());
            status.logged = true;
        });
        if !logged {
            let upstream = &self.store.upstream;
            tracing::warn!(upstream, %why, "respgate cannot share rates of tenants with other respgates: it keeps to its own part and tries again");
        }
    }
}

#[cfg(test)]
mod tests;
