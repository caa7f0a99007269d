//! A crashed primary: with `reads-in-hold = "replica"`, reads go on until the next primary is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{sent_to_replicas, wait_for_replica};
use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

/// The time for which Sentinels let a primary be silent.
const DOWN_AFTER: Duration = Duration::from_secs(3);

/// A client that reads without a pause.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Instant>>,
}

impl Reader {
    fn start(proxy: &Proxy) -> Self {
        let mut client = proxy.client();
        client.deadline(Duration::from_secs(30));
        wait_for_replica(proxy, &mut client, "held");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        Self { stop, thread: thread::spawn(move || read(client, &ended)) }
    }

    /// Ends it, and returns when it got each reply.
    fn end(self) -> Vec<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a reader got an error or another value")
    }
}

fn read(mut client: Client, ended: &AtomicBool) -> Vec<Instant> {
    let mut replies = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        client.expect(&["GET", "held"], "$1\r\n1\r\n");
        replies.push(Instant::now());
        thread::sleep(Duration::from_millis(2));
    }
    replies
}

/// The longest time without a reply between `from` and `to`.
fn longest_pause(replies: &[Instant], from: Instant, to: Instant) -> Duration {
    let within = replies.iter().copied().filter(|at| (from..to).contains(at));
    let moments: Vec<Instant> = [from].into_iter().chain(within).chain([to]).collect();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

on_both_servers!(reads_go_on_without_a_primary);

fn reads_go_on_without_a_primary(flavor: Flavor) {
    let down_after_ms = u32::try_from(DOWN_AFTER.as_millis()).expect("a short time");
    let mut deployment = Deployment::start(&Plan { replicas: 2, down_after_ms, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    deployment.primary.client().expect(&["SET", "held", "1"], "+OK\r\n");
    let proxy = |rule: &str| {
        let text = format!(
            "[tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n[upstreams.main]\nurl = \"{}\"\nreads-in-hold = \"{rule}\"\n",
            deployment.url()
        );
        let mut proxy = Proxy::start_file(2, &text);
        proxy.allow_log("no primary: ");
        proxy
    };
    let (serving, waiting) = (proxy("replica"), proxy("wait"));
    let readers: Vec<Reader> = (0..6).map(|_| Reader::start(&serving)).collect();
    let waits = Reader::start(&waiting);
    let mut writer = serving.client();
    writer.deadline(Duration::from_secs(30));
    writer.expect(&["SET", "other", "1"], "+OK\r\n");

    let crashed = Instant::now();
    deployment.primary.crash();
    // A write waits for the next primary, and the reads behind it do, too.
    writer.expect(&["SET", "other", "2"], "+OK\r\n");
    let written = crashed.elapsed();
    writer.expect(&["GET", "other"], "$1\r\n2\r\n");
    assert!(written > DOWN_AFTER / 2, "the Sentinels took only {written:?}");
    let before = sent_to_replicas(&serving);
    wait::until("reads from a replica of the next primary", || sent_to_replicas(&serving) > before + 20.0);
    let named = deployment.sentinels[0].run_text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
    assert!(!named.contains(&format!("\r\n{}\r\n", deployment.primary.port)), "{named}");

    // No Sentinel has begun a failover before this moment.
    let outage = crashed + DOWN_AFTER - Duration::from_millis(200);
    let pauses: Vec<Duration> =
        readers.into_iter().map(|reader| longest_pause(&reader.end(), crashed, outage)).collect();
    let longest = pauses.iter().max().copied().unwrap_or_default();
    let waited = longest_pause(&waits.end(), crashed, outage);
    assert!(longest < Duration::from_secs(1), "reads waited {pauses:?}");
    assert!(waited > Duration::from_secs(2), "reads waited only {waited:?}");
}
