//! The real `respgate` as a process, with its log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::NamedTempFile;

use super::client::Client;
use super::place::Place;
use super::port::free_port;
use super::servers::spawn;
use super::{signal, wait};

/// A running respgate. Dropping it sends SIGTERM and fails the test if it does not end well, or if its log holds a
/// warning or an error that the test did not announce with [`Proxy::allow_log`].
pub struct Proxy {
    place: Place,
    pub port: u16,
    pub admin: u16,
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    log_reader: Option<JoinHandle<()>>,
    allowed: Vec<String>,
    /// The configuration file, which respgate follows.
    file: Option<NamedTempFile>,
}

impl Proxy {
    /// One worker in front of `upstream`, ready to serve.
    pub fn start(upstream: &str) -> Self {
        Self::start_with(upstream, 1, &[])
    }

    /// As [`Proxy::start`], with a number of workers and more flags.
    pub fn start_with(upstream: &str, workers: usize, flags: &[&str]) -> Self {
        let mut all = vec!["--upstream", upstream];
        all.extend(flags);
        let proxy = Self::launch(free_port(), workers, &all);
        proxy.wait_until_ready();
        proxy
    }

    /// With a configuration file for what has no flag; it names no listener and no admin address.
    pub fn start_file(workers: usize, toml: &str) -> Self {
        Self::start_file_at(Place::LOOPBACK, workers, toml)
    }

    /// The same, somewhere.
    pub fn start_file_at(place: Place, workers: usize, toml: &str) -> Self {
        let proxy = Self::launch_file_at(&[], place, workers, toml);
        proxy.wait_until_ready();
        proxy
    }

    /// As [`Proxy::start_file`], without waiting for a primary, and by way of `wrapper` (see [`Proxy::launch_under`]).
    pub fn launch_file(wrapper: &[&str], workers: usize, toml: &str) -> Self {
        Self::launch_file_at(wrapper, Place::LOOPBACK, workers, toml)
    }

    fn launch_file_at(wrapper: &[&str], place: Place, workers: usize, toml: &str) -> Self {
        let file = NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), toml).expect("the configuration");
        let flags = ["--config", &*file.path().to_string_lossy()];
        let mut proxy = Self::launch_at(wrapper, place, free_port(), workers, &flags);
        proxy.file = Some(file);
        proxy
    }

    /// Replaces the configuration file of [`Proxy::start_file`], and has respgate read it at once.
    #[allow(dead_code, reason = "not every binary of tests reloads")]
    pub fn rewrite(&self, toml: &str) {
        let file = self.file.as_ref().expect("a configuration file");
        std::fs::write(file.path(), toml).expect("the configuration");
        self.signal("HUP");
    }

    /// Starts it without waiting for a primary: its admin side answers, readiness may never come.
    pub fn launch(port: u16, workers: usize, flags: &[&str]) -> Self {
        Self::launch_at(&[], Place::LOOPBACK, port, workers, flags)
    }

    /// As [`Proxy::launch`], by a program that becomes respgate: `wrapper`, to which respgate's own command line is added.
    pub fn launch_under(wrapper: &[&str], port: u16, workers: usize, flags: &[&str]) -> Self {
        Self::launch_at(wrapper, Place::LOOPBACK, port, workers, flags)
    }

    fn launch_at(wrapper: &[&str], place: Place, port: u16, workers: usize, flags: &[&str]) -> Self {
        let admin = free_port();
        let binary = binary();
        let mut words = wrapper.iter().copied().chain([&*binary]);
        let mut command = place.command(words.next().expect("a program"));
        command.args(words);
        command
            .args(["--listen", &place.address(port).to_string()])
            .args(["--admin", &place.address(admin).to_string()])
            .args(["--workers", &workers.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = spawn(&mut command, "run `cargo build`");
        let log = Arc::new(Mutex::new(Vec::new()));
        let log_reader = process.stderr.take().map(|stderr| collect(stderr, Arc::clone(&log)));
        // How many files may be open is the machine's affair.
        let allowed = vec!["the limit of open files is too low".to_owned()];
        let mut proxy = Self { place, port, admin, process, log, log_reader, allowed, file: None };
        wait::until("respgate's admin address to answer", || {
            if let Some(status) = proxy.process.try_wait().expect("respgate's state") {
                panic!("respgate ended at once, {status}; its log:\n{}", proxy.log());
            }
            proxy.http("/livez").starts_with("HTTP/1.1 200")
        });
        proxy
    }

    /// Waits for 200 of `/readyz`: a verified primary.
    pub fn wait_until_ready(&self) {
        let what = "respgate to be ready";
        let ready = || self.http("/readyz").starts_with("HTTP/1.1 200").then_some(());
        wait::until_some(what, wait::PATIENCE, ready);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.place.address(self.port)
    }

    /// A raw client.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect_to(self.address())
    }

    /// The whole answer of the admin listener to a GET; empty if it does not answer.
    pub fn http(&self, path: &str) -> String {
        self.http_with(path, "")
    }

    /// As [`Proxy::http`], with more header lines, each with its CRLF.
    pub fn http_with(&self, path: &str, headers: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        let answer = TcpStream::connect(self.place.address(self.admin)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(request.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        answer.unwrap_or_default()
    }

    /// The sum of a metric's samples whose line contains every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.http("/metrics");
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A warning or error whose line contains `text` is part of this test.
    pub fn allow_log(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").join("\n")
    }

    /// The id of the process that was started.
    #[allow(dead_code, reason = "for the upgrade")]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The path of its configuration file.
    #[allow(dead_code, reason = "for the upgrade")]
    pub fn configuration(&self) -> PathBuf {
        self.file.as_ref().expect("a configuration file").path().to_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal::send(name, self.process.id());
    }

    /// The exit status, once the process ends by itself.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let process = &mut self.process;
        wait::until_some("respgate to end", wait::PATIENCE, || process.try_wait().expect("its state"))
    }

    /// The exit status if the process has ended.
    #[allow(dead_code, reason = "for the hostile run")]
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("respgate's state")
    }

    /// How long its threads, all together, have been ready to run while others had the processors.
    #[allow(dead_code, reason = "for the hostile run")]
    pub fn waited_for_processor(&self) -> Duration {
        self.scheduled(1)
    }

    /// How long its threads, all together, have run.
    #[allow(dead_code, reason = "for the hostile run")]
    pub fn processor_time(&self) -> Duration {
        self.scheduled(0)
    }

    /// The sum of a field of all threads' schedstat.
    fn scheduled(&self, field: usize) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).into_iter().flatten();
        let waited = threads.filter_map(|thread| {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').nth(field)?.parse().ok().map(Duration::from_nanos)
        });
        waited.sum()
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/statm", self.process.id());
        let text = std::fs::read_to_string(path).expect("the process's memory");
        let pages: usize = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
        pages * 4096
    }

    /// Resident memory without the pages of its program and libraries, in bytes.
    #[allow(dead_code, reason = "for the hostile run")]
    pub fn anonymous_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(path).expect("the process's memory");
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        kib.unwrap_or_else(|| panic!("{text}")) << 10
    }

    /// Files that it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("its descriptors").count()
    }

    fn unexpected_log_lines(&self) -> Vec<String> {
        let log = self.log.lock().expect("the log");
        let alarming = |line: &&String| {
            let structured = line.contains("\"level\":\"ERROR\"") || line.contains("\"level\":\"WARN\"");
            structured || line.contains("panicked at")
        };
        let unannounced = |line: &&String| !self.allowed.iter().any(|text| line.contains(text));
        log.iter().filter(alarming).filter(unannounced).cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.process.kill();
            let _ = self.process.wait();
            eprintln!("--- respgate's log\n{}", self.log());
            return;
        }
        let status = match self.process.try_wait().expect("respgate's state") {
            Some(status) => status,
            None => {
                self.signal("TERM");
                self.wait_for_exit()
            }
        };
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
        assert!(status.success(), "respgate ended with {status}; its log:\n{}", self.log());
        let lines = self.unexpected_log_lines();
        assert!(lines.is_empty(), "unexpected log lines:\n{}", lines.join("\n"));
    }
}

/// The binary under test; `RESPGATE_BIN` names another one, such as a release build.
pub fn binary() -> String {
    std::env::var("RESPGATE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_respgate").to_owned())
}

fn collect(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            log.lock().expect("the log").push(line);
        }
    })
}
