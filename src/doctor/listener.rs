//! Checks whether respgate can bind its listeners, without disturbing a respgate that runs already.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::finding::{Finding, Section, Step, Subject};
use super::tls;
use crate::listener::{Bind, ListenerConfig};

/// Checks one listener.
pub(super) fn examine(listener: &ListenerConfig) -> Section {
    let finding = match &listener.bind {
        Bind::Tcp(address) => tcp(*address),
        Bind::Unix { path, .. } => unix(path),
    };
    Section {
        subject: Subject::Listener,
        name: listener.name.clone(),
        address: listener.bind.to_string(),
        findings: [finding]
            .into_iter()
            .chain(listener.tls.as_ref().map(|tls| tls::own(&tls.profile)))
            .collect(),
    }
}

/// Checks the admin listener.
pub(super) fn examine_admin(address: SocketAddr) -> Section {
    Section {
        subject: Subject::Listener,
        name: String::new(),
        address: address.to_string(),
        findings: vec![tcp(address)],
    }
}

/// Binds the address and closes it again.
fn tcp(address: SocketAddr) -> Finding {
    judge(TcpListener::bind(address).map(drop))
}

/// Checks the socket file and its folder. The check does not create the file, because one that exists may be in use.
fn unix(path: &Path) -> Finding {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match crate::files::metadata(folder) {
        Err(error) => {
            return Finding::broken(
                Step::Listen,
                format!("the socket's folder {} cannot be used: {error}", folder.display()),
                "make the folder, owned by the user that runs respgate (systemd: RuntimeDirectory=)",
            );
        }
        Ok(data) if !data.is_dir() => {
            let seen = format!("{} is not a folder", folder.display());
            return Finding::broken(Step::Listen, seen, "correct the path");
        }
        Ok(_) => {}
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Finding::broken(
            Step::Listen,
            "a file of another kind is in the socket's place",
            "remove it, or choose another path",
        ),
        Ok(_) if UnixStream::connect(path).is_ok() => judge(Err(io::ErrorKind::AddrInUse.into())),
        Ok(_) => {
            Finding::ok(Step::Listen, "free: the socket file that is there is a leftover and is replaced")
        }
        Err(_) if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() => Finding::broken(
            Step::Listen,
            format!("this user may not make a file in {}", folder.display()),
            "give the folder to the user that runs respgate, or run the doctor as that user",
        ),
        Err(_) => Finding::ok(Step::Listen, "free"),
    }
}

fn judge(bound: io::Result<()>) -> Finding {
    let Err(error) = bound else { return Finding::ok(Step::Listen, "free") };
    match error.kind() {
        io::ErrorKind::AddrInUse => Finding::ok(
            Step::Listen,
            "in use: by respgate itself if it runs already, else by another program",
        )
        .fact("in_use", true),
        io::ErrorKind::AddrNotAvailable => Finding::broken(
            Step::Listen,
            "this machine has no such address",
            "use one that it has (ip addr), or 0.0.0.0 for all",
        ),
        io::ErrorKind::PermissionDenied => Finding::broken(
            Step::Listen,
            "this user may not listen on a port below 1024",
            "use a higher port, or give the program CAP_NET_BIND_SERVICE",
        ),
        _ => Finding::broken(Step::Listen, format!("cannot be listened on: {error}"), "use another address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn addresses_are_tried_and_files_are_left_alone() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(tcp(held.local_addr().unwrap()).seen.starts_with("in use"));
        assert_eq!(tcp("192.0.2.1:6379".parse().unwrap()).level, Level::Broken);
        assert_eq!(tcp("127.0.0.1:0".parse().unwrap()).seen, "free");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(unix(&path).seen, "free");
        let server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(unix(&path).seen.starts_with("in use"));
        drop(server);
        assert!(unix(&path).seen.contains("leftover") && path.exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(unix(&path).level, Level::Broken);
        assert!(unix(&path.join("x")).seen.contains("not a folder"));
        assert!(unix(Path::new("/nonexistent/x")).remedy.unwrap().contains("RuntimeDirectory"));
    }
}
