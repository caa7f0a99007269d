//! The processes of a deployment, each with a log in one temporary folder.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A start that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long respgate may drain at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Running processes. [`Processes::stop`] ends them in order; dropping it kills every process and removes the folder.
pub struct Processes {
    respgate: Option<Child>,
    /// By their ports.
    servers: Vec<(u16, Child)>,
    sentinels: Vec<Child>,
    family: &'static str,
    folder: TempDir,
}

impl Processes {
    /// A place for everything; nothing runs yet.
    pub fn new() -> io::Result<Self> {
        let family = family()?;
        let folder = TempDir::with_prefix("respgate-demo-")?;
        Ok(Self { respgate: None, servers: Vec::new(), sentinels: Vec::new(), family, folder })
    }

    /// `valkey` or `redis`.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Where their files are.
    pub fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Starts a server without persistence, with these arguments more.
    pub fn start_server(&mut self, port: u16, more: &[&str]) -> io::Result<()> {
        let own = self.folder.path().join(format!("server-{port}"));
        fs::create_dir_all(&own)?;
        let mut command = Command::new(format!("{}-server", self.family));
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.args(["--repl-diskless-sync-delay", "0"]).arg("--dir").arg(own).args(more);
        let server = self.spawn(&format!("server-{port}"), command)?;
        self.servers.retain(|(known, _)| *known != port);
        self.servers.push((port, server));
        Ok(())
    }

    /// Starts a Sentinel for the primary at a port.
    pub fn start_sentinel(&mut self, port: u16, primary: u16) -> io::Result<()> {
        let file = self.folder.path().join(format!("sentinel-{port}.conf"));
        // Two seconds of silence make a primary "down" here; the default of thirty is too slow to watch.
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds mymaster 2000\nsentinel failover-timeout mymaster 10000\n"
        );
        fs::write(&file, text)?;
        let mut command = Command::new(format!("{}-sentinel", self.family));
        command.arg(file);
        let sentinel = self.spawn(&format!("sentinel-{port}"), command)?;
        self.sentinels.push(sentinel);
        Ok(())
    }

    /// Starts respgate, and waits until it is `ready`.
    pub async fn start_respgate(
        &mut self,
        ports: Doors,
        upstream: &str,
        ready: impl Future<Output = io::Result<()>>,
    ) -> io::Result<()> {
        let program = std::env::var_os("RESPGATE").unwrap_or_else(|| "target/demo/respgate".into());
        let mut command = Command::new(program);
        command
            .args(["--listen", &format!("127.0.0.1:{}", ports.clients)])
            .args(["--admin", &format!("127.0.0.1:{}", ports.admin)])
            .args(["--upstream", upstream]);
        let mut respgate = self.spawn("respgate", command)?;
        let ready = tokio::select! {
            ready = ready => ready,
            ended = respgate.wait() => Err(io::Error::other(format!("respgate ended: {}", ended?))),
        };
        self.respgate = Some(respgate);
        ready.map_err(|error| io::Error::other(format!("{error}\n{}", self.log_tail())))
    }

    /// Kills a server without a warning.
    pub async fn crash(&mut self, port: u16) -> io::Result<()> {
        match self.servers.iter_mut().find(|(own, _)| *own == port) {
            Some((_, server)) => server.kill().await,
            None => Err(io::Error::other(format!("no server at port {port}"))),
        }
    }

    /// The last lines that respgate logged.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_file("respgate")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Lets respgate drain, ends the servers and removes the folder.
    pub async fn stop(mut self) -> io::Result<()> {
        if let Some(respgate) = &mut self.respgate
            && let Some(pid) = respgate.id()
        {
            // The shell's own `kill`: there is no safe call for it in the standard library.
            let _ = Command::new("/bin/sh").args(["-c", &format!("kill -s TERM {pid}")]).status().await;
            if tokio::time::timeout(DRAIN, respgate.wait()).await.is_err() {
                let _ = respgate.kill().await;
            }
        }
        for process in self.sentinels.iter_mut().chain(self.servers.iter_mut().map(|(_, server)| server)) {
            let _ = process.kill().await;
        }
        self.folder.close()
    }

    /// Starts a process that logs into the folder and that Ctrl-C in the terminal does not reach: it is this program that
    /// ends it, in order.
    fn spawn(&self, name: &str, mut command: Command) -> io::Result<Child> {
        let log = File::create(self.log_file(name))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.spawn().map_err(|error| io::Error::other(format!("cannot start {program}: {error}")))
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }
}

/// respgate's ports.
#[derive(Clone, Copy)]
pub struct Doors {
    /// Where clients connect.
    pub clients: u16,
    pub admin: u16,
}

/// Free ports, all held until the last is known so that none comes twice.
pub fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    let held: Vec<TcpListener> =
        (0..COUNT).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Valkey if it is installed, else Redis.
fn family() -> io::Result<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    ["valkey", "redis"]
        .into_iter()
        .find(|family| ["server", "sentinel"].iter().all(|part| installed(&format!("{family}-{part}"))))
        .ok_or_else(|| io::Error::other("neither valkey nor redis is installed; run: tests/install servers"))
}

/// Asks until the answer is yes.
pub async fn wait_for<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) -> io::Result<()> {
    let started = Instant::now();
    while !probe().await {
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("waited {PATIENCE:?} in vain for {what}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
