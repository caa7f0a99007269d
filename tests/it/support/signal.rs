//! Signals to processes that this test binary started.

use std::process::{Command, Stdio};

/// Sends `name` (TERM, KILL, STOP, CONT) to one process. A process that is already gone is no error.
pub fn send(name: &str, pid: u32) {
    kill(name, &pid.to_string());
}

/// Sends `name` to a whole process group.
pub fn send_group(name: &str, pgid: u32) {
    kill(name, &format!("-{pgid}"));
}

/// The shell's own `kill` is always there, and spares the tests an unsafe call.
fn kill(name: &str, target: &str) {
    let script = format!("kill -s {name} -- {target}");
    let status = Command::new("/bin/sh").args(["-c", &script]).stderr(Stdio::null()).status();
    assert!(status.is_ok(), "cannot run /bin/sh to send {name}");
}
