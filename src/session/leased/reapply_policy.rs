//! Applies a changed policy to the state that a session made on its lease when more was allowed.

use super::expect::Expect;
use super::pins::Pins;
use super::{LeaseEnd, Leased};
use crate::resp::pubsub::Kind;
use crate::session::Session;
use crate::session::denied::{permits, permits_words};
use crate::tenant::limits::refusal::Limit;
use crate::tenant::policy::Policy;

impl Leased {
    /// Follows a reload. A session with a subscription that is denied now ends, as the server
    /// ends it when an ACL changes. A transaction with a command that is denied now does not run.
    pub(super) fn follow_reload(&mut self, session: &mut Session) -> Option<LeaseEnd> {
        if !session.activity.take_reload() {
            return None;
        }
        let before = session.tenancy.policy.clone();
        if let Err(close) = session.follow_reload() {
            return Some(LeaseEnd::Close(close));
        }
        // Nothing was sent on this lease. End it, so that the waiting requests go out on a connection of the new
        // identity.
        if session.client.identity_stale && !self.used {
            return Some(LeaseEnd::Clean);
        }
        if let Some(member) = &mut session.tenancy.member {
            self.kinds().for_each(|kind| member.keep(kind));
        }
        let policy = session.tenancy.policy.as_deref().filter(|_| session.tenancy.policy != before)?;
        if drop_denied_subscriptions(policy, &mut self.pins) {
            return Some(LeaseEnd::Close(session.close_denied_subscriber()));
        }
        if let Some(transaction) = &mut self.pins.transaction {
            let permitted =
                transaction.body().is_some_and(|body| body.iter().all(|request| permits(policy, request)));
            transaction.poisoned |= !permitted;
        }
        None
    }
}

impl Leased {
    /// Returns the limits that the lease counts against. A client that had no tenant so far is not counted yet.
    fn kinds(&self) -> impl Iterator<Item = Limit> {
        let Pins { transaction, watching, monitoring, .. } = &self.pins;
        let blocked =
            matches!(self.expected.front(), Some(Expect::Reply(awaited)) if awaited.blocking.is_some());
        [
            (Limit::Leased, true),
            (Limit::Blocked, blocked),
            (Limit::Subscribed, self.pins.subscribed() || *monitoring),
            (Limit::Transactions, transaction.is_some() || *watching),
        ]
        .into_iter()
        .filter_map(|(kind, is)| is.then_some(kind))
    }
}

/// Returns true if the policy denies a subscription, MONITOR or tracking that is in force.
fn drop_denied_subscriptions(policy: &Policy, pins: &mut Pins) -> bool {
    Kind::ALL
        .into_iter()
        .any(|kind| pins.names(kind).iter().any(|name| !permits_words(policy, &[kind.begin(), name])))
        || (pins.monitoring && !permits_words(policy, &[b"MONITOR"]))
        || pins.tracking.as_deref().is_some_and(|tracking| !permits(policy, tracking))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::pubsub::Confirmation;
    use crate::tenant::policy::config::{PolicyConfig, Rule};

    fn policy(commands: &[&str], channels: &[&str]) -> Policy {
        Policy::new(&PolicyConfig {
            commands: Some(commands.iter().map(|rule| Rule::parse(rule).unwrap()).collect()),
            channel_prefixes: channels.iter().map(|prefix| prefix.as_bytes().into()).collect(),
            ..PolicyConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn earlier_subscriptions_are_checked_against_a_new_policy() {
        let mut pins = Pins::default();
        for (kind, name) in [(Kind::Channel, &b"news:a"[..]), (Kind::Pattern, b"news:*")] {
            pins.confirm(&Confirmation { kind, begins: true, name: Some(name) });
        }
        let mut denies = |commands: &[&str], channels: &[&str]| {
            drop_denied_subscriptions(&policy(commands, channels), &mut pins)
        };
        assert!(!denies(&["+@all"], &[]));
        assert!(!denies(&["+@all"], &["news:"]));
        assert!(denies(&["+@all"], &["other:"]));
        assert!(denies(&["+@all", "-psubscribe"], &[]));
        pins.monitoring = true;
        assert!(drop_denied_subscriptions(&policy(&["+@all", "-monitor"], &[]), &mut pins));
        let mut tracks = Pins::default();
        tracks.tracking = Some(b"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n"[..].into());
        assert!(!drop_denied_subscriptions(&policy(&["+@all"], &[]), &mut tracks));
        assert!(drop_denied_subscriptions(&policy(&["+@all", "-client|tracking"], &[]), &mut tracks));
    }
}
