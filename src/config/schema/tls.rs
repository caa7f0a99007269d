//! The TLS keys of listeners, and those of upstreams, which their Sentinels have too, with `sentinel-` in front.

use std::time::Duration;

use super::super::report::Place;
use super::super::tls::Name;
use super::kinds::{File, Files, ServerNames};
use crate::net::tls::Floor;
use crate::net::tls::server::ClientCertificates;

table! {
    /// TLS towards clients.
    ServerTlsKeys, ServerTlsDefaults {
        /// The PEM file with the listener's certificate, followed by its intermediate certificates.
        ///
        /// It turns TLS on and needs `tls-key`. respgate reads the file again when it changes; new connections use the new
        /// certificate.
        cert: File, "tls-cert", Live, default "none; plain text", example "\"tls.crt\"";
        /// The PEM file with the private key of `tls-cert`: PKCS#8, PKCS#1 or SEC1, without a passphrase.
        key: File, "tls-key", Live, default "none; required with `tls-cert`", example "\"tls.key\"";
        /// The certificate authorities of clients: PEM files or folders of PEM files.
        ///
        /// With this key, a client must present a certificate that one of them has signed, unless `tls-client-auth` says otherwise.
        client_ca: Files, "tls-client-ca", Live, default "none; clients are not asked for a certificate",
            example "\"clients.pem\"";
        /// Whether clients must present a certificate.
        ///
        /// `"required"` refuses a client without one. `"optional"` serves it, and refuses an invalid certificate. `"none"` asks
        /// for none.
        client_auth: ClientCertificates, "tls-client-auth", Live,
            default "`\"required\"` with `tls-client-ca`, else `\"none\"`", example "\"required\"";
        /// The certificate revocation lists of the clients' authorities: PEM files or folders of PEM files.
        ///
        /// respgate refuses a revoked certificate, and one whose authority has no list here. A list stays valid after the time at
        /// which the next one is due.
        crl: Files, "tls-crl", Live, default "none; no certificate is revoked", example "\"revoked.pem\"";
        /// The lowest TLS version that clients may use.
        min_version: Floor = Floor::Tls12, "tls-min-version", Live;
        /// The time from the accept to the end of the TLS handshake. At least `"10ms"`.
        handshake_timeout: Duration = Duration::from_secs(10), "tls-handshake-timeout", Live;
    }
}

table! {
    /// TLS towards servers or Sentinels.
    ClientTlsKeys, ClientTlsDefaults {
        /// Whether respgate speaks TLS to the server.
        ///
        /// `false` contradicts a `url` that begins with `rediss` or `valkeys`.
        on: bool, "tls", Live, default "`true` if the scheme of `url` is a TLS scheme, else `false`", example "true";
        /// The certificate authorities that may have signed the server's certificate: PEM files or folders of PEM files.
        ca: Files, "tls-ca", Live, default "the authorities of the system", example "\"ca.pem\"";
        /// Whether the authorities of the system count in addition to `tls-ca`.
        system_roots: bool, "tls-system-roots", Live, default "`true` without `tls-ca`, else `false`", example "false";
        /// The certificate revocation lists of the server's authorities: PEM files or folders of PEM files.
        crl: Files, "tls-crl", Live, default "none; no certificate is revoked", example "[\"revoked.pem\"]";
        /// The PEM file with the certificate that respgate presents, followed by its intermediate certificates.
        cert: File, "tls-cert", Live, default "none", example "\"client.crt\"";
        /// The PEM file with the private key of `tls-cert`: PKCS#8, PKCS#1 or SEC1, without a passphrase.
        key: File, "tls-key", Live, default "none; required with `tls-cert`", example "\"client.key\"";
        /// The name that the server's certificate must have.
        ///
        /// Only subject alternative names count, never the common name.
        server_name: Name, "tls-server-name", Live, default "the host that respgate dials", example "\"db.example\"";
        /// The name that the certificate must have, for single servers, by address.
        ///
        /// The address is the one that Sentinels announce. It wins over `tls-server-name`.
        server_names: ServerNames, "tls-server-names", Live, default "none",
            example "{ \"10.0.0.5:6379\" = \"node-a.example\" }";
        /// The lowest TLS version that respgate uses.
        min_version: Floor = Floor::Tls12, "tls-min-version", Live;
        /// Whether respgate accepts any certificate. Use `true` on a test bench only.
        ///
        /// Anybody between respgate and the server can then read and change all traffic. The log and `/readyz` repeat a warning.
        unverified: bool = false, "tls-dangerously-skip-verification", Live;
    }
}

impl ClientTlsKeys {
    /// Returns the places of all settings that have no meaning without TLS.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        [
            self.ca.place(),
            self.system_roots.place(),
            self.crl.place(),
            self.cert.place(),
            self.key.place(),
            self.server_name.place(),
            self.server_names.place(),
            self.min_version.place(),
            self.unverified.place(),
        ]
        .into_iter()
        .flatten()
    }
}

impl ServerTlsKeys {
    /// Returns the places of all settings.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        [
            self.cert.place(),
            self.key.place(),
            self.client_ca.place(),
            self.client_auth.place(),
            self.crl.place(),
            self.min_version.place(),
            self.handshake_timeout.place(),
        ]
        .into_iter()
        .flatten()
    }
}
