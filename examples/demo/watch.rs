//! What can be seen of a failover from outside: the Sentinels' events, whom they name, and respgate's admin port.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::connection::{Connection, page};

/// How often each is asked: what a time may be too late by.
const PACE: Duration = Duration::from_millis(5);

/// A Sentinel that takes longer to answer is asked on a new connection.
const PATIENCE: Duration = Duration::from_millis(500);

const CHANNELS: &str = "+sdown +odown +try-failover +elected-leader";

/// Tasks that look, as long as this lives.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was seen since [`Watch::begin`].
#[derive(Default)]
pub struct Seen {
    /// The primary's port when it began.
    before: u16,
    /// Whom each Sentinel names now.
    named: Vec<u16>,
    /// A Sentinel's first event about the primary.
    pub sign: Option<(Instant, String)>,
    /// When respgate's page said for the first time that all is not as before, and how.
    pub page: Option<(Instant, String)>,
    /// When clients were first seen waiting in respgate.
    pub hold: Option<Instant>,
    /// The most that were seen waiting at once.
    pub most_held: u64,
    /// When more than half of the Sentinels named another primary, and its port.
    pub majority: Option<(Instant, u16)>,
}

impl Watch {
    /// Looks at these Sentinels and at respgate's admin port.
    pub fn start(sentinels: [u16; 3], admin: u16) -> Self {
        let seen = Arc::new(Mutex::new(Seen { named: vec![0; sentinels.len()], ..Seen::default() }));
        let mut tasks = vec![
            tokio::spawn(read_ready(admin, Arc::clone(&seen))),
            tokio::spawn(read_metrics(admin, Arc::clone(&seen))),
        ];
        for (index, port) in sentinels.into_iter().enumerate() {
            tasks.push(tokio::spawn(listen(port, Arc::clone(&seen))));
            tasks.push(tokio::spawn(poll(index, port, Arc::clone(&seen))));
        }
        Self { seen, tasks }
    }

    /// From now on, with the primary at `before`.
    pub fn begin(&self, before: u16) {
        let mut seen = self.seen();
        let named = std::mem::take(&mut seen.named);
        *seen = Seen { before, named, ..Seen::default() };
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Waits for the events of one Sentinel.
async fn listen(port: u16, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Ok(mut connection) = Connection::open(port).await
            && connection.send(&format!("SUBSCRIBE {CHANNELS}")).await.is_ok()
        {
            while let Ok(texts) = connection.reply().await {
                if let [kind, event, payload] = texts.as_slice()
                    && kind == "message"
                    && payload.starts_with("master ")
                {
                    let sign = || (Instant::now(), format!("the Sentinel at {port} says {event}"));
                    lock(&seen).sign.get_or_insert_with(sign);
                }
            }
        }
        tokio::time::sleep(PATIENCE).await;
    }
}

/// Asks one Sentinel whom it takes for the primary.
async fn poll(index: usize, port: u16, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Ok(mut connection) = Connection::open(port).await {
            let question = "SENTINEL GET-MASTER-ADDR-BY-NAME mymaster";
            while let Ok(Ok(texts)) = tokio::time::timeout(PATIENCE, connection.ask(question)).await {
                if let Some(named) = texts.get(1).and_then(|port| port.parse().ok()) {
                    lock(&seen).note_named(index, named);
                }
                tokio::time::sleep(PACE).await;
            }
        }
        tokio::time::sleep(PATIENCE).await;
    }
}

impl Seen {
    fn note_named(&mut self, index: usize, port: u16) {
        self.named[index] = port;
        let votes = self.named.iter().filter(|named| **named == port).count();
        if port != self.before && votes * 2 > self.named.len() {
            self.majority.get_or_insert_with(|| (Instant::now(), port));
        }
    }
}

/// Reads `/readyz`.
async fn read_ready(admin: u16, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Ok(body) = page(admin, "/readyz").await {
            let mut seen = lock(&seen);
            let usual = format!("primary 127.0.0.1:{}", seen.before);
            if !body.is_empty() && !body.trim_end().ends_with(&usual) {
                seen.page.get_or_insert_with(|| (Instant::now(), body.trim_end().to_owned()));
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Reads how many clients wait.
async fn read_metrics(admin: u16, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Ok(body) = page(admin, "/metrics").await {
            let held = metric(&body, "respgate_clients_held");
            if held > 0 {
                let mut seen = lock(&seen);
                seen.hold.get_or_insert_with(Instant::now);
                seen.most_held = seen.most_held.max(held);
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// The value of a metric, of all upstreams together.
fn metric(body: &str, name: &str) -> u64 {
    let samples = body.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    samples
        .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum()
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
