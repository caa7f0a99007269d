//! Explains why TLS with a peer failed: which side is wrong, and what to do.

use std::fmt;
use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// The reason of a failed handshake, as metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The peer speaks RESP without TLS.
    Plaintext,
    /// The peer speaks TLS to a plain-text port.
    OnPlainPort,
    /// The peer speaks neither TLS nor RESP, or violates the protocol.
    Protocol,
    /// The handshake took too long.
    Timeout,
    /// The peer closed the connection before it sent anything.
    PortCheck,
    /// The peer closed the connection before the handshake was complete.
    Closed,
    /// The peer shows no certificate, but must.
    NoCertificate,
    /// The peer's certificate has expired or is not valid yet.
    Expired,
    /// An untrusted authority signed the peer's certificate.
    Untrusted,
    /// The peer's certificate is revoked, or its revocation status is unknown.
    Revoked,
    /// The peer's certificate is for another name.
    WrongName,
    /// The peer's certificate is unusable for another reason.
    BadCertificate,
    /// The two sides have no protocol version, cipher or key exchange in common.
    Incompatible,
    /// The peer refused the handshake, most often because it does not accept respgate's
    /// certificate.
    Refused,
}

impl Reason {
    /// All reasons, for counters.
    pub const ALL: [Self; 14] = [
        Self::Plaintext,
        Self::Protocol,
        Self::Timeout,
        Self::Closed,
        Self::NoCertificate,
        Self::Expired,
        Self::Untrusted,
        Self::Revoked,
        Self::WrongName,
        Self::BadCertificate,
        Self::Incompatible,
        Self::Refused,
        Self::OnPlainPort,
        Self::PortCheck,
    ];

    /// Returns true if the peer answers TLS but the two sides do not accept each other:
    /// certificates or settings are wrong on one side.
    pub fn is_estrangement(self) -> bool {
        matches!(
            self,
            Self::NoCertificate
                | Self::Expired
                | Self::Untrusted
                | Self::Revoked
                | Self::WrongName
                | Self::BadCertificate
                | Self::Incompatible
                | Self::Refused
        )
    }

    /// Returns the value of the metrics label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::OnPlainPort => "on_plain_port",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::PortCheck => "port_check",
            Self::Closed => "closed",
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::Untrusted => "untrusted",
            Self::Revoked => "revoked",
            Self::WrongName => "wrong_name",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::Refused => "refused",
        }
    }
}

/// The kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client of respgate.
    Client,
    /// A server or Sentinel.
    Server,
}

/// A failed handshake and its explanation. The text follows the peer's name: "10.0.0.7:51234 shows
/// no certificate, …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeError {
    /// The reason, for metrics.
    pub reason: Reason,
    /// The explanation, for people.
    pub text: String,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for HandshakeError {}

/// Explains why TLS with `peer` failed.
pub fn explain(error: &io::Error, peer: Peer) -> HandshakeError {
    let explained = |reason, text: &str| HandshakeError { reason, text: text.into() };
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match (error.kind(), peer) {
            (io::ErrorKind::UnexpectedEof, Peer::Client) => explained(
                Reason::Closed,
                "left in the middle of the TLS handshake; a client that does not trust respgate's certificate may do \
                 that",
            ),
            (io::ErrorKind::UnexpectedEof, Peer::Server) => explained(
                Reason::Closed,
                "closed the connection in the middle of the TLS handshake; check that this port speaks TLS, and \
                 whether the server wants a client certificate (tls-cert, tls-key)",
            ),
            (io::ErrorKind::InvalidInput, _) => {
                HandshakeError { reason: Reason::WrongName, text: error.to_string() }
            }
            _ => HandshakeError {
                reason: Reason::Closed,
                text: format!("was lost in the TLS handshake: {error}"),
            },
        };
    };
    match (tls, peer) {
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), Peer::Server) => explained(
            Reason::Plaintext,
            "answers without TLS; use the server's TLS port, or a URL without the second s (redis://) if it has none",
        ),
        (Error::InvalidMessage(_) | Error::InappropriateMessage { .. }, _) => HandshakeError {
            reason: Reason::Protocol,
            text: format!("does not speak TLS as it should: {tls}"),
        },
        (Error::NoCertificatesPresented, _) => explained(
            Reason::NoCertificate,
            "shows no certificate, and one is required here; give the client a certificate that the authorities in \
             tls-client-ca have signed",
        ),
        (Error::InvalidCertificate(why), peer) => certificate(why, peer),
        (Error::PeerIncompatible(why), Peer::Client) => HandshakeError {
            reason: Reason::Incompatible,
            text: format!(
                "has no TLS version or cipher in common with respgate ({why:?}); it is too old, or tls-min-version is too strict for it"
            ),
        },
        (Error::PeerIncompatible(why), Peer::Server) => HandshakeError {
            reason: Reason::Incompatible,
            text: format!(
                "has no TLS version or cipher in common with respgate ({why:?}); it needs TLS 1.2 or 1.3, and not less than tls-min-version"
            ),
        },
        (Error::AlertReceived(alert), peer) => refused(*alert, peer),
        (other, _) => {
            HandshakeError { reason: Reason::Protocol, text: format!("broke the TLS protocol: {other}") }
        }
    }
}

fn certificate(why: &CertificateError, peer: Peer) -> HandshakeError {
    let trusted = match peer {
        Peer::Client => "tls-client-ca",
        Peer::Server => "tls-ca",
    };
    let subject = match peer {
        Peer::Client => "shows a certificate",
        Peer::Server => "has a certificate",
    };
    let explained = |reason, text: String| HandshakeError { reason, text: format!("{subject} {text}") };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            explained(Reason::Expired, "that has expired; renew it (and check this machine's clock)".into())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            explained(Reason::Expired, "that does not count yet; check the clocks of both machines".into())
        }
        CertificateError::UnknownIssuer => explained(
            Reason::Untrusted,
            format!(
                "that no authority trusted here has signed; add its authority to {trusted}, and check that the \
                 intermediate certificates are sent along"
            ),
        ),
        CertificateError::BadSignature => explained(
            Reason::Untrusted,
            format!(
                "whose signature is wrong: an authority in {trusted} has the same name but another key; use the newer one"
            ),
        ),
        CertificateError::Revoked => {
            explained(Reason::Revoked, "that its authority has revoked; give it a new one".into())
        }
        CertificateError::UnknownRevocationStatus => explained(
            Reason::Revoked,
            "of whose revocation nothing is known; add its authority's revocation list to tls-crl".into(),
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented = match presented.len() {
                0 => "no name at all (a common name does not count, a subject alternative name is needed)"
                    .into(),
                _ => presented.join(", "),
            };
            explained(
                Reason::WrongName,
                format!(
                    "for {presented}, not for {}; dial it by that name, or set tls-server-name (or, for each server, \
                     tls-server-names) to the right one",
                    expected.to_str()
                ),
            )
        }
        CertificateError::NotValidForName => {
            explained(Reason::WrongName, "for another name; set tls-server-name".into())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => explained(
            Reason::BadCertificate,
            format!(
                "that was not issued for this use; issue it with extendedKeyUsage {}",
                if peer == Peer::Client { "clientAuth" } else { "serverAuth" }
            ),
        ),
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => explained(
            Reason::BadCertificate,
            "that is an authority's own; issue a separate one, signed by that authority, with CA:FALSE"
                .into(),
        ),
        other => explained(Reason::BadCertificate, format!("that cannot be used: {other}")),
    }
}

fn refused(alert: AlertDescription, peer: Peer) -> HandshakeError {
    use AlertDescription as Alert;
    let explained = |reason, text: &str| HandshakeError { reason, text: text.into() };
    match (alert, peer) {
        (
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate,
            Peer::Client,
        ) => explained(
            Reason::Refused,
            "does not accept respgate's certificate; give the client the authority that signed it, and have it \
             connect by a name that is in the certificate",
        ),
        (Alert::CertificateExpired | Alert::CertificateRevoked, Peer::Client) => explained(
            Reason::Refused,
            "says that respgate's certificate has expired or was revoked; renew it",
        ),
        (Alert::CertificateRequired, Peer::Server) => explained(
            Reason::Refused,
            "wants a client certificate; set tls-cert and tls-key to one that it accepts",
        ),
        (
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked,
            Peer::Server,
        ) => explained(
            Reason::Refused,
            "does not accept the client certificate in tls-cert; check that its authority is the one the server \
             trusts, and that it has not expired",
        ),
        (Alert::ProtocolVersion, _) => explained(
            Reason::Incompatible,
            "speaks no TLS version that respgate may use here; it needs TLS 1.2 or 1.3, and not less than \
             tls-min-version",
        ),
        (Alert::HandshakeFailure | Alert::InsufficientSecurity, _) => explained(
            Reason::Refused,
            "refuses the handshake; it has no cipher in common with respgate, or wants a client certificate",
        ),
        (Alert::UnrecognisedName, _) => explained(
            Reason::WrongName,
            "knows no certificate for the name it was asked for; check tls-server-name",
        ),
        (alert, _) => {
            HandshakeError { reason: Reason::Refused, text: format!("refuses the TLS connection: {alert:?}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn labels_are_unique() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::ALL.iter().position(|other| other.label() == reason.label()), Some(at));
        }
    }

    #[test]
    fn explanations_name_the_cause_and_the_fix() {
        for (error, peer, reason, text) in [
            (tls(Error::NoCertificatesPresented), Peer::Client, Reason::NoCertificate, "tls-client-ca"),
            (
                tls(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
                Peer::Server,
                Reason::Untrusted,
                "tls-ca,",
            ),
            (
                tls(Error::InvalidMessage(InvalidMessage::InvalidContentType)),
                Peer::Server,
                Reason::Plaintext,
                "redis://",
            ),
            (
                tls(Error::AlertReceived(AlertDescription::UnknownCA)),
                Peer::Client,
                Reason::Refused,
                "authority",
            ),
            (
                tls(Error::AlertReceived(AlertDescription::CertificateRequired)),
                Peer::Server,
                Reason::Refused,
                "tls-key",
            ),
            (io::ErrorKind::UnexpectedEof.into(), Peer::Client, Reason::Closed, "does not trust"),
        ] {
            let explained = explain(&error, peer);
            assert_eq!(explained.reason, reason, "{error}");
            assert!(explained.text.contains(text), "{explained}");
        }
    }

    #[test]
    fn a_wrong_name_is_told_with_the_right_ones() {
        let error = tls(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: "10.0.0.5".try_into().unwrap(),
            presented: vec!["DnsName(\"node-a.example\")".into()],
        }));
        let text = explain(&error, Peer::Server).text;
        assert!(text.contains("node-a.example") && text.contains("not for 10.0.0.5"), "{text}");
    }
}
