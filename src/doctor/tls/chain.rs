//! The chain that a peer sent, and what is wrong with it. Pure: certificates and the time in, words out. The verdict is
//! the TLS library's; this finds the reasons that people can do something about.

use super::certificate::Certificate;
use crate::doctor::finding::{Finding, Step};
use crate::doctor::words::count;

/// A certificate that ends within this many days is warned about.
const SOON: i64 = 14;

const DAY: i64 = 24 * 60 * 60;

/// What was sent, and what was wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    /// As the peer sent them: its own first.
    pub(super) chain: &'a [Vec<u8>],
    /// The name or IP address that the certificate should have.
    pub(super) wanted: &'a str,
    /// Seconds since 1970.
    pub(super) now: i64,
    /// What is put in front of the names of keys: `sentinel-` for Sentinels.
    pub(super) prefix: &'static str,
    /// Whether the address came from a Sentinel.
    pub(super) announced: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    what: String,
    remedy: String,
}

/// Makes a finding of a chain: `verdict` is the library's complaint, `None` if it accepts.
/// `version` is that of TLS, as in `TLS 1.3`.
pub(super) fn explain(shown: &Shown<'_>, version: &str, verdict: Option<&str>) -> Finding {
    let parsed: Vec<Option<Certificate>> = shown.chain.iter().map(|der| Certificate::parse(der)).collect();
    let finding = judge(shown, &parsed, version, verdict);
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

fn judge(shown: &Shown<'_>, parsed: &[Option<Certificate>], version: &str, verdict: Option<&str>) -> Finding {
    let Some(Some(leaf)) = parsed.first() else {
        let seen = verdict.unwrap_or("the peer sent no certificate that can be read");
        return Finding::broken(Step::Tls, seen, "look at the peer's log, and at its certificate file");
    };
    let Some(verdict) = verdict else {
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
    let mut faults = timely(&chain, shown.now);
    faults.extend(name(leaf, shown));
    if faults.is_empty() {
        faults.extend(trust(leaf, &chain, shown));
    }
    let mut faults = faults.into_iter();
    let first = faults.next().unwrap_or_else(|| Fault {
        what: "the certificate is not accepted".into(),
        remedy: "see what the TLS library says, and the certificates it was shown".into(),
    });
    let finding = Finding::broken(Step::Tls, first.what, first.remedy);
    let finding = faults
        .fold(finding, |finding, more| finding.detail(format!("besides: {} ({})", more.what, more.remedy)));
    finding.detail(format!("the TLS library says: {verdict}"))
}

/// One certificate in a line.
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

fn days_left(days: i64) -> String {
    count(usize::try_from(days).unwrap_or(0), "day")
}

/// Whether every certificate is in its time.
fn timely(chain: &[&Certificate], now: i64) -> Vec<Fault> {
    let whose = |number: usize, certificate: &Certificate| match number {
        0 => "the certificate".to_owned(),
        _ => format!("the CA certificate {:?} in the chain", certificate.subject),
    };
    let fault = |(number, certificate): (usize, &&Certificate)| {
        let whose = whose(number, certificate);
        if certificate.not_after < now {
            let ago = days_left((now - certificate.not_after) / DAY);
            Some(Fault {
                what: format!("{whose} expired on {}, {ago} ago", certificate.until),
                remedy: "renew it and let the server load it (a restart, or on Valkey and Redis CONFIG SET \
                         tls-cert-file with the same path); check this machine's clock if that cannot be"
                    .into(),
            })
        } else if certificate.not_before > now {
            Some(Fault {
                what: format!("{whose} is valid from {} on, which is not yet", certificate.from),
                remedy: "check this machine's clock (date -u), and the one where the certificate was made"
                    .into(),
            })
        } else {
            None
        }
    };
    chain.iter().enumerate().filter_map(fault).collect()
}

/// Whether the peer's own certificate has the wanted name.
fn name(leaf: &Certificate, shown: &Shown<'_>) -> Option<Fault> {
    let (wanted, prefix) = (shown.wanted, shown.prefix);
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
    let reissue = format!("have it issued anew with {wanted} among its names");
    let remedy = match example {
        None => reissue,
        Some(name) if shown.announced => format!(
            "if it is the right server, say which name its certificate has: {prefix}tls-server-names maps what the \
             Sentinels announce to names, as in {wanted:?} = {name:?}, and {prefix}tls-server-name is for all; or \
             {reissue}"
        ),
        Some(name) => format!(
            "dial it by a name that the certificate has; or, if it is the right server, {prefix}tls-server-name = \
             {name:?}; or {reissue}"
        ),
    };
    Some(Fault { what, remedy })
}

/// Why a chain that is in its time and has the right name does not lead to a trusted CA.
fn trust(leaf: &Certificate, chain: &[&Certificate], shown: &Shown<'_>) -> Option<Fault> {
    let prefix = shown.prefix;
    if leaf.weak {
        return Some(Fault {
            what: format!("the certificate's key ({}) is too short to be trusted", leaf.key),
            remedy: "have it issued anew with RSA of 2048 bits or more, or ECDSA".into(),
        });
    }
    if leaf.self_issued() {
        return Some(Fault {
            what: "the certificate is signed by itself, so only whoever knows it in advance can trust it"
                .into(),
            remedy: format!(
                "get that certificate from whoever runs the server, by another way than this connection, and set \
                 {prefix}tls-ca to the file; if it is refused even so, it must be issued anew as a CA's \
                 (basicConstraints), or by one"
            ),
        });
    }
    let broken_at = chain.windows(2).find(|pair| !pair[0].issued_by(pair[1]));
    if let Some([lower, higher]) = broken_at.and_then(|pair| <[&Certificate; 2]>::try_from(pair).ok()) {
        return Some(Fault {
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
        return Some(Fault {
            what: format!("the chain ends at the CA {:?}, which is not among the trusted ones", last.subject),
            remedy: format!(
                "set {prefix}tls-ca to a file with that CA's certificate, from whoever runs the server (cloud providers \
                 offer it for download); for a public CA {prefix}tls-system-roots = true"
            ),
        });
    }
    let alone = chain.len() == 1;
    Some(Fault {
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
            "set {prefix}tls-ca to a file with that issuer's certificate; if it is an intermediate CA, the better place \
             for it is the server: append it to the file of `tls-cert-file`"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
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

    fn explained(chain: &[&Vec<u8>], wanted: &str, now: i64, verdict: Option<&str>) -> Finding {
        let chain: Vec<Vec<u8>> = chain.iter().copied().cloned().collect();
        let shown = Shown { chain: &chain, wanted, now, prefix: "", announced: false };
        explain(&shown, "TLS 1.3", verdict)
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
        let expired = explained(&chain, "db.example", NOW + 200 * DAY, Some("Expired"));
        is_broken(&expired, "expired on 2026-07-01, 19 days ago", "renew");
        assert!(expired.details.iter().any(|line| line == "the TLS library says: Expired"));
        is_broken(&explained(&chain, "db.example", NOW - 300 * DAY, Some("x")), "not yet", "clock");
        let wrong = explained(&chain, "10.0.0.5", NOW, Some("x"));
        is_broken(
            &wrong,
            "is for db.example, *.db.example, not for 10.0.0.5",
            "tls-server-name = \"db.example\"",
        );
        let both = explained(&chain, "other", NOW + 200 * DAY, Some("x"));
        assert!(
            both.details.iter().any(|line| line.starts_with("besides: ") && line.contains("not for other"))
        );
        let nameless = self::made(&[]);
        is_broken(
            &explained(&[&nameless.leaf], "db.example", NOW, Some("x")),
            "no longer counts",
            "issued anew",
        );
    }

    #[test]
    fn an_announced_address_gets_the_map() {
        let made = made(&["db.example"]);
        let shown = Shown {
            chain: std::slice::from_ref(&made.leaf),
            wanted: "10.0.0.5",
            now: NOW,
            prefix: "sentinel-",
            announced: true,
        };
        is_broken(
            &explain(&shown, "TLS 1.3", Some("x")),
            "not for 10.0.0.5",
            "sentinel-tls-server-names maps what the Sentinels announce to names, as in \"10.0.0.5\" = \"db.example\"",
        );
    }

    #[test]
    fn trust_is_explained() {
        let made = made(&["db.example"]);
        let of = |chain: &[&Vec<u8>]| explained(chain, "db.example", NOW, Some("UnknownIssuer"));
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
        is_broken(&of(&[&own.der().to_vec()]), "signed by itself", "by another way");
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        let finding = explained(&[&b"nonsense".to_vec()], "db.example", NOW, Some("BadEncoding"));
        is_broken(&finding, "BadEncoding", "log");
        assert_eq!(finding.details, ["certificate 1: cannot be read"]);
        is_broken(&explained(&[], "db.example", NOW, None), "no certificate", "log");
    }
}
