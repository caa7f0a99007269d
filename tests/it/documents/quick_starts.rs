//! The quick starts of the README run as they are pasted, against real servers.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::markdown::Page;
use crate::support::certificates::Certificates;
use crate::support::deployment::{Deployment, Plan};
use crate::support::port::free_port;
use crate::support::proxy::binary;
use crate::support::servers::{Flavor, Server};

/// Waits until the server answers through respgate, at most 20 s: a reader takes longer to paste the next line.
const WAIT: &str =
    "for _ in $(seq 200); do valkey-cli -p 6379 DBSIZE >/dev/null 2>&1 && break; sleep 0.1; done\n";

/// A folder with the configuration files of a quick start, in which its commands run.
struct QuickStart {
    folder: TempDir,
    section: Page,
    /// What a reader puts in, and what stands in for the example's ports.
    changes: Vec<(String, String)>,
}

impl QuickStart {
    fn new(heading: &str, changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, admin) = (free_port(), free_port());
        let mut all: Vec<_> =
            changes.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        all.extend([
            ("127.0.0.1:6379".into(), format!("127.0.0.1:{port}")),
            ("-p 6379".into(), format!("-p {port}")),
            ("127.0.0.1:9121".into(), format!("127.0.0.1:{admin}")),
            ("/tmp/respgate.sock".into(), folder.path().join("respgate.sock").to_string_lossy().into_owned()),
        ]);
        let section = Page::read("README.md").section(heading);
        let this = Self { folder, section, changes: all };
        for block in this.section.blocks().iter().filter(|block| block.language == "toml") {
            let name =
                block.text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a file's name");
            std::fs::write(this.path().join(name), this.changed(&block.text)).expect("a configuration");
        }
        for (name, target) in [("respgate", binary()), ("valkey-cli", which("valkey-cli"))] {
            std::os::unix::fs::symlink(target, this.path().join(name)).expect("a program");
        }
        this
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn changed(&self, text: &str) -> String {
        self.changes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// Runs each shell block in a shell of its own, and gives what it printed.
    fn run(&self) -> Vec<String> {
        let blocks = self.section.blocks();
        blocks
            .iter()
            .filter(|block| block.language == "sh")
            .map(|block| self.run_block(&block.text))
            .collect()
    }

    fn run_block(&self, commands: &str) -> String {
        let mut script = "set -eu\ntrap 'kill $(jobs -p); wait' EXIT\n".to_owned();
        let mut running = false;
        for line in commands.lines() {
            let command = line.split("  #").next().expect("a command").trim_end();
            script.push_str(command);
            // A server in the foreground: a reader goes on in another terminal.
            let serves = command.starts_with("respgate --");
            script.push_str(if serves && !command.ends_with('&') { " &\n" } else { "\n" });
            if serves {
                running = true;
                script.push_str(WAIT);
            }
        }
        assert!(running, "nothing runs: {commands}");
        script.push_str("valkey-cli -p 6379 SET quick start\n");
        let path = format!("{}:{}", self.path().display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new("bash")
            .args(["-c", &self.changed(&script)])
            .current_dir(self.path())
            .env("PATH", path)
            .output()
            .expect("bash");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}\n{printed}\n{errors}");
        assert!(printed.ends_with("OK\n"), "{commands}\n{printed}\n{errors}");
        printed
    }
}

/// The path of a program.
fn which(program: &str) -> String {
    let output = Command::new("bash").args(["-c", &format!("command -v {program}")]).output().expect("bash");
    assert!(output.status.success(), "{program} is not installed: run `tests/install` as root");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_sidecar_runs() {
    let deployment = Deployment::start(&Plan::new(Flavor::Valkey));
    let sentinels: Vec<_> = deployment.sentinels.iter().map(|it| it.address().to_string()).collect();
    let changes = [("s1:26379,s2:26379,s3:26379", &*sentinels.join(","))];
    let printed = QuickStart::new("## Quick start: sidecar", &changes).run();
    assert_eq!(printed.len(), 2);
    assert!(printed[1].contains("HTTP/1.1 200"), "{}", printed[1]);
}

#[test]
fn the_tls_bridge_runs() {
    let certificates = Certificates::new();
    let server =
        Server::start_tls(Flavor::Valkey, &certificates, "server", &["--requirepass", "the password"]);
    let address = format!("localhost:{}", server.announced());
    let start = QuickStart::new("## Quick start: TLS bridge", &[("db.example.net:25061", &address)]);
    std::fs::copy(certificates.path("ca.pem"), start.path().join("ca.crt")).expect("authorities");
    let printed = start.run();
    assert_eq!(printed.len(), 1);
    assert!(printed[0].contains(&format!("primary {address}")), "{}", printed[0]);
    assert!(printed[0].contains("\nworld\n"), "{}", printed[0]);
}

#[test]
fn the_limiter_runs() {
    let server = Server::start(Flavor::Valkey);
    let start =
        QuickStart::new("## Quick start: limiter", &[("db.example:6379", &server.address().to_string())]);
    let printed = start.run();
    assert_eq!(printed.len(), 1);
    assert!(printed[0].contains("ready"), "{}", printed[0]);
}
