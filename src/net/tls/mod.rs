//! TLS on every leg: clients to respgate, respgate to servers, respgate to Sentinels. Each leg has
//! its own profile.
//!
//! - `server` and `client` turn a profile (paths and rules) into a checked set that handshakes use.
//! - `trust` loads the trusted authorities, and `names` holds the names that servers must prove.
//! - `accept` does handshakes with clients as `gate` admits them, and `error` explains why a
//!   handshake failed.
//! - `certificate` reads a certificate, and `read_ahead` saves system calls below TLS.
//!
//! The task that rotates a set sends the new one through the `watch` channel that handshakes read.

pub mod accept;
pub mod certificate;
pub mod client;
pub mod handshake_error;
pub mod gate;
pub mod names;
pub mod plain_acceptor;
pub mod pem;
pub mod read_ahead;
pub mod server;
pub mod slot;
pub mod trust;

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::version::{TLS12, TLS13};

/// The oldest TLS version that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floor {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl Floor {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
        match self {
            Self::Tls12 => BOTH,
            Self::Tls13 => &BOTH[1..],
        }
    }
}

/// The part of a profile that is wrong. The configuration finds the key by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate chain.
    Chain,
    /// The private key.
    Key,
    /// The trusted authorities.
    Trust,
    /// The revocation lists.
    Crl,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The part that is wrong.
    pub part: Part,
    /// What is wrong and how to fix it. It never contains a part of a key.
    pub text: String,
}

impl LoadError {
    fn new(part: Part, text: impl fmt::Display) -> Self {
        Self { part, text: text.to_string() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A profile and the set that was loaded from it.
#[derive(Clone, Debug)]
pub struct Loaded<P, S> {
    /// Paths and rules, which are read again when the files change.
    pub profile: P,
    /// The set that handshakes use.
    pub set: S,
}

/// Returns the cryptography of all legs: aws-lc. It makes rustls's handshakes and records as fast
/// as OpenSSL's.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
pub(crate) mod testing;
