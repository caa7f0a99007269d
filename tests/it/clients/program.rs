//! Starts the client programs of `tests/clients` and reads what they print.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::servers::{Flavor, spawn};
use crate::support::{signal, wait};

/// The slowest script (Celery starts a worker process) takes a few seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Where `tests/clients/install` puts interpreters and packages.
pub fn installed(relative: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(relative);
    assert!(path.exists(), "{} is missing: run `tests/clients/install`", path.display());
    path
}

pub fn source(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(relative)
}

pub fn python(script: &str) -> Command {
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg("-u").arg(source("python").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

pub fn node(script: &str) -> Command {
    // Packages are found from the script's own folder upwards, so the installer puts a copy beside them.
    let mut command = Command::new("node");
    command.arg(installed("node").join(script));
    command
}

pub fn shell(flavor: Flavor, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(source("cli").join(script)).env("CLI", flavor.binary("cli"));
    command
}

/// redigo and go-redis, as the distribution packages them. They speak RESP2 only.
pub fn go(program: &str) -> Command {
    Command::new(installed("go").join(program))
}

pub fn rust(program: &str) -> Command {
    Command::new(installed("rust/debug").join(program))
}

pub fn perl(script: &str) -> Command {
    let mut command = Command::new("perl");
    command.arg(source("perl").join(script));
    command
}

pub fn php(script: &str) -> Command {
    let mut command = Command::new("php");
    command.arg(source("php").join(script));
    command
}

pub fn ruby(script: &str) -> Command {
    let mut command = Command::new("ruby");
    // Sidekiq warns of its own use of redis-rb.
    command.arg("-W0").arg(source("ruby").join(script));
    command
}

/// Runs a client to its end and returns its transcript.
pub fn transcript(client: Command, port: u16) -> String {
    Program::start(client, port).finish()
}

/// A client that runs. Dropping it kills the client and every process that it started.
pub struct Program {
    command: Command,
    process: Child,
    folder: TempDir,
    started: Instant,
}

impl Program {
    /// Starts a client with `HOST PORT` as its last arguments; its standard output is the transcript.
    pub fn start(mut command: Command, port: u16) -> Self {
        use std::os::unix::process::CommandExt;
        let folder = TempDir::new().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        command
            .args(["127.0.0.1", &port.to_string()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(path("out")).expect("a file for its output"))
            .stderr(File::create(path("err")).expect("a file for its errors"))
            .process_group(0);
        let process = spawn(&mut command, "run `tests/install`");
        Self { command, process, folder, started: Instant::now() }
    }

    /// Waits until the client ends, and returns its transcript.
    pub fn finish(mut self) -> String {
        let (started, group) = (self.started, self.process.id());
        let process = &mut self.process;
        let status = wait::until_some("a client to end", LIMIT + wait::PATIENCE, || {
            if started.elapsed() > LIMIT {
                signal::send_group("KILL", group);
            }
            process.try_wait().expect("the client's state")
        });
        let (out, err, command) = (self.read("out"), self.read("err"), &self.command);
        assert!(status.success(), "{command:?} ended with {status}\n--- output\n{out}\n--- errors\n{err}");
        assert!(!out.trim().is_empty(), "{command:?} printed nothing\n--- errors\n{err}");
        out
    }

    /// Returns how many lines a file has that the client writes in its folder.
    pub fn lines(&self, name: &str) -> usize {
        std::fs::read(self.folder.path().join(name))
            .map_or(0, |text| text.iter().filter(|b| **b == b'\n').count())
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join(name)).expect(name)).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The client may have started processes of its own, such as a Celery worker.
        signal::send_group("KILL", self.process.id());
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- output of {:?}\n{}\n--- errors\n{}",
                self.command,
                self.read("out"),
                self.read("err")
            );
        }
    }
}
