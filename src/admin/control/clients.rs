//! Control of clients: lists them, disconnects some, and shows the server's own list.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

use super::client_list::{ActionResult, CountedListing, LISTS};
use crate::clients::directory::{Directory, Query, Selection, Shape};
use crate::clients::filter::{Filter, Test, Text};
use crate::clients::listing::{LineSource, Lines, Listing};
use crate::operator::Operators;

/// Limit of the bytes of a list.
const LONGEST_LIST: usize = 32 * 1024 * 1024;

/// An action of control on clients.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::admin) enum ClientAction {
    /// List the clients of all workers that match.
    List(Clients),
    /// Disconnect the clients that match.
    Kill(Clients),
    /// Show the CLIENT LIST of this upstream's server; `None`: of the only upstream.
    OfServer(Option<String>),
}

/// The clients that control names. Without any, all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::admin) struct Clients {
    session: Option<u64>,
    tenant: Option<String>,
    user: Option<String>,
    address: Option<String>,
}

impl ClientAction {
    /// Parses the arguments of the action `name`.
    ///
    /// # Errors
    /// Returns what is wrong, and what to write.
    pub(super) fn parse(name: &str, arguments: &mut Map<String, Value>) -> Result<Self, String> {
        let mut text = |key: &str| match arguments.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(format!("{key:?} of {name} is a text")),
        };
        if name == "upstream-clients" {
            return Ok(Self::OfServer(text("upstream")?));
        }
        let (tenant, user, address) = (text("tenant")?, text("user")?, text("address")?);
        let session = match arguments.remove("session") {
            None => None,
            Some(session) => Some(
                session
                    .as_u64()
                    .ok_or_else(|| format!("\"session\" of {name} is the id of a client, a number"))?,
            ),
        };
        let clients = Clients { session, tenant, user, address };
        match name {
            "clients" => Ok(Self::List(clients)),
            _ if clients == Clients::default() => {
                Err(r#"kill needs "session", "tenant", "user" or "address""#.into())
            }
            _ => Ok(Self::Kill(clients)),
        }
    }

    /// Does the action.
    ///
    /// # Errors
    /// Returns why it could not be done.
    pub(super) async fn perform(
        self,
        directory: &Directory,
        operators: &Operators,
        lists: &Arc<Semaphore>,
    ) -> Result<ActionResult, String> {
        if let Self::Kill(clients) = self {
            let killed = directory.kill(&clients.selection(), None).await;
            let killed = killed.map_err(|error| error.to_string())?;
            return Ok(ActionResult::Value(json!({ "disconnected": killed.clients })));
        }
        let permit = reserve(lists)?;
        let listing = match self {
            Self::OfServer(upstream) => of_server(directory, operators.number(upstream.as_deref())?).await?,
            Self::List(clients) | Self::Kill(clients) => list(directory, clients.selection()).await?,
        };
        Ok(ActionResult::Clients(CountedListing::new(listing, permit)))
    }
}

impl Clients {
    fn selection(self) -> Selection {
        let is = |text: Option<String>| Test { is: text.map(|text| Text::from(text.as_bytes())), not: None };
        let ids = Test { is: self.session.map(|id| [id].into()), not: None };
        let filter = Filter { ids, user: is(self.user), addr: is(self.address), ..Filter::default() };
        let tenant_name = self.tenant.map(Arc::from);
        Selection { filter: Arc::new(filter), tenant_name, ..Selection::default() }
    }
}

/// Reserves one of the lists that may be kept at the same time.
fn reserve(lists: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, String> {
    lists
        .clone()
        .try_acquire_owned()
        .map_err(|_| format!("{LISTS} lists of clients are being read already; wait until one of them ends"))
}

async fn list(directory: &Directory, selection: Selection) -> Result<Listing, String> {
    let mut lines = directory.list(selection, Shape::Extended).await.map_err(|error| error.to_string())?;
    let mut listing = Listing::default();
    while let Some(some) = Directory::next_lines(&mut lines).await.map_err(|error| error.to_string())? {
        listing.add(some);
        if listing.len() > LONGEST_LIST {
            return Err(format!("the list has more than {LONGEST_LIST} bytes; name a tenant or a user"));
        }
    }
    Ok(listing)
}

async fn of_server(directory: &Directory, upstream: usize) -> Result<Listing, String> {
    let listed = directory.ask_one(|answer| Query::ServerList(upstream, answer)).await;
    let text = listed.map_err(|error| error.to_string())?;
    let text = text.map_err(|line| String::from_utf8_lossy(&line).into_owned())?;
    let mut listing = Listing::default();
    let mut lines = Lines::new(LineSource::Server);
    // The list stays in the server's order.
    for (place, line) in (0..).zip(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())) {
        lines.push(place, |out| out.extend_from_slice(line));
        if lines.is_full() {
            listing.add(std::mem::replace(&mut lines, Lines::new(LineSource::Server)));
            yield_now().await;
        }
    }
    listing.add(lines);
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(name: &str, body: &str) -> Result<ClientAction, String> {
        let mut arguments = serde_json::from_str(body).unwrap();
        ClientAction::parse(name, &mut arguments)
    }

    #[test]
    fn a_kill_says_whom() {
        let kill = action("kill", r#"{"tenant":"acme","session":7}"#).unwrap();
        let ClientAction::Kill(clients) = kill else { panic!() };
        let selection = clients.selection();
        assert_eq!(selection.tenant_name.as_deref(), Some("acme"));
        assert_eq!(selection.filter.wanted_ids(), Some(&[7].into()));
        assert!(action("kill", "{}").unwrap_err().contains("kill needs"));
        assert!(action("kill", r#"{"session":"x"}"#).unwrap_err().contains("a number"));
        assert!(action("kill", r#"{"user":7}"#).unwrap_err().contains("is a text"));
        assert_eq!(action("clients", "{}"), Ok(ClientAction::List(Clients::default())));
    }

    #[test]
    fn few_lists_are_kept_at_the_same_time() {
        let lists = Arc::new(Semaphore::new(1));
        let kept = reserve(&lists).unwrap();
        assert!(reserve(&lists).is_err_and(|why| why.contains("lists of clients are being read already")));
        drop(kept);
        assert!(reserve(&lists).is_ok());
    }
}
