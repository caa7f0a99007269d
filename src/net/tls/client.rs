//! The TLS settings of connections to servers and Sentinels.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::Certificate;
use super::names::Names;
use super::read_ahead::ReadAhead;
use super::server::check_validity;
use super::trust::Trust;
use super::{Floor, LoadError, Part, pem, provider};
use crate::topology::Address;

/// The paths and rules of TLS on one leg to servers or Sentinels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientProfile {
    /// The authorities that may sign a server's certificate.
    pub trust: Trust,
    /// Paths of respgate's own certificate chain and key, for servers that request a certificate.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The oldest TLS version that is accepted.
    pub floor: Floor,
    /// The names that servers must prove.
    pub names: Names,
    /// True if the server's certificate is not verified. The connection is then encrypted, but any
    /// server can answer it.
    pub dangerously_unverified: bool,
}

/// A profile that was read and checked, ready for handshakes.
#[derive(Clone, Debug)]
pub struct ClientSet {
    config: Arc<ClientConfig>,
    /// Expiry of respgate's own chain, if it has one.
    pub not_after: Option<SystemTime>,
}

impl ClientProfile {
    /// Reads every file and checks the profile.
    ///
    /// # Errors
    /// Returns the part that cannot be read, does not match another part, or is not valid now.
    pub fn load(&self) -> Result<ClientSet, LoadError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.floor.versions())
            .map_err(|error| LoadError::new(Part::Chain, error))?;
        let builder = if self.dangerously_unverified {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            let crls = self.trust.revocations()?;
            let revocable = !crls.is_empty();
            let verifier =
                WebPkiServerVerifier::builder_with_provider(self.trust.roots()?, provider).with_crls(crls);
            // The operator manages the authorities' own certificates; revocation lists cover the
            // servers' certificates.
            let verifier = if revocable { verifier.only_check_end_entity_revocation() } else { verifier };
            let verifier = verifier.build().map_err(|error| LoadError::new(Part::Crl, error))?;
            builder.with_webpki_verifier(verifier)
        };
        let Some((chain, key)) = &self.identity else {
            return Ok(ClientSet { config: Arc::new(builder.with_no_client_auth()), not_after: None });
        };
        let certificates = pem::chain(chain).map_err(|why| LoadError::new(Part::Chain, why))?;
        let key_der = pem::key(key).map_err(|why| LoadError::new(Part::Key, why))?;
        check_validity(chain, &certificates)?;
        let not_after =
            Certificate::first_to_expire(&certificates).map_err(|why| LoadError::new(Part::Chain, why))?;
        let config = builder
            .with_client_auth_cert(certificates, key_der)
            .map_err(|error| super::server::pair_error(chain, key, &error))?;
        Ok(ClientSet { config: Arc::new(config), not_after })
    }

    /// Returns every file and folder that the profile reads.
    pub fn paths(&self) -> Vec<PathBuf> {
        let own = self.identity.iter().flat_map(|(chain, key)| [chain.clone(), key.clone()]);
        self.trust.watched().into_iter().chain(own).collect()
    }
}

/// The settings with which a dialer speaks TLS. A clone is cheap. Handshakes that begin after a
/// rotation use the new set.
#[derive(Clone)]
pub struct ClientTls {
    set: watch::Receiver<ClientSet>,
    names: Names,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Creates the settings. Each handshake uses the newest set of the channel.
    pub fn new(set: watch::Receiver<ClientSet>, names: Names) -> Self {
        Self { set, names }
    }

    /// Returns a receiver of every set that is sent from now on.
    pub fn changes(&self) -> watch::Receiver<ClientSet> {
        let mut changes = self.set.clone();
        changes.mark_unchanged();
        changes
    }

    /// Does the handshake with the server at `address`. The caller sets the deadline.
    ///
    /// # Errors
    /// Returns an error if the connection or the handshake on it fails.
    pub async fn connect(&self, address: &Address, stream: TcpStream) -> io::Result<TlsStream<ReadAhead>> {
        let name = self.names.of(address).ok_or_else(|| {
            let text =
                format!("no certificate can name {address}; set tls-server-name to the name in the server's");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let config = self.set.borrow().config.clone();
        TlsConnector::from(config).connect(name, ReadAhead::new(stream)).await
    }
}

/// Accepts any certificate. It still checks the signatures over the handshake, so that nobody can
/// alter the connection's records.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
