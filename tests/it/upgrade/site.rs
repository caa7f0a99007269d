//! A respgate that can be upgraded: it runs from a copy of the binary, and has a control socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::proxy::{Proxy, binary};
use crate::support::{signal, wait};

/// Runs the copy instead of the binary that the last word names.
const RUN_COPY: &str = r#"copy=$1; shift 2; exec "$copy" "$@""#;

/// Copies a program by a process of its own. Processes that other tests start meanwhile would inherit a copy that is open
/// for writing, and the system runs no such file ("Text file busy").
fn install(from: &Path, to: &Path) {
    let installed = Command::new("install").args(["-m", "755"]).args([from, to]).status();
    assert!(installed.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}

/// A running respgate, and all processes that have replaced it.
pub struct Site {
    pub proxy: Proxy,
    folder: tempfile::TempDir,
    /// The processes, the newest last.
    pids: Vec<u32>,
}

impl Site {
    /// Starts respgate with these keys above all tables, in front of `upstream`. `more` follows the upstream.
    pub fn start(keys: &str, upstream: &str, more: &str) -> Self {
        Self::start_under(&[], keys, upstream, more)
    }

    /// As [`Site::start`], by a program that becomes respgate.
    pub fn start_under(wrapper: &[&str], keys: &str, upstream: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("respgate");
        install(Path::new(&binary()), &copy);
        let control = folder.path().join("control.sock");
        let toml = format!(
            "control-socket = {:?}\n{keys}\n[upstreams.main]\nurl = {upstream:?}\n{more}",
            control.display().to_string()
        );
        let copy = copy.display().to_string();
        let wrapper = [wrapper, &["sh", "-c", RUN_COPY, "sh", &copy]].concat();
        let proxy = Proxy::launch_file(&wrapper, 2, &toml);
        proxy.wait_until_ready();
        let pids = vec![proxy.pid()];
        Self { proxy, folder, pids }
    }

    /// The path of the binary that an upgrade starts.
    pub fn binary(&self) -> PathBuf {
        self.folder.path().join("respgate")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Replaces the binary by a script.
    pub fn install_script(&self, script: &str) {
        let text = self.folder.path().join("script");
        fs::write(&text, script).expect("a script");
        self.replace_binary(&text);
    }

    /// Replaces whatever stands in the binary's place by the binary.
    pub fn install_binary(&self) {
        self.replace_binary(Path::new(&binary()));
    }

    fn replace_binary(&self, from: &Path) {
        let new = self.folder.path().join("new");
        install(from, &new);
        fs::rename(new, self.binary()).expect("the new binary in place");
    }

    /// Runs `respgate upgrade`.
    pub fn run_upgrade(&self) -> Output {
        let socket = self.control_socket().display().to_string();
        let words = ["upgrade", "--socket", &*socket, "--json"];
        Command::new(binary()).args(words).output().expect("respgate upgrade")
    }

    /// Upgrades, and returns the id of the new process.
    #[track_caller]
    pub fn upgrade(&mut self) -> u32 {
        let output = self.run_upgrade();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {errors}; the log:\n{}", output.status, self.proxy.log());
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let pid = &answer["result"]["new-process"];
        let pid = pid.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id");
        self.pids.push(pid);
        pid
    }

    /// The id of the process that accepts clients.
    pub fn newest(&self) -> u32 {
        *self.pids.last().expect("a process")
    }

    /// The ids of the processes that drain, or have ended.
    pub fn former(&self) -> &[u32] {
        &self.pids[..self.pids.len() - 1]
    }

    /// Kills a process, and waits for its end.
    #[track_caller]
    pub fn kill(&mut self, pid: u32) {
        signal::send("KILL", pid);
        wait::until("a killed process to end", || !runs(pid));
        self.pids.retain(|known| *known != pid);
    }

    /// Waits until a process has ended.
    #[track_caller]
    pub fn wait_for_end(&mut self, pid: u32) {
        if pid == self.proxy.pid() {
            let status = self.proxy.wait_for_exit();
            assert!(status.success(), "{status}; the log:\n{}", self.proxy.log());
        } else {
            wait::until("a former process to end", || !runs(pid));
        }
    }
}

/// Returns true if the process runs. One that has ended may remain as a zombie.
pub fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

impl Drop for Site {
    fn drop(&mut self) {
        let name = if std::thread::panicking() { "KILL" } else { "TERM" };
        // The log ends only when every process has ended. A second signal ends a drain.
        for pid in self.pids.iter().skip(1).chain(&self.pids[..1]) {
            signal::send(name, *pid);
        }
        if !std::thread::panicking() {
            for pid in self.pids.clone() {
                self.wait_for_end(pid);
            }
        }
    }
}
