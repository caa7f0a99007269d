//! `GET /status/clients`: some of the clients, for the status page.

use serde_json::{Value, json};

use crate::admin::control::client_list::parsed;
use crate::clients::directory::{Directory, Selection, Shape, Unanswered};

/// The greatest number of clients in the answer.
const SHOWN: usize = 100;

/// Returns the clients that connected first, 100 at most, and whether there are more.
///
/// # Errors
/// Returns an error if a worker did not answer in time.
pub(in crate::admin) async fn json(directory: &Directory) -> Result<Value, Unanswered> {
    let mut lines = directory.list(Selection::default(), Shape::Extended).await?;
    let mut clients = Vec::new();
    // Each worker sends its clients by id, a part at a time, and stops when nobody waits for more.
    while clients.len() <= SHOWN
        && let Some(some) = Directory::next_lines(&mut lines).await?
    {
        clients.extend(String::from_utf8_lossy(&some.bytes).lines().map(parsed));
    }
    clients.sort_by_key(|client| client.get("id").and_then(Value::as_u64));
    let more = clients.len() > SHOWN;
    clients.truncate(SHOWN);
    Ok(json!({ "more": more, "clients": clients }))
}
