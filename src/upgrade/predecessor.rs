//! The new process's side of an upgrade.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::{Value, json};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::{VARIABLE, wire};
use crate::drain::{ClientCounts, Draining, FormerProcess};
use crate::net::listening::{InheritedSockets, SocketOwner};
use crate::topology::Topology;

/// Time within which the old process must pass its sockets.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at the upstreams.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The process that this one replaces.
pub struct Predecessor {
    pid: u32,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// Returns the listening sockets that systemd or the process to replace has passed, and that process. Blocks for
/// `PASS_TIMEOUT` at most, so call it before clients are served.
///
/// # Errors
/// Returns an error if the process to replace does not pass its sockets.
pub fn inherit() -> io::Result<(InheritedSockets, Option<Predecessor>)> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok((InheritedSockets::from_systemd(), None));
    }
    let failed = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!(
                "the process to replace did not pass its sockets on standard input ({VARIABLE} is set): {error}"
            ),
        )
    };
    let (sockets, predecessor) = receive().map_err(failed)?;
    Ok((sockets, Some(predecessor)))
}

fn receive() -> io::Result<(InheritedSockets, Predecessor)> {
    let stream = StdUnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    // The old process learns of this one's end by the end of the stream, so no other descriptor may hold it open.
    let null = openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    stream.set_read_timeout(Some(PASS_TIMEOUT))?;
    let (passed, last) = wire::receive_sockets(&stream, "pid")?;
    let mut sockets = InheritedSockets::default();
    for (line, socket) in passed {
        let name = line.get("socket").and_then(Value::as_str).unwrap_or_default();
        let is_of_systemd = line.get("systemd").and_then(Value::as_bool).unwrap_or_default();
        let owner = if is_of_systemd { SocketOwner::Systemd } else { SocketOwner::Respgate };
        sockets.add(name.to_owned(), owner, socket)?;
    }
    stream.set_nonblocking(true)?;
    let (reader, writer) = UnixStream::from_std(stream)?.into_split();
    let pid = last.get("pid").and_then(Value::as_u64).and_then(|pid| pid.try_into().ok());
    Ok((sockets, Predecessor { pid: pid.unwrap_or_default(), reader: BufReader::new(reader), writer }))
}

impl Predecessor {
    /// Waits until every upstream has a verified primary, says so, and waits until the old process accepts no more
    /// clients. If the old process ends meanwhile, this one takes over at once: nobody else has the sockets. The old process
    /// learns from `draining` when this one accepts no more clients.
    pub async fn take_over(
        mut self,
        upstreams: &[(String, watch::Receiver<Topology>)],
        counts: Vec<ClientCounts>,
        draining: Draining,
    ) -> watch::Receiver<Option<FormerProcess>> {
        let (former, seen) = watch::channel(None);
        match self.negotiate(upstreams).await {
            Ok(Some(message)) => {
                adopt(self.pid, &message, &counts, &former);
                tracing::info!(
                    former_pid = self.pid,
                    "this process accepts the clients from now on, and the former one drains"
                );
                tokio::spawn(self.follow(counts, former, draining));
            }
            Ok(None) => tracing::warn!(
                former_pid = self.pid,
                "the process to replace has ended before the upgrade was complete: this process accepts the clients from now on"
            ),
            Err(error) => tracing::warn!(
                former_pid = self.pid,
                %error,
                "the process to replace cannot be understood: this process accepts the clients from now on"
            ),
        }
        seen
    }

    async fn negotiate(
        &mut self,
        upstreams: &[(String, watch::Receiver<Topology>)],
    ) -> io::Result<Option<Value>> {
        let mut said = String::new();
        while let Some(missing) = missing(upstreams) {
            if missing != said {
                // If the old process is gone, the write fails.
                if wire::send(&mut self.writer, &json!({ "waiting": missing })).await.is_err() {
                    return Ok(None);
                }
                said = missing;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        if wire::send(&mut self.writer, &json!({ "ready": true })).await.is_err() {
            return Ok(None);
        }
        wire::receive(&mut self.reader).await
    }

    /// Follows the number of clients that the old process still serves, until it ends. Tells it when it has nobody to replace.
    async fn follow(
        mut self,
        counts: Vec<ClientCounts>,
        former: watch::Sender<Option<FormerProcess>>,
        mut draining: Draining,
    ) {
        let follow = async {
            while let Ok(Some(message)) = wire::receive(&mut self.reader).await {
                adopt(self.pid, &message, &counts, &former);
            }
        };
        let tell = async {
            draining.closed().await;
            // If the old process is gone, nobody needs to know.
            let _ = wire::send(&mut self.writer, &json!({ "closed": true })).await;
            std::future::pending().await
        };
        tokio::select! {
            () = follow => {}
            () = tell => {}
        }
        for count in &counts {
            count.former.store(0, Ordering::Relaxed);
        }
        former.send_replace(None);
        tracing::info!(former_pid = self.pid, "the former process has ended: the upgrade is complete");
    }
}

/// Returns the first upstream without a verified primary, with the reason.
fn missing(upstreams: &[(String, watch::Receiver<Topology>)]) -> Option<String> {
    upstreams.iter().find_map(|(name, topology)| match &*topology.borrow() {
        Topology::Unknown(outage) => Some(format!("upstream {name}: {outage}")),
        Topology::Known(_) | Topology::Failing(..) => None,
    })
}

fn adopt(pid: u32, message: &Value, counts: &[ClientCounts], former: &watch::Sender<Option<FormerProcess>>) {
    let number = |value: Option<&Value>| {
        value.and_then(Value::as_u64).and_then(|number| number.try_into().ok()).unwrap_or(0_usize)
    };
    let listeners = message.get("listeners");
    for count in counts {
        let clients = number(listeners.and_then(|listeners| listeners.get(&count.listener)));
        count.former.store(clients, Ordering::Relaxed);
    }
    former.send_replace(Some(FormerProcess { pid, clients: number(message.get("clients")) }));
}
