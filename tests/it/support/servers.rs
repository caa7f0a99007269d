//! Real servers in temporary folders.

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::client::Client;
use super::place::Place;
use super::port::free_port;
use super::{signal, wait};

/// Which server's binaries are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    Valkey,
    Redis,
}

impl Flavor {
    /// Both, for tests that run on each.
    pub const ALL: [Flavor; 2] = [Flavor::Valkey, Flavor::Redis];

    /// `valkey` or `redis`.
    pub fn name(self) -> &'static str {
        match self {
            Flavor::Valkey => "valkey",
            Flavor::Redis => "redis",
        }
    }

    /// Returns the path or name of `valkey-server`, `redis-cli` and so on. `RESPGATE_TEST_VALKEY` and `RESPGATE_TEST_REDIS`
    /// name folders that hold another version of them (see `make test-newer`).
    pub fn binary(self, part: &str) -> String {
        let name = format!("{}-{part}", self.name());
        match std::env::var(format!("RESPGATE_TEST_{}", self.name().to_ascii_uppercase())) {
            Ok(folder) if !folder.is_empty() => format!("{folder}/{name}"),
            _ => name,
        }
    }

    /// How to get the binaries.
    fn remedy(self) -> &'static str {
        match self {
            Flavor::Valkey => {
                "run `tests/install` as root, or: apt-get install -t bookworm-backports valkey-server valkey-sentinel valkey-tools"
            }
            Flavor::Redis => {
                "run `tests/install` as root, or: apt-get install redis-server redis-sentinel redis-tools"
            }
        }
    }
}

/// Spawns a program; a missing one ends the test with the command that installs it.
pub fn spawn(command: &mut Command, remedy: &str) -> Child {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().unwrap_or_else(|error| match error.kind() {
        ErrorKind::NotFound => panic!("{program} is not installed: {remedy}"),
        _ => panic!("cannot start {program}: {error}"),
    })
}

/// A running server or Sentinel; killed on drop.
pub struct Server {
    pub flavor: Flavor,
    pub place: Place,
    /// Where it speaks plain text.
    pub port: u16,
    /// Where it speaks TLS, if it does.
    pub tls_port: Option<u16>,
    pub password: Option<String>,
    process: Child,
    folder: TempDir,
}

/// Names the variable that lists further servers to compare the command table with: paths of `valkey-server` or
/// `redis-server` binaries with `:` between them.
const FURTHER: &str = "RESPGATE_TEST_SERVERS";

impl Server {
    /// Starts one server of each flavor that is installed, and of each binary that `RESPGATE_TEST_SERVERS` lists.
    pub fn start_all_versions() -> Vec<Self> {
        let further = std::env::var(FURTHER).unwrap_or_default();
        let further = further.split(':').filter(|path| !path.is_empty()).map(Self::start_binary);
        Flavor::ALL.into_iter().map(Self::start).chain(further).collect()
    }

    fn start_binary(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        let flavor = if name.contains("redis") { Flavor::Redis } else { Flavor::Valkey };
        for _ in 0..5 {
            let port = free_port();
            let folder = TempDir::new().expect("a temporary folder");
            let command = data_server_of(path, Place::LOOPBACK, port, &folder, &[]);
            if let Some(server) = Self::launch(flavor, Place::LOOPBACK, port, None, folder, command) {
                return server;
            }
        }
        panic!("{path} of {FURTHER} did not stay up in five attempts");
    }

    /// Which server it is, and its version: `redis 8.0.6`.
    pub fn version(&self) -> String {
        let text = self.run_text(&["INFO", "server"]);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let version = field("valkey_version:").or(field("redis_version:")).unwrap_or("of an unknown version");
        format!("{} {version}", self.flavor.name())
    }

    /// A server without persistence or password.
    pub fn start(flavor: Flavor) -> Self {
        Self::start_with(flavor, &[])
    }

    /// A server with more options, given as on its command line: `["--maxclients", "10"]`.
    pub fn start_with(flavor: Flavor, options: &[&str]) -> Self {
        Self::start_at(Place::LOOPBACK, flavor, options)
    }

    /// The same, somewhere.
    pub fn start_at(place: Place, flavor: Flavor, options: &[&str]) -> Self {
        let password =
            options.windows(2).find(|pair| pair[0] == "--requirepass").map(|pair| pair[1].to_owned());
        // Another process may take the port between its choice and the server's bind: then the server exits.
        for _ in 0..5 {
            let port = free_port();
            let folder = TempDir::new().expect("a temporary folder");
            let command = data_server(flavor, place, port, &folder, options);
            let server = Self::launch(flavor, place, port, password.clone(), folder, command);
            if let Some(server) = server {
                return server;
            }
        }
        panic!("{} did not stay up in five attempts", flavor.binary("server"));
    }

    /// A server that speaks TLS too, with `NAME.crt` and `NAME.key`. It trusts `both-ca.pem` and asks clients for no
    /// certificate, unless the options say otherwise.
    pub fn start_tls(flavor: Flavor, certificates: &Certificates, name: &str, options: &[&str]) -> Self {
        let port = free_port();
        let tls = tls_options(certificates, name, port);
        let tls = tls.iter().flat_map(|(key, value)| [format!("--{key}"), value.clone()]).collect::<Vec<_>>();
        let all: Vec<&str> = tls.iter().map(String::as_str).chain(options.iter().copied()).collect();
        let mut server = Self::start_with(flavor, &all);
        server.tls_port = Some(port);
        server
    }

    /// The port that is dialled by whoever follows the deployment: the one with TLS, if there is one.
    pub fn announced(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
    }

    /// A Sentinel with this configuration; `place` and `port` are those that the text names.
    pub fn start_sentinel(place: Place, flavor: Flavor, port: u16, configuration: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::write(folder.path().join(SENTINEL_FILE), configuration).expect("sentinel.conf");
        let command = sentinel(flavor, place, &folder);
        Self::launch(flavor, place, port, None, folder, command)
            .unwrap_or_else(|| panic!("{} did not stay up", flavor.binary("sentinel")))
    }

    /// Starts the process and waits until it answers; `None` if it exited.
    fn launch(
        flavor: Flavor,
        place: Place,
        port: u16,
        password: Option<String>,
        folder: TempDir,
        mut command: Command,
    ) -> Option<Self> {
        let log = File::create(folder.path().join("log")).expect("a log file");
        command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let process = spawn(&mut command, flavor.remedy());
        let mut server = Self { flavor, place, port, tls_port: None, password, process, folder };
        let up = wait::until_some("a server to answer PING", wait::PATIENCE, || {
            if server.process.try_wait().expect("the server's state").is_some() {
                return Some(false);
            }
            server.answers().then_some(true)
        });
        up.then_some(server)
    }

    fn answers(&self) -> bool {
        let Ok(mut client) = Client::try_connect(self.address()) else { return false };
        client.deadline(Duration::from_secs(1));
        client.send("PING\r\n");
        client.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n" || reply.starts_with(b"-NOAUTH"))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.place.address(self.port)
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// What it wrote to standard output and error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A raw client of this server; authenticated if it has a password.
    pub fn client(&self) -> Client {
        let mut client = Client::connect_to(self.address());
        if let Some(password) = &self.password {
            client.expect(&["AUTH", password], "+OK\r\n");
        }
        client
    }

    /// Runs one command on a connection of its own and gives the raw reply.
    pub fn run(&self, arguments: &[&str]) -> Vec<u8> {
        self.client().call(arguments)
    }

    /// As [`Server::run`], as text.
    pub fn run_text(&self, arguments: &[&str]) -> String {
        String::from_utf8_lossy(&self.run(arguments)).into_owned()
    }

    /// One number of INFO.
    pub fn info(&self, section: &str, field: &str) -> u64 {
        let text = self.run_text(&["INFO", section]);
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("INFO {section} has no number {field}: {text}"))
    }

    /// Sends a signal: STOP and CONT freeze and thaw it.
    pub fn signal(&self, name: &str) {
        signal::send(name, self.process.id());
    }

    /// Ends a data server as a crash would, and starts it again: same port, same folder, these options.
    pub fn restart(&mut self, options: &[&str]) {
        let command = data_server(self.flavor, self.place, self.port, &self.folder, options);
        self.replace(command);
    }

    /// The same for a Sentinel, with what it has written to its configuration.
    #[allow(dead_code, reason = "for the chaos run")]
    pub fn restart_sentinel(&mut self) {
        let command = sentinel(self.flavor, self.place, &self.folder);
        self.replace(command);
    }

    fn replace(&mut self, mut command: Command) {
        self.crash();
        let log = File::options().append(true).open(self.folder.path().join("log")).expect("its log file");
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(log);
        self.process = spawn(&mut command, self.flavor.remedy());
        wait::until("a restarted server to answer PING", || self.answers());
    }

    /// Ends it at once, as a crash would.
    pub fn crash(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Options of a server or Sentinel that speaks TLS at `port`.
pub fn tls_options(certificates: &Certificates, name: &str, port: u16) -> [(&'static str, String); 5] {
    [
        ("tls-port", port.to_string()),
        ("tls-cert-file", certificates.path(&format!("{name}.crt"))),
        ("tls-key-file", certificates.path(&format!("{name}.key"))),
        ("tls-ca-cert-file", certificates.path("both-ca.pem")),
        ("tls-auth-clients", "no".to_owned()),
    ]
}

const SENTINEL_FILE: &str = "sentinel.conf";

fn sentinel(flavor: Flavor, place: Place, folder: &TempDir) -> Command {
    let mut command = place.command(&flavor.binary("sentinel"));
    command.arg(folder.path().join(SENTINEL_FILE));
    command
}

fn data_server(flavor: Flavor, place: Place, port: u16, folder: &TempDir, options: &[&str]) -> Command {
    data_server_of(&flavor.binary("server"), place, port, folder, options)
}

fn data_server_of(binary: &str, place: Place, port: u16, folder: &TempDir, options: &[&str]) -> Command {
    let mut command = place.command(binary);
    command
        .args(["--port", &port.to_string(), "--bind", &place.host.to_string(), "--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no"])
        .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
        .arg("--unixsocket")
        .arg(folder.path().join("socket"))
        .args(options);
    command
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("--- last lines of {} on port {} (newest first)", self.flavor.name(), self.port);
            tail.iter().for_each(|line| eprintln!("    {line}"));
        }
    }
}
