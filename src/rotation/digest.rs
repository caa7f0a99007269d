//! Computes digests that show whether the content of files has changed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files;

/// The number of bytes of a file that count, from its start.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// The number of bytes to read at once.
const CHUNK: usize = 16 * 1024;

/// The digest of the content of some files. Equal content has equal digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(pub(super) u64);

/// Computes digests that are comparable with each other. The key is random and stays in memory, so that a digest
/// reveals nothing about a secret.
#[derive(Default)]
pub(super) struct Digester(RandomState);

impl Digester {
    /// Reads all files and returns their digest. A file that cannot be read counts by the kind of its error.
    pub(super) fn digest(&self, paths: &[PathBuf]) -> Digest {
        let mut hasher = self.0.build_hasher();
        let mut chunk = Zeroizing::new(vec![0; CHUNK]);
        for path in paths {
            hash_path(path, &mut hasher, &mut chunk);
        }
        Digest(hasher.finish())
    }
}

fn hash_path(path: &Path, hasher: &mut impl Hasher, chunk: &mut [u8]) {
    if !files::metadata(path).is_ok_and(|data| data.is_dir()) {
        return hash_file_or_error(path, hasher, chunk);
    }
    let mut found: Vec<PathBuf> = files::read_dir(path).into_iter().flatten().flatten().collect();
    // The order in which a folder lists its files is arbitrary: sort them, so that equal content has equal digests.
    found.sort();
    for file in found.iter().filter(|file| files::metadata(file).is_ok_and(|data| data.is_file())) {
        hasher.write(file.as_os_str().as_encoded_bytes());
        hash_file_or_error(file, hasher, chunk);
    }
}

fn hash_file_or_error(path: &Path, hasher: &mut impl Hasher, chunk: &mut [u8]) {
    match hash_file(path, hasher, chunk) {
        Ok(length) => hasher.write_u64(length),
        Err(error) => hasher.write(format!("{:?}", error.kind()).as_bytes()),
    }
}

fn hash_file(path: &Path, hasher: &mut impl Hasher, chunk: &mut [u8]) -> io::Result<u64> {
    let mut file = files::open(path)?.take(MAX_FILE);
    let mut length = 0;
    loop {
        let count = file.read(chunk)?;
        if count == 0 {
            return Ok(length);
        }
        length += count as u64;
        hasher.write(chunk.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_content_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let digester = Digester::default();
        let digest = |name: &str| digester.digest(&[path(name)]);
        fs::write(path("a"), "secret").unwrap();
        let first = digest("a");
        fs::write(path("b"), "secret").unwrap();
        fs::rename(path("b"), path("a")).unwrap();
        assert_eq!(digest("a"), first, "the same bytes in another file");
        symlink(path("a"), path("link")).unwrap();
        assert_eq!(digest("link"), first, "the same bytes through a link");
        fs::write(path("a"), "Secret").unwrap();
        assert_ne!(digest("a"), first);
        assert_ne!(digest("a"), digest("absent"));
        assert_eq!(digest("absent"), digest("absent"));
        assert_ne!(
            digester.digest(&[path("a"), path("absent")]),
            digester.digest(&[path("absent"), path("a")])
        );
    }

    #[test]
    fn a_folder_is_the_files_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let digester = Digester::default();
        let digest = || digester.digest(&[folder.path().to_owned()]);
        let empty = digest();
        fs::write(folder.path().join("ca.crt"), "x").unwrap();
        let one = digest();
        assert_ne!(one, empty);
        fs::rename(folder.path().join("ca.crt"), folder.path().join("other.crt")).unwrap();
        assert_ne!(digest(), one);
        fs::remove_file(folder.path().join("other.crt")).unwrap();
        assert_eq!(digest(), empty);
    }

    #[test]
    fn a_device_does_not_block() {
        let digester = Digester::default();
        assert_eq!(digester.digest(&["/dev/zero".into()]), digester.digest(&["/dev/zero".into()]));
    }
}
