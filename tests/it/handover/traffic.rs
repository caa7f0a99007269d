//! Clients that do one thing, and how long they wait for the new node.

use std::thread;
use std::time::{Duration, Instant};

use super::site::Site;
use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::wait;

/// The only thing that the clients of one respgate do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    Writes,
    Reads,
    Subscribes,
    SubscribesShared,
    BlocksInPop,
    Nothing,
}

impl Traffic {
    pub const ALL: [Self; 6] = [
        Self::Writes,
        Self::Reads,
        Self::Subscribes,
        Self::SubscribesShared,
        Self::BlocksInPop,
        Self::Nothing,
    ];

    /// The channel of these subscribers.
    fn channel(self) -> &'static str {
        if self == Self::SubscribesShared { "shared" } else { "own" }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// One respgate and its clients before the hand-over.
pub struct Clients {
    pub traffic: Traffic,
    proxy: Proxy,
    client: Client,
    /// The number of messages published so far.
    published: u64,
    generation: f64,
}

const POP: [&str; 3] = ["BLPOP", "queue", "60"];

impl Clients {
    pub fn start(site: &Site, traffic: Traffic) -> Self {
        let proxy = site.proxy(if traffic == Traffic::SubscribesShared { "fan-in" } else { "dedicated" });
        let mut client = proxy.client();
        match traffic {
            Traffic::Writes => client.expect(&["SET", "written", "x"], "+OK\r\n"),
            Traffic::Reads => client.expect(&["GET", "where"], "$3\r\nold\r\n"),
            Traffic::Subscribes | Traffic::SubscribesShared => {
                let subscribed = format!("*3\r\n$9\r\nsubscribe\r\n{}:1\r\n", bulk(traffic.channel()));
                client.expect(&["SUBSCRIBE", traffic.channel()], &subscribed);
            }
            Traffic::BlocksInPop => {
                client.send_command(&POP);
                wait::until("the pop to block", || site.old.info("clients", "blocked_clients") == 1);
            }
            Traffic::Nothing => {}
        }
        let generation = generation(&proxy);
        Self { traffic, proxy, client, published: 0, generation }
    }

    /// Sends what these clients send, until the new node has answered, and returns when it had.
    pub fn first_success(&mut self, site: &Site, moved: impl Fn() -> Option<Instant>) -> Instant {
        let limit = Instant::now() + wait::PATIENCE;
        loop {
            assert!(Instant::now() < limit, "{:?}: no success; {}", self.traffic, self.proxy.http("/readyz"));
            let at_new = match self.traffic {
                // The old node keeps what it was sent to itself.
                Traffic::Writes => {
                    let value = format!("{:?}", Instant::now());
                    let reply = self.call(&["SET", "written", &value]);
                    reply == "+OK\r\n"
                        && moved().is_some()
                        && site.new.run_text(&["GET", "written"]).contains(&value)
                }
                Traffic::Reads => self.call(&["GET", "where"]) == "$3\r\nnew\r\n",
                Traffic::Subscribes | Traffic::SubscribesShared => moved().is_some() && self.publish(site),
                Traffic::BlocksInPop => {
                    let reply = String::from_utf8_lossy(&self.client.reply()).into_owned();
                    let popped = reply == "*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n";
                    if !popped {
                        assert_eq!(reply, "*-1\r\n", "the pop's connection was lost without a word");
                        self.client.send_command(&POP);
                    }
                    popped
                }
                Traffic::Nothing => generation(&self.proxy) > self.generation && moved().is_some(),
            };
            if at_new && let Some(moved) = moved() {
                return Instant::now().max(moved);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Publishes a number at the new node, and returns true if the subscriber was there to hear it. Until then, it may hear
    /// what the former node replicates, but nothing twice.
    fn publish(&mut self, site: &Site) -> bool {
        self.published += 1;
        let channel = self.traffic.channel();
        let number = format!("{:05}", self.published);
        let heard = site.new.run_text(&["PUBLISH", channel, &number]) == ":1\r\n";
        let mut last = String::new();
        while heard && last != number {
            let message = String::from_utf8_lossy(&self.client.reply()).into_owned();
            let before = format!("*3\r\n$7\r\nmessage\r\n{}$5\r\n", bulk(channel));
            let text = message.strip_prefix(&before).expect("a message").trim_end().to_owned();
            assert!(text > last, "{text} after {last}");
            last = text;
        }
        heard
    }

    /// Asks once, as a client that never expects to see where the primary is.
    fn call(&mut self, command: &[&str]) -> String {
        let reply = String::from_utf8_lossy(&self.client.call(command)).into_owned();
        assert!(!reply.contains("READONLY") && !reply.contains("REDIRECT"), "{reply}");
        reply
    }

    /// Nothing comes twice.
    pub fn expect_nothing_more(&mut self) {
        match self.traffic {
            Traffic::Writes | Traffic::Reads | Traffic::Nothing => {}
            _ => self.client.expect_silence(Duration::from_millis(50)),
        }
    }
}

fn generation(proxy: &Proxy) -> f64 {
    proxy.metric("respgate_primary_generation", &[])
}
