//! Shares tenants' rates with other respgates, through one key per rate on an upstream.
//!
//! One task per upstream, on the main thread and with its own connection, asks for grants ahead of the clients,
//! about 40 times a second while a rate is used. The key holds the time, by the server's clock, up to which units
//! have been granted. A script advances it: that is atomic, exact over any window, and independent of the
//! proxies' clocks. Counters in windows (INCRBY) would need no script, but would let twice the rate pass around
//! the edge of a window. Each request contains the whole script: it is short, and it need not be loaded again on
//! another primary.
//!
//! While the server does not answer, or refuses, each respgate keeps to its part of the rate.

mod grace;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use self::grace::SharingGrace;
use super::Tenant;
use super::limits::ledger::Ledger;
use crate::net::backoff::Backoff;
use crate::net::stream::Stream;
use crate::net::tls::client::{ClientSet, ClientTls};
use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::greeting::{GreetError, Greeted, Greeting, Role, greet};
use crate::resp::value::Value;
use crate::rotation::login::Newest;
use crate::topology::Generation;
use crate::upstream::UpstreamPlan;
use crate::upstream::config::Reauth;

/// Prefix of the keys. `{tenant}:limit` follows it.
const PREFIX: &str = "__respgate:limit:";
/// Interval between requests for grants. Each is shortened at random by up to a fifth.
const INTERVAL: Duration = Duration::from_millis(25);
/// The server is asked at least this often, to find out whether it still answers.
const CHECK: Duration = Duration::from_millis(500);
/// Timeout of a reply.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Timeout of a greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest delay between two attempts to reach the server.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// KEYS: the key. ARGV: units per second, burst, units wanted. Returns the units granted. The key holds the time
/// in µs up to which units are granted. A time ahead of the server's clock was written by another server before a
/// failover, so it is capped.
const SCRIPT: &str = "\
local t = redis.call('TIME')
local now, rate = t[1] * 1000000 + t[2], ARGV[1] / 1000000
local due = math.min(tonumber(redis.call('GET', KEYS[1])) or 0, now)
due = math.max(due, now - ARGV[2] / rate)
local granted = math.min(tonumber(ARGV[3]), math.floor((now - due) * rate))
if granted < 1 then return 0 end
redis.call('SET', KEYS[1], string.format('%.3f', due + granted / rate), 'PX', math.ceil(ARGV[2] / rate / 1000) + 1000)
return granted";

/// Describes how tenants' rates are shared through one upstream, for the admin interface.
#[derive(Clone, Debug)]
pub struct Store {
    /// The upstream's name.
    pub upstream: String,
    status: watch::Sender<StoreStatus>,
    /// The rates to share. The task ends when there are none.
    rates: watch::Sender<Vec<Rated>>,
}

/// Names a rate that is to be shared.
#[derive(Clone, Debug)]
struct Rated {
    key: String,
    ledger: Arc<Ledger>,
}

/// Holds all stores, one for each upstream that rates are shared through.
#[derive(Clone, Debug, Default)]
pub struct Stores(Arc<Mutex<Vec<Store>>>);

impl Stores {
    /// Shares the rates of these `tenants` through these `upstreams` from now on.
    pub fn follow(&self, upstreams: &[UpstreamPlan], tenants: &[Arc<Tenant>]) {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut *stores);
        for upstream in upstreams {
            let name = &upstream.config.name;
            let rates = rated(name, tenants);
            let store = known.iter().find(|store| store.upstream == *name);
            if let Some(store) = store {
                store.rates.send_replace(rates.clone());
            }
            if !rates.is_empty() {
                stores.push(store.cloned().unwrap_or_else(|| Store::spawn(upstream, rates)));
            }
        }
    }

    /// Returns the stores that share a rate now.
    pub fn all(&self) -> Vec<Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the rates that `tenants` share through an upstream.
fn rated(upstream: &str, tenants: &[Arc<Tenant>]) -> Vec<Rated> {
    let sharing = tenants.iter().filter(|tenant| {
        tenant.config.limits.sharing.as_ref().is_some_and(|sharing| sharing.upstream == upstream)
    });
    sharing
        .flat_map(|tenant| {
            let name = &tenant.config.name;
            tenant.ledgers().map(move |(limit, ledger)| Rated {
                key: format!("{PREFIX}{{{name}}}:{}", limit.key()),
                ledger: ledger.clone(),
            })
        })
        .collect()
}

/// Says whether rates are shared now.
#[derive(Clone, Debug, Default)]
pub struct StoreStatus {
    /// Why each respgate keeps to its own part; `None` while rates are shared.
    pub fault: Option<Arc<str>>,
    /// How often sharing has ended.
    pub fallbacks: u64,
    /// True if the fault has been logged.
    logged: bool,
}

impl Store {
    fn spawn(upstream: &UpstreamPlan, rates: Vec<Rated>) -> Self {
        let task = Task::new(upstream, rates);
        let store = task.store.clone();
        tokio::spawn(task.run(|task| Box::pin(task.connect())));
        store
    }

    /// Returns whether rates are shared now.
    pub fn standing(&self) -> StoreStatus {
        self.status.borrow().clone()
    }
}

/// Tracks the grants of one rate.
struct Account {
    key: String,
    ledger: Arc<Ledger>,
    per_second: String,
    burst: String,
    granted_at: Instant,
}

impl Account {
    fn new(Rated { key, ledger }: Rated) -> Self {
        Self {
            key,
            per_second: ledger.whole().per_second.to_string(),
            burst: ledger.whole().burst.to_string(),
            ledger,
            granted_at: Instant::now(),
        }
    }

    fn grant(&mut self, granted: u64, wanted: u64) {
        let now = Instant::now();
        if self.ledger.live() {
            self.ledger.grant(granted, wanted, now - self.granted_at);
        } else {
            self.ledger.open(granted.min(wanted));
        }
        self.granted_at = now;
    }
}

/// Says why rates are not shared.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    /// The server could not be asked. This may pass, as in a failover.
    #[error("{0}")]
    Away(String),
    /// The server was asked, and refused.
    #[error("{0}")]
    Refused(String),
}

/// Says why the task gives up a working connection.
enum SharingEnd {
    /// The connection is outdated: another primary has taken over, credentials have changed, or it has reached
    /// its maximum age.
    Outdated,
    Fault(StoreError),
}

/// Holds a connection to the primary.
struct StoreConnection<S> {
    control: Control<S>,
    generation: Generation,
    retires: Option<Instant>,
    logins: watch::Receiver<Newest>,
    certificates: Option<watch::Receiver<ClientSet>>,
}

/// A future that opens a connection to the primary.
type Connecting<'a, S> = Pin<Box<dyn Future<Output = Result<StoreConnection<S>, StoreError>> + Send + 'a>>;

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
            StoreStatus { fault: Some("the server has not been asked yet".into()), ..StoreStatus::default() };
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
            let fault = match connected {
                Ok(connection) => match self.serve(connection, &mut backoff).await {
                    SharingEnd::Outdated => continue,
                    SharingEnd::Fault(fault) => fault,
                },
                Err(fault) => fault,
            };
            if self.grace.failed(matches!(fault, StoreError::Refused(_)), Instant::now()) {
                self.fall_back(&fault);
            }
            why = fault.to_string();
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

    /// Opens a connection to the primary, once there is one.
    async fn connect(&mut self) -> Result<StoreConnection<Stream>, StoreError> {
        let primary = self.upstream.topology.borrow_and_update().primary().cloned();
        let Some(primary) = primary else { return Err(StoreError::Away("no primary is known".into())) };
        let away = |why: &dyn fmt::Display| StoreError::Away(format!("{}: {why}", primary.address));
        let logins = self.upstream.login.subscribe();
        let certificates = self.upstream.dialer.tls.as_ref().map(ClientTls::changes);
        let credentials =
            self.upstream.login.newest_within(GREETING_TIMEOUT).await.map_err(|why| away(&why))?;
        let stream = self.upstream.dialer.dial(&primary.address).await.map_err(|why| away(&why))?;
        let mut control = Control::new(stream);
        let denied = self.upstream.login.denied(credentials.as_deref());
        let greeting = Greeting {
            accepted_before: self.upstream.login.has_worked(),
            denied: Some(&denied),
            ..Greeting::new(credentials.as_deref(), Resp::V2, 0)
        };
        let greeted = greet(&mut control, &greeting, Instant::now() + GREETING_TIMEOUT).await;
        match (&greeted, &credentials) {
            (Err(GreetError::AuthRefused(line)), Some(credentials)) => {
                self.upstream.login.refused(&primary.address, credentials, line);
            }
            (Ok(_), Some(_)) => self.upstream.login.accepted(),
            _ => {}
        }
        match greeted {
            Ok(Greeted { role: Some(Role::Primary { .. }) | None, .. }) => {
                let (generation, retires) =
                    (primary.generation, self.upstream.config.retires(Instant::now()));
                Ok(StoreConnection { control, generation, retires, logins, certificates })
            }
            Ok(_) => Err(away(&"it is not a primary")),
            Err(error @ (GreetError::AuthRefused(_) | GreetError::AuthRequired(_))) => {
                Err(StoreError::Refused(format!("{}: {error}", primary.address)))
            }
            Err(error) => Err(away(&error)),
        }
    }

    /// Asks for grants until that fails or the connection is outdated.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        mut connection: StoreConnection<S>,
        backoff: &mut Backoff,
    ) -> SharingEnd {
        loop {
            if let Err(fault) = self.ask(&mut connection.control).await {
                return SharingEnd::Fault(fault);
            }
            backoff.reset();
            self.grace.reconnected(Instant::now());
            sleep(INTERVAL.mul_f64(1.0 - 0.2 * fastrand::f64())).await;
            self.follow_rates();
            if self.accounts.is_empty() {
                return SharingEnd::Outdated;
            }
            if self.outdated(&connection) {
                return SharingEnd::Outdated;
            }
        }
    }

    /// Returns true if the connection must be replaced.
    fn outdated<S>(&self, connection: &StoreConnection<S>) -> bool {
        let primary = self.upstream.topology.borrow().primary().map(|primary| primary.generation);
        let changed = || {
            let certificates = connection.certificates.as_ref();
            connection.logins.has_changed().unwrap_or(false)
                || certificates.is_some_and(|changes| changes.has_changed().unwrap_or(false))
        };
        primary != Some(connection.generation)
            || connection.retires.is_some_and(|retires| Instant::now() >= retires)
            || (self.upstream.config.reauth != Reauth::Keep && changed())
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
            tracing::info!(upstream, "rates of tenants are shared with other respgates from now on");
            self.store.status.send_modify(|status| {
                status.fault = None;
                status.logged = false;
            });
        }
        Ok(())
    }

    /// Makes the local parts apply from now on. Logs the first reason. A later reason is only shown in the
    /// status.
    fn fall_back(&self, fault: &StoreError) {
        self.accounts.iter().for_each(|account| account.ledger.close());
        let why: Arc<str> = fault.to_string().into();
        let mut logged = true;
        self.store.status.send_modify(|status| {
            logged = status.logged;
            status.fallbacks += u64::from(status.fault.is_none());
            status.fault = Some(why.clone());
            status.logged = true;
        });
        if !logged {
            let upstream = &self.store.upstream;
            tracing::warn!(upstream, %why, "rates of tenants cannot be shared with other respgates: each keeps to its own part, and tries again");
        }
    }
}

/// Returns the units that a reply grants. A node that is not a primary (yet) counts as unreachable, because that
/// may pass; any other error counts as a refusal.
fn granted(reply: &Value) -> Result<u64, StoreError> {
    match reply {
        Value::Integer(units) => Ok(u64::try_from(*units).unwrap_or_default()),
        Value::Error(line) => {
            let passing = [&b"READONLY"[..], b"LOADING", b"MASTERDOWN", b"BUSY", b"REDIRECT"];
            let mut said = line.escape_ascii().to_string();
            if line.starts_with(b"NOPERM") {
                said.push_str(&format!("; give respgate's user +eval +get +set +time ~{PREFIX}*"));
            }
            Err(match passing.iter().any(|code| line.starts_with(code)) {
                true => StoreError::Away(said),
                false => StoreError::Refused(said),
            })
        }
        _ => Err(StoreError::Refused("the server's answer to EVAL is not a number".into())),
    }
}

#[cfg(test)]
mod tests;
