//! Finds the problems of a certificate chain that an operator can fix, and how. Pure.

use super::certificate::Certificate;
use crate::doctor::peer::Kind;
use crate::doctor::words::count;
use crate::topology::Address;

pub(super) const DAY: i64 = 24 * 60 * 60;

/// The chain that a peer sent, and what respgate expects of it.
#[derive(Clone, Debug)]
pub(super) struct Shown<'a> {
    /// The certificates in the order in which the peer sent them, its own first.
    pub(super) chain: &'a [Vec<u8>],
    /// The name or IP address that the certificate should have.
    pub(super) wanted: String,
    /// The time now, in seconds since 1970.
    pub(super) now: i64,
    /// The kind of the peer, which decides which settings a remedy names.
    pub(super) kind: Kind,
    /// The address that a Sentinel announced, if one did.
    pub(super) announced: Option<&'a Address>,
}

/// One problem of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChainError {
    pub(super) what: String,
    pub(super) remedy: String,
}

pub(super) fn days_left(days: i64) -> String {
    count(usize::try_from(days).unwrap_or(0), "day")
}

/// Returns an error for every certificate that has expired or is not valid yet.
pub(super) fn validity_errors(chain: &[&Certificate], now: i64) -> Vec<ChainError> {
    let subject = |number: usize, certificate: &Certificate| match number {
        0 => "the certificate".to_owned(),
        _ => format!("the CA certificate {:?} in the chain", certificate.subject),
    };
    let error = |(number, certificate): (usize, &&Certificate)| {
        let subject = subject(number, certificate);
        if certificate.not_after < now {
            let ago = days_left((now - certificate.not_after) / DAY);
            Some(ChainError {
                what: format!("{subject} expired on {}, {ago} ago", certificate.until),
                remedy: "renew it and let the server load it (a restart, or on Valkey and Redis CONFIG SET \
                         tls-cert-file with the same path); check this machine's clock if that cannot be"
                    .into(),
            })
        } else if certificate.not_before > now {
            Some(ChainError {
                what: format!("{subject} is valid from {} on, which is not yet", certificate.from),
                remedy: "check this machine's clock (date -u), and the one where the certificate was made"
                    .into(),
            })
        } else {
            None
        }
    };
    chain.iter().enumerate().filter_map(error).collect()
}

/// Returns an error if the peer's own certificate does not have the expected name.
pub(super) fn name(leaf: &Certificate, shown: &Shown<'_>) -> Option<ChainError> {
    let wanted = shown.wanted.as_str();
    if leaf.is_for(wanted) {
        return None;
    }
    let what = if leaf.names.is_empty() {
        format!(
            "the certificate has no names (subject alternative names), only the subject {:?}, which no longer counts",
            leaf.subject
        )
    } else {
        format!("the certificate is for {}, not for {wanted}", leaf.shown_names())
    };
    let example = leaf.names.iter().find(|name| !name.starts_with("*."));
    let reissue = format!("have it reissued with {wanted} among its names");
    let (key, prefix) = match shown.kind {
        Kind::Server => ("--upstream-server-name (tls-server-name)", ""),
        Kind::Sentinel => ("sentinel-tls-server-name", "sentinel-"),
    };
    let remedy = match (example, shown.announced) {
        (None, _) => reissue,
        (Some(name), Some(announced)) => format!(
            "if it is the right one, say which name its certificate has: {prefix}tls-server-names = {{ \"{announced}\" = \
             {name:?} }} for this one, {key} for all; or {reissue}"
        ),
        (Some(name), None) => format!(
            "dial it by a name that the certificate has; or, if it is the right one, set {key} to {name:?}; or {reissue}"
        ),
    };
    Some(ChainError { what, remedy })
}

/// Returns why a chain that is valid now and has the expected name does not lead to a trusted CA.
pub(super) fn trust(leaf: &Certificate, chain: &[&Certificate], shown: &Shown<'_>) -> Option<ChainError> {
    let key = shown.kind.ca_key();
    if leaf.weak {
        return Some(ChainError {
            what: format!("the certificate's key ({}) is too short to be trusted", leaf.key),
            remedy: "have it reissued with RSA of 2048 bits or more, or ECDSA".into(),
        });
    }
    if leaf.self_issued() {
        return Some(ChainError {
            what: "the certificate is self-signed, so only a client that has this certificate can trust it"
                .into(),
            remedy: format!(
                "get that certificate from whoever runs the server, by another way than this connection, and set \
                 {key} to the file"
            ),
        });
    }
    let broken_at = chain.windows(2).find(|pair| !pair[0].issued_by(pair[1]));
    if let Some([lower, higher]) = broken_at.and_then(|pair| <[&Certificate; 2]>::try_from(pair).ok()) {
        return Some(ChainError {
            what: format!(
                "the chain does not fit together: after {:?}, issued by {:?}, comes {:?}",
                lower.subject, lower.issuer, higher.subject
            ),
            remedy: "in the server's certificate file, its own certificate comes first, then the CA that issued it, then \
                     the CA above that"
                .into(),
        });
    }
    let last = chain.last()?;
    if last.self_issued() {
        return Some(ChainError {
            what: format!("the chain ends at the CA {:?}, which is not among the trusted ones", last.subject),
            remedy: format!(
                "set {key} to a file with that CA's certificate, from whoever runs the server (cloud providers \
                 offer it for download); for a public CA, tls-system-roots = true"
            ),
        });
    }
    let alone = chain.len() == 1;
    Some(ChainError {
        what: format!(
            "{}, and its issuer {:?} is not among the trusted CAs",
            if alone {
                "the server sends its own certificate only".to_owned()
            } else {
                format!("the server sends {}", count(chain.len(), "certificate"))
            },
            last.issuer
        ),
        remedy: format!(
            "set {key} to a file with that issuer's certificate; if it is an intermediate CA, the better place \
             for it is the server: append it to the file of `tls-cert-file`"
        ),
    })
}
