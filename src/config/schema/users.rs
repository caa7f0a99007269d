//! The keys of `[users.NAME]`.

use super::credentials::Credentials;
use super::entry::Table;
use super::kinds::CertificateNames;
use super::part::Part;
use crate::tenant::users::hash::PasswordHash;

/// `[users.NAME]`.
pub const TABLE: Table = Table {
    path: "users.*",
    description: "A user of respgate. There may be any number. With at least one, clients authenticate to respgate as one of these \
        users and as no other; `client-auth` of the upstream says whether they must. Without any, clients authenticate to the \
        server. To add the first user or to remove the last one, restart respgate.\n\n\
        The keys that begin with `upstream-` name the user of the server that acts for these clients. Without them, the upstream's own \
        user acts.",
    entries: UserKeys::ENTRIES,
    example: "shop",
    more: "",
};

table! {
    /// One of respgate's own users.
    UserKeys, UserDefaults {
        /// The hash of the user's password. `respgate hash-password` makes it.
        password: PasswordHash, "password-hash", Live, default required, example
            "\"$argon2id$v=19$m=19456,t=2,p=1$iArroSHG8LwEAE7v5/stug$Ia3Z0DJB80Xn1XExqxGqGO7rkTkktxY6g0ZfD7KMpRs\"";
        /// The names in client certificates that authenticate as the user, such as `"CN:shop"`, `"DNS:shop.example"` or
        /// `"URI:spiffe://example/shop"`.
        ///
        /// A client whose verified certificate has one of them begins as this user, without `AUTH`. Names are compared as a whole. A
        /// certificate that names two users begins as neither. It takes a listener with `tls-client-ca`.
        certificates: CertificateNames, "certificates", Live, default "none", example "[\"CN:shop\", \"DNS:shop.example\"]";
        /// The tenant that the user's clients belong to: the NAME of a `[tenants.NAME]`.
        ///
        /// It has the effect of naming the user in `users` of that tenant.
        tenant: String, "tenant", Live, default "none; the rules of the tenants decide", example "\"reports\"";
    }
    groups {
        /// The user of the server that acts for the user's clients.
        credentials: Credentials, prefix "upstream-",
            about "Works like KEY of an upstream, for the user of the server that acts for these clients.",
            reload Live, aside "optional",
            defaults { "username": "the upstream's own user; with a password, the server's default user" };
    }
}
