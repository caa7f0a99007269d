//! The TLS settings of connections from clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::crypto::aws_lc_rs::Ticketer;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ProducesTickets, WebPkiClientVerifier};
use tokio_rustls::rustls::{Error, ServerConfig};

use super::certificate::{Certificate, shown_span};
use super::trust::Trust;
use super::{Floor, LoadError, Part, pem, provider};

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// respgate requests no certificate.
    #[default]
    Ignored,
    /// respgate requests a certificate and also serves clients without one. It refuses an invalid
    /// certificate.
    Optional,
    /// respgate refuses clients without a certificate.
    Required,
}

/// The paths and rules of TLS on one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProfile {
    /// Path of the certificate chain, the server's own certificate first. respgate sends the whole
    /// chain.
    pub chain: PathBuf,
    /// Path of the private key.
    pub key: PathBuf,
    /// Whether clients must show a certificate.
    pub clients: ClientCertificates,
    /// The authorities that may sign clients' certificates.
    pub trust: Trust,
    /// The oldest TLS version that is accepted.
    pub floor: Floor,
    /// Time that a handshake may take, counted from the accept.
    pub handshake_timeout: Duration,
}

/// A profile that was read and checked, ready for handshakes.
#[derive(Clone, Debug)]
pub struct ServerSet {
    pub(super) config: Arc<ServerConfig>,
    /// Expiry of the chain.
    pub not_after: SystemTime,
    /// Encrypts the session tickets of this set.
    tickets: Arc<dyn ProducesTickets>,
    /// The authorities and revocation lists for clients when the tickets were issued. If they
    /// change, clients must prove their identity in a full handshake.
    admitted_by: Vec<Vec<u8>>,
}

impl ServerProfile {
    /// Reads every file and checks the profile. Clients of the set `before` may resume their TLS
    /// sessions, unless the authorities or revocation lists for clients have changed since.
    ///
    /// # Errors
    /// Returns the part that cannot be read, does not match another part, or is not valid now.
    pub fn load(&self, before: Option<&ServerSet>) -> Result<ServerSet, LoadError> {
        let certificates = pem::chain(&self.chain).map_err(|why| LoadError::new(Part::Chain, why))?;
        let key = pem::key(&self.key).map_err(|why| LoadError::new(Part::Key, why))?;
        check_validity(&self.chain, &certificates)?;
        let not_after = Certificate::first_to_expire(&certificates)
            .map_err(|why| LoadError::new(Part::Chain, why))?
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.floor.versions())
            .map_err(|error| LoadError::new(Part::Chain, error))?;
        let mut admitted_by = Vec::new();
        let builder = match self.clients {
            ClientCertificates::Ignored => builder.with_no_client_auth(),
            ClientCertificates::Optional | ClientCertificates::Required => {
                let (roots, lists) = (self.trust.roots()?, self.trust.revocations()?);
                admitted_by.extend(roots.roots.iter().map(|root| root.subject_public_key_info.to_vec()));
                admitted_by.extend(lists.iter().map(|list| list.to_vec()));
                let revocable = !lists.is_empty();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, provider()).with_crls(lists);
                let verifier = if revocable { verifier.only_check_end_entity_revocation() } else { verifier };
                let verifier = match self.clients {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                let verifier = verifier.build().map_err(|error| LoadError::new(Part::Crl, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(certificates, key)
            .map_err(|error| pair_error(&self.chain, &self.key, &error))?;
        let tickets = match before.filter(|before| before.admitted_by == admitted_by) {
            Some(before) => before.tickets.clone(),
            None => Ticketer::new().map_err(|error| LoadError::new(Part::Key, error))?,
        };
        config.ticketer = tickets.clone();
        // One ticket suffices for clients that keep the newest one. Each ticket adds a record to
        // every new connection.
        config.send_tls13_tickets = 1;
        Ok(ServerSet { config: Arc::new(config), not_after, tickets, admitted_by })
    }

    /// Returns every file and folder that the profile reads.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut files = vec![self.chain.clone(), self.key.clone()];
        if self.clients != ClientCertificates::Ignored {
            files.extend(self.trust.watched());
        }
        files
    }
}

/// Returns an error if a certificate of the chain is not valid now. Every handshake with it would
/// fail, so the error must show at once.
pub(super) fn check_validity(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), LoadError> {
    let now = SystemTime::now();
    for der in chain {
        let certificate = Certificate::read(der)
            .map_err(|why| LoadError::new(Part::Chain, format!("{} {why}", path.display())))?;
        let (shown, subject) = (path.display(), &certificate.identity.subject);
        if let Ok(ago) = now.duration_since(certificate.not_after) {
            let text =
                format!("{shown}: the certificate of {subject} expired {} ago; renew it", shown_span(ago));
            return Err(LoadError::new(Part::Chain, text));
        }
        if let Ok(ahead) = certificate.not_before.duration_since(now)
            && !ahead.is_zero()
        {
            let text = format!(
                "{shown}: the certificate of {subject} counts only in {}; check this machine's clock",
                shown_span(ahead)
            );
            return Err(LoadError::new(Part::Chain, text));
        }
    }
    Ok(())
}

/// Describes a chain and a key that do not match.
pub(super) fn pair_error(chain: &Path, key: &Path, error: &Error) -> LoadError {
    let (chain, key) = (chain.display(), key.display());
    match error {
        Error::InconsistentKeys(_) => {
            let text = format!(
                "{key} is not the key of the first certificate in {chain}; the own certificate must come first, its \
                 issuers after it"
            );
            LoadError::new(Part::Key, text)
        }
        error => LoadError::new(Part::Key, format!("{chain} and {key} cannot be used: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::net::tls::testing::{Authority, Leaf};

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn profile(&self, leaf: &Leaf) -> ServerProfile {
            fs::write(self.path("chain.pem"), &leaf.chain_pem).unwrap();
            fs::write(self.path("key.pem"), &leaf.key_pem).unwrap();
            ServerProfile {
                chain: self.path("chain.pem"),
                key: self.path("key.pem"),
                clients: ClientCertificates::Ignored,
                trust: Trust::default(),
                floor: Floor::Tls12,
                handshake_timeout: Duration::from_secs(5),
            }
        }
    }

    #[test]
    fn a_set_is_checked_as_a_whole() {
        let (files, authority) = (Files::new(), Authority::new("ca"));
        let leaf = authority.issue(&["db.example"]);
        let profile = files.profile(&leaf);
        assert!(profile.load(None).is_ok());

        fs::write(&profile.key, &authority.issue(&["other.example"]).key_pem).unwrap();
        let error = profile.load(None).unwrap_err();
        assert_eq!(error.part, Part::Key);
        assert!(error.text.contains("is not the key of the first certificate"), "{error}");

        let old = authority.issue_with(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        let error = files.profile(&old).load(None).unwrap_err();
        assert_eq!(error.part, Part::Chain);
        assert!(error.text.contains("expired") && error.text.contains("days ago"), "{error}");

        let early = authority.issue_with(|params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
        assert!(files.profile(&early).load(None).unwrap_err().text.contains("clock"));
    }

    #[test]
    fn tickets_survive_a_renewal_but_not_other_authorities() {
        let (files, authority) = (Files::new(), Authority::new("ca"));
        let mut profile = files.profile(&authority.issue(&["db.example"]));
        profile.clients = ClientCertificates::Required;
        profile.trust.paths = vec![files.path("clients.pem")];
        fs::write(files.path("clients.pem"), Authority::new("clients").pem()).unwrap();
        let first = profile.load(None).unwrap();
        let renewed = files.profile(&authority.issue(&["db.example"]));
        let profile = ServerProfile { clients: profile.clients, trust: profile.trust, ..renewed };
        let second = profile.load(Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first.tickets, &second.tickets));
        fs::write(files.path("clients.pem"), Authority::new("clients").pem()).unwrap();
        let third = profile.load(Some(&second)).unwrap();
        assert!(!Arc::ptr_eq(&second.tickets, &third.tickets));
    }
}
