//! A primary with two replicas, three Sentinels, and respgate in front of them, each on a free loopback port.

use std::io;

use crate::connection::{ask, page};
use crate::processes::{Doors, Processes, free_ports, wait_for};

/// Everything that runs.
pub struct Deployment {
    processes: Processes,
    primary: u16,
    replicas: [u16; 2],
    sentinels: [u16; 3],
    respgate: Doors,
}

impl Deployment {
    /// A place for everything; nothing runs yet.
    pub fn new() -> io::Result<Self> {
        let [primary, one, two, first, second, third, clients, admin] = free_ports()?;
        Ok(Self {
            processes: Processes::new()?,
            primary,
            replicas: [one, two],
            sentinels: [first, second, third],
            respgate: Doors { clients, admin },
        })
    }

    /// Starts all of it and waits until a failover is possible and respgate has found and verified the primary.
    pub async fn start(&mut self) -> io::Result<()> {
        let Self { processes, primary, replicas, sentinels, respgate } = self;
        let (primary, respgate) = (*primary, *respgate);
        processes.start_server(primary, &[])?;
        for port in replicas.iter() {
            processes.start_server(*port, &["--replicaof", "127.0.0.1", &primary.to_string()])?;
        }
        // Sentinels that start later see both replicas at once, instead of ten seconds on.
        let count = replicas.len();
        wait_for("the replicas to be in sync", || async move {
            let info = ask(primary, "INFO replication").await.unwrap_or_default().concat();
            info.matches("state=online").count() == count
        })
        .await?;
        for port in sentinels.iter() {
            processes.start_sentinel(*port, primary)?;
        }
        for port in *sentinels {
            wait_for("the Sentinels to know each other and the replicas", || async move {
                let known = ask(port, "SENTINEL MASTER mymaster").await.unwrap_or_default();
                field(&known, "num-other-sentinels") == Some("2") && field(&known, "num-slaves") == Some("2")
            })
            .await?;
        }
        let [one, two, three] = *sentinels;
        let upstream =
            format!("redis-sentinel://127.0.0.1:{one},127.0.0.1:{two},127.0.0.1:{three}/0#mymaster");
        let ready = wait_for("respgate to find the primary", || async move {
            let body = page(respgate.admin, "/readyz").await;
            body.is_ok_and(|body| body.contains(&format!("primary 127.0.0.1:{primary}")))
        });
        processes.start_respgate(respgate, &upstream, ready).await
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.respgate.clients
    }

    pub fn admin(&self) -> u16 {
        self.respgate.admin
    }

    pub fn sentinels(&self) -> [u16; 3] {
        self.sentinels
    }

    /// The primary at the start.
    pub fn primary(&self) -> u16 {
        self.primary
    }

    /// What runs where.
    pub fn introduction(&self) -> String {
        let Self { processes, primary, replicas, sentinels, respgate } = self;
        let family = processes.family();
        let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        format!(
            "\n  {family} primary   {primary}\n  {family} replicas  {}\n  Sentinels        {}\n  respgate         {}\n  \
             files            {}\n",
            list(replicas),
            list(sentinels),
            respgate.clients,
            processes.folder(),
        )
    }

    /// What to do with it.
    pub fn invitation(&self) -> String {
        let Self { processes, sentinels, respgate: Doors { clients, admin }, .. } = self;
        let family = processes.family();
        format!(
            "Your turn, until Ctrl-C:\n\n  talk to it    {family}-cli -p {clients}\n  fail it over  {family}-cli -p {} \
             SENTINEL FAILOVER mymaster\n  look inside   http://127.0.0.1:{admin}/ in a browser: the status page (also /metrics, /failovers)\n",
            sentinels[0],
        )
    }

    /// Kills a server without a warning.
    pub async fn crash(&mut self, port: u16) -> io::Result<()> {
        self.processes.crash(port).await
    }

    /// Starts a server that has been killed, as a replica.
    pub fn restart(&mut self, port: u16, primary: u16) -> io::Result<()> {
        self.processes.start_server(port, &["--replicaof", "127.0.0.1", &primary.to_string()])
    }

    /// The last lines that respgate logged.
    pub fn log_tail(&self) -> String {
        self.processes.log_tail()
    }

    /// Lets respgate drain, ends the servers and removes the folder.
    pub async fn stop(self) -> io::Result<()> {
        self.processes.stop().await
    }
}

/// A field of a reply that is a list of names and values.
fn field<'a>(texts: &'a [String], name: &str) -> Option<&'a str> {
    texts.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str())
}
