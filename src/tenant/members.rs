//! Configures which clients belong to a tenant.

use std::fmt;

use ipnet::IpNet;

use crate::net::tls::certificate::CertificateIdentity;

/// A name that a client certificate must contain. The comparison is exact, except that DNS names match in any
/// case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateRule {
    /// `CN:shop`.
    CommonName(String),
    /// `DNS:shop.example`.
    Dns(String),
    /// `URI:spiffe://example/shop`.
    Uri(String),
}

impl CertificateRule {
    /// Parses `CN:name`, `DNS:name` or `URI:name`.
    ///
    /// # Errors
    /// Returns what is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').unwrap_or(("", ""));
        match kind {
            _ if name.is_empty() => {}
            "CN" => return Ok(Self::CommonName(name.into())),
            "DNS" => return Ok(Self::Dns(name.to_ascii_lowercase())),
            "URI" => return Ok(Self::Uri(name.into())),
            _ => {}
        }
        Err(format!(
            "{text:?} is not a certificate's name; write it like \"CN:shop\", \"DNS:shop.example\" or \"URI:spiffe://example/shop\""
        ))
    }

    /// Returns true if the certificate contains the name.
    pub(super) fn matches(&self, names: &CertificateIdentity) -> bool {
        match self {
            Self::CommonName(name) => names.common_name.as_ref() == Some(name),
            Self::Dns(name) => names.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name)),
            Self::Uri(name) => names.uris.contains(name),
        }
    }
}

impl fmt::Display for CertificateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommonName(name) => write!(f, "CN:{name}"),
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Uri(name) => write!(f, "URI:{name}"),
        }
    }
}

/// Configures which clients belong to one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersConfig {
    /// Names in client certificates.
    pub certificates: Vec<CertificateRule>,
    /// Names of authenticated users.
    pub users: Vec<String>,
    /// Source networks. If several match, the narrowest decides.
    pub networks: Vec<IpNet>,
    /// Users at the other end of a unix socket.
    pub uids: Vec<u32>,
    /// Prefixes of the name by CLIENT SETNAME. If several match, the longest decides. Clients can choose any
    /// name.
    pub client_names: Vec<String>,
    /// True if the tenant takes all clients that no rule matches.
    pub default: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_match_by_each_kind_of_name() {
        let names = CertificateIdentity {
            subject: "CN=other".into(),
            common_name: Some("other".into()),
            dns: vec!["Shop.Example".into()],
            uris: vec!["spiffe://x/shop".into()],
        };
        for (text, expected) in [
            ("CN:other", true),
            ("CN:Other", false),
            ("DNS:shop.example", true),
            ("DNS:example", false),
            ("URI:spiffe://x/shop", true),
            ("URI:spiffe://x/", false),
        ] {
            assert_eq!(CertificateRule::parse(text).unwrap().matches(&names), expected, "{text}");
        }
        for text in ["shop", "CN:", "cn:shop", "EMAIL:x"] {
            assert!(CertificateRule::parse(text).is_err(), "{text}");
        }
    }
}
