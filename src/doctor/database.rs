//! Checks whether the user may select the database.

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::words::quoted;
use crate::resp::control::ControlError;
use crate::resp::server_error::ServerError;

/// Selects the database in which clients start. Runs nothing for database 0, which every server has.
///
/// # Errors
///
/// Returns the error if the connection fails.
pub(super) async fn examine(
    channel: &mut Channel,
    peer: &Peer,
    database: u32,
) -> Result<Option<Finding>, ControlError> {
    if database == 0 {
        return Ok(None);
    }
    let deadline = Instant::now() + peer.answer_timeout();
    let mut digits = itoa::Buffer::new();
    let reply = channel.call(&[b"SELECT", digits.format(database).as_bytes()], deadline).await?;
    let Some(line) = reply.error() else {
        return Ok(Some(Finding::ok(Step::Database, format!("database {database} can be selected"))));
    };
    let seen = format!("database {database} is refused ({})", quoted(line, peer.credentials.as_ref()));
    let remedy = match ServerError::of(line) {
        ServerError::NoPermission => "allow the user +select, or use database 0",
        _ => {
            "the server has as many as `databases` says, 16 by default, and often 1 at cloud providers: use a lower number"
        }
    };
    Ok(Some(Finding::broken(Step::Database, seen, remedy)))
}
