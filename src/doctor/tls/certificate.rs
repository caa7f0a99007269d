//! Parses one certificate into the parts that people need to see. It verifies nothing.

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;

/// The greatest number of characters of a subject or issuer to show.
const LONGEST_NAME: usize = 200;

/// The greatest number of names of one certificate to show; all names are compared.
pub(super) const MOST_NAMES: usize = 8;

/// The content of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The subject, as in `CN=db.example, O=Example`; empty if the certificate has none.
    pub(super) subject: String,
    pub(super) issuer: String,
    /// The subject and the issuer as DER, for comparison.
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
    /// The DNS names and IP addresses of the subject alternative name.
    pub(super) names: Vec<String>,
    /// The validity, in seconds since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The first and the last day of the validity, as in `2026-11-21`.
    pub(super) from: String,
    pub(super) until: String,
    /// The kind and the size of the key, as in `RSA 2048`.
    pub(super) key: String,
    /// True if the certificate may sign others.
    pub(super) is_ca: bool,
    /// True if the key is too short for today's libraries.
    pub(super) weak: bool,
}

impl Certificate {
    /// Parses a certificate. Returns `None` if the bytes are not one.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let (key, weak) = key(&parsed);
        let validity = parsed.validity();
        Some(Self {
            subject: shown(parsed.subject()),
            issuer: shown(parsed.issuer()),
            raw_subject: parsed.subject().as_raw().to_vec(),
            raw_issuer: parsed.issuer().as_raw().to_vec(),
            names: names(&parsed),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            from: validity.not_before.to_datetime().date().to_string(),
            until: validity.not_after.to_datetime().date().to_string(),
            key,
            is_ca: parsed.is_ca(),
            weak,
        })
    }

    /// Returns true if the certificate names itself as its issuer.
    pub(super) fn self_issued(&self) -> bool {
        self.raw_subject == self.raw_issuer
    }

    /// Returns true if, by name, the other certificate issued this one.
    pub(super) fn issued_by(&self, other: &Self) -> bool {
        self.raw_issuer == other.raw_subject
    }

    /// Returns true if the certificate is for this host, by RFC 6125: the common name of the subject does not count,
    /// and `*` stands for exactly one label, the first.
    pub(super) fn is_for(&self, host: &str) -> bool {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.names.iter().any(|name| name.parse() == Ok(ip));
        }
        let host = host.trim_end_matches('.');
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => name.eq_ignore_ascii_case(host),
        })
    }

    /// Returns the names as text, or a text that says that there are none.
    pub(super) fn shown_names(&self) -> String {
        match self.names.len() {
            0 => "no name at all".to_owned(),
            count if count <= MOST_NAMES => self.names.join(", "),
            count => format!("{} and {} more", self.names[..MOST_NAMES].join(", "), count - MOST_NAMES),
        }
    }
}

fn shown(name: &X509Name<'_>) -> String {
    name.to_string().chars().take(LONGEST_NAME).collect()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref bytes => <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn key(certificate: &X509Certificate<'_>) -> (String, bool) {
    let info = certificate.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            (format!("RSA {bits}"), bits < 2048)
        }
        Ok(PublicKey::EC(point)) => (format!("ECDSA {}", point.key_size()), point.key_size() < 256),
        // The object identifier of Ed25519 (RFC 8410).
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => ("Ed25519".into(), false),
        _ => (format!("a key of kind {}", info.algorithm.algorithm.to_id_string()), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn with_names(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate =
            CertificateParams::new(names).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::parse(certificate.der()).unwrap()
    }

    #[test]
    fn names_match_as_in_rfc_6125() {
        let certificate = with_names(&["db.example", "*.cache.example", "10.0.0.5", "::1"]);
        for host in ["db.example", "DB.Example", "db.example.", "a.cache.example", "10.0.0.5", "::1"] {
            assert!(certificate.is_for(host), "{host}");
        }
        for host in ["example", "x.db.example", "a.b.cache.example", "cache.example", "10.0.0.6", ""] {
            assert!(!certificate.is_for(host), "{host}");
        }
    }

    #[test]
    fn the_content_is_shown() {
        let certificate = with_names(&["db.example"]);
        assert_eq!(certificate.key, "ECDSA 256");
        assert!(certificate.self_issued() && !certificate.is_ca && !certificate.weak);
        assert_eq!(certificate.shown_names(), "db.example");
        assert_eq!(certificate.until.len(), "4096-01-01".len());
        let many: Vec<String> = (0..10).map(|n| format!("{n}.example")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(with_names(&many).shown_names().ends_with("7.example and 2 more"));
    }

    #[test]
    fn bytes_that_are_no_certificate() {
        let good = CertificateParams::new(vec!["x".to_owned()])
            .unwrap()
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap();
        for end in 0..good.der().len() {
            assert_eq!(Certificate::parse(&good.der()[..end]), None);
        }
        assert_eq!(Certificate::parse(b"-----BEGIN CERTIFICATE-----"), None);
    }
}
