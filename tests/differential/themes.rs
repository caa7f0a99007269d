//! Random sessions. A session has a few themes: passages in which several clients do what belongs together. Between them
//! stands anything.

mod connection;
mod data;

use fastrand::Rng;

use crate::requests::Maker;
use crate::session::{Request, Session, Step};
use crate::vocabulary::{DATA, pick};

type Theme = fn(&mut Draft<'_>);

/// Each with how often it is drawn.
const THEMES: &[(usize, Theme)] = &[
    (6, data::plain),
    (5, data::transaction),
    (2, data::watched),
    (5, data::blocking),
    (5, connection::pubsub),
    (4, connection::tracking),
    (4, connection::client_state),
    (4, data::scripts),
    (2, data::functions),
    (4, connection::greeting),
    (3, connection::muted),
    (5, connection::left_behind),
    (3, data::databases),
    (2, connection::administrative),
];

/// How many sessions there are for each that writes megabytes before it reads.
const BULK: u32 = 150;

struct Draft<'a> {
    maker: &'a Maker<'a>,
    rng: &'a mut Rng,
    clients: usize,
    steps: Vec<Step>,
}

/// One session.
pub fn draw(maker: &Maker<'_>, rng: &mut Rng) -> Session {
    let clients = rng.usize(2..6);
    let unix = (0..clients).map(|_| rng.u8(..4) == 0).collect();
    if rng.u32(..BULK) == 0 {
        return Session { unix, steps: bulk(rng) };
    }
    let mut draft = Draft { maker, rng, clients, steps: Vec::new() };
    let data: Vec<Request> = DATA
        .iter()
        .filter(|_| draft.rng.u8(..3) > 0)
        .map(|request| request.iter().map(|word| word.as_bytes().to_vec()).collect())
        .collect();
    if !data.is_empty() {
        draft.send(0, data);
    }
    for client in 0..clients {
        if draft.rng.u8(..3) == 0 {
            draft.words(client, &["HELLO", "3"]);
        }
    }
    let weight: usize = THEMES.iter().map(|(weight, _)| weight).sum();
    for _ in 0..draft.rng.usize(1..4) {
        let mut at = draft.rng.usize(..weight);
        let theme = THEMES.iter().find(|(weight, _)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        theme.expect("weights that sum up").1(&mut draft);
    }
    Session { unix, steps: draft.steps }
}

/// Megabytes of requests whose replies are as large, written before the first reply is read, as hiredis, redis-py and
/// phpredis do.
fn bulk(rng: &mut Rng) -> Vec<Step> {
    let size = *pick(&[10_000, 100, 1_000_000], rng);
    let count = (10_000_000 / size).min(20_000);
    let name = *pick(&["GETSET", "ECHO", "PING"], rng);
    let value = vec![b'x'; size];
    let mut request = vec![name.as_bytes().to_vec()];
    if name == "GETSET" {
        request.push(b"s1".to_vec());
    }
    request.push(value);
    let client = rng.usize(..2);
    vec![Step::Bulk { client, request, count }]
}

impl Draft<'_> {
    fn client(&mut self) -> usize {
        self.rng.usize(..self.clients)
    }

    /// Another client.
    fn other(&mut self, client: usize) -> usize {
        (client + self.rng.usize(1..self.clients)) % self.clients
    }

    fn send(&mut self, client: usize, requests: Vec<Request>) {
        self.steps.push(Step::Send { client, requests });
    }

    fn one(&mut self, client: usize, request: Request) {
        self.send(client, vec![request]);
    }

    fn words(&mut self, client: usize, words: &[&str]) {
        self.one(client, request(words));
    }

    /// Requests one by one, or some of them at once.
    fn together_or_not(&mut self, client: usize, requests: Vec<Request>) {
        let mut batch = Vec::new();
        for request in requests {
            batch.push(request);
            if self.rng.bool() {
                self.send(client, std::mem::take(&mut batch));
            }
        }
        if !batch.is_empty() {
            self.send(client, batch);
        }
    }

    fn data(&mut self, least: usize, most: usize) -> Vec<Request> {
        let count = self.rng.usize(least..most);
        (0..count).map(|_| self.maker.data(self.rng)).collect()
    }

    fn one_of(&mut self, names: &[&str]) -> Request {
        self.maker.one_of(names, self.rng)
    }
}

fn request(words: &[&str]) -> Request {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
