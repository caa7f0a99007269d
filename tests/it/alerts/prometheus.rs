//! A running Prometheus with the rules of `deploy/prometheus`, made quicker.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use crate::documents::promtool;
use crate::support::port::free_port;
use crate::support::servers::spawn;
use crate::support::wait;

/// How long a group of alerts may take to fire.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running Prometheus; killed on drop.
pub struct Prometheus {
    process: Child,
    port: u16,
    started: Instant,
    _folder: TempDir,
    watch: Option<JoinHandle<()>>,
    fired: Arc<Mutex<BTreeMap<String, Value>>>,
    stop: Arc<AtomicBool>,
}

impl Prometheus {
    /// Starts one that scrapes these ports of the loopback address every second.
    pub fn start(targets: &[u16]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let rules = crate::documents::markdown::root().join("deploy/prometheus/alerts.yml");
        let rules = quicker(&std::fs::read_to_string(rules).expect("the rules"));
        std::fs::write(folder.path().join("alerts.yml"), rules).expect("the rules");
        let targets: Vec<_> = targets.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let configuration = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms }}\n\
             rule_files: [alerts.yml]\n\
             scrape_configs:\n  - job_name: respgate\n    static_configs: [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        std::fs::write(folder.path().join("prometheus.yml"), configuration).expect("the configuration");
        let (port, started) = (free_port(), Instant::now());
        let mut command = Command::new("prometheus");
        command
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = spawn(&mut command, promtool::REMEDY);
        wait::until("Prometheus to be ready", || get(port, "/-/ready").is_some());
        // Only a counter that has been scraped before can be seen to rise.
        let scraped = format!("/api/v1/query?query=count(respgate_build_info)=={}", targets.len());
        wait::until("Prometheus to scrape all of them", || {
            get(port, &scraped).is_some_and(|answer| !answer["data"]["result"][0].is_null())
        });
        let (fired, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let watch = thread::spawn({
            let (fired, stop) = (Arc::clone(&fired), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    note_firing(port, &fired);
                    thread::sleep(Duration::from_millis(100));
                }
            }
        });
        Self { process, port, started, _folder: folder, watch: Some(watch), fired, stop }
    }

    /// Waits until all these alerts have fired, and says which have not.
    #[track_caller]
    pub fn until_fired(&self, names: &[&str]) {
        let begun = Instant::now();
        loop {
            let fired = self.fired();
            let missing: Vec<_> = names.iter().filter(|name| !fired.contains_key(**name)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not fired: {missing:?}; fired: {:?}", fired.keys());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Forgets that this alert has fired, for one that something else than the next step may cause.
    pub fn forget(&self, name: &str) {
        self.fired.lock().expect("the alerts").remove(name);
    }

    /// Returns every alert that has fired, with its annotations.
    pub fn fired(&self) -> BTreeMap<String, Value> {
        self.fired.lock().expect("the alerts").clone()
    }

    /// Returns true if the expression has had a value since the start.
    pub fn has_had(&self, expression: &str) -> bool {
        let query = format!("last_over_time(({expression})[{}s:1s])", self.started.elapsed().as_secs() + 1);
        let path = format!("/api/v1/query?query={}", utf8_percent_encode(&query, NON_ALPHANUMERIC));
        let answer = get(self.port, &path).unwrap_or_else(|| panic!("no answer: {query}"));
        answer["data"]["result"].as_array().is_some_and(|samples| !samples.is_empty())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Shortens every wait of the rules, so that a test need not last for minutes: each `for`, each range, the length of a
/// failover that is too long, and the lag of a replica.
fn quicker(rules: &str) -> String {
    let mut text = String::new();
    for line in rules.lines() {
        let line = if line.trim_start().starts_with("for: ") { "        for: 1s" } else { line };
        let line = ["[2m]", "[5m]", "[10m]", "[15m]"]
            .iter()
            .fold(line.to_owned(), |line, range| line.replace(range, "[10s]"));
        let line = line.replace("offset 5m", "offset 10s").replace("lag_seconds > 10", "lag_seconds > 1");
        text.push_str(
            &line.replace("(respgate_last_failover_seconds) > 15", "(respgate_last_failover_seconds) > 0.5"),
        );
        text.push('\n');
    }
    text
}

fn note_firing(port: u16, fired: &Mutex<BTreeMap<String, Value>>) {
    let Some(answer) = get(port, "/api/v1/alerts") else { return };
    let alerts = answer["data"]["alerts"].as_array().into_iter().flatten();
    for alert in alerts.filter(|alert| alert["state"] == "firing") {
        let name = alert["labels"]["alertname"].as_str().expect("a name").to_owned();
        fired.lock().expect("the alerts").entry(name).or_insert_with(|| alert["annotations"].clone());
    }
}

/// Returns the JSON that Prometheus answers, or `null` if it answers something else with status 200.
fn get(port: u16, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    // HTTP/1.0 has no chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let good = head.split(' ').nth(1) == Some("200");
    good.then(|| serde_json::from_str(body).unwrap_or_default())
}
