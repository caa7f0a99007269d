//! Asks nodes for their role.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use crate::discovery::room::DiscoveryRoom;
use crate::discovery::verify::{Description, Finding};
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::net::tls::handshake_error::HandshakeError;
use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::greeting::{GreetError, Greeted, Greeting, Role, ask_node, greet, role_from_reply};
use crate::resp::server_error::ServerError;
use crate::rotation::denials::{Denied, Probe};
use crate::rotation::login::Login;
use crate::secret::Credentials;
use crate::topology::{Address, Node, Outage, Primary};

/// How long a connected node may take to answer. A busy server answers nothing while a slow command runs.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The time after which an unanswered probe of a fixed address is joined by another one while there is no primary.
pub(super) const OVERLAP: Duration = Duration::from_millis(400);

/// The same while there is a primary. The node that it is may only be slow: further connections would add to its work.
pub(super) const OVERLAP_OF_WORKING: Duration = Duration::from_millis(800);

/// The time within which such a further probe must end.
const OVERLAP_TIMEOUT: Duration = Duration::from_secs(2);

/// Dials a node, authenticates and asks for its role. Ends within the dialer's connect timeout plus [`ANSWER_TIMEOUT`]
/// (2 s), plus another [`ANSWER_TIMEOUT`] if the credentials are not known yet.
///
/// If the user may run neither ROLE nor INFO, as on some managed servers, the probe takes the node for a primary: if it
/// is not, its READONLY errors soon show that. The probe logs this once; it also logs once that one side refuses the
/// other's certificate.
pub(super) async fn probe(
    address: &Address,
    login: &Login,
    dialer: &Dialer,
    logged: &LoggedProbes,
) -> Finding {
    probe_open(address, login, dialer, logged).await.0
}

/// As [`probe`]. Returns the connection too, if it can ask the node again.
async fn probe_open(
    address: &Address,
    login: &Login,
    dialer: &Dialer,
    logged: &LoggedProbes,
) -> (Finding, Option<Control<Stream>>) {
    let credentials = match login.newest_within(ANSWER_TIMEOUT).await {
        Ok(credentials) => credentials,
        Err(why) => {
            let why = format!("{address} is not asked: {why}");
            return (Finding::AuthRejected(Outage::Refused(why)), None);
        }
    };
    let stream = match dialer.dial(address).await {
        Ok(stream) => stream,
        Err(error) if error.is_unresolved() => return (Finding::Unresolved(error.to_string()), None),
        Err(error) => {
            let cause = error.source().and_then(|source| source.downcast_ref());
            return (logged.connect_failure(error.to_string(), cause), None);
        }
    };
    let denied = login.denied(credentials.as_deref());
    let greeting = greeting(credentials.as_deref(), login, &denied);
    let mut control = Control::new(stream);
    let result = greet(&mut control, &greeting, Instant::now() + ANSWER_TIMEOUT).await;
    match (&result, &credentials) {
        (Err(GreetError::AuthRefused(line)), Some(credentials)) => login.refused(address, credentials, line),
        (Ok(_), Some(_)) => login.accepted(),
        _ => {}
    }
    if let Ok(greeted) = &result {
        let silent = greeted.role.is_none();
        logged.admitted.store(true, Ordering::Relaxed);
        if !logged.role_denied.swap(silent, Ordering::Relaxed) && silent {
            tracing::warn!(%address, "the server's ACL allows respgate's user neither ROLE nor INFO, so respgate cannot check that this node is a primary; allow +role");
        }
    }
    // With TLS 1.3 a server refuses the client's certificate only after the handshake.
    if let Err(GreetError::Control(ControlError::Io(error))) = &result
        && let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref())
    {
        return (logged.connect_failure(format!("{address} {cause}"), Some(cause)), None);
    }
    let greeted = result.is_ok();
    let may_ask =
        result.as_ref().is_ok_and(|greeted| greeted.role.is_some()) && !denied.contains(Probe::Role);
    let mut finding = finding_of(address, result, credentials.is_some());
    if let Finding::Primary(description) = &mut finding
        && greeted
    {
        match ask_node(&mut control, Some(&denied), Instant::now() + ANSWER_TIMEOUT).await {
            Ok(node) => description.node = node,
            Err(error) => return (Finding::Unreachable(format!("{address}: {error}")), None),
        }
    }
    (finding, may_ask.then_some(control))
}

/// How long a node may take to answer on a connection that stayed open. If it takes longer, a new connection is opened.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// The number of checks of a primary after which a new connection is opened, since only that shows where the address leads by now,
/// and whether the node still accepts respgate.
const CHECKS_PER_CONNECTION: u32 = 10;

/// A connection that stays open between two checks of a primary.
pub(super) struct KeptCheck {
    control: Control<Stream>,
    address: Address,
    /// The primary's own description of itself.
    description: Description,
    /// The number of checks so far.
    checks: u32,
    _permit: OwnedSemaphorePermit,
}

impl KeptCheck {
    /// Asks the node for its role and its id. Returns the finding if it is the primary as before, and `None` if only a new connection
    /// can tell.
    async fn ask(&mut self, login: &Login) -> Option<Finding> {
        self.checks += 1;
        let deadline = Instant::now() + CHECK_TIMEOUT;
        let reply = self.control.call(&[b"ROLE"], deadline).await.ok()?;
        if !matches!(role_from_reply(&reply), Some(Role::Primary { .. })) {
            return None;
        }
        let credentials = login.newest().ok()?;
        let denied = login.denied(credentials.as_deref());
        let node = ask_node(&mut self.control, Some(&denied), deadline).await.ok()?;
        let id = |node: &Option<Node>| node.as_ref().map(|node| node.id.clone());
        let is_same = id(&node) == id(&self.description.node);
        is_same.then(|| Finding::Primary(Description { node, ..self.description.clone() }))
    }
}

/// Asks a primary for its role: on the connection `kept` of the last check if there is one, else as [`probe`] does. Returns the
/// connection for the next check too, if `room` allows one.
pub(super) async fn check(
    address: &Address,
    login: &Login,
    dialer: &Dialer,
    logged: &LoggedProbes,
    room: &DiscoveryRoom,
    kept: Option<KeptCheck>,
) -> (Finding, Option<KeptCheck>) {
    if let Some(mut kept) =
        kept.filter(|kept| kept.address == *address && kept.checks < CHECKS_PER_CONNECTION)
        && let Some(finding) = kept.ask(login).await
    {
        return (finding, Some(kept));
    }
    let permit = room.take_check().await;
    let (finding, control) = probe_open(address, login, dialer, logged).await;
    let kept = match (&finding, control, permit) {
        (Finding::Primary(description), Some(control), Some(permit)) if room.keeps() => Some(KeptCheck {
            control,
            address: address.clone(),
            description: description.clone(),
            checks: 0,
            _permit: permit,
        }),
        _ => None,
    };
    (finding, kept)
}

/// Probes an address that may lead to another node at any time. While a probe is unanswered, starts another one every
/// `overlap`: it resolves the name again, and a node that is silent does not delay the answer of its successor.
/// Returns the first answer, or the failure of the first probe. At most 6 probes run at once, because each further one
/// ends within [`OVERLAP_TIMEOUT`].
pub(super) async fn probe_overlapping(
    address: Address,
    login: Login,
    dialer: Dialer,
    logged: Arc<LoggedProbes>,
    overlap: Duration,
) -> Finding {
    let start = || {
        let (address, login, dialer, logged) =
            (address.clone(), login.clone(), dialer.clone(), logged.clone());
        async move { probe(&address, &login, &dialer, &logged).await }.in_current_span()
    };
    let first = start();
    tokio::pin!(first);
    let mut further = JoinSet::new();
    let mut next = Instant::now() + overlap;
    loop {
        tokio::select! {
            finding = &mut first => return finding,
            Some(ended) = further.join_next() => match ended {
                Ok(Ok(Finding::Unreachable(_) | Finding::Unresolved(_)) | Err(_)) | Err(_) => {}
                Ok(Ok(finding)) => return finding,
            },
            () = sleep_until(next) => {
                next += overlap;
                further.spawn(timeout(OVERLAP_TIMEOUT, start()));
            }
        }
    }
}

/// Returns the greeting that discovery sends to a node.
pub(super) fn greeting<'a>(
    credentials: Option<&'a Credentials>,
    login: &Login,
    denied: &'a Denied,
) -> Greeting<'a> {
    Greeting {
        accepted_before: login.has_worked(),
        denied: Some(denied),
        ..Greeting::new(credentials, Resp::V2, 0)
    }
}

/// Remembers which warnings about nodes are logged, so that each is logged once.
#[derive(Debug, Default)]
pub(super) struct LoggedProbes {
    role_denied: AtomicBool,
    /// True if the node accepted the last probe that it answered.
    admitted: AtomicBool,
}

impl LoggedProbes {
    /// Returns the finding for a failed connection attempt. If one side refuses the other's certificate, the node
    /// lives: it may still serve connections that were opened before a certificate changed, and discovery must not cut
    /// these.
    fn connect_failure(&self, why: String, cause: Option<&HandshakeError>) -> Finding {
        if !cause.is_some_and(|cause| cause.reason.is_estrangement()) {
            return Finding::Unreachable(why);
        }
        if self.admitted.swap(false, Ordering::Relaxed) {
            tracing::warn!("respgate cannot open new connections and keeps the open ones: {why}");
        }
        Finding::AuthRejected(Outage::Unverified(why))
    }
}

/// A connection that stays open to ask one node for its role again and again.
pub(super) struct RoleMonitor {
    control: Control<Stream>,
    address: Address,
}

/// Why a [`RoleMonitor`] could not be opened.
pub(super) enum MonitorError {
    /// The connection failed.
    Lost,
    /// There are no credentials, or the user may not ask for the role.
    Denied,
    /// The address leads to another node.
    OtherNode,
}

/// Opens a connection to `primary`'s address that can ask the node for its role again and again.
///
/// # Errors
/// Returns a [`MonitorError`].
pub(super) async fn monitor_role(
    primary: &Primary,
    login: &Login,
    dialer: &Dialer,
) -> Result<RoleMonitor, MonitorError> {
    let lost = || MonitorError::Lost;
    let credentials = login.newest().map_err(|_| MonitorError::Denied)?;
    let mut control = Control::new(dialer.dial(&primary.address).await.map_err(|_| lost())?);
    let denied = login.denied(credentials.as_deref());
    let greeting = greeting(credentials.as_deref(), login, &denied);
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let greeted = greet(&mut control, &greeting, deadline).await.map_err(|_| lost())?;
    // If the ACL denies the user the role, each further query would fail too.
    if greeted.role.is_none() {
        return Err(MonitorError::Denied);
    }
    if let Some(expected) = &primary.node {
        let node = ask_node(&mut control, Some(&denied), deadline).await.map_err(|_| lost())?;
        if node.is_some_and(|node| node.id != *expected) {
            return Err(MonitorError::OtherNode);
        }
    }
    Ok(RoleMonitor { control, address: primary.address.clone() })
}

impl RoleMonitor {
    /// Asks the node for its role. Returns `None` if the connection is broken, `Some(None)` if the node does not say
    /// that it is a replica, and `Some(Some(text))` with a sentence for the operator if it does.
    pub(super) async fn ask(&mut self) -> Option<Option<String>> {
        let reply = self.control.call(&[b"ROLE"], Instant::now() + ANSWER_TIMEOUT).await.ok()?;
        match role_from_reply(&reply) {
            Some(Role::Replica { of, .. }) => Some(Some(format!(
                "the node that {} led to says that it is a replica of {of} by now",
                self.address
            ))),
            // LOADING and BUSY tell nothing about the role.
            _ => Some(None),
        }
    }
}

/// Opens a connection to a node and authenticates. Returns `None` if the connection fails or the user may not ask for the
/// role. Ends within the same time as [`probe`].
pub(super) async fn open_node(address: &Address, login: &Login, dialer: &Dialer) -> Option<Control<Stream>> {
    let credentials = login.newest().ok()?;
    let mut control = Control::new(dialer.dial(address).await.ok()?);
    let denied = login.denied(credentials.as_deref());
    let greeting = greeting(credentials.as_deref(), login, &denied);
    greet(&mut control, &greeting, Instant::now() + ANSWER_TIMEOUT).await.ok()?.role?;
    Some(control)
}

/// Returns true if the node says that it is the primary. Unlike [`probe`], it returns false if the user may not ask.
/// Ends within the same time as [`probe`].
pub(super) async fn says_primary(address: &Address, login: &Login, dialer: &Dialer) -> bool {
    let Ok(credentials) = login.newest() else { return false };
    let Ok(stream) = dialer.dial(address).await else { return false };
    let denied = login.denied(credentials.as_deref());
    let greeting = greeting(credentials.as_deref(), login, &denied);
    let greeted = greet(&mut Control::new(stream), &greeting, Instant::now() + ANSWER_TIMEOUT).await;
    matches!(greeted, Ok(Greeted { role: Some(Role::Primary { .. }), .. }))
}

fn finding_of(address: &Address, result: Result<Greeted, GreetError>, authenticated: bool) -> Finding {
    match result {
        Ok(Greeted { role: Some(Role::Primary { .. }) | None, server, .. }) => {
            Finding::Primary(Description { server: server.map(Arc::new), node: None })
        }
        Ok(Greeted { role: Some(Role::Replica { of, .. }), .. }) => {
            let text = format!(
                "{address} is named as primary but says that it is a replica of {of}; this passes when a failover \
                 ends; if it lasts, name the primary, or end the replication with REPLICAOF NO ONE"
            );
            Finding::Replica(of, text)
        }
        Ok(Greeted { role: Some(Role::Sentinel), .. }) => Finding::NotPrimary(format!(
            "{address} is a Sentinel and holds no data; for discovery through it, use a redis-sentinel:// URL"
        )),
        // Clients authenticate with their own credentials; without any, the probe cannot ask and takes the node for a
        // primary.
        Err(GreetError::AuthRequired(_)) if !authenticated => Finding::Primary(Description::default()),
        Err(error @ (GreetError::AuthRequired(_) | GreetError::AuthRefused(_))) => {
            Finding::AuthRejected(Outage::Refused(format!(
                "{address}: {}; check the upstream's user and password against the server's ACL \
                 (after a failover: on the new primary too)",
                error.to_string().trim_end_matches('.')
            )))
        }
        Err(GreetError::NotReady(line)) => {
            let remedy = match ServerError::of(&line) {
                ServerError::Loading | ServerError::MasterDown => {
                    return Finding::NotPrimary(format!(
                        "{address} cannot serve yet: {}",
                        line.escape_ascii()
                    ));
                }
                ServerError::ProtectedMode => "give it a password, or turn its `protected-mode` off",
                ServerError::Busy => "a script runs for too long: SCRIPT KILL or FUNCTION KILL ends it",
                _ => "raise its `maxclients`, or lower the connections made to it",
            };
            let said = line.escape_ascii();
            Finding::AuthRejected(Outage::Unverified(format!("{address} refuses respgate: {said}; {remedy}")))
        }
        Err(error) => Finding::Unreachable(format!("{address}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::control::ControlError;
    use bytes::Bytes;

    fn greeted(role: Option<Role>) -> Result<Greeted, GreetError> {
        Ok(Greeted { role, server: None, needless_password: false, user: None, id: None })
    }

    #[test]
    fn a_node_that_is_only_distrusted_is_there() {
        use crate::net::tls::handshake_error::Reason;
        let connect_failure = |reason| {
            LoggedProbes::default()
                .connect_failure("node x".into(), Some(&HandshakeError { reason, text: String::new() }))
        };
        for reason in [Reason::Expired, Reason::Untrusted, Reason::WrongName, Reason::Refused] {
            assert!(matches!(connect_failure(reason), Finding::AuthRejected(_)), "{reason:?}");
        }
        for reason in [Reason::Timeout, Reason::Closed, Reason::Plaintext] {
            assert!(matches!(connect_failure(reason), Finding::Unreachable(_)), "{reason:?}");
        }
        assert!(matches!(
            LoggedProbes::default().connect_failure("node x".into(), None),
            Finding::Unreachable(_)
        ));
    }

    #[test]
    fn every_answer_has_its_meaning() {
        let node = Address::tcp("10.0.0.1", 6379);
        let line = Bytes::from_static;
        let find = |result, authenticated| finding_of(&node, result, authenticated);
        assert_eq!(
            find(greeted(Some(Role::Primary { offset: None })), true),
            Finding::Primary(Description::default())
        );
        assert_eq!(find(greeted(None), true), Finding::Primary(Description::default()));
        assert_eq!(
            find(Err(GreetError::AuthRequired(line(b"NOAUTH x"))), false),
            Finding::Primary(Description::default())
        );

        let replica = Role::Replica { of: node.clone(), connected: true };
        assert!(
            matches!(find(greeted(Some(replica)), true), Finding::Replica(of, text) if of == node && text.contains("10.0.0.1:6379"))
        );
        assert!(
            matches!(find(greeted(Some(Role::Sentinel)), true), Finding::NotPrimary(text) if text.contains("10.0.0.1:6379"))
        );
        for not_yet in [&b"LOADING x"[..], b"MASTERDOWN x"] {
            assert!(matches!(find(Err(GreetError::NotReady(line(not_yet))), true), Finding::NotPrimary(_)));
        }
        for (said, remedy) in [
            (&b"ERR max number of clients reached"[..], "maxclients"),
            (b"DENIED Redis is running in protected mode", "protected-mode"),
            (b"BUSY Redis is busy running a script", "SCRIPT KILL"),
        ] {
            let finding = find(Err(GreetError::NotReady(line(said))), true);
            assert!(
                matches!(&finding, Finding::AuthRejected(Outage::Unverified(text)) if text.contains(remedy)),
                "{finding:?}"
            );
        }
        for refused in
            [GreetError::AuthRequired(line(b"NOAUTH x")), GreetError::AuthRefused(line(b"WRONGPASS x"))]
        {
            assert!(matches!(find(Err(refused), true), Finding::AuthRejected(Outage::Refused(_))));
        }
        let silent = Err(GreetError::Control(ControlError::Timeout));
        assert!(matches!(find(silent, true), Finding::Unreachable(text) if text.contains("10.0.0.1:6379")));
    }
}
