//! Tells systemd about the state of the service: the protocol of `sd_notify(3)`.
//!
//! A datagram that systemd does not take at once is dropped: a service manager that hangs must not
//! stop the data path.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Sends messages to the service manager. Without one, it does nothing. Clones are the same sender.
#[derive(Clone, Default)]
pub struct Notifier(Option<Arc<Target>>);

struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
    /// True once another process is the service's main process.
    silent: AtomicBool,
}

impl Notifier {
    /// Creates the sender for the socket that `NOTIFY_SOCKET` names.
    pub fn from_env() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match Target::new(&name) {
            Ok(target) => Self(Some(Arc::new(target))),
            Err(error) => {
                tracing::warn!(socket = %name.display(), %error, "respgate cannot notify the service manager: NOTIFY_SOCKET is unusable");
                Self::default()
            }
        }
    }

    /// Returns true if there is a service manager that listens.
    pub fn is_supervised(&self) -> bool {
        self.0.is_some()
    }

    /// Says that the start, or a reload, is complete.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Says that respgate reads its configuration again. [`Self::ready`] ends that.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
    }

    /// Says that respgate is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Shows a line in `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={text}"));
    }

    /// Says that respgate is alive.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Says that this process is the service's main process from now on.
    pub fn main_process(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// Sends nothing more: another process is the service's main process.
    pub fn silence(&self) {
        if let Some(target) = &self.0 {
            target.silent.store(true, Ordering::Relaxed);
        }
    }

    /// Sends messages again: this process is the service's main process again.
    pub fn speak_again(&self) {
        if let Some(target) = &self.0 {
            target.silent.store(false, Ordering::Relaxed);
        }
        self.main_process(std::process::id());
    }

    fn send(&self, message: &str) {
        let Some(target) = self.0.as_ref().filter(|target| !target.silent.load(Ordering::Relaxed)) else {
            return;
        };
        if let Err(error) = target.socket.send_to_addr(message.as_bytes(), &target.address) {
            tracing::warn!(message, %error, "the service manager did not take a notification");
        }
    }
}

impl Target {
    fn new(name: &OsString) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, silent: AtomicBool::new(false) })
    }
}

/// Returns the time within which systemd expects each sign of life, from `WATCHDOG_USEC` and
/// `WATCHDOG_PID`; `None` if it expects none of this process.
pub fn watchdog() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())
}

fn interval(micros: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    match pid {
        Some(pid) if pid.parse() != Ok(own) => None,
        _ => Some(Duration::from_micros(micros)),
    }
}

/// Returns true if systemd started this process itself. `SYSTEMD_EXEC_PID` names the process that
/// systemd started, and is inherited by its children.
pub fn started_this_process() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()))
}

fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000 + nanos / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_may_be_for_another_process() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(interval(text("3000000"), text("7"), 7), Some(Duration::from_secs(3)));
        assert_eq!(interval(text("3000000"), None, 7), Some(Duration::from_secs(3)));
        assert_eq!(interval(text("3000000"), text("8"), 7), None);
        for bad in ["0", "", "x"] {
            assert_eq!(interval(text(bad), None, 7), None, "{bad:?}");
        }
        assert_eq!(interval(None, text("7"), 7), None);
    }

    #[test]
    fn messages_reach_a_named_and_an_abstract_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        let hidden = format!("respgate-test-{}", std::process::id());
        let unnamed = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&hidden).unwrap()).unwrap();
        for (name, socket) in [(path.into_os_string(), named), (format!("@{hidden}").into(), unnamed)] {
            let notifier = Notifier(Some(Arc::new(Target::new(&name).unwrap())));
            notifier.status("well");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"STATUS=well");
            notifier.silence();
            notifier.ready();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut buffer).is_err(), "a silent notifier sends nothing");
            notifier.speak_again();
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], *format!("MAINPID={}", std::process::id()).as_bytes());
        }
    }
}
