//! Reads a certificate: its identity and its validity.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Number of names of each kind that are kept of one certificate. Further names are dropped.
const MAX_NAMES: usize = 64;

/// The identity in a certificate, as the peer's authority signed it. Control characters are
/// escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// The whole subject, for example `CN=app-7, O=Example`.
    pub subject: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// DNS names of the subject alternative name.
    pub dns: Vec<String>,
    /// URIs of the subject alternative name, including SPIFFE IDs.
    pub uris: Vec<String>,
}

/// The parts of a certificate that respgate reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The identity of the holder.
    pub identity: CertificateIdentity,
    /// Start of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads a certificate without verifying it.
    ///
    /// # Errors
    /// Returns the reason if the bytes are not a certificate.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| format!("is no certificate: {error}"))?;
        let mut identity = CertificateIdentity {
            subject: printable(&parsed.subject().to_string()),
            common_name: parsed
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(printable),
            ..CertificateIdentity::default()
        };
        if let Ok(Some(names)) = parsed.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) if identity.dns.len() < MAX_NAMES => {
                        identity.dns.push(printable(name))
                    }
                    GeneralName::URI(uri) if identity.uris.len() < MAX_NAMES => {
                        identity.uris.push(printable(uri))
                    }
                    _ => {}
                }
            }
        }
        let time = |timestamp: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0));
        Ok(Self {
            identity,
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
        })
    }

    /// Returns the earliest expiry of a chain's certificates. The whole chain becomes invalid at
    /// that moment.
    ///
    /// # Errors
    /// Returns the reason if one of the chain's entries is not a certificate.
    pub fn first_to_expire(chain: &[CertificateDer<'_>]) -> Result<Option<SystemTime>, String> {
        let ends: Result<Vec<SystemTime>, String> =
            chain.iter().map(|der| Self::read(der).map(|certificate| certificate.not_after)).collect();
        Ok(ends?.into_iter().min())
    }
}

impl CertificateIdentity {
    /// Returns the name that logs and CLIENT LIST show: the first URI, else the first DNS name,
    /// else the subject.
    pub fn shown(&self) -> &str {
        self.uris.first().or(self.dns.first()).map_or(&self.subject, String::as_str)
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| if char.is_control() { char.escape_default().collect() } else { vec![char] })
        .collect()
}

/// Formats a time span for people: `3 days`, `5 hours`.
pub fn shown_span(span: Duration) -> String {
    let (count, unit) = match span.as_secs() {
        seconds @ 0..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..172_800 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::testing::Authority;

    #[test]
    fn names_and_times_are_read() {
        let leaf = Authority::new("ca").issue_with(|params| {
            params.distinguished_name.push(rcgen::DnType::CommonName, "app\n7");
            params.subject_alt_names = vec![
                rcgen::SanType::DnsName("app.example".try_into().unwrap()),
                rcgen::SanType::URI("spiffe://example/app".try_into().unwrap()),
            ];
            params.not_after = rcgen::date_time_ymd(2040, 1, 2);
        });
        let read = Certificate::read(&leaf.chain[0]).unwrap();
        assert_eq!(read.identity.common_name.as_deref(), Some(r"app\n7"));
        assert_eq!(read.identity.dns, ["app.example"]);
        assert_eq!(read.identity.shown(), "spiffe://example/app");
        assert_eq!(read.not_after, UNIX_EPOCH + Duration::from_secs(2_209_075_200));
        assert!(Certificate::read(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }

    #[test]
    fn spans_are_for_people() {
        assert_eq!(shown_span(Duration::from_secs(1)), "1 second");
        assert_eq!(shown_span(Duration::from_secs(3 * 3600)), "3 hours");
        assert_eq!(shown_span(Duration::from_secs(3 * 86_400)), "3 days");
    }
}
