//! Loads the trusted authorities from files, folders and the system, and their revocation lists.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateRevocationListDer;

use super::{LoadError, Part, pem};
use crate::files;

/// Where the trusted authorities and the revocation lists come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Paths of PEM files, or of folders of PEM files.
    pub paths: Vec<PathBuf>,
    /// True if the system's authorities are trusted too (its bundle, or what SSL_CERT_FILE and
    /// SSL_CERT_DIR name).
    pub system: bool,
    /// Paths of PEM files with revocation lists. If empty, no certificate counts as revoked.
    pub revoked: Vec<PathBuf>,
}

impl Trust {
    /// Loads the authorities.
    ///
    /// # Errors
    /// Returns an error if a path cannot be read, or if no authority is found at all.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, LoadError> {
        let mut roots = RootCertStore::empty();
        for path in &self.paths {
            for file in expand(path).map_err(|why| LoadError::new(Part::Trust, why))? {
                // A folder may hold other files too. A file that the configuration names must hold
                // an authority.
                let named = file == *path;
                let certificates = match pem::certificates(&file) {
                    Err(why) if named => return Err(LoadError::new(Part::Trust, why)),
                    Err(_) => continue,
                    Ok(certificates) => certificates,
                };
                if named && certificates.is_empty() {
                    let text =
                        format!("{} holds no certificate; it should hold the authority's", file.display());
                    return Err(LoadError::new(Part::Trust, text));
                }
                for certificate in certificates {
                    if let Err(error) = roots.add(certificate) {
                        let text =
                            format!("{} holds a certificate that cannot be used: {error}", file.display());
                        return Err(LoadError::new(Part::Trust, text));
                    }
                }
            }
        }
        if self.system {
            // The system may have single certificates that cannot be read. It is an error only if
            // none can be read.
            let found = {
                let _noted = system_paths().first().map(|path| files::note(path));
                rustls_native_certs::load_native_certs()
            };
            let (_, _) = roots.add_parsable_certificates(found.certs);
        }
        if roots.is_empty() {
            return Err(LoadError::new(Part::Trust, self.nothing()));
        }
        Ok(Arc::new(roots))
    }

    fn nothing(&self) -> String {
        match self.paths.first() {
            Some(path) => format!("{} holds no authority's certificate", path.display()),
            None => {
                "the system has no authorities; install its package `ca-certificates`, or name a file".into()
            }
        }
    }

    /// Loads the revocation lists.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or holds no revocation list.
    pub fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
        let mut lists = Vec::new();
        for path in &self.revoked {
            lists.extend(pem::revocation_lists(path).map_err(|why| LoadError::new(Part::Crl, why))?);
        }
        Ok(lists)
    }

    /// Returns every file and folder that is read, for the watcher. Of the system's authorities it
    /// returns only the bundle, if there is one, because the bundle is made from the other files.
    pub fn watched(&self) -> Vec<PathBuf> {
        let system = if self.system { system_paths() } else { Vec::new() };
        self.paths.iter().chain(&self.revoked).cloned().chain(system).collect()
    }
}

fn system_paths() -> Vec<PathBuf> {
    let found = openssl_probe::probe();
    found.cert_file.map_or(found.cert_dir, |bundle| vec![bundle])
}

/// Returns the path itself, or the sorted files of the folder.
fn expand(path: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if !files::metadata(path).map_err(cannot)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in files::read_dir(path).map_err(cannot)? {
        found.push(entry.map_err(cannot)?);
    }
    // Kubernetes keeps the real files in hidden folders and links to them.
    found.retain(|file| files::metadata(file).is_ok_and(|data| data.is_file()));
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::net::tls::testing::Authority;

    fn trust(paths: &[&Path]) -> Trust {
        Trust { paths: paths.iter().map(|path| path.to_path_buf()).collect(), ..Trust::default() }
    }

    #[test]
    fn authorities_come_from_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.pem"), folder.path().join("two.crt"));
        fs::write(&one, Authority::new("one").pem()).unwrap();
        fs::write(&two, Authority::new("two").pem()).unwrap();
        fs::write(folder.path().join("README"), "no certificate here").unwrap();
        assert_eq!(trust(&[&one]).roots().unwrap().len(), 1);
        assert_eq!(trust(&[folder.path()]).roots().unwrap().len(), 2);
        assert_eq!(trust(&[&one, &two]).roots().unwrap().len(), 2);
    }

    #[test]
    fn a_path_without_an_authority_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        for (path, text) in [
            (empty.as_path(), "holds no certificate"),
            (Path::new("/nonexistent/ca.pem"), "cannot read /nonexistent/ca.pem"),
        ] {
            let error = trust(&[path]).roots().unwrap_err();
            assert_eq!(error.part, Part::Trust);
            assert!(error.text.contains(text), "{error}");
        }
        fs::remove_file(&empty).unwrap();
        let error = trust(&[folder.path()]).roots().unwrap_err();
        assert!(error.text.contains("holds no authority"), "{error}");
    }
}
