//! Binds unix sockets that listen.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a unix socket. Dropping it removes the file, unless it is kept.
pub struct SocketFile {
    path: PathBuf,
    is_kept: AtomicBool,
}

impl SocketFile {
    /// Takes care of the file at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, is_kept: AtomicBool::new(false) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the file when this is dropped.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Removes the file again when this is dropped.
    pub fn take_back(&self) {
        self.is_kept.store(false, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Relaxed) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a unix socket whose file has these permission bits. Replaces a socket file that a killed process left behind, but
/// not one that a process still listens on. The kernel completes up to `backlog` connections before they are accepted.
///
/// # Errors
/// Returns an error if the path is taken, its folder is missing, or the system does not permit it.
pub fn bind(path: &Path, mode: u32, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path.to_owned());
    // The permissions are set before `listen`, so that no client connects under others.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
