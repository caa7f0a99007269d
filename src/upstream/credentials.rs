//! Follows the credentials and certificates of respgate, and has connections replaced that were opened with former ones.

use std::rc::Rc;

use tokio::sync::watch;

use super::access::Access;
use super::config::Reauth;
use super::connection::identity::Identity;
use super::parts::Parts;
use super::shared::replace::soon;
use crate::net::tls::client::{ClientSet, ClientTls};
use crate::rotation::login::Newest;

/// Follows respgate's own credentials and the certificates, until the upstream ends.
pub(super) async fn follow(parts: Parts, mut access: watch::Receiver<Access>) {
    loop {
        let Access { dialer, login } = access.borrow_and_update().clone();
        let certificates = dialer.tls.as_ref().map(ClientTls::changes);
        tokio::select! {
            () = follow_of(&parts, login.subscribe(), certificates) => return,
            // Another server has other credentials and certificates.
            changed = access.changed() => if changed.is_err() {
                // No other server will come.
                return follow_of(&parts, login.subscribe(), dialer.tls.as_ref().map(ClientTls::changes)).await;
            },
        }
    }
}

/// Follows the credentials and the certificates for one server, until the former end.
async fn follow_of(
    parts: &Parts,
    mut logins: watch::Receiver<Newest>,
    mut certificates: Option<watch::Receiver<ClientSet>>,
) {
    loop {
        let certified = async {
            match &mut certificates {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        // The credentials concern respgate's own connections, a certificate those of every identity.
        let (changed, of_all) = tokio::select! {
            changed = logins.changed() => (changed, false),
            changed = certified => (changed, true),
        };
        if changed.is_err() {
            return;
        }
        parts.credentials_changed((!of_all).then(|| parts.dialing.identities.own()));
    }
}

impl Parts {
    /// Has the connections of respgate's own users replaced whose credentials at the server have changed, unless
    /// `reauth = "keep"`.
    pub(super) fn refresh_users(&self) {
        for identity in self.dialing.identities.of_users() {
            if identity.has_new_credentials() {
                self.credentials_changed(Some(&identity));
            }
        }
    }

    /// Has the connections of one identity (`None`: of all) replaced, and with `reauth = "refresh"` those authenticated again that
    /// sessions have. Does nothing with `reauth = "keep"`.
    fn credentials_changed(&self, identity: Option<&Rc<Identity>>) {
        let reauth = self.dialing.config.get().reauth;
        if reauth == Reauth::Keep {
            return;
        }
        self.pool.outdate(identity.map(Rc::as_ref));
        if let Some(identity) = identity
            && reauth == Reauth::Refresh
        {
            self.pool.refresh(identity);
            self.fans.refresh(identity);
        }
        self.lanes.retire_by(identity.map(Rc::as_ref), soon);
        self.replicas.retire_by(identity.map(Rc::as_ref), soon);
    }
}
