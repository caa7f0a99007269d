//! Opens one connection to a replica: dials it, greets it, and verifies that it is the replica that was sampled.

use tokio::time::Instant;

use super::open::{Connection, ConnectionKey, Dialing, READ, answers};
use crate::net::read_buffer::ReadBuffer;
use crate::resp::control::Control;
use crate::resp::greeting::{Greeting, Role, Selector, ask_node, greet};
use crate::topology::{Address, Generation, NodeId};

/// What a replica is told and asked on a new connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct ReplicaGreeting {
    /// True if the replica may have lost its primary.
    pub(in crate::upstream) alone: bool,
    /// True if the replica belongs to a cluster: it redirects reads to its primary unless the connection has sent READONLY.
    pub(in crate::upstream) in_cluster: bool,
}

impl Dialing {
    /// Opens a connection to the replica at `address` for `key`, within the upstream's `connect-timeout`. `node` is the process that
    /// must answer there. A failure is no sign of a failover, and a refused password does not count against the user: the replica may lack
    /// a user that the primary has.
    ///
    /// # Errors
    /// Returns the reason, for the log.
    pub(in crate::upstream) async fn open_replica(
        &self,
        address: &Address,
        node: Option<&NodeId>,
        generation: Generation,
        key: &ConnectionKey,
        terms: ReplicaGreeting,
    ) -> Result<Connection, String> {
        let (began, timeout) = (Instant::now(), self.config.get().connect_timeout);
        let credentials = key.identity.fresh_credentials(timeout).await.map_err(|why| why.to_string())?;
        let deadline = Instant::now() + timeout;
        let dialer = self.dialer.borrow().clone();
        let stream = dialer.dial(address).await.map_err(|error| error.to_string())?;
        let mut control = Control::new(stream);
        let selector = key.selector.as_ref().filter(|selector| !selector.is_refused());
        let selects_as = selector.map(|selector| selector.credentials());
        let greeting = Greeting {
            selector: match &selects_as {
                Some(Ok(credentials)) => Some(Selector { credentials: credentials.as_deref() }),
                Some(Err(_)) | None => None,
            },
            // A replica redirects the reads of clients that understand redirections.
            redirect: false,
            accepted_before: key.identity.was_accepted(),
            ..Greeting::new(credentials.as_deref(), key.resp, key.database)
        };
        let asked = Instant::now();
        let greeted = greet(&mut control, &greeting, deadline).await.map_err(|error| error.to_string())?;
        if !matches!(greeted.role, Some(Role::Replica { connected, .. }) if connected || terms.alone) {
            return Err("the node does not say that it is a connected replica".into());
        }
        let round_trip = asked.elapsed();
        if node.is_some() {
            let found = ask_node(&mut control, None, deadline).await.map_err(|error| error.to_string())?;
            if found.is_some_and(|found| Some(&found.id) != node) {
                return Err("the address leads to another node than the one that was sampled".into());
            }
        }
        if terms.in_cluster {
            let reply = control.call(&[b"READONLY"], deadline).await.map_err(|error| error.to_string())?;
            if let Some(line) = reply.error() {
                return Err(format!("the node refuses READONLY: {}", line.escape_ascii()));
            }
        }
        let (stream, leftover) = control.into_inner();
        if answers(&leftover) {
            return Err("the node answered more than it was asked in its greeting".into());
        }
        self.reports.counters.connects.inc();
        let now = Instant::now();
        let outdated = self.identities.is_outdated(&key.identity, began);
        let retires = if outdated { Some(now) } else { self.config.get().retires(now) };
        let (read, id) = (ReadBuffer::with(READ, &leftover), self.ids.add(greeted.id));
        Ok(Connection { stream, read, generation, began, round_trip, retires, id, unnaming: false })
    }
}
