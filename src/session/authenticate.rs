//! Checks passwords, and gives the client the identity of its user.

use std::rc::Rc;
use std::sync::Arc;

use super::Session;
use super::close::Close;
use super::departure::CLIENT_LEFT;
use super::refusal;
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::write;
use crate::tenant::users::source::Source;
use crate::tenant::users::throttle::{Attempt, AuthDecision, Throttle, TooSoon};
use crate::tenant::users::{Refused, User, Users};
use crate::upstream::Upstream;
use crate::upstream::connection::identity::{self, Identity};
use crate::upstream::connection::open::ConnectionKey;

impl Session {
    pub(super) async fn authenticate(&mut self, user: Option<Vec<u8>>, password: Vec<u8>) {
        match self.verify(user.as_deref(), &password).await {
            Ok(()) => self.answer(write::ok),
            Err(line) => self.refuse(&line),
        }
    }

    /// Has the upstream check a password, and gives the client that user's identity. A refusal changes nothing.
    ///
    /// # Errors
    /// Returns the error line if the password was refused or not checked, or the user's tenant is full.
    pub(super) async fn verify(&mut self, user: Option<&[u8]>, password: &[u8]) -> Result<(), ErrorLine> {
        if let Some(users) = self.ctx.tenants.users() {
            return self.verify_own(users, user.unwrap_or(b"default"), password).await;
        }
        // No user's name is other than UTF-8, so answer as the server answers an unknown user.
        let user = match user.map(std::str::from_utf8).transpose() {
            Ok(user) => user,
            Err(_) => {
                return Err(refusal::WRONG_PASSWORD.into());
            }
        };
        let (upstream, throttle) = (self.ctx.upstream.clone(), self.ctx.tenants.throttle());
        let source = self.source();
        let decided = tokio::select! {
            decided = judge_by_upstream(&upstream, &throttle, source, user, password) => decided,
            () = self.until_login_abandoned() => {
                self.closing = Some(Close::Left);
                return Err(CLIENT_LEFT.into());
            }
        };
        match decided {
            Ok(AuthDecision::Right) => {}
            Ok(
                AuthDecision::Wrong(line) | AuthDecision::Inapplicable(line) | AuthDecision::Undecided(line),
            ) => {
                return Err((&*line).into());
            }
            Err(too_soon) => return Err(self.refuse_password(&Refused::TooSoon(too_soon))),
        }
        let identity = upstream.identities.of(user, password);
        let name = self.client.name.to_vec();
        self.assign(Some(&identity.user()), &name)?;
        self.client.login = Some(identity.user());
        self.act_as(identity);
        Ok(())
    }

    /// As `verify`, for a user of respgate's own. The user acts on the server under the login that is configured
    /// for it, or else under respgate's.
    async fn verify_own(&mut self, users: Arc<Users>, user: &[u8], password: &[u8]) -> Result<(), ErrorLine> {
        let source = self.source();
        let verified = tokio::select! {
            verified = users.verify(source, user, password) => verified,
            () = self.until_departed() => {
                self.closing = Some(Close::Left);
                return Err(CLIENT_LEFT.into());
            }
        };
        let user = verified.map_err(|refused| {
            self.ctx.upstream.counters.auth_refused.inc();
            self.refuse_password(&refused)
        })?;
        let name = self.client.name.to_vec();
        self.assign(Some(&user.name), &name)?;
        self.client.login = Some(user.name.clone());
        self.client.certified = false;
        let identity = self.identity_of(&user);
        self.act_as(identity);
        Ok(())
    }

    /// Returns the source of the client's passwords, by which wrong ones are counted.
    fn source(&self) -> Source {
        Source::of(self.client.known.address, self.client.known.uid)
    }

    /// Counts and logs a password that respgate refused. Returns the error line.
    fn refuse_password(&self, refused: &Refused) -> ErrorLine {
        if matches!(refused, Refused::TooSoon(_)) {
            self.ctx.upstream.counters.auth_throttled.inc();
        }
        tracing::info!(
            client = self.client.id,
            peer = self.client.peer,
            ?refused,
            "respgate refused a client's AUTH"
        );
        refusal::not_authenticated(refused)
    }

    /// Returns the server identity of a user of respgate's own.
    pub(super) fn identity_of(&self, user: &User) -> Rc<Identity> {
        let upstream = &self.ctx.upstream;
        match user.login(&upstream.config.name) {
            Some(login) => upstream.identities.kept(login),
            None => upstream.identities.own().clone(),
        }
    }

    /// Gives the client an identity, and leaves the former identity's lane.
    fn act_as(&mut self, identity: Rc<Identity>) {
        if self.client.identity.as_ref().is_none_or(|mine| mine.id() != identity.id()) {
            self.client.act_as(identity);
            self.leave_lane();
        }
    }

    /// Gives the client the new server identity of its user. No reply may be due.
    pub(super) fn switch_identity(&mut self) {
        self.client.identity_stale = false;
        if let (Some(users), Some(login)) = (self.ctx.tenants.users(), &self.client.login)
            && let Some(user) = users.find(login)
        {
            let identity = self.identity_of(&user);
            self.act_as(identity);
        }
    }
}

/// Has the server of an upstream check a password, unless it has accepted that password lately.
///
/// # Errors
/// Returns [`TooSoon`] if too many wrong passwords came before.
async fn judge_by_upstream(
    upstream: &Rc<Upstream>,
    throttle: &Throttle,
    source: Source,
    user: Option<&str>,
    password: &[u8],
) -> Result<AuthDecision, TooSoon> {
    let (realm, name) = (upstream.config.name.as_str(), user.unwrap_or("default"));
    // The server treats AUTH with one argument differently from AUTH with two.
    let form: &[u8] = if user.is_some() { b"2" } else { b"1" };
    let digest = throttle.digest([realm.as_bytes(), name.as_bytes(), form], password);
    let attempt = Attempt { source, realm, user: name.as_bytes(), digest };
    let believed = || upstream.identities.believes(user, password, throttle.remembered(&digest));
    let ask = async || {
        let key = ConnectionKey::new(upstream.identities.candidate(user, password), 0, Resp::V2);
        match upstream.verify(&key).await {
            Ok(()) => {
                upstream.identities.accept(&key.identity);
                throttle.remember(digest, identity::BELIEVED);
                AuthDecision::Right
            }
            Err(line) => refusal::auth_decision(&line),
        }
    };
    throttle.judge(attempt, believed, ask).await
}
