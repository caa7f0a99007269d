//! Authorities and certificates of one test's own, as PEM files in a temporary folder.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    date_time_ymd,
};
use tempfile::TempDir;

/// The serial number of the one certificate that `revoked.pem` lists.
const REVOKED: u64 = 666;

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `ca.pem`.
    Root,
    /// An authority that the root has signed; it is part of the chains that it signs.
    Intermediate,
    /// `other-ca.pem`.
    Other,
}

/// A test's certificates:
///
/// - `ca.pem`, `other-ca.pem`, and `both-ca.pem` with the two of them;
/// - `server.crt` and `.key`, by way of the intermediate, for `localhost`, `127.0.0.1` and `db.example`;
/// - `client.crt` and `.key`, for `spiffe://example/app`;
/// - `expired.crt`, `revoked.crt`, `foreign.crt` (the other authority's) and their keys: clients that must be refused;
/// - `revoked.pem`, the root's revocation list.
pub struct Certificates {
    folder: TempDir,
    root: Authority,
    intermediate: Authority,
    other: Authority,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str, by: Option<&Authority>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = by.is_some();
        let signed = match by {
            Some(by) => params.signed_by(&key, &by.issuer),
            None => params.self_signed(&key),
        };
        Self { pem: signed.expect("an authority").pem(), issuer: Issuer::new(params, key) }
    }
}

impl Certificates {
    /// Makes all of them.
    pub fn new() -> Self {
        let root = Authority::new("Test Root", None);
        let intermediate = Authority::new("Test Intermediate", Some(&root));
        let other = Authority::new("Other Root", None);
        let folder = TempDir::new().expect("a temporary folder");
        let made = Self { folder, root, intermediate, other };
        made.write("ca.pem", &made.root.pem);
        made.write("other-ca.pem", &made.other.pem);
        made.write("both-ca.pem", &format!("{}{}", made.root.pem, made.other.pem));
        made.server("server", By::Intermediate, &["localhost", "127.0.0.1", "db.example"]);
        made.client("client", By::Root, |_| {});
        made.client("expired", By::Root, |params| params.not_after = date_time_ymd(2020, 1, 1));
        made.client("revoked", By::Root, |params| params.serial_number = Some(REVOKED.into()));
        made.client("foreign", By::Other, |_| {});
        made.write("revoked.pem", &made.revocation_list());
        made
    }

    /// A server's certificate: `NAME.crt` and `NAME.key`.
    pub fn server(&self, name: &str, by: By, names: &[&str]) {
        self.server_with(name, by, names, |_| {});
    }

    /// As [`Certificates::server`], changed.
    pub fn server_with(
        &self,
        name: &str,
        by: By,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.issue(name, by, |params| {
            params.subject_alt_names = CertificateParams::new(names).expect("names").subject_alt_names;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            change(params);
        });
    }

    /// A client's certificate of the root's, with this common name and these other names: `NAME.crt` and `NAME.key`.
    pub fn client_named(&self, name: &str, names: Vec<SanType>) {
        self.client(name, By::Root, |params| params.subject_alt_names = names);
    }

    fn client(&self, name: &str, by: By, change: impl FnOnce(&mut CertificateParams)) {
        self.issue(name, by, |params| {
            params.subject_alt_names = vec![SanType::URI("spiffe://example/app".try_into().expect("a URI"))];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        });
    }

    fn issue(&self, name: &str, by: By, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let (authority, rest) = match by {
            By::Root => (&self.root, ""),
            By::Intermediate => (&self.intermediate, self.intermediate.pem.as_str()),
            By::Other => (&self.other, ""),
        };
        let signed = params.signed_by(&key, &authority.issuer).expect("a certificate");
        self.write(&format!("{name}.crt"), &format!("{}{rest}", signed.pem()));
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn revocation_list(&self) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: REVOKED.into(),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.root.issuer).expect("a list").pem().expect("PEM")
    }

    fn write(&self, name: &str, pem: &str) {
        fs::write(self.folder.path().join(name), pem).expect(name);
    }

    /// The whole path of a file.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// `tls-cert` and `tls-key` of this certificate, as a configuration has them.
    pub fn pair(&self, name: &str) -> String {
        let (chain, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        format!("tls-cert = \"{chain}\"\ntls-key = \"{key}\"\n")
    }
}
