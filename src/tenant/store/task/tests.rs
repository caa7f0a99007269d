use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::replica::ReplicaFeed;
use crate::tenant::Tenant;
use crate::tenant::config::TenantConfig;
use crate::tenant::limits::config::{LimitsConfig, Rates, Sharing};
use crate::tenant::limits::rate::Rate;
use crate::timeline::Timelines;
use crate::topology::{Address, Generation, Primary, Topology};
use crate::upstream::access::Access;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::connection::scripts::Scripts;

const GRANTS: u8 = 0;
const AWAY: u8 = 1;
const REFUSES: u8 = 2;

/// A mock server, with its present behaviour: [`GRANTS`], [`AWAY`] or [`REFUSES`].
#[derive(Clone, Default)]
struct Server(Arc<AtomicU8>);

impl Server {
    fn is(&self, mood: u8) {
        self.0.store(mood, Ordering::Relaxed);
    }

    /// Answers each EVAL, until the server is away.
    async fn answer(self, mut stream: DuplexStream) {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            heard.extend_from_slice(&buffer[..length]);
            // SCRIPT is near the end of the command: once it has come, count the command as whole.
            while let Some(at) = heard.windows(SCRIPT.len()).position(|text| text == SCRIPT.as_bytes()) {
                heard.drain(..at + SCRIPT.len());
                let reply: &[u8] = match self.0.load(Ordering::Relaxed) {
                    GRANTS => b":1\r\n",
                    REFUSES => b"-NOPERM no permissions to run the 'eval' command\r\n",
                    _ => return,
                };
                stream.write_all(reply).await.unwrap();
            }
        }
    }

    fn connect(&self, task: &Task) -> Result<StoreConnection<DuplexStream>, StoreError> {
        if self.0.load(Ordering::Relaxed) == AWAY {
            return Err(StoreError::Away("connection refused".into()));
        }
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(self.clone().answer(theirs));
        let (control, logins) = (Control::new(ours), task.upstream.access.borrow().login.subscribe());
        Ok(StoreConnection { control, generation: Generation(1), retires: None, logins, certificates: None })
    }
}

/// Waits until `what` returns true, and returns how long that took by the paused clock.
async fn until(what: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !what() {
        sleep(Duration::from_millis(1)).await;
        assert!(start.elapsed() < Duration::from_secs(60), "it never came to that");
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_too_long_ends_sharing_until_it_is_back() {
    let primary = Primary {
        generation: Generation(1),
        address: Address::tcp("127.0.0.1", 1),
        config_epoch: None,
        server: None,
        node: None,
    };
    let (_topology, seen) = watch::channel(Topology::Known(Arc::new(primary)));
    let upstream = UpstreamPlan {
        number: 0,
        config: UpstreamConfig::new("main"),
        access: watch::channel(Access::default()).1,
        topology: seen,
        hints: mpsc::channel(1).0,
        scripts: Scripts::default(),
        fair: true,
        timelines: Timelines::default(),
        replicas: ReplicaFeed::none(),
        cluster: watch::channel(None).1,
        shard_replicas: watch::channel(Arc::default()).1,
    };
    let rates = Rates { commands: Some(Rate { per_second: 100, burst: 10 }), ..Rates::default() };
    let sharing = Some(Sharing { upstream: "main".into(), processes: 2 });
    let limits = LimitsConfig { rates, sharing, ..LimitsConfig::default() };
    let tenant = Tenant::new(0, TenantConfig { name: "shop".into(), limits, ..TenantConfig::default() });
    let (_, ledger) = tenant.ledgers().next().unwrap();
    let task = Task::new(&upstream, vec![Rated { key: "shop".into(), ledger: ledger.clone() }]);
    let (store, server) = (task.store.clone(), Server::default());
    let shared = || {
        let shared = store.status().error.is_none();
        assert_eq!(shared, ledger.live());
        shared
    };
    let connects = server.clone();
    let running = tokio::spawn(task.run(move |task| Box::pin(std::future::ready(connects.connect(task)))));
    assert!(!shared());
    assert!(until(shared).await < Duration::from_millis(100));

    // The server is away for a moment: nothing changes.
    server.is(AWAY);
    sleep(CHECK).await;
    server.is(GRANTS);
    sleep(RETRY.1 * 2).await;
    assert!(shared() && store.status().fallbacks == 0);

    // The server is away for longer. The next request notices that, and the task tries again in between.
    server.is(AWAY);
    let fell_back = until(|| !shared()).await;
    assert!(fell_back >= Duration::from_secs(1) - INTERVAL, "{fell_back:?}");
    assert!(fell_back < Duration::from_secs(1) + CHECK + RETRY.1, "{fell_back:?}");
    sleep(Duration::from_secs(30)).await;
    let status = store.status();
    assert_eq!((status.error.as_deref(), status.fallbacks), (Some("connection refused"), 1));

    server.is(GRANTS);
    let returned = until(shared).await;
    assert!(returned <= RETRY.1 + INTERVAL, "{returned:?}");
    assert_eq!(store.status().fallbacks, 1);

    // A refusal ends sharing at once: another attempt would not be granted either.
    server.is(REFUSES);
    assert!(until(|| !shared()).await <= CHECK + INTERVAL * 2);
    assert!(store.status().error.unwrap().contains("NOPERM"));
    assert_eq!(store.status().fallbacks, 2);
    running.abort();
}
