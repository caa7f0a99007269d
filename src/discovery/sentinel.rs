//! Follows one Sentinel: subscribes to its events, queries it on request, and connects again after a failure.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{self, BadReply, CHANNELS, SentinelEvent, View};
use crate::discovery::machine::Event;
use crate::discovery::sentinel_table::SentinelError;
use crate::net::backoff::Backoff;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::control::{Control, ControlError};
use crate::resp::server_error::{ServerError, without_arguments};
use crate::resp::value::Value;
use crate::rotation::login::Login;
use crate::topology::Address;

/// The shortest and the longest delay between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// The deadline of a read on the subscription: in effect none, because a subscription may be silent for days. The
/// answers on the query connection show that the Sentinel lives; if they fail, `Follower` closes both connections.
const IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Follows one Sentinel in a task of its own.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) address: Address,
    pub(super) config: Arc<SentinelConfig>,
    pub(super) dialer: Dialer,
    /// The credentials for the Sentinel.
    pub(super) login: Login,
    /// The queue for this Sentinel's events. A full queue delays only this Sentinel's task.
    pub(super) news: mpsc::Sender<Event>,
    /// The number of the current query round: a change requests a query.
    pub(super) asks: watch::Receiver<u64>,
}

impl Follower {
    /// Follows the Sentinel until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        loop {
            let Err(error) = self.follow(&mut backoff).await else { return };
            if self.send(Event::Failed { sentinel: self.address.clone(), error }).await.is_none() {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Subscribes first and queries second, so that respgate receives the event of a switch that happens between the
    /// two. Returns `Ok` if discovery has closed the event queue.
    ///
    /// # Errors
    ///
    /// Returns the reason if a connection fails, the Sentinel refuses the user, or an answer is missing or unusable.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), SentinelError> {
        let mut subscription = self.subscribe().await?;
        let mut queries = self.open().await?;
        let id = self.call(&mut queries, &[b"SENTINEL", b"MYID"]).await?;
        let connected = Event::Connected {
            sentinel: self.address.clone(),
            id: event::own_id(&id),
            subscribed: subscription.is_some(),
        };
        if self.send(connected).await.is_none() {
            return Ok(());
        }
        loop {
            self.asks.mark_unchanged();
            let view = self.ask(&mut queries).await?;
            backoff.reset();
            if self.send(Event::Answered { sentinel: self.address.clone(), view }).await.is_none() {
                return Ok(());
            }
            loop {
                tokio::select! {
                    changed = self.asks.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    event = next_event(&mut subscription, &self.config) => {
                        let event = event.map_err(|error| self.unreachable(&error))?;
                        let event = Event::Noticed { sentinel: self.address.clone(), event };
                        if self.send(event).await.is_none() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Sends an event to discovery. Returns `None` if discovery has closed the queue.
    async fn send(&self, event: Event) -> Option<()> {
        self.news.send(event).await.ok()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// Opens a connection and authenticates on it.
    pub(super) async fn open(&self) -> Result<Control<Stream>, SentinelError> {
        let credentials = self.login.newest_within(self.config.timeout).await.map_err(|why| {
            SentinelError::Refused(format!("Sentinel {} is not asked: {why}", self.address))
        })?;
        let stream = self
            .dialer
            .dial(&self.address)
            .await
            .map_err(|error| SentinelError::Unreachable(format!("Sentinel: {error}")))?;
        let mut control = Control::new(stream);
        if let Some(credentials) = credentials {
            let password = credentials.password.expose();
            let reply = match &credentials.username {
                Some(user) => self.call(&mut control, &[b"AUTH", user.as_bytes(), password]).await?,
                None => self.call(&mut control, &[b"AUTH", password]).await?,
            };
            if let Value::Error(line) = reply {
                let line = without_arguments(&line);
                self.login.refused(&self.address, &credentials, &line);
                return Err(self.refusal(&line));
            }
            self.login.accepted();
        }
        Ok(control)
    }

    /// Subscribes to as many events as the Sentinel's ACL allows. Returns `None` if it allows none. The first event has
    /// a SUBSCRIBE of its own for two reasons. ACLs often allow no other event. And a client that has not authenticated
    /// yet may send at most 10 arguments: for more, the server closes the connection without a reason (observed on
    /// valkey 8.0).
    async fn subscribe(&self) -> Result<Option<Control<Stream>>, SentinelError> {
        let mut control = self.open().await?;
        let (first, others) = CHANNELS.split_at(1);
        if !self.subscribe_to(&mut control, first).await? {
            return Ok(None);
        }
        self.subscribe_to(&mut control, others).await?;
        Ok(Some(control))
    }

    /// Subscribes to `channels`. Returns false if the ACL forbids it.
    async fn subscribe_to(
        &self,
        control: &mut Control<Stream>,
        channels: &[&str],
    ) -> Result<bool, SentinelError> {
        let args: Vec<&[u8]> =
            [&b"SUBSCRIBE"[..]].into_iter().chain(channels.iter().map(|name| name.as_bytes())).collect();
        let deadline = self.deadline();
        let unreachable = |error| self.unreachable(&error);
        let mut reply = control.call(&args, deadline).await.map_err(unreachable)?;
        // The Sentinel confirms each channel on its own. The loop drops events that arrive in between: the query that
        // follows returns the state that they announce.
        let mut confirmed = 0;
        loop {
            if let Some(line) = reply.error() {
                return match ServerError::of(line) {
                    ServerError::NoPermission => Ok(false),
                    _ => Err(self.refusal(line)),
                };
            }
            confirmed += usize::from(is_kind(&reply, "subscribe"));
            if confirmed == channels.len() {
                return Ok(true);
            }
            reply = control.reply(deadline).await.map_err(unreachable)?;
        }
    }

    /// Queries the Sentinel for the primary and the other Sentinels, in one write.
    async fn ask(&self, control: &mut Control<Stream>) -> Result<View, SentinelError> {
        let name = self.config.primary_name.as_bytes();
        control.send(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name]);
        control.send(&[b"SENTINEL", b"MASTER", name]);
        control.send(&[b"SENTINEL", b"SENTINELS", name]);
        let deadline = self.deadline();
        let replies = async {
            control.flush(deadline).await?;
            Ok([
                control.reply(deadline).await?,
                control.reply(deadline).await?,
                control.reply(deadline).await?,
            ])
        };
        let [get, primary, sentinels] =
            replies.await.map_err(|error: ControlError| self.unreachable(&error))?;
        event::view(&get, &primary, &sentinels, &self.config).map_err(|bad| match bad {
            BadReply::Error(line) => self.refusal(&line),
            BadReply::Malformed(what) => {
                SentinelError::Unreachable(format!("Sentinel {}: {what}", self.address))
            }
        })
    }

    async fn call(&self, control: &mut Control<Stream>, args: &[&[u8]]) -> Result<Value, SentinelError> {
        control.call(args, self.deadline()).await.map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ControlError) -> SentinelError {
        SentinelError::Unreachable(format!("Sentinel {}: {error}", self.address))
    }

    /// Returns the error for an error line, with a text that names the cause and the remedy.
    fn refusal(&self, line: &[u8]) -> SentinelError {
        let address = &self.address;
        let said = line.escape_ascii();
        match ServerError::of(line) {
            ServerError::NoAuth => SentinelError::Refused(format!(
                "Sentinel {address} requires a password ({said}); give the Sentinels' own, which may differ from the \
                 primary's"
            )),
            ServerError::WrongPassword => SentinelError::Refused(format!(
                "Sentinel {address} refuses the user or password ({said}); check the Sentinels' own, which may \
                 differ from the primary's"
            )),
            ServerError::NoPermission => SentinelError::Refused(format!(
                "Sentinel {address} forbids the questions ({said}); allow its user +sentinel|get-master-addr-by-name \
                 +sentinel|master +sentinel|sentinels"
            )),
            ServerError::NeedlessPassword => SentinelError::Refused(format!(
                "Sentinel {address} has no password but one is configured for it ({said}); remove it, or set \
                     `requirepass` there"
            )),
            ServerError::UnknownCommand => SentinelError::Unreachable(format!(
                "{address} is no Sentinel ({said}); check the port, which is 26379 for Sentinel by default"
            )),
            _ => SentinelError::Unreachable(format!("Sentinel {address} answers with an error: {said}")),
        }
    }
}

/// Returns the next event about this upstream's primary; waits for ever without a subscription. The function is
/// cancel-safe: dropping its future loses no event.
async fn next_event(
    subscription: &mut Option<Control<Stream>>,
    config: &SentinelConfig,
) -> Result<SentinelEvent, ControlError> {
    let Some(subscription) = subscription else { return std::future::pending().await };
    loop {
        let message = subscription.receive(Instant::now() + IDLE).await?;
        if !is_kind(&message, "message") {
            continue;
        }
        let event = message.elements().and_then(|parts| match parts {
            [_, channel, payload] => event::sentinel_event(channel.text()?, payload.text()?, config),
            _ => None,
        });
        if let Some(event) = event {
            return Ok(event);
        }
    }
}

fn is_kind(message: &Value, kind: &str) -> bool {
    message.elements().and_then(<[Value]>::first).and_then(Value::text) == Some(kind)
}

#[cfg(test)]
mod tests;
