//! Drills: what clients see, and what becomes of their writes, when another node takes over.
//!
//! Each starts a primary, two replicas, three Sentinels and respgate, lets clients write all the time, causes a
//! failover, and checks the clients' records against the surviving primary's data.
//!
//! What goes wrong with other proxies, and where it is tested:
//!
//! | failure | test |
//! |---|---|
//! | the primary restarts, as itself or as a replica, before the Sentinels call it down | `restart` |
//! | `+switch-master` is missed: the subscribed Sentinel dies with the primary | `crash::crash_along_with_a_sentinel_*` |
//! | Sentinels lie or disagree, and the proxy dials without a pause | `liar`, and by the minute in `discovery/machine/tests.rs` |
//! | the old primary is forgotten by the Sentinels and stays a primary | `undemoted` |
//! | pinned sessions, or plain connections, stay at a demoted primary that nobody kills them on | `undemoted`, `manual`, `sessions` |
//! | two nodes say that they are the primary; a frozen one wakes up and believes so | `doubt`, `crash`, `freeze` |
//! | Sentinels stall, or are all away, and a working primary is dropped | `doubt` |
//! | subscribers hear nothing after a failover | `sessions`, `undemoted` |
//! | the connections to the new primary are closed in the middle of a planned failover | `coordinated` |
//! | two failovers, one soon after the other | `sessions::twice` |
//! | a failover is begun and leads nowhere | `abort` |
//! | commands go on to the old primary after the new one is known | `fence` |
//! | all addresses change | `renumbered` |
//! | a script is unknown to the new primary | `sessions` |
//! | a reply is cut short, and the next client gets the rest | `cut` |
//! | a greeting goes wrong, and replies shift or connections storm | `crate::greeting` |
//! | a client leaves in the middle, and its replies go to another; or the proxy falls over | `crate::churn` |
//! | a refused AUTH in a pipeline has no reply | `crate::churn`, `crate::handshake` |
//! | a refusal in other words than the server's | `crate::handshake`, `crate::bad_input` |
//! | a flood while there is no primary takes all memory; a hold that never ends | `crate::hold`, `crate::policy` |
//! | a reader that stops takes all memory | `crate::limits` |

mod abort;
pub mod checker;
mod coordinated;
mod crash;
mod cut;
mod doubt;
mod encrypted;
mod fence;
mod freeze;
mod liar;
mod manual;
mod planned;
mod refused;
mod reload;
mod renumbered;
mod restart;
mod sessions;
pub mod timeline;
mod turn;
mod undemoted;
mod unnoticed;
mod watch;
pub mod writers;

use std::ops::Range;
use std::thread;
use std::time::Duration;

use checker::Verdict;
use timeline::Timeline;
use turn::Turn;
use watch::Watch;
use writers::{Outcome, Record, Writers};

use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Target;
use crate::support::wait;

/// How often each drill is repeated.
const REPEATS: usize = 3;

/// What replication on a loopback link may lag behind on a busy machine.
const REPLICATION_LAG: Duration = Duration::from_millis(50);

/// Clients of each drill.
const WRITERS: usize = 8;

/// A failover under way.
struct Drill {
    timeline: Timeline,
    // Dropped in this order: clients first, servers last.
    writers: Option<Writers>,
    watch: Watch,
    /// Where the writers connect.
    target: Target,
    proxy: Proxy,
    deployment: Deployment,
    turn: Turn,
}

impl Drill {
    /// Everything is started, in sync, and being written to.
    fn start(flavor: Flavor) -> Self {
        Self::start_with(flavor, &[], "")
    }

    /// With more options for the primary, and more lines for respgate's upstream.
    fn start_with(flavor: Flavor, options: &[&str], upstream: &str) -> Self {
        Self::start_plan(&Plan { primary_options: options, ..plan(flavor) }, upstream, None)
    }

    /// With a plan of its own. `door`: a table of respgate's listeners, and how writers connect there.
    fn start_plan(plan: &Plan<'_>, upstream: &str, door: Option<(String, Target)>) -> Self {
        let turn = Turn::wait();
        let deployment = Deployment::start(plan);
        deployment.wait_until_redundant();
        let (listeners, target) = door.unzip();
        let toml = format!(
            "{}[upstreams.main]\nurl = \"{}\"\n{upstream}\n",
            listeners.unwrap_or_default(),
            deployment.url()
        );
        let mut proxy = Proxy::start_file(2, &toml);
        // That a primary, or a Sentinel, is gone is worth a warning.
        proxy.allow_log("\"WARN\"");
        let timeline = Timeline::start();
        let sentinels: Vec<_> = deployment.sentinels.iter().map(Server::address).collect();
        let watch = Watch::start(&sentinels, &timeline);
        let target = target.unwrap_or(Target { port: proxy.port, tls: None });
        let writers = Writers::start(WRITERS, &target, &timeline);
        thread::sleep(Duration::from_millis(500));
        let drill = Self { timeline, writers: Some(writers), watch, target, proxy, deployment, turn };
        drill.note(format!("the primary is at port {}", drill.deployment.primary.port));
        drill
    }

    /// In sync; the drill brings its own clients. `more`: lines for respgate's upstream, or behind it.
    fn without_writers(flavor: Flavor, more: &str) -> Self {
        let mut drill = Self::start_with(flavor, &[], more);
        drill.writers.take().expect("writers").finish();
        drill
    }

    fn note(&self, what: impl Into<String>) {
        self.timeline.note(what);
    }

    /// The failover that respgate remembers ended so.
    #[track_caller]
    fn expect_timeline(&self, text: &str) {
        wait::until("the failover's timeline", || self.proxy.http("/failovers").contains("first_success_ms"));
        let timelines = self.proxy.http("/failovers");
        assert!(timelines.contains(text), "{timelines}");
    }

    /// Waits until the Sentinels' majority names another primary than the first: when, and its port.
    #[track_caller]
    fn wait_for_switch(&self) -> (Duration, u16) {
        let (at, port) = self.watch.wait_for_majority(self.deployment.primary.announced());
        self.timeline.note_at(at, format!("the majority names port {port}"));
        (at, port)
    }

    /// A node, by its port.
    fn node(&self, port: u16) -> &Server {
        let mut nodes = self.deployment.replicas.iter().chain([&self.deployment.primary]);
        nodes.find(|node| node.announced() == port).expect("a node of the drill")
    }

    /// Ends the writing and compares with what `survivor` holds.
    fn finish(&mut self, survivor: u16) -> (Verdict, Vec<Record>) {
        let records = self.writers.take().expect("writers").finish();
        let verdict = Verdict::of(&records, self.node(survivor));
        self.note(format!("verdict: {verdict}"));
        (verdict, records)
    }
}

impl Drill {
    /// One line that says how it went.
    fn report(&self, name: &str, verdict: &Verdict) {
        eprintln!("{name}, {}: {verdict}", self.deployment.primary.flavor.name());
    }

    /// What clients may see of a primary that is gone: only what was in flight is uncertain, and service is back as
    /// soon as the majority `named` another.
    #[track_caller]
    fn expect_crash_like(
        &self,
        verdict: &Verdict,
        records: &[Record],
        crashed: Duration,
        named: Duration,
        name: &str,
    ) {
        let first = successes(records, named..Duration::MAX).min().expect("a success after the switch");
        let delay = first - named;
        self.timeline.note_at(first, format!("first success, {delay:?} after the majority"));
        self.report(name, verdict);
        eprintln!("    first success {delay:?} after the majority");
        assert_eq!((verdict.doubled, verdict.dropped), (0, 0), "{verdict}");
        let unreplicated = successes(records, crashed.saturating_sub(REPLICATION_LAG)..named).count();
        assert!(verdict.lost <= unreplicated as i64, "more than could lack replication: {verdict}");
        assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
        assert!(verdict.unknown <= WRITERS as u64, "{verdict}");
        // An unoptimized TLS handshake takes long when other tests use the processors: discovery and each worker make one.
        let limit = if self.target.tls.is_some() { 300 } else { 100 };
        self.turn.expect_within(
            Duration::from_millis(limit),
            delay,
            "the first success after the majority named the new primary",
        );
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- timeline\n{}\n---", self.timeline.text());
        }
        if let Some(writers) = self.writers.take() {
            writers.stop();
        }
    }
}

/// Two replicas, and Sentinels that lose no time.
fn plan(flavor: Flavor) -> Plan<'static> {
    Plan { replicas: 2, down_after_ms: 1000, failover_timeout_ms: 6000, ..Plan::new(flavor) }
}

/// How often a server has run a command, whoever sent it.
fn calls(server: &Server, command: &str) -> u64 {
    let text = server.run_text(&["INFO", "commandstats"]);
    let start = format!("cmdstat_{command}:calls=");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next());
    line.and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

/// When writes of any client were acknowledged within `span`.
fn successes(records: &[Record], span: Range<Duration>) -> impl Iterator<Item = Duration> {
    let writes = records.iter().flat_map(|record| &record.writes);
    let successes = writes.filter(|write| matches!(write.outcome, Outcome::Acknowledged(_)));
    successes.map(|write| write.ended).filter(move |ended| span.contains(ended))
}
