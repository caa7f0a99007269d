//! Authenticates an open connection again, in place, with the newest credentials that respgate keeps for its user
//! (`reauth = "refresh"`). A provider that cuts a connection when its token expires then has no reason to.
//!
//! The AUTH is sent only when no other reply is due on the connection, and nothing is sent behind it until it is answered:
//! Redis 7.4 to 8 drop the reply to a failing AUTH in mid-pipeline (redis/redis#15640), and every later reply would then
//! answer the wrong request.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::resp::error_line::ErrorLine;
use crate::resp::request;
use crate::resp::server_error::{AuthRefusal, auth_refusal};
use crate::rotation::login::Login;
use crate::secret::Credentials;
use crate::upstream::config::{LiveConfig, Reauth};
use crate::upstream::connection::identities::Identities;
use crate::upstream::connection::identity::Identity;
use crate::upstream::reports::Reports;

/// Whether a connection has to be authenticated again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::upstream) enum Refresh {
    /// It was authenticated with the newest credentials.
    #[default]
    Done,
    /// The credentials have changed, and AUTH has not been sent.
    Due,
    /// AUTH was sent, or may not be sent at present. Housekeeping makes it due again after a second.
    Later,
}

/// An AUTH that is sent on an open connection.
#[derive(Debug)]
pub struct InPlaceAuth {
    identity: Rc<Identity>,
    login: Login,
    credentials: Arc<Credentials>,
    began: Instant,
}

impl InPlaceAuth {
    /// Returns the AUTH for a connection of `identity`. Returns `None` if respgate keeps no credentials for it, or if the
    /// server refused them a moment ago.
    pub(in crate::upstream) fn begin(identity: &Rc<Identity>) -> Option<Self> {
        let began = Instant::now();
        let login = identity.login()?;
        let credentials = identity.credentials().ok()??;
        if identity.refusals.bars(&credentials, began).is_some() {
            return None;
        }
        Some(Self { identity: identity.clone(), login, credentials, began })
    }

    /// Appends the request to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let password = self.credentials.password.expose();
        match &self.credentials.username {
            Some(user) => request::encode(&[b"AUTH", user.as_bytes(), password], out),
            None => request::encode(&[b"AUTH", password], out),
        }
    }

    /// Handles the reply, a whole frame, for the upstream of this name. Returns when the credentials were read, if the server accepted them. After a
    /// refusal the connection stays authenticated as it was (observed on valkey 8.0 and redis 7.0).
    pub(in crate::upstream) fn answered(
        self,
        upstream: &str,
        reports: &Reports,
        frame: &[u8],
    ) -> Option<Instant> {
        let Some(line) = frame.strip_prefix(b"-") else {
            self.identity.confirm();
            self.login.accepted();
            self.identity.refusals.accepted();
            reports.counters.reauthenticated.inc();
            return Some(self.began);
        };
        let line = Bytes::copy_from_slice(line.strip_suffix(b"\r\n").unwrap_or(line));
        match auth_refusal(&line) {
            AuthRefusal::NeedlessPassword => {
                self.identity.note_needless_password();
                Some(self.began)
            }
            AuthRefusal::NotReady => None,
            AuthRefusal::Wrong(line) => {
                self.identity.note_refused();
                reports.counters.upstream_auth_refused.inc();
                self.login.refused(&upstream, &self.credentials, &line);
                let line = ErrorLine::of_server(&line);
                self.identity.refusals.refused(&self.credentials, line, Instant::now());
                None
            }
        }
    }
}

/// Returns whether a connection of `identity` that was begun at `began` has to be authenticated again.
pub(in crate::upstream) fn refresh_of(
    config: &LiveConfig,
    identities: &Identities,
    identity: &Identity,
    began: Instant,
) -> Refresh {
    if config.get().reauth == Reauth::Refresh && identities.is_outdated(identity, began) {
        Refresh::Due
    } else {
        Refresh::Done
    }
}
