//! One Sentinel: subscribes to its events, then asks it whenever told to, and starts over when it fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{self, BadReply, CHANNELS, Heard, View};
use crate::discovery::machine::Event;
use crate::discovery::sentinel_table::SentinelError;
use crate::net::backoff::Backoff;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::control::{Control, ControlError};
use crate::resp::greeting::without_arguments;
use crate::resp::value::Value;
use crate::rotation::login::Login;
use crate::topology::Address;

/// Bounds of the time between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// A subscription has nothing to say for days: it is read without a deadline that counts. That the Sentinel lives is
/// seen from its answers, and both connections fall together.
const IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a Sentinel's task needs.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) address: Address,
    pub(super) config: Arc<SentinelConfig>,
    pub(super) dialer: Dialer,
    /// Who respgate is to it.
    pub(super) login: Login,
    /// Where news go; a full queue holds this Sentinel back, nobody else.
    pub(super) news: mpsc::Sender<Event>,
    /// Changes when the Sentinel is to be asked.
    pub(super) asks: watch::Receiver<u64>,
}

impl Follower {
    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        loop {
            let Err(fault) = self.follow(&mut backoff).await else { return };
            if self.tell(Event::Failed { sentinel: self.address.clone(), fault }).await.is_none() {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Subscribes first and asks second: a switch between the two is then heard. `Ok` when nobody listens any more.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), SentinelError> {
        let mut subscription = self.subscribe().await?;
        let mut queries = self.open().await?;
        let id = self.call(&mut queries, &[b"SENTINEL", b"MYID"]).await?;
        let connected = Event::Connected {
            sentinel: self.address.clone(),
            id: event::own_id(&id),
            subscribed: subscription.is_some(),
        };
        if self.tell(connected).await.is_none() {
            return Ok(());
        }
        loop {
            self.asks.mark_unchanged();
            let view = self.ask(&mut queries).await?;
            backoff.reset();
            if self.tell(Event::Answered { sentinel: self.address.clone(), view }).await.is_none() {
                return Ok(());
            }
            loop {
                tokio::select! {
                    changed = self.asks.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    heard = next_event(&mut subscription, &self.config) => {
                        let heard = heard.map_err(|error| self.unreachable(&error))?;
                        let event = Event::Noticed { sentinel: self.address.clone(), heard };
                        if self.tell(event).await.is_none() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    async fn tell(&self, event: Event) -> Option<()> {
        self.news.send(event).await.ok()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// A connection that has been let in.
    async fn open(&self) -> Result<Control<Stream>, SentinelError> {
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

    /// A subscription to as many events as the Sentinel's ACL allows; `None` if that is none. The first event is
    /// asked for alone: ACLs often allow no other, and a client that has yet to authenticate may send 10 arguments
    /// only, being cut off for more instead of told why (observed on valkey 8.0).
    async fn subscribe(&self) -> Result<Option<Control<Stream>>, SentinelError> {
        let mut control = self.open().await?;
        let (first, others) = CHANNELS.split_at(1);
        if !self.subscribe_to(&mut control, first).await? {
            return Ok(None);
        }
        self.subscribe_to(&mut control, others).await?;
        Ok(Some(control))
    }

    /// False if the ACL forbids it.
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
        // One confirmation for each channel. Events may already come between them; the question that follows makes
        // up for those.
        let mut confirmed = 0;
        loop {
            if let Some(line) = reply.error() {
                return if line.starts_with(b"NOPERM") { Ok(false) } else { Err(self.refusal(line)) };
            }
            confirmed += usize::from(is_kind(&reply, "subscribe"));
            if confirmed == channels.len() {
                return Ok(true);
            }
            reply = control.reply(deadline).await.map_err(unreachable)?;
        }
    }

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

    /// Says whose fault an error line is.
    fn refusal(&self, line: &[u8]) -> SentinelError {
        let address = &self.address;
        let said = line.escape_ascii();
        let code = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        match code {
            b"NOAUTH" => SentinelError::Refused(format!(
                "Sentinel {address} wants a password ({said}); give the Sentinels' own, which may differ from the \
                 primary's"
            )),
            b"WRONGPASS" => SentinelError::Refused(format!(
                "Sentinel {address} refuses the user or password ({said}); check the Sentinels' own, which may \
                 differ from the primary's"
            )),
            b"NOPERM" => SentinelError::Refused(format!(
                "Sentinel {address} forbids the questions ({said}); allow its user +sentinel|get-master-addr-by-name \
                 +sentinel|master +sentinel|sentinels"
            )),
            b"ERR" if line.starts_with(b"ERR AUTH") || line.starts_with(b"ERR Client sent AUTH") => {
                SentinelError::Refused(format!(
                    "Sentinel {address} has no password but one is configured for it ({said}); remove it, or set \
                     `requirepass` there"
                ))
            }
            b"ERR" if line.starts_with(b"ERR unknown command") => SentinelError::Unreachable(format!(
                "{address} is no Sentinel ({said}); check the port, which is 26379 for Sentinel by default"
            )),
            _ => SentinelError::Unreachable(format!("Sentinel {address} answers with an error: {said}")),
        }
    }
}

/// The next event about our primary; never, without a subscription. Nothing is lost if it is dropped while it waits.
async fn next_event(
    subscription: &mut Option<Control<Stream>>,
    config: &SentinelConfig,
) -> Result<Heard, ControlError> {
    let Some(subscription) = subscription else { return std::future::pending().await };
    loop {
        let message = subscription.receive(Instant::now() + IDLE).await?;
        if !is_kind(&message, "message") {
            continue;
        }
        let heard = message.elements().and_then(|parts| match parts {
            [_, channel, payload] => event::heard(channel.text()?, payload.text()?, config),
            _ => None,
        });
        if let Some(heard) = heard {
            return Ok(heard);
        }
    }
}

fn is_kind(message: &Value, kind: &str) -> bool {
    message.elements().and_then(<[Value]>::first).and_then(Value::text) == Some(kind)
}

#[cfg(test)]
mod tests;
