//! Connections to the servers of a switch.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::stream::Stream;
use crate::resp::Resp;
use crate::resp::control::Control;
use crate::resp::greeting::{Greeting, Role, greet, role_from_reply};
use crate::secret::Credentials;
use crate::topology::Address;
use crate::upstream::access::Access;

/// The longest time that a node may take for one answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Connects as respgate itself, and checks that the node is a primary.
pub(super) async fn connect(address: &Address, access: &Access) -> Result<Control<Stream>, String> {
    let credentials = access.login.newest_within(ANSWER_LIMIT).await.map_err(|why| why.to_string())?;
    let mut control = greeted(address, access, credentials.as_deref(), Resp::V2).await?;
    control.set_resp(Resp::V2);
    Ok(control)
}

/// Connects with these credentials, and checks that the node is a primary.
pub(super) async fn greeted(
    address: &Address,
    access: &Access,
    credentials: Option<&Credentials>,
    resp: Resp,
) -> Result<Control<Stream>, String> {
    let stream = access.dialer.dial(address).await.map_err(|error| error.to_string())?;
    let mut control = Control::new(stream);
    let denied = access.login.denied(credentials);
    let greeting = Greeting { denied: Some(&denied), redirect: false, ..Greeting::new(credentials, resp, 0) };
    let greeted = greet(&mut control, &greeting, Instant::now() + ANSWER_LIMIT).await;
    match greeted.map_err(|error| format!("{address}: {error}"))?.role {
        Some(Role::Primary { .. }) | None => Ok(control),
        Some(_) => Err(format!("{address} is not a primary")),
    }
}

/// Checks that a node is a primary still.
///
/// # Errors
/// Returns why it is not.
pub(super) async fn is_primary(address: &Address, control: &mut Control<Stream>) -> Result<(), String> {
    let reply = control.call(&[b"ROLE"], Instant::now() + ANSWER_LIMIT).await;
    let reply = reply.map_err(|error| format!("{address}: {error}"))?;
    match role_from_reply(&reply) {
        Some(Role::Primary { .. }) => Ok(()),
        // The user may not ask; discovery has found it to be a primary.
        None if reply.error().is_some() => Ok(()),
        _ => Err(format!("{address} is not a primary any more")),
    }
}
