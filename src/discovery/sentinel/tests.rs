use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::discovery::event::{FailoverStep, Notice};
use crate::secret::{Credentials, Secret};

const PATIENCE: Duration = Duration::from_secs(10);

/// A fake Sentinel. It hands every connection of the follower to the test.
struct Stage {
    listener: TcpListener,
    events: mpsc::Receiver<Event>,
    asks: watch::Sender<u64>,
    follower: tokio::task::JoinHandle<()>,
}

impl Stage {
    async fn set(timeout: Duration, credentials: Option<Credentials>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at: SocketAddr = listener.local_addr().unwrap();
        let address = Address::tcp("127.0.0.1", at.port());
        let mut config = SentinelConfig::new(vec![address.clone()], "mymaster");
        config.timeout = timeout;
        let (news, events) = mpsc::channel(8);
        let (asks, asked) = watch::channel(0);
        let follower = Follower {
            address,
            config: Arc::new(config),
            dialer: Dialer::default(),
            login: Login::new(credentials),
            news,
            asks: asked,
        };
        Self { listener, events, asks, follower: tokio::spawn(follower.run()) }
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        Peer(stream)
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap()
    }

    async fn error(&mut self) -> SentinelError {
        match self.event().await {
            Event::Failed { error, .. } => error,
            other => panic!("{other:?}"),
        }
    }

    /// Accepts the follower's connections, up to its first query.
    async fn accept_follower(&mut self) -> (Peer, Peer) {
        let mut subscription = self.accept().await;
        subscription.confirm().await;
        let mut queries = self.accept().await;
        queries.expect("MYID").await.say("$-1\r\n").await;
        assert!(matches!(self.event().await, Event::Connected { subscribed: true, .. }));
        (subscription, queries)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

struct Peer(TcpStream);

impl Peer {
    /// Reads until the command's name has arrived.
    async fn expect(&mut self, word: &str) -> &mut Self {
        let mut event = Vec::new();
        while !String::from_utf8_lossy(&event).contains(word) {
            let read = timeout(PATIENCE, self.0.read_buf(&mut event)).await.unwrap().unwrap();
            assert!(read > 0, "hung up before {word}");
        }
        self
    }

    async fn say(&mut self, text: &str) -> &mut Self {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self
    }

    async fn confirm(&mut self) {
        let confirmation = |channel: &str| format!("*3\r\n$9\r\nsubscribe\r\n+{channel}\r\n:1\r\n");
        self.expect("+switch-master").await.say(&confirmation(CHANNELS[0])).await;
        self.expect(CHANNELS.last().unwrap()).await;
        for channel in &CHANNELS[1..] {
            self.say(&confirmation(channel)).await;
        }
    }

    async fn answer(&mut self, host: &str) {
        self.expect("SENTINELS").await;
        let get = format!("*2\r\n${}\r\n{host}\r\n$4\r\n6379\r\n", host.len());
        self.say(&format!("{get}*2\r\n$12\r\nconfig-epoch\r\n$1\r\n3\r\n*0\r\n")).await;
    }

    async fn publish(&mut self, channel: &str, payload: &str) {
        self.say(&format!("*3\r\n$7\r\nmessage\r\n+{channel}\r\n+{payload}\r\n")).await;
    }
}

fn answer_of(event: Event) -> Address {
    match event {
        Event::Answered { view, .. } => view.claim.unwrap().address,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_subscribes_asks_relays_events_and_starts_over() {
    let mut stage = Stage::set(PATIENCE, None).await;
    let (mut subscription, mut queries) = stage.accept_follower().await;
    queries.answer("10.0.0.1").await;
    assert_eq!(answer_of(stage.event().await), Address::tcp("10.0.0.1", 6379));

    subscription.publish("+odown", "master other 10.0.0.9 6379 #quorum 2/2").await;
    subscription.publish("+try-failover", "master mymaster 10.0.0.1 6379").await;
    let event = stage.event().await;
    assert!(
        matches!(&event, Event::Noticed { event, .. } if event.notice == Notice::Failover(FailoverStep::Started)),
        "{event:?}"
    );

    stage.asks.send_modify(|round| *round += 1);
    queries.answer("10.0.0.2").await;
    assert_eq!(answer_of(stage.event().await), Address::tcp("10.0.0.2", 6379));

    // Events may be lost: the follower opens both connections again and queries without a request.
    drop(subscription);
    assert!(matches!(stage.error().await, SentinelError::Unreachable(text) if text.contains("closed")));
    let (_subscription, mut queries) = stage.accept_follower().await;
    queries.answer("10.0.0.3").await;
    assert_eq!(answer_of(stage.event().await), Address::tcp("10.0.0.3", 6379));
}

#[tokio::test]
async fn a_request_for_a_query_during_an_answer_is_not_lost() {
    let mut stage = Stage::set(PATIENCE, None).await;
    let (_subscription, mut queries) = stage.accept_follower().await;
    queries.expect("SENTINELS").await;
    stage.asks.send_modify(|round| *round += 1);
    queries.say("*-1\r\n-ERR No such master with that name\r\n-ERR No such master with that name\r\n").await;
    assert!(matches!(stage.event().await, Event::Answered { view, .. } if view.claim.is_none()));
    queries.answer("10.0.0.1").await;
    assert_eq!(answer_of(stage.event().await), Address::tcp("10.0.0.1", 6379));
}

#[tokio::test]
async fn silence_at_any_step_is_an_error_in_time() {
    for step in 0..4 {
        let mut stage = Stage::set(Duration::from_millis(50), None).await;
        let mut subscription = stage.accept().await;
        let mut held = Vec::new();
        if step > 0 {
            subscription.confirm().await;
            let mut queries = stage.accept().await;
            if step > 1 {
                queries.expect("MYID").await.say("$-1\r\n").await;
                assert!(matches!(stage.event().await, Event::Connected { .. }));
            }
            if step > 2 {
                // The Sentinel sends half an answer.
                queries.expect("SENTINELS").await.say("*2\r\n$1\r\na\r\n").await;
            }
            held.push(queries);
        }
        assert!(
            matches!(stage.error().await, SentinelError::Unreachable(text) if text.contains("in time")),
            "step {step}"
        );
    }
}

#[tokio::test]
async fn forbidden_subscriptions_leave_polling() {
    let mut stage = Stage::set(PATIENCE, None).await;
    let mut subscription = stage.accept().await;
    subscription.expect("+switch-master").await.say("-NOPERM no channel\r\n").await;
    let mut queries = stage.accept().await;
    queries.expect("MYID").await.say("-NOPERM no\r\n").await;
    assert!(matches!(stage.event().await, Event::Connected { subscribed: false, id: None, .. }));
    queries.answer("10.0.0.1").await;
    answer_of(stage.event().await);
}

#[tokio::test]
async fn refusals_name_their_cause() {
    let credentials = || Some(Credentials { username: Some("app".into()), password: Secret::new("hunter2") });
    for (line, expected) in [
        ("WRONGPASS invalid username-password pair or user is disabled.", "refuses the user or password"),
        (
            "ERR AUTH <password> called without any password configured for the default user.",
            "has no password",
        ),
        ("NOAUTH Authentication required.", "requires a password"),
    ] {
        let mut stage = Stage::set(PATIENCE, credentials()).await;
        stage.accept().await.expect("hunter2").await.say(&format!("-{line}\r\n")).await;
        let error = stage.error().await;
        assert!(matches!(&error, SentinelError::Refused(text) if text.contains(expected)), "{error:?}");
        assert!(!error.text().contains("hunter2"));
    }
    let mut stage = Stage::set(PATIENCE, None).await;
    stage.accept().await.expect("SUBSCRIBE").await.say("HTTP/1.1 400 Bad Request\r\n").await;
    assert!(
        matches!(stage.error().await, SentinelError::Unreachable(text) if text.contains("check that the address"))
    );
}
