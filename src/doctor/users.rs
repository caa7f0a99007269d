//! Checks whether the server accepts the credentials that respgate holds for its own users.

use super::account::obtain;
use super::concurrently::concurrently;
use super::finding::{Finding, Step};
use super::peer::Peer;
use super::reach::reach;
use super::scripts;
use crate::rotation::source::Account;

/// The greatest number of logins to try at the same time.
const AT_ONCE: usize = 16;

/// Logs in to `server`, which the doctor has reached before, as each user.
pub(super) async fn examine(server: &Peer, users: &[(String, Account)]) -> Vec<Finding> {
    let mut findings = Vec::with_capacity(users.len());
    for chunk in users.chunks(AT_ONCE) {
        let found = concurrently(chunk.iter().cloned().map(|user| log_in(server.clone(), user))).await;
        findings.extend(found.into_iter().flatten());
    }
    findings
}

async fn log_in(server: Peer, (name, account): (String, Account)) -> Vec<Finding> {
    let credentials = obtain(&Some(account)).await;
    let peer = Peer {
        no_password: credentials.clone().err(),
        credentials: credentials.ok().flatten(),
        clients_bring_their_own: false,
        of_user: Some(name.clone()),
        ..server
    };
    let (mut findings, channel) = reach(&peer).await;
    let finding = findings.pop().unwrap_or_else(|| Finding::not_tried(Step::Login, "there is no connection"));
    let mut findings = vec![finding];
    if let Some(mut channel) = channel {
        // A connection that fails now has been found to work before.
        findings.extend(scripts::examine(&mut channel, &peer).await.ok().flatten());
    }
    for finding in &mut findings {
        finding.seen = format!("for user {name:?} of respgate's: {}", finding.seen);
    }
    findings
}
