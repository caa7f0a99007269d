//! Reads of configured files that cannot block for ever.
//!
//! Two rules make that so. [`open`] waits for no peer: it opens with `O_NONBLOCK` and refuses what is no regular file,
//! so a FIFO is an error and not a wait. A regular file of a network file system can still block in the kernel, where
//! nothing can interrupt it. So every operation notes its path, and whoever loads a set of files does so on a thread of
//! its own ([`supervised`] at the start, [`Loader`] later), which is given up when one operation exceeds [`LIMIT`].
//!
//! `clippy.toml` forbids the file operations of `std` elsewhere.
#![allow(clippy::disallowed_methods, reason = "this module is where they are allowed")]

mod watch;

pub use watch::{Failed, Loader, Stuck, note, supervised};

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use watch::Noted;

/// How long one file operation may take before its thread is given up.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Entries of one folder that are read.
const MAX_ENTRIES: usize = 4096;

/// A regular file, opened for reading. Its path stays noted until it is dropped.
pub struct OpenFile {
    file: File,
    _noted: Noted,
}

impl OpenFile {
    /// The metadata of the file that is open.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// Opens a regular file for reading and follows symbolic links to one. A pipe is accepted only by the name of one of
/// this process's descriptors (`/dev/stdin`, `/dev/fd/63`), as a shell's `<(...)` passes it; reading it waits for its
/// writer. `/dev/null` is an empty file.
///
/// # Errors
/// The file cannot be opened, or is a folder, a FIFO, a socket or a device.
pub fn open(path: &Path) -> io::Result<OpenFile> {
    let noted = note(path);
    let piped = is_pipe(path);
    let mut options = File::options();
    options.read(true);
    if !piped {
        // Before the open as well, since to open a device may have effects.
        refuse_irregular(path, fs::metadata(path)?.file_type())?;
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    if !piped {
        refuse_irregular(path, file.metadata()?.file_type())?;
    }
    Ok(OpenFile { file, _noted: noted })
}

/// As [`fs::metadata`].
///
/// # Errors
/// As [`fs::metadata`].
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    let _noted = note(path);
    fs::metadata(path)
}

/// The paths in a folder, in no order, [`MAX_ENTRIES`] at most.
///
/// # Errors
/// The folder cannot be read; an entry, if that cannot.
pub fn read_dir(path: &Path) -> io::Result<Vec<io::Result<PathBuf>>> {
    let _noted = note(path);
    Ok(fs::read_dir(path)?.take(MAX_ENTRIES).map(|entry| Ok(entry?.path())).collect())
}

/// Returns true if the path names a descriptor of this process that is a pipe: it can be read once only.
pub fn is_pipe(path: &Path) -> bool {
    let names_descriptor = path == Path::new("/dev/stdin")
        || path
            .parent()
            .is_some_and(|parent| [Path::new("/dev/fd"), Path::new("/proc/self/fd")].contains(&parent));
    names_descriptor && fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo())
}

fn refuse_irregular(path: &Path, kind: FileType) -> io::Result<()> {
    let name = if kind.is_file() || path == Path::new("/dev/null") {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {name}, and must be a regular file")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fifo(folder: &Path) -> PathBuf {
        let path = folder.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        path
    }

    fn refusal(path: &Path) -> String {
        open(path).err().unwrap().to_string()
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "content").unwrap();
        symlink(&path, folder.path().join("link")).unwrap();
        for path in [path, folder.path().join("link")] {
            let mut text = String::new();
            open(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
        let pipe = fifo(folder.path());
        assert!(refusal(&pipe).contains("a FIFO"));
        symlink(&pipe, folder.path().join("pipe-link")).unwrap();
        assert!(refusal(&folder.path().join("pipe-link")).contains("a FIFO"));
        assert!(refusal(folder.path()).contains("a folder"));
        assert!(refusal(Path::new("/dev/zero")).contains("a device"));
        assert!(open(Path::new("/dev/null")).is_ok());
    }

    #[test]
    fn a_fifo_is_not_taken_for_a_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_pipe(&fifo(folder.path())));
        assert!(!is_pipe(Path::new("/dev/fd/../null")));
    }
}
