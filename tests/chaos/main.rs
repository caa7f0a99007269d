//! `make chaos`: for some minutes, failovers, crashes, network cuts and clients that come and go, one after the other in
//! an order drawn from a seed; after each, a verdict from the surviving primary's own data.
//!
//! `step` says what is done and what it may cost, `clients`, `queue`, `news` and `churn` are at work meanwhile, `judge`
//! compares. Times differ from run to run, so the same seed repeats the steps and their parameters, not every
//! interleaving.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "this is a test, and talks to whoever runs it"
)]

#[allow(dead_code, reason = "shared with the drills, which use all of it")]
#[path = "../it/failover/checker.rs"]
mod checker;
mod churn;
mod clients;
mod cluster;
mod judge;
mod network;
mod news;
mod queue;
mod step;
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "shared with the drills, which use all of it")]
#[path = "../it/failover/timeline.rs"]
mod timeline;
#[path = "../it/failover/watch.rs"]
mod watch;
#[allow(dead_code, reason = "shared with the drills, which use all of it")]
#[path = "../it/failover/writers.rs"]
mod writers;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use churn::Churn;
use clients::{Clients, Common};
use cluster::Cluster;
use judge::Holdings;
use network::Network;
use news::News;
use queue::Queue;
use step::{Effect, Stage, Step};
use support::proxy::Proxy;
use support::servers::Flavor;
use support::wait;
use timeline::Timeline;

/// How long commands may wait for a primary: longer than any step leaves them without.
const HOLD_TIMEOUT: Duration = Duration::from_secs(30);

/// What respgate may keep for clients, and what its process may take in all.
const MAX_BUFFERED: usize = 64 << 20;
const MAX_RESIDENT: usize = 3 * MAX_BUFFERED;

/// What was asked for in the environment.
struct Plan {
    seed: u64,
    seconds: u64,
    flavor: Flavor,
}

impl Plan {
    fn read() -> Result<Self, String> {
        let number = |name: &str| match std::env::var(name) {
            Ok(text) if !text.is_empty() => {
                text.parse().map(Some).map_err(|_| format!("{name} is to be a number, not {text:?}"))
            }
            _ => Ok(None),
        };
        let flavor = match std::env::var("CHAOS_SERVER").as_deref() {
            Ok("redis") => Flavor::Redis,
            Ok("valkey" | "") | Err(_) => Flavor::Valkey,
            Ok(other) => return Err(format!("CHAOS_SERVER is to be valkey or redis, not {other:?}")),
        };
        let seed = number("CHAOS_SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000));
        Ok(Self { seed, seconds: number("CHAOS_SECONDS")?.unwrap_or(180), flavor })
    }

    /// The command that repeats this run.
    fn command(&self) -> String {
        let Self { seed, seconds, flavor } = self;
        format!("make chaos CHAOS_SEED={seed} CHAOS_SECONDS={seconds} CHAOS_SERVER={}", flavor.name())
    }
}

fn main() -> ExitCode {
    let plan = match Plan::read() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(64);
        }
    };
    let network = Network::enter(&[("CHAOS_SEED", plan.seed.to_string())], || {
        println!("seed {}: {}", plan.seed, plan.command());
    });
    let command = plan.command();
    let faults = thread::spawn(move || run(&plan, network)).join();
    match faults {
        Ok(0) => return ExitCode::SUCCESS,
        Ok(faults) => eprintln!("chaos: {faults} faults."),
        Err(_) => eprintln!("chaos: the run could not go on."),
    }
    eprintln!("The same steps again: {command}");
    ExitCode::FAILURE
}

/// Tells of a step that could not be ended.
struct Witness {
    timeline: Timeline,
    step: String,
    since: Duration,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{:6.1} s  {}  not ended", self.since.as_secs_f64(), self.step);
            println!("--- what happened\n{}\n---", self.timeline.text_since(self.since));
        }
    }
}

/// A run under way.
struct Run {
    timeline: Timeline,
    common: Common,
    clients: Clients,
    queue: Queue,
    news: News,
    churn: Churn,
    proxy: Proxy,
    cluster: Cluster,
    /// What each step left, to be found again at the end.
    kept: Vec<Holdings>,
    faults: usize,
    /// How many clients respgate had disconnected, for each reason.
    closed: [(&'static str, f64); 4],
    /// The most that respgate's process has taken, in bytes.
    resident: usize,
}

/// How many faults there were.
fn run(plan: &Plan, network: Network) -> usize {
    let mut run = Run::start(plan, network);
    let end = run.timeline.now() + Duration::from_secs(plan.seconds);
    for (step, tidied) in step::steps(Rng::with_seed(plan.seed)) {
        if run.timeline.now() >= end {
            break;
        }
        if step.possible(network) {
            run.step(&step, tidied);
        }
    }
    run.end()
}

impl Run {
    fn start(plan: &Plan, network: Network) -> Self {
        println!(
            "Starting three {} servers, three Sentinels, respgate and its clients …",
            plan.flavor.name()
        );
        let cluster = Cluster::start(plan.flavor, network);
        cluster.settle();
        let toml = format!(
            "[limits]\nmax-buffered = {MAX_BUFFERED}\n[upstreams.main]\nurl = \"{}\"\nhold-timeout = \"{}s\"\n",
            cluster.url(),
            HOLD_TIMEOUT.as_secs()
        );
        let mut proxy = Proxy::start_file_at(network.proxy(), 2, &toml);
        // That a primary, or a Sentinel, is gone is worth a warning.
        proxy.allow_log("\"WARN\"");
        let timeline = Timeline::start();
        let common = Common::new(proxy.address(), &timeline);
        let clients = Clients::start(&common);
        let queue = Queue::start(&common);
        let news = News::start(&common);
        let churn = Churn::start(&common, plan.seed);
        thread::sleep(Duration::from_secs(1));
        Self {
            timeline,
            common,
            clients,
            queue,
            news,
            churn,
            proxy,
            cluster,
            kept: Vec::new(),
            faults: 0,
            closed: ["protocol", "slow", "memory", "upstream_lost"].map(|reason| (reason, 0.0)),
            resident: 0,
        }
    }

    /// One step, from a cluster in order to a cluster in order, and its verdict.
    fn step(&mut self, step: &Step, tidied: bool) {
        let begun = self.timeline.now();
        let logged = self.proxy.log().len();
        let _witness = Witness { timeline: self.timeline.clone(), step: step.to_string(), since: begun };
        let primary = self.cluster.settle();
        self.timeline.note(format!("{step}; node {primary} is the primary"));
        let stage =
            Stage { cluster: &mut self.cluster, churn: &self.churn, timeline: &self.timeline, primary };
        let effect = step.perform(stage);
        if effect.moved && tidied {
            // Not at once: the former primary shall have its time to mislead.
            thread::sleep(Duration::from_secs(2));
            self.timeline.note("an operator tidies up");
            self.cluster.tidy();
        }
        let primary = self.cluster.settle();
        self.wait_until_followed(primary);
        self.news.check(&self.common);
        let number = self.common.now();
        self.common.step.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let work = self.clients.finished(number);
        let traffic = self.queue.finished(number);
        let holdings = judge::holdings(&work, &self.cluster, primary);
        let mut judgement =
            judge::judge(&work, &traffic, &effect, self.queue.poppers(), HOLD_TIMEOUT, &holdings);
        self.inspect(&effect, &mut judgement.faults);
        println!("{:6.1} s  {:<48}  {judgement}", begun.as_secs_f64(), step.to_string());
        self.kept.push(holdings);
        self.faults += judgement.faults.len();
        report(&judgement.faults, &self.timeline, begun);
        if !judgement.faults.is_empty() {
            println!("--- respgate's log{}\n---", &self.proxy.log()[logged..]);
        }
    }

    /// Clients write to the primary of the moment.
    fn wait_until_followed(&self, primary: usize) {
        let mut client = self.common.connect(0);
        let mark = format!("{:?}", self.timeline.now());
        wait::until("respgate to follow the Sentinels", || {
            client.call(&["SET", "chaos:mark", &mark]);
            self.cluster.ask(primary, &["GET", "chaos:mark"]).is_some_and(|reply| reply.contains(&mark))
        });
    }

    /// What respgate says of itself, and what it takes.
    fn inspect(&mut self, effect: &Effect, faults: &mut Vec<String>) {
        faults.append(&mut self.common.complaints.lock().expect("the complaints"));
        if !self.proxy.http("/readyz").starts_with("HTTP/1.1 200") {
            faults.push(format!("respgate is not ready: {}", self.proxy.http("/readyz")));
        }
        for (reason, before) in &mut self.closed {
            let closed = self.proxy.metric("respgate_clients_closed_total", &[reason]);
            let rose = closed - std::mem::replace(before, closed);
            // A reply that is cut off in the middle costs its client the connection; those that pop in are sometimes
            // in the middle of one, those that stay never.
            if rose > 0.0 && !(*reason == "upstream_lost" && effect.breaks > 0) {
                faults.push(format!("respgate has disconnected {rose} clients: {reason}"));
            }
        }
        let resident = self.proxy.resident_bytes();
        self.resident = self.resident.max(resident);
        if resident > MAX_RESIDENT {
            faults.push(format!("respgate takes {} MiB", resident >> 20));
        }
    }

    /// All that was verified is still there, and when the clients are gone respgate has forgotten them.
    fn end(mut self) -> usize {
        let begun = self.timeline.now();
        let mut faults = Vec::new();
        let primary = self.cluster.settle();
        for (key, values) in self.kept.iter().flatten() {
            if judge::read(&self.cluster, primary, key) != *values {
                faults.push(format!("{key} is not what it was after its step"));
            }
        }
        println!("{} clients came and went.", self.churn.end());
        let staying = self.clients.count() + self.queue.count() + self.news.count();
        count(&self.proxy, "respgate_clients", staying, &mut faults);
        count(&self.proxy, "respgate_clients_held", 0, &mut faults);
        // Their last step is nobody's, and is not judged.
        self.clients.end();
        self.queue.end();
        self.news.end();
        for name in ["respgate_clients", "respgate_clients_pinned", "respgate_clients_held"] {
            count(&self.proxy, name, 0, &mut faults);
        }
        self.faults += faults.len();
        report(&faults, &self.timeline, begun);
        let (steps, resident) = (self.kept.len(), self.resident >> 20);
        println!("{steps} steps, {} faults; respgate took {resident} MiB at most.", self.faults);
        self.faults
    }
}

/// The gauge comes to this value soon.
fn count(proxy: &Proxy, name: &str, expected: usize, faults: &mut Vec<String>) {
    for _ in 0..50 {
        if proxy.metric(name, &[]) == expected as f64 {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    faults.push(format!("{name} is {}, not {expected}", proxy.metric(name, &[])));
}

fn report(faults: &[String], timeline: &Timeline, since: Duration) {
    if !faults.is_empty() {
        faults.iter().for_each(|fault| println!("          {fault}"));
        println!("--- what happened\n{}\n---", timeline.text_since(since));
    }
}
