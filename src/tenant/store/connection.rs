//! Opens the connection through which rates are shared.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::grant::StoreError;
use crate::net::stream::Stream;
use crate::net::tls::client::{ClientSet, ClientTls};
use crate::resp::Resp;
use crate::resp::control::Control;
use crate::resp::greeting::{GreetError, Greeted, Greeting, Role, greet};
use crate::rotation::login::Newest;
use crate::topology::Generation;
use crate::upstream::UpstreamPlan;
use crate::upstream::access::Access;
use crate::upstream::config::Reauth;

/// Timeout of a greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// Holds a connection to the primary.
pub(super) struct StoreConnection<S> {
    pub(super) control: Control<S>,
    pub(super) generation: Generation,
    pub(super) retires: Option<Instant>,
    pub(super) logins: watch::Receiver<Newest>,
    pub(super) certificates: Option<watch::Receiver<ClientSet>>,
}

/// Opens a connection to the primary, once there is one.
pub(super) async fn connect(upstream: &mut UpstreamPlan) -> Result<StoreConnection<Stream>, StoreError> {
    let primary = upstream.topology.borrow_and_update().primary().cloned();
    let Some(primary) = primary else { return Err(StoreError::Away("no primary is known".into())) };
    let away = |why: &dyn fmt::Display| StoreError::Away(format!("{}: {why}", primary.address));
    let Access { dialer, login } = upstream.access.borrow().clone();
    let logins = login.subscribe();
    let certificates = dialer.tls.as_ref().map(ClientTls::changes);
    let credentials = login.newest_within(GREETING_TIMEOUT).await.map_err(|why| away(&why))?;
    let stream = dialer.dial(&primary.address).await.map_err(|why| away(&why))?;
    let mut control = Control::new(stream);
    let denied = login.denied(credentials.as_deref());
    let greeting = Greeting {
        accepted_before: login.has_worked(),
        denied: Some(&denied),
        ..Greeting::new(credentials.as_deref(), Resp::V2, 0)
    };
    let greeted = greet(&mut control, &greeting, Instant::now() + GREETING_TIMEOUT).await;
    match (&greeted, &credentials) {
        (Err(GreetError::AuthRefused(line)), Some(credentials)) => {
            login.refused(&primary.address, credentials, line);
        }
        (Ok(_), Some(_)) => login.accepted(),
        _ => {}
    }
    match greeted {
        Ok(Greeted { role: Some(Role::Primary { .. }) | None, .. }) => {
            let (generation, retires) = (primary.generation, upstream.config.retires(Instant::now()));
            Ok(StoreConnection { control, generation, retires, logins, certificates })
        }
        Ok(_) => Err(away(&"it is not a primary")),
        Err(error @ (GreetError::AuthRefused(_) | GreetError::AuthRequired(_))) => {
            Err(StoreError::Refused(format!("{}: {error}", primary.address)))
        }
        Err(error) => Err(away(&error)),
    }
}

impl<S> StoreConnection<S> {
    /// Returns true if the connection must be replaced.
    pub(super) fn outdated(&self, upstream: &UpstreamPlan) -> bool {
        let primary = upstream.topology.borrow().primary().map(|primary| primary.generation);
        let changed = || {
            let certificates = self.certificates.as_ref();
            self.logins.has_changed().unwrap_or(false)
                || certificates.is_some_and(|changes| changes.has_changed().unwrap_or(false))
        };
        primary != Some(self.generation)
            || self.retires.is_some_and(|retires| Instant::now() >= retires)
            || (upstream.config.reauth != Reauth::Keep && changed())
    }
}
