//! Explains what is wrong with the certificate chain of a peer. Pure: takes certificates and the time, returns text.
//! The TLS library decides whether to accept the chain; this module finds the reasons that an operator can fix.

use super::certificate::Certificate;
use super::chain_error::{ChainError, DAY, Shown, days_left, name, trust, validity_errors};
use crate::doctor::finding::{Finding, Step};
use crate::net::tls::handshake_error::{HandshakeError, Reason};

/// A certificate that expires within this number of days causes a warning.
const SOON: i64 = 14;

/// Why the TLS library refuses a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainRejection<'a> {
    /// The refusal, as the proxy would log it.
    pub(super) error: &'a HandshakeError,
    /// The library's own text.
    pub(super) message: &'a str,
}

/// Returns the finding about a chain. `rejection` is `None` if the library accepts the chain. `version` is the version
/// of TLS, as in `TLS 1.3`.
pub(super) fn explain(shown: &Shown<'_>, version: &str, rejection: Option<ChainRejection<'_>>) -> Finding {
    let parsed: Vec<Option<Certificate>> = shown.chain.iter().map(|der| Certificate::parse(der)).collect();
    let finding = judge(shown, &parsed, version, rejection);
    let finding = parsed.iter().enumerate().fold(finding, |finding, (number, certificate)| {
        finding.detail(match certificate {
            Some(certificate) => line(certificate, number, shown.now),
            None => format!("certificate {}: cannot be read", number + 1),
        })
    });
    match parsed.first() {
        Some(Some(leaf)) => finding
            .fact("subject", leaf.subject.clone())
            .fact("issuer", leaf.issuer.clone())
            .fact("names", leaf.names.clone())
            .fact("not_before", leaf.not_before)
            .fact("not_after", leaf.not_after)
            .fact("days_left", (leaf.not_after - shown.now) / DAY)
            .fact("key", leaf.key.clone())
            .fact("chain", shown.chain.len()),
        _ => finding,
    }
}

fn judge(
    shown: &Shown<'_>,
    parsed: &[Option<Certificate>],
    version: &str,
    rejection: Option<ChainRejection<'_>>,
) -> Finding {
    let Some(Some(leaf)) = parsed.first() else {
        let seen =
            rejection.map_or("the peer sent no certificate that can be read", |rejection| rejection.message);
        return Finding::broken(Step::Tls, seen, "look at the peer's log, and at its certificate file");
    };
    let Some(rejection) = rejection else {
        let days = (leaf.not_after - shown.now) / DAY;
        let seen = format!("{version}; the certificate is for {} and is trusted", leaf.shown_names());
        return if days < SOON {
            let seen = format!("{seen}, but ends in {}", days_left(days));
            Finding::warning(
                Step::Tls,
                seen,
                format!("renew it before {}: then nobody connects any more", leaf.until),
            )
        } else {
            Finding::ok(Step::Tls, format!("{seen}; {} left", days_left(days)))
        };
    };
    let chain: Vec<&Certificate> = parsed.iter().flatten().collect();
    let refusal = || {
        let (what, remedy) =
            rejection.error.text.split_once("; ").unwrap_or((&rejection.error.text, "see below"));
        ChainError { what: format!("the {} {what}", shown.kind.noun()), remedy: remedy.into() }
    };
    let (validity_errors, name) = (validity_errors(&chain, shown.now), name(leaf, shown));
    // The error that the library reported comes first.
    let errors: Vec<ChainError> = match rejection.error.reason {
        // An authority of the right name and another key: an old one, most often.
        Reason::Untrusted if rejection.message.ends_with("BadSignature") => vec![refusal()],
        Reason::Untrusted => {
            trust(leaf, &chain, shown).into_iter().chain(validity_errors).chain(name).collect()
        }
        Reason::WrongName => name.into_iter().chain(validity_errors).collect(),
        Reason::Expired => validity_errors.into_iter().chain(name).collect(),
        _ => [refusal()].into_iter().chain(validity_errors).chain(name).collect(),
    };
    let mut errors = errors.into_iter();
    let first = errors.next().unwrap_or_else(refusal);
    let finding = Finding::broken(Step::Tls, first.what, first.remedy);
    let finding = errors
        .fold(finding, |finding, more| finding.detail(format!("besides: {} ({})", more.what, more.remedy)));
    finding.detail(format!("the TLS library says: {}", rejection.message))
}

/// Returns the finding about respgate's own chain.
pub(super) fn own(chain: &[Vec<u8>], now: i64) -> Finding {
    let parsed: Vec<Certificate> = chain.iter().filter_map(|der| Certificate::parse(der)).collect();
    let Some(leaf) = parsed.first() else {
        return Finding::broken(
            Step::Tls,
            "the file holds no certificate",
            "put a certificate chain in PEM there",
        );
    };
    let first_end = parsed.iter().min_by_key(|certificate| certificate.not_after).unwrap_or(leaf);
    let days = (first_end.not_after - now) / DAY;
    let seen =
        format!("clients are shown a certificate for {}; {} left", leaf.shown_names(), days_left(days));
    let finding = if days < SOON {
        let remedy = format!("renew it before {}: then no client connects any more", first_end.until);
        Finding::warning(Step::Tls, seen, remedy)
    } else if leaf.names.is_empty() {
        let remedy = "have it reissued with the names (subject alternative names) that clients dial: most clients check them";
        Finding::warning(Step::Tls, seen, remedy)
    } else {
        Finding::ok(Step::Tls, seen)
    };
    let lines = parsed.iter().enumerate().map(|(number, certificate)| line(certificate, number, now));
    lines.fold(finding, Finding::detail).fact("days_left", days).fact("names", leaf.names.clone())
}

/// Describes one certificate in a line.
fn line(certificate: &Certificate, number: usize, now: i64) -> String {
    let Certificate { subject, issuer, from, until, key, .. } = certificate;
    let subject = if subject.is_empty() { "(no subject)" } else { subject };
    let names = match (number, certificate.is_ca) {
        (0, _) => format!(", for {}", certificate.shown_names()),
        (_, true) => ", a CA".to_owned(),
        (_, false) => String::new(),
    };
    let by = if certificate.self_issued() { "by itself".to_owned() } else { format!("by {issuer}") };
    let left = (certificate.not_after - now) / DAY;
    let left = if left < 0 { "over".to_owned() } else { format!("{} left", days_left(left)) };
    let weak = if certificate.weak { ", which is too short" } else { "" };
    format!(
        "certificate {}: {subject}{names}; issued {by}; {from} to {until}, {left}; {key}{weak}",
        number + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::doctor::peer::Kind;
    use crate::topology::Address;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    /// A root, an intermediate CA, and a certificate for `db.example`, valid 2025 to 2026.
    struct Made {
        root: Vec<u8>,
        intermediate: Vec<u8>,
        leaf: Vec<u8>,
    }

    const NOW: i64 = 1_767_225_600; // 2026-01-01

    fn params(name: &str, names: &[&str], ca: bool) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2025, 7, 1);
        params.not_after = rcgen::date_time_ymd(2026, 7, 1);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn made(names: &[&str]) -> Made {
        let keys: Vec<KeyPair> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
        let root = params("Root", &[], true);
        let intermediate = params("Intermediate", &[], true);
        let root_der = root.self_signed(&keys[0]).unwrap().der().to_vec();
        let by_root = Issuer::from_params(&root, &keys[0]);
        let intermediate_der = intermediate.signed_by(&keys[1], &by_root).unwrap().der().to_vec();
        let by_intermediate = Issuer::from_params(&intermediate, &keys[1]);
        let leaf = params("db", names, false).signed_by(&keys[2], &by_intermediate).unwrap().der().to_vec();
        Made { root: root_der, intermediate: intermediate_der, leaf }
    }

    fn shown<'a>(chain: &'a [Vec<u8>], wanted: &str, now: i64) -> Shown<'a> {
        Shown { chain, wanted: wanted.into(), now, kind: Kind::Server, announced: None }
    }

    fn explained(chain: &[&Vec<u8>], wanted: &str, now: i64, reason: Option<Reason>) -> Finding {
        let chain: Vec<Vec<u8>> = chain.iter().copied().cloned().collect();
        let error = reason.map(|reason| HandshakeError { reason, text: "has a flaw; fix it".into() });
        let rejection =
            error.as_ref().map(|error| ChainRejection { error, message: "invalid peer certificate" });
        explain(&shown(&chain, wanted, now), "TLS 1.3", rejection)
    }

    #[track_caller]
    fn is_broken(finding: &Finding, what: &str, remedy: &str) {
        assert_eq!(finding.level, Level::Broken, "{finding:#?}");
        assert!(finding.seen.contains(what), "{finding:#?}");
        assert!(finding.remedy.as_ref().unwrap().contains(remedy), "{finding:#?}");
    }

    #[test]
    fn a_good_chain_is_shown() {
        let made = made(&["db.example"]);
        let finding = explained(&[&made.leaf, &made.intermediate], "db.example", NOW, None);
        assert_eq!(finding.level, Level::Ok);
        assert_eq!(finding.seen, "TLS 1.3; the certificate is for db.example and is trusted; 181 days left");
        assert_eq!(
            finding.details,
            [
                "certificate 1: CN=db, for db.example; issued by CN=Intermediate; 2025-07-01 to 2026-07-01, 181 days \
                 left; ECDSA 256",
                "certificate 2: CN=Intermediate, a CA; issued by CN=Root; 2025-07-01 to 2026-07-01, 181 days left; \
                 ECDSA 256"
            ]
        );
        assert_eq!(finding.facts["days_left"], 181);
        let late = explained(&[&made.leaf, &made.intermediate], "db.example", NOW + 175 * DAY, None);
        assert!(late.level == Level::Warning && late.seen.ends_with("ends in 6 days"), "{late:#?}");
    }

    #[test]
    fn time_and_name() {
        let made = made(&["db.example", "*.db.example"]);
        let chain = [&made.leaf, &made.intermediate];
        let expired = explained(&chain, "db.example", NOW + 200 * DAY, Some(Reason::Expired));
        is_broken(&expired, "expired on 2026-07-01, 19 days ago", "renew");
        assert!(expired.details.iter().any(|line| line == "the TLS library says: invalid peer certificate"));
        let early = explained(&chain, "db.example", NOW - 300 * DAY, Some(Reason::Expired));
        is_broken(&early, "not yet", "clock");
        let wrong = explained(&chain, "10.0.0.5", NOW, Some(Reason::WrongName));
        is_broken(
            &wrong,
            "is for db.example, *.db.example, not for 10.0.0.5",
            "(tls-server-name) to \"db.example\"",
        );
        let both = explained(&chain, "other", NOW + 200 * DAY, Some(Reason::Expired));
        assert!(
            both.details.iter().any(|line| line.starts_with("besides: ") && line.contains("not for other"))
        );
        let nameless = self::made(&[]);
        let nameless = explained(&[&nameless.leaf], "db.example", NOW, Some(Reason::WrongName));
        is_broken(&nameless, "no longer counts", "reissued");
        let revoked = explained(&chain, "db.example", NOW, Some(Reason::Revoked));
        is_broken(&revoked, "the server has a flaw", "fix it");
    }

    #[test]
    fn an_announced_address_gets_the_map() {
        let made = made(&["db.example"]);
        let error = HandshakeError { reason: Reason::WrongName, text: String::new() };
        let announced = Address::tcp("10.0.0.5", 6379);
        let chain = [made.leaf];
        let shown =
            Shown { kind: Kind::Sentinel, announced: Some(&announced), ..shown(&chain, "10.0.0.5", NOW) };
        is_broken(
            &explain(&shown, "TLS 1.3", Some(ChainRejection { error: &error, message: "x" })),
            "not for 10.0.0.5",
            "sentinel-tls-server-names = { \"10.0.0.5:6379\" = \"db.example\" } for this one",
        );
    }

    #[test]
    fn our_own_chain() {
        let made = made(&["db.example"]);
        let chain = [made.leaf, made.intermediate];
        let finding = own(&chain, NOW);
        assert_eq!(
            (finding.level, &*finding.seen),
            (Level::Ok, "clients are shown a certificate for db.example; 181 days left")
        );
        assert_eq!(own(&chain, NOW + 180 * DAY).level, Level::Warning);
        assert_eq!(own(&[], NOW).level, Level::Broken);
    }

    #[test]
    fn trust_is_explained() {
        let made = made(&["db.example"]);
        let of = |chain: &[&Vec<u8>]| explained(chain, "db.example", NOW, Some(Reason::Untrusted));
        is_broken(
            &of(&[&made.leaf]),
            "its own certificate only, and its issuer \"CN=Intermediate\"",
            "tls-cert-file",
        );
        is_broken(&of(&[&made.leaf, &made.intermediate]), "issuer \"CN=Root\" is not among", "tls-ca");
        let whole = of(&[&made.leaf, &made.intermediate, &made.root]);
        is_broken(&whole, "ends at the CA \"CN=Root\"", "tls-system-roots");
        is_broken(&of(&[&made.leaf, &made.root]), "does not fit together", "comes first");
        let own = params("db", &["db.example"], false).self_signed(&KeyPair::generate().unwrap()).unwrap();
        is_broken(&of(&[&own.der().to_vec()]), "self-signed", "by another way");
    }

    #[test]
    fn bytes_that_are_no_certificate_are_reported() {
        let finding = explained(&[&b"nonsense".to_vec()], "db.example", NOW, Some(Reason::BadCertificate));
        is_broken(&finding, "invalid peer certificate", "log");
        assert_eq!(finding.details, ["certificate 1: cannot be read"]);
        is_broken(&explained(&[], "db.example", NOW, None), "no certificate", "log");
    }
}
