//! The old process's side of an upgrade.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::{VARIABLE, wire};
use crate::drain::{ClientCounts, Switch};
use crate::net::listening::{OpenSockets, SocketOwner};
use crate::systemd::{self, Notifier};

/// Interval at which the new process is told how many clients this one still serves.
const TELL_INTERVAL: Duration = Duration::from_millis(200);

/// How this process starts the one that replaces it.
pub struct UpgradePlan {
    /// The program and its arguments: those of this process.
    command: Vec<OsString>,
    /// Time within which the new process must be ready.
    timeout: Duration,
    sockets: OpenSockets,
    notifier: Notifier,
}

/// Why there is no new process. The old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// This process is the container's first one.
    #[error(
        "respgate is process 1, and its container ends with it: replace the container instead (roll the pods)"
    )]
    Container,
    /// systemd would not follow the new process.
    #[error(
        "systemd would end the new process together with this one: set Type=notify in the unit, and restart once"
    )]
    NotNotified,
    /// The program cannot be run.
    #[error("{program} cannot be run: {error}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        error: io::Error,
    },
    /// The new process has ended.
    #[error("the new process ended before it was ready ({status}){hint}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// What to do.
        hint: &'static str,
    },
    /// The new process took too long.
    #[error("the new process was not ready within upgrade-timeout ({seconds} s), so it was ended{why}")]
    NotReady {
        /// The time limit.
        seconds: f64,
        /// What it waited for.
        why: String,
    },
    /// A message did not reach the new process.
    #[error("the sockets could not be passed to the new process: {0}")]
    Pass(#[from] io::Error),
}

/// The new process, which is ready.
pub struct Successor {
    /// The process id.
    pub pid: u32,
    child: ChildGuard,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    sockets: OpenSockets,
    notifier: Notifier,
}

/// Ends the new process when it is dropped, unless that process has taken over.
struct ChildGuard {
    child: Child,
    took_over: bool,
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if !self.took_over {
            let _ = self.child.start_kill();
        }
    }
}

impl UpgradePlan {
    /// Creates the plan. The new process has the program's name, the arguments and the environment of this one, so it
    /// finds the new binary where this one was found.
    pub fn new(sockets: OpenSockets, timeout: Duration, notifier: Notifier) -> Self {
        Self { command: std::env::args_os().collect(), timeout, sockets, notifier }
    }

    /// Starts the new process, passes it the sockets, and waits until it is ready. Dropping the future ends the new
    /// process.
    ///
    /// # Errors
    /// Returns why there is no new process.
    pub async fn start(&self) -> Result<Successor, UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::Container);
        }
        if systemd::started_this_process() && !self.notifier.is_supervised() {
            return Err(UpgradeError::NotNotified);
        }
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let mut child = self.spawn(theirs)?;
        let pid = child.child.id().unwrap_or_default();
        tracing::info!(pid, "upgrade: the new process has been started");
        let (mut reader, writer) = match self.pass(ours).await {
            Ok(stream) => stream,
            // A process that has ended at once cannot take the sockets: its status says more than the failed write.
            Err(error) => match tokio::time::timeout(Duration::from_millis(500), child.child.wait()).await {
                Ok(Ok(status)) => return Err(ended(status)),
                _ => return Err(error.into()),
            },
        };
        let mut waits_for = String::new();
        let outcome = tokio::select! {
            outcome = wait_until_ready(&mut reader, &mut child.child, &mut waits_for) => outcome,
            () = tokio::time::sleep(self.timeout) => {
                let why = if waits_for.is_empty() { waits_for } else { format!("; it waited for {waits_for}") };
                Err(UpgradeError::NotReady { seconds: self.timeout.as_secs_f64(), why })
            }
        };
        match outcome {
            Ok(()) => {
                let (sockets, notifier) = (self.sockets.clone(), self.notifier.clone());
                Ok(Successor { pid, child, reader, writer, sockets, notifier })
            }
            Err(error) => {
                // The wait after the kill leaves no zombie.
                let _ = child.child.kill().await;
                Err(error)
            }
        }
    }

    /// Tells the new process to accept clients, and the service manager that it is the main process now. This process
    /// must stop accepting at once.
    ///
    /// # Errors
    /// Returns an error if the new process has ended meanwhile. The old one goes on.
    pub async fn hand_over(
        &self,
        successor: &mut Successor,
        counts: &[ClientCounts],
    ) -> Result<(), UpgradeError> {
        // systemd ignores the messages of a process that it does not know as the main one.
        self.notifier.main_process(successor.pid);
        if let Err(error) = wire::send(&mut successor.writer, &message(counts)).await {
            self.notifier.main_process(std::process::id());
            return Err(match successor.child.child.try_wait() {
                Ok(Some(status)) => ended(status),
                _ => error.into(),
            });
        }
        successor.child.took_over = true;
        self.notifier.silence();
        for (_, socket) in self.sockets.all() {
            socket.keep_file();
        }
        Ok(())
    }

    fn spawn(&self, theirs: StdUnixStream) -> Result<ChildGuard, UpgradeError> {
        let (program, arguments) = self.command.split_first().ok_or(UpgradeError::Start {
            program: "respgate".into(),
            error: io::ErrorKind::NotFound.into(),
        })?;
        let child = Command::new(program)
            .args(arguments)
            .env(VARIABLE, "1")
            // These name the old process.
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .map_err(|error| UpgradeError::Start {
                program: program.to_string_lossy().into_owned(),
                error,
            })?;
        Ok(ChildGuard { child, took_over: false })
    }

    async fn pass(&self, stream: UnixStream) -> io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
        for (name, socket) in self.sockets.all() {
            let line = json!({ "socket": name, "systemd": socket.owner() == SocketOwner::Systemd });
            wire::send_socket(&stream, &line, &socket.duplicate()?).await?;
        }
        let (reader, mut writer) = stream.into_split();
        wire::send(&mut writer, &json!({ "pid": std::process::id() })).await?;
        Ok((BufReader::new(reader), writer))
    }
}

async fn wait_until_ready(
    reader: &mut BufReader<OwnedReadHalf>,
    child: &mut Child,
    waits_for: &mut String,
) -> Result<(), UpgradeError> {
    loop {
        match wire::receive(reader).await {
            Ok(Some(message)) if message.get("ready").is_some() => return Ok(()),
            Ok(Some(message)) => {
                let waiting = message.get("waiting").and_then(Value::as_str);
                *waits_for = waiting.unwrap_or_default().to_owned();
            }
            // The stream has ended, so the process has, or is about to.
            Ok(None) | Err(_) => return Err(ended(child.wait().await?)),
        }
    }
}

/// Exit code of respgate for a wrong configuration.
const WRONG_CONFIGURATION: i32 = 64;

fn ended(status: ExitStatus) -> UpgradeError {
    let hint = match status.code() {
        Some(WRONG_CONFIGURATION) => {
            ": the configuration is wrong for it; respgate check --config FILE shows the errors"
        }
        _ => "; see its log",
    };
    UpgradeError::Ended { status, hint }
}

impl Successor {
    /// Tells the new process how many clients this one still serves, for as long as both run. If the new process dies, this
    /// one accepts clients again.
    pub async fn accompany(self, counts: Vec<ClientCounts>, switch: Switch) {
        let Self { mut child, mut reader, mut writer, sockets, notifier, .. } = self;
        let listen = async {
            while let Ok(Some(message)) = wire::receive(&mut reader).await {
                if message.get("closed").is_some() {
                    switch.release();
                }
            }
            std::future::pending().await
        };
        let tell = async {
            let mut told = Value::Null;
            loop {
                tokio::time::sleep(TELL_INTERVAL).await;
                if let Ok(Some(status)) = child.child.try_wait() {
                    return status;
                }
                let message = message(&counts);
                if message != told && wire::send(&mut writer, &message).await.is_ok() {
                    told = message;
                }
            }
        };
        let status = tokio::select! {
            status = tell => status,
            status = listen => status,
        };
        if status.success() || switch.is_released() {
            switch.release();
            tracing::info!(%status, "the new process has ended");
        } else if switch.take_back() {
            sockets.all().iter().for_each(|(_, socket)| socket.take_file_back());
            notifier.speak_again();
            tracing::error!(%status, "the new process has ended during the upgrade: this process accepts the clients again");
        } else {
            tracing::error!(%status, "the new process has ended during the upgrade: no process accepts clients; start respgate again");
        }
    }
}

fn message(counts: &[ClientCounts]) -> Value {
    let listeners: Map<String, Value> =
        counts.iter().map(|count| (count.listener.clone(), count.all().into())).collect();
    let clients: usize = counts.iter().map(ClientCounts::all).sum();
    json!({ "clients": clients, "listeners": listeners })
}
