//! Answers requests that the tenant's policy denies.

use super::Session;
use super::close::Close;
use super::refusal::{self, Wording};
use super::route::RouteDecision;
use super::setting::{Forbidden, Setting};
use crate::command::{self, Found, Verb};
use crate::resp::error_line::ErrorLine;
use crate::resp::request::{self, Request};
use crate::tenant::policy::{Denial, Policy, PolicyKey};

impl Session {
    /// Returns the answer to a denied request. A request that no server would accept gets its usual answer.
    #[cold]
    pub(super) fn answer_denied(
        &self,
        denial: Denial,
        found: Option<Found>,
        request: &Request<'_>,
    ) -> RouteDecision {
        let spec = match found {
            Some(Found::Spec(spec)) => spec,
            Some(Found::NoSuchSubcommand(container)) => {
                let subcommand = request.arg(1).unwrap_or_default();
                let name = format!("{}|{}", container.name, String::from_utf8_lossy(subcommand));
                return self.denied_unlisted(
                    denial,
                    &name,
                    self.route_unlisted_subcommand(container, request),
                );
            }
            None => {
                let name = String::from_utf8_lossy(request.name());
                return self.denied_unlisted(denial, &name, self.route_unlisted(request));
            }
        };
        if !self.admitted() {
            return RouteDecision::Refused(refusal::NO_AUTH.into());
        }
        let mut forbidden = match denial {
            Denial::Arity => Forbidden { line: refusal::wrong_arity(spec.name), setting: None },
            Denial::Command(key) => self.forbidden_by_policy(key, &self.no_permission(spec.name)),
            Denial::Key => self.forbidden_key(),
            Denial::Channel => {
                let line = refusal::no_channel_permission(self.wording());
                self.forbidden_by_policy(PolicyKey::ChannelPrefixes, line)
            }
        };
        if spec.verb == Verb::Exec {
            forbidden.line = refusal::exec_aborted_because(&forbidden.line);
        }
        RouteDecision::Denied(forbidden)
    }

    fn forbidden_by_policy(&self, key: PolicyKey, line: &[u8]) -> Forbidden {
        self.forbidden(Setting::Policy(key), line)
    }

    fn forbidden_key(&self) -> Forbidden {
        self.forbidden_by_policy(PolicyKey::KeyPrefixes, refusal::no_key_permission(self.wording()))
    }

    /// As `answer_denied`, for a command that the table lacks. `route` is its route without the policy.
    fn denied_unlisted(&self, denial: Denial, name: &str, route: RouteDecision) -> RouteDecision {
        let key = match denial {
            Denial::Command(key) => key,
            Denial::Key | Denial::Arity => PolicyKey::KeyPrefixes,
            Denial::Channel => PolicyKey::ChannelPrefixes,
        };
        match route {
            RouteDecision::Learned(_) if denial == Denial::Key => RouteDecision::Denied(self.forbidden_key()),
            // If the command does not exist, the client gets the error for an unknown command.
            RouteDecision::Refused(_) | RouteDecision::Dropped | RouteDecision::Unlearned => route,
            _ => RouteDecision::Denied(self.forbidden_by_policy(key, &self.no_permission(name))),
        }
    }

    /// Logs that a client is disconnected because the policy now denies one of its subscriptions, and returns
    /// that reason.
    pub(super) fn close_denied_subscriber(&self) -> Close {
        tracing::info!(
            client = self.client.id,
            peer = self.client.peer,
            "respgate disconnects a client: its tenant's policy now denies one of the client's subscriptions"
        );
        Close::Removed
    }

    /// Returns the error that the server's ACL would give for a command.
    pub(super) fn no_permission(&self, name: &str) -> ErrorLine {
        refusal::no_permission(self.wording(), &self.client.user(), name)
    }

    fn wording(&self) -> Wording {
        Wording::of(self.ctx.upstream.server().as_deref())
    }
}

/// Returns true if the policy permits a request of these words.
pub(super) fn permits_words(policy: &Policy, words: &[&[u8]]) -> bool {
    let mut frame = Vec::new();
    request::encode(words, &mut frame);
    permits(policy, &frame)
}

/// As [`permits_words`], for an encoded request.
pub(super) fn permits(policy: &Policy, frame: &[u8]) -> bool {
    Request::parse(frame)
        .is_some_and(|request| policy.permit(command::find(&request), &request, || None).is_ok())
}
