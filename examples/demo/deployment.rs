//! The processes: servers, Sentinels and respgate, each on a free loopback port.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::connection::{ask, page};

/// A start that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long respgate may drain at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Everything that runs. [`Deployment::stop`] ends it in order; dropping it kills every process and removes the folder.
pub struct Deployment {
    respgate: Option<Child>,
    /// By their ports.
    servers: Vec<(u16, Child)>,
    sentinels: Vec<Child>,
    ports: Ports,
    family: &'static str,
    folder: TempDir,
}

struct Ports {
    primary: u16,
    replicas: [u16; 2],
    sentinels: [u16; 3],
    respgate: u16,
    admin: u16,
}

impl Deployment {
    /// A place for everything; nothing runs yet.
    pub fn new() -> io::Result<Self> {
        let family = family()?;
        let folder = TempDir::with_prefix("respgate-demo-")?;
        let ports = Ports::choose()?;
        Ok(Self { respgate: None, servers: Vec::new(), sentinels: Vec::new(), ports, family, folder })
    }

    /// Starts all of it and waits until a failover is possible and respgate has found and verified the primary.
    pub async fn start(&mut self) -> io::Result<()> {
        let Ports { primary, replicas, sentinels, admin, .. } = self.ports;
        self.start_server(primary, None)?;
        for port in replicas {
            self.start_server(port, Some(primary))?;
        }
        // Sentinels that start later see both replicas at once, instead of ten seconds on.
        wait_for("the replicas to be in sync", || async move {
            let info = ask(primary, "INFO replication").await.unwrap_or_default().concat();
            info.matches("state=online").count() == replicas.len()
        })
        .await?;
        for port in sentinels {
            self.sentinels.push(spawn_sentinel(&self.folder, self.family, port, primary)?);
        }
        for port in sentinels {
            wait_for("the Sentinels to know each other and the replicas", || async move {
                let known = ask(port, "SENTINEL MASTER mymaster").await.unwrap_or_default();
                field(&known, "num-other-sentinels") == Some("2") && field(&known, "num-slaves") == Some("2")
            })
            .await?;
        }
        let mut respgate = spawn_respgate(&self.folder, &self.ports)?;
        let ready = wait_for("respgate to find the primary", || async move {
            page(admin, "/readyz")
                .await
                .is_ok_and(|body| body.contains(&format!("primary 127.0.0.1:{primary}")))
        });
        let ready = tokio::select! {
            ready = ready => ready,
            ended = respgate.wait() => Err(io::Error::other(format!("respgate ended: {}", ended?))),
        };
        self.respgate = Some(respgate);
        ready.map_err(|error| io::Error::other(format!("{error}\n{}", self.log_tail())))
    }

    fn start_server(&mut self, port: u16, primary: Option<u16>) -> io::Result<()> {
        self.servers.push((port, spawn_server(&self.folder, self.family, port, primary)?));
        Ok(())
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.ports.respgate
    }

    pub fn admin(&self) -> u16 {
        self.ports.admin
    }

    pub fn sentinels(&self) -> [u16; 3] {
        self.ports.sentinels
    }

    /// The primary at the start.
    pub fn primary(&self) -> u16 {
        self.ports.primary
    }

    /// What runs where.
    pub fn introduction(&self) -> String {
        let Ports { primary, replicas, sentinels, respgate, .. } = &self.ports;
        let family = self.family;
        let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        format!(
            "\n  {family} primary   {primary}\n  {family} replicas  {}\n  Sentinels        {}\n  respgate         {respgate}\n  \
             files            {}\n",
            list(replicas),
            list(sentinels),
            self.folder.path().display(),
        )
    }

    /// What to do with it.
    pub fn invitation(&self) -> String {
        let Ports { sentinels, respgate, admin, .. } = &self.ports;
        let family = self.family;
        format!(
            "Your turn, until Ctrl-C:\n\n  talk to it    {family}-cli -p {respgate}\n  fail it over  {family}-cli -p {} \
             SENTINEL FAILOVER mymaster\n  look inside   http://127.0.0.1:{admin}/ in a browser: the status page (also /metrics, /failovers)\n",
            sentinels[0],
        )
    }

    /// Kills a server without a warning.
    pub async fn crash(&mut self, port: u16) -> io::Result<()> {
        match self.servers.iter_mut().find(|(own, _)| *own == port) {
            Some((_, server)) => server.kill().await,
            None => Err(io::Error::other(format!("no server at port {port}"))),
        }
    }

    /// Starts a server that has been killed, as a replica.
    pub fn restart(&mut self, port: u16, primary: u16) -> io::Result<()> {
        self.servers.retain(|(own, _)| *own != port);
        self.start_server(port, Some(primary))
    }

    /// The last lines that respgate logged.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(log_file(&self.folder, "respgate")).unwrap_or_default();
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
}

impl Ports {
    /// Free ones, all held until the last is known so that none comes twice.
    fn choose() -> io::Result<Self> {
        let held: Vec<TcpListener> =
            (0..8).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
        let port = |at: usize| held[at].local_addr().map(|address| address.port());
        Ok(Self {
            primary: port(0)?,
            replicas: [port(1)?, port(2)?],
            sentinels: [port(3)?, port(4)?, port(5)?],
            respgate: port(6)?,
            admin: port(7)?,
        })
    }
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

fn spawn_server(folder: &TempDir, family: &str, port: u16, primary: Option<u16>) -> io::Result<Child> {
    let own = folder.path().join(format!("server-{port}"));
    fs::create_dir_all(&own)?;
    let mut command = Command::new(format!("{family}-server"));
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--repl-diskless-sync-delay", "0"]).arg("--dir").arg(own);
    if let Some(primary) = primary {
        command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
    }
    spawn(folder, &format!("server-{port}"), command)
}

fn spawn_sentinel(folder: &TempDir, family: &str, port: u16, primary: u16) -> io::Result<Child> {
    let file = folder.path().join(format!("sentinel-{port}.conf"));
    // Two seconds of silence make a primary "down" here; the default of thirty is too slow to watch.
    let text = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds mymaster 2000\nsentinel failover-timeout mymaster 10000\n"
    );
    fs::write(&file, text)?;
    let mut command = Command::new(format!("{family}-sentinel"));
    command.arg(file);
    spawn(folder, &format!("sentinel-{port}"), command)
}

fn spawn_respgate(folder: &TempDir, ports: &Ports) -> io::Result<Child> {
    let program = std::env::var_os("RESPGATE").unwrap_or_else(|| "target/demo/respgate".into());
    let [one, two, three] = ports.sentinels;
    let mut command = Command::new(program);
    command
        .args(["--listen", &format!("127.0.0.1:{}", ports.respgate)])
        .args(["--admin", &format!("127.0.0.1:{}", ports.admin)])
        .arg("--upstream")
        .arg(format!("redis-sentinel://127.0.0.1:{one},127.0.0.1:{two},127.0.0.1:{three}/0#mymaster"));
    spawn(folder, "respgate", command)
}

/// Starts a process that logs into the folder and that Ctrl-C in the terminal does not reach: it is this program that
/// ends it, in order.
fn spawn(folder: &TempDir, name: &str, mut command: Command) -> io::Result<Child> {
    let log = File::create(log_file(folder, name))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| io::Error::other(format!("cannot start {program}: {error}")))
}

fn log_file(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(format!("{name}.log"))
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

/// A field of a reply that is a list of names and values.
fn field<'a>(texts: &'a [String], name: &str) -> Option<&'a str> {
    texts.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
}
