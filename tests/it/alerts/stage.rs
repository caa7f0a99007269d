//! A deployment in which every condition of an alert can be caused.

use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::support::certificates::{By, Certificates};
use crate::support::client::Client;
use crate::support::deployment::{Deployment, Plan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// The hash of `secret`, with little work.
const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ";

/// How long the certificate of a listener of [`Stage::users`] is valid.
const NEARLY_EXPIRED: Duration = Duration::from_secs(10);

/// Ports of the listeners of [`Stage::gate`].
pub struct Ports {
    /// Of five clients at most.
    pub small: u16,
    /// With TLS.
    pub secure: u16,
    /// Of the upstream `spare`.
    pub spare: u16,
    /// Of the upstream `locked`.
    pub locked: u16,
    /// Of a tenant that may run one command a second, and whose other commands are refused.
    pub rejected: u16,
    /// Of a tenant that may run 50 commands a second, and whose other commands wait.
    pub slowed: u16,
}

/// The deployment.
pub struct Stage {
    /// Sentinels, a primary and a replica: the upstream `main`.
    pub deployment: Deployment,
    /// A server of its own: the upstream `spare`.
    pub spare: Server,
    /// The replica of `spare`.
    pub spare_replica: Server,
    /// A server that demands a password: the upstream `locked`.
    pub locked: Server,
    /// respgate.
    pub gate: Proxy,
    pub ports: Ports,
    /// A respgate with users of its own, and a certificate that expires. The server does not know the user that one of
    /// them acts as.
    pub users: Proxy,
    folder: TempDir,
    configuration: String,
    pub certificates: Certificates,
}

impl Stage {
    pub fn set() -> Self {
        let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(Flavor::Valkey) });
        let spare = Server::start(Flavor::Valkey);
        let spare_replica =
            Server::start_with(Flavor::Valkey, &["--replicaof", "127.0.0.1", &spare.port.to_string()]);
        wait::until("the replica's link to its primary", || {
            spare_replica.run_text(&["INFO", "replication"]).contains("master_link_status:up")
        });
        let locked = Server::start_with(Flavor::Valkey, &["--requirepass", "old"]);
        let certificates = Certificates::new();
        let expires_after = |name: &str, time: Duration| {
            certificates.server_with(name, By::Root, &["localhost"], |params| {
                params.not_after = (SystemTime::now() + time).into();
            });
        };
        expires_after("soon", Duration::from_secs(3 * 24 * 3600));
        let ports = Ports {
            small: free_port(),
            secure: free_port(),
            spare: free_port(),
            locked: free_port(),
            rejected: free_port(),
            slowed: free_port(),
        };
        let folder = TempDir::new().expect("a folder");
        let listener = |name: &str, port: u16, keys: &str| {
            format!("[listeners.{name}]\naddress = \"127.0.0.1:{port}\"\n{keys}\n")
        };
        let configuration = [
            "latency = \"on\"\nreload-interval = \"100ms\"\n[limits]\nmax-buffered = \"38MiB\"\n".to_owned(),
            listener("small", ports.small, "upstream = \"main\"\nmax-clients = 5"),
            listener("secure", ports.secure, &format!("upstream = \"main\"\n{}", certificates.pair("soon"))),
            listener(
                "spare",
                ports.spare,
                "upstream = \"spare\"\ncommand-timeout = \"1s\"\nreads = \"prefer-replica\"",
            ),
            listener("locked", ports.locked, "upstream = \"locked\""),
            listener("rejected", ports.rejected, "upstream = \"main\"\ntenant = \"rejected\""),
            listener("slowed", ports.slowed, "upstream = \"main\"\ntenant = \"slowed\""),
            "[tenants.rejected]\ncommands-per-second = 1\nover-limit = \"reject\"\nshared-by = 2\n\
             shared-upstream = \"spare\"\n"
                .to_owned(),
            "[tenants.slowed]\ncommands-per-second = 50\nin-flight = 100\nmax-buffered = \"1MiB\"\nread-only = true\n"
                .to_owned(),
            format!(
                "[upstreams.main]\nurl = \"{}\"\nmax-connections = 8\nmax-leased = 2\nlease-timeout = \"500ms\"\n",
                deployment.url()
            ),
            format!(
                "[upstreams.spare]\naddress = \"{}\"\nreplicas = [\"{}\"]\nmax-lag = \"300ms\"\nhold-timeout = \"4s\"\n",
                spare.address(),
                spare_replica.address()
            ),
            format!("[upstreams.locked]\nurl = \"redis://:old@{}\"\n", locked.address()),
        ]
        .concat();
        let path = folder.path().join("respgate.toml");
        std::fs::write(&path, &configuration).expect("the configuration");
        deployment.wait_until_redundant();
        let mut gate = Proxy::launch(free_port(), 1, &["--config", &path.to_string_lossy()]);
        // What this test causes makes respgate warn of nearly everything.
        gate.allow_log("");
        gate.wait_until_ready();
        let password = folder.path().join("password");
        std::fs::write(&password, "wrong\n").expect("a password");
        expires_after("expiring", NEARLY_EXPIRED);
        let mut users = Proxy::start_file(
            1,
            &format!(
                "[listeners.expiring]\naddress = \"127.0.0.1:{}\"\n{}[upstreams.main]\naddress = \"{}\"\nclient-auth = \"required\"\n[users.app]\npassword-hash = \"{HASH}\"\n\
                 upstream-username = \"ghost\"\nupstream-password-file = {password:?}\n\
                 [users.plain]\npassword-hash = \"{HASH}\"\n",
                free_port(),
                certificates.pair("expiring"),
                spare.address()
            ),
        );
        users.allow_log("");
        Self {
            deployment,
            spare,
            spare_replica,
            locked,
            gate,
            ports,
            users,
            folder,
            configuration,
            certificates,
        }
    }

    /// Appends to the configuration file of [`Stage::gate`].
    pub fn append(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{}{text}", self.configuration)).expect("the configuration");
        std::fs::rename(new, self.folder.path().join("respgate.toml")).expect("a rename");
    }

    /// Puts a line before the configuration file's first table.
    pub fn prepend(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{text}{}", self.configuration)).expect("the configuration");
        std::fs::rename(new, self.folder.path().join("respgate.toml")).expect("a rename");
    }

    /// A client of the upstream `main`, in a database.
    pub fn client_in(&self, database: u8) -> Client {
        let mut client = Client::connect(self.gate.port);
        client.expect(&["SELECT", &database.to_string()], "+OK\r\n");
        client
    }
}
