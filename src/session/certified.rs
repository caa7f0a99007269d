//! Authenticates clients by their certificates: a verified certificate can name a user of respgate's own.

use super::Session;
use crate::tenant::users::User;

impl Session {
    /// Authenticates the client as the user that its certificate names, if there is one. The client's tenant must
    /// be decided afterwards.
    pub(super) fn apply_certificate(&mut self) {
        let user = match (self.ctx.tenants.users(), &self.client.known.certificate) {
            (Some(users), Some(names)) => users.of_certificate(names),
            _ => None,
        };
        if let Some(user) = user {
            let identity = self.identity_of(&user);
            self.client.selector = Some(identity.clone());
            self.client.identity = Some(identity);
            self.client.login = Some(user.name.clone());
            self.client.certified = true;
        }
    }

    /// Returns true if the client's certificate authenticated it as this user and no longer does.
    pub(super) fn has_lost_certificate(&self, user: &User) -> bool {
        let names = self.client.known.certificate.as_deref();
        let lost = self.client.certified && !names.is_some_and(|names| user.has_certificate(names));
        if lost {
            tracing::info!(
                client = self.client.id,
                peer = self.client.peer,
                user = user.name,
                "respgate disconnects a client: its certificate no longer names its user"
            );
        }
        lost
    }
}
