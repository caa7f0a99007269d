//! Reads PEM files: certificates, private keys, revocation lists.

use std::io::Read;
use std::path::Path;

use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::files;

/// Size of the longest accepted PEM file, in bytes. A system's bundle of root certificates has
/// about 220 KiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Returns all usable items of a PEM text, in order. Only this function depends on the crate that
/// reads PEM.
fn items(text: &[u8]) -> Result<Vec<Item>, String> {
    let mut rest = text;
    rustls_pemfile::read_all(&mut rest)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM as it should be: {error}"))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = files::open(path).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len().min(MAX_FILE);
    // The whole capacity is reserved first, so that no reallocation leaves an unwiped copy of a key
    // behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 64));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is longer than 4MiB; is it a PEM file?", path.display()));
    }
    Ok(bytes)
}

fn read_items(path: &Path) -> Result<Vec<Item>, String> {
    items(&read(path)?).map_err(|why| format!("{} {why}", path.display()))
}

/// Returns the certificates of a file, in order. The list may be empty.
///
/// # Errors
/// Returns the reason if the file cannot be read or is not PEM.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let items = read_items(path)?;
    Ok(items
        .into_iter()
        .filter_map(|item| match item {
            Item::X509Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect())
}

/// Returns the certificate chain of a file: the server's or client's own certificate first, then
/// the intermediates.
///
/// # Errors
/// Fails as [`certificates`] does, and if the file holds no certificate.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = certificates(path)?;
    if chain.is_empty() {
        return Err(format!(
            "{} holds no certificate; it should begin with -----BEGIN CERTIFICATE-----",
            path.display()
        ));
    }
    Ok(chain)
}

/// Returns the private key of a file, in PKCS#8, PKCS#1 or SEC1 form.
///
/// # Errors
/// Fails as [`certificates`] does, and if the file holds no key, more than one key, or a key that a
/// passphrase protects.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    let shown = path.display();
    let items = items(&text).map_err(|why| format!("{shown} {why}"))?;
    let mut keys = items.into_iter().filter_map(|item| match item {
        Item::Pkcs8Key(key) => Some(PrivateKeyDer::from(key)),
        Item::Pkcs1Key(key) => Some(PrivateKeyDer::from(key)),
        Item::Sec1Key(key) => Some(PrivateKeyDer::from(key)),
        _ => None,
    });
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(format!("{shown} holds several private keys; leave one")),
        (None, _) if memchr::memmem::find(&text, b"ENCRYPTED").is_some() => Err(format!(
            "{shown} is protected by a passphrase, for which respgate has nobody to ask; write the bare key with \
             `openssl pkey -in {shown} -out plain.key` and chmod 600 it"
        )),
        (None, _) => Err(format!(
            "{shown} holds no private key; it should hold -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY)"
        )),
    }
}

/// Returns the revocation lists of a file.
///
/// # Errors
/// Fails as [`certificates`] does, and if the file holds no revocation list.
pub fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists: Vec<_> = read_items(path)?
        .into_iter()
        .filter_map(|item| match item {
            Item::Crl(list) => Some(list),
            _ => None,
        })
        .collect();
    if lists.is_empty() {
        return Err(format!(
            "{} holds no revocation list; it should begin with -----BEGIN X509 CRL-----",
            path.display()
        ));
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::net::tls::testing::Authority;

    #[test]
    fn a_chain_and_its_key_may_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("both.pem");
        let leaf = Authority::new("ca").issue(&["db.example"]);
        fs::write(&path, format!("{}{}", leaf.key_pem, leaf.chain_pem)).unwrap();
        assert_eq!(chain(&path).unwrap().len(), 1);
        assert!(key(&path).is_ok());
    }

    #[test]
    fn errors_say_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pem");
        let error = |content: &str, read: fn(&Path) -> Option<String>| {
            fs::write(&path, content).unwrap();
            read(&path).unwrap()
        };
        let no_chain: fn(&Path) -> Option<String> = |path| chain(path).err();
        let no_key: fn(&Path) -> Option<String> = |path| key(path).err();
        assert!(error("", no_chain).contains("holds no certificate"));
        assert!(
            error("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", no_chain)
                .contains("not PEM")
        );
        assert!(error("", no_key).contains("holds no private key"));
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(error(locked, no_key).contains("passphrase"));
        let leaf = Authority::new("ca").issue(&["a"]);
        assert!(error(&leaf.key_pem.repeat(2), no_key).contains("several private keys"));
        assert!(error(&leaf.chain_pem, |path| revocation_lists(path).err()).contains("no revocation list"));
        assert!(chain(Path::new("/nonexistent/x.pem")).unwrap_err().contains("cannot read /nonexistent"));
    }
}
