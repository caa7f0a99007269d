//! Reads configured files, and never blocks for ever.
//!
//! Two rules ensure that. First, [`open`] waits for no other process: it opens with `O_NONBLOCK`
//! and refuses everything but regular files, so that a FIFO is an error and not a wait. Second, a
//! regular file of a network file system can still block in the kernel, where nothing can interrupt
//! it. So every operation notes its path, and a set of files is loaded on a thread of its own
//! ([`supervised`] at the start, [`Loader`] later). When one operation exceeds [`LIMIT`], respgate
//! abandons that thread.
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

/// Time that one file operation may take before its thread is abandoned.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Number of entries that are read of one folder.
const MAX_ENTRIES: usize = 4096;

/// A regular file, opened for reading. Its path stays noted as in use until the file is dropped.
pub struct OpenFile {
    file: File,
    _noted: Noted,
}

impl OpenFile {
    /// Returns the metadata of the open file.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// Opens a regular file for reading, also through symbolic links. It accepts a pipe only under the
/// name of one of this process's descriptors (`/dev/stdin`, `/dev/fd/63`), as a shell's `<(...)`
/// passes it; a read of that pipe waits for its writer. `/dev/null` is an empty file.
///
/// # Errors
/// Returns an error if the file cannot be opened, or is a folder, a FIFO, a socket or a device.
pub fn open(path: &Path) -> io::Result<OpenFile> {
    let noted = note(path);
    let piped = is_pipe(path);
    let mut options = File::options();
    options.read(true);
    if !piped {
        // The type is checked before the open as well, because opening a device may have effects.
        refuse_irregular(path, fs::metadata(path)?.file_type())?;
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    if !piped {
        refuse_irregular(path, file.metadata()?.file_type())?;
    }
    Ok(OpenFile { file, _noted: noted })
}

/// Works as [`fs::metadata`] does, and notes the path meanwhile.
///
/// # Errors
/// Fails as [`fs::metadata`] does.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    let _noted = note(path);
    fs::metadata(path)
}

/// Returns the paths in a folder, at most `MAX_ENTRIES`, in no particular order.
///
/// # Errors
/// Returns an error if the folder cannot be read. An entry is an error if that entry cannot be
/// read.
pub fn read_dir(path: &Path) -> io::Result<Vec<io::Result<PathBuf>>> {
    let _noted = note(path);
    Ok(fs::read_dir(path)?.take(MAX_ENTRIES).map(|entry| Ok(entry?.path())).collect())
}

/// Returns true if the path names a descriptor of this process that is a pipe. A pipe can be read
/// only once.
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
