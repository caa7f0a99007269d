//! A session with the server itself: which frames each request brings to which client.
//!
//! Nothing is guessed. The server runs one thread, and everything here goes by unix sockets, where a write has arrived when it
//! returns. So when the server has answered two PINGs of another connection after a request, it has run the request, and
//! written all that follows from it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use respgate::command::{self, Flags, RouteClass, Spec};

use crate::session::{Request, Session, Step};
use crate::support::client::encode;
use crate::value::Item;
use crate::wire::{Address, Wire};

/// Times that are drawn for a blocking command to end by itself.
const SHORT: &[&str] = &["0.01", "0.02", "15", "20"];

/// What one request brought.
pub struct Exchange {
    pub client: usize,
    pub request: Request,
    /// For each client, in order.
    pub items: Vec<Vec<Item>>,
}

/// A step as it was played: a client that is blocked does nothing.
pub struct Played {
    pub step: Step,
    pub exchanges: Vec<Exchange>,
    /// Clients that wait in a blocking command afterwards.
    pub blocked: u64,
    /// Commands that gave no reply: their names in INFO commandstats, and how often they have run since the session began.
    pub silent: Vec<(String, u64)>,
}

/// A whole session.
pub struct Trace {
    pub steps: Vec<Played>,
    /// DEBUG DIGEST of all data.
    pub digest: String,
}

/// Plays a session at this socket of the server.
pub fn play(address: &Address, control: &mut Wire, session: &Session) -> Trace {
    let clients = session.unix.len();
    let mut player = Player {
        address,
        control,
        wires: (0..clients).map(|_| None).collect(),
        blocked: vec![false; clients],
        deferred: vec![VecDeque::new(); clients],
        waiting: 0,
        broadcasts: false,
        calm: true,
    };
    let steps = session.steps.iter().filter_map(|step| player.step(step)).collect();
    let digest = player.control.ask_text(&["DEBUG", "DIGEST"]);
    player.wires.clear();
    // The server has forgotten these clients.
    player.fence();
    Trace { steps, digest }
}

/// The row of respgate's table for a request.
pub fn spec(request: &Request) -> Option<&'static Spec> {
    let spec = command::lookup(request.first()?)?;
    match request.get(1) {
        Some(sub) if spec.flags.contains(Flags::CONTAINER) => command::lookup_subcommand(spec, sub),
        _ => Some(spec),
    }
}

/// Clients of a server that wait in a blocking command.
pub fn blocked_clients(control: &mut Wire) -> u64 {
    info(control, "clients", "blocked_clients:")
}

fn info(control: &mut Wire, section: &str, field: &str) -> u64 {
    let text = control.ask_text(&["INFO", section]);
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("INFO {section} has no {field}"))
}

/// How often a command has been called, or refused, since CONFIG RESETSTAT.
pub fn calls(control: &mut Wire, name: &str) -> u64 {
    let text = control.ask_text(&["INFO", "commandstats"]);
    let start = format!("cmdstat_{name}:");
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(&start)) else { return 0 };
    let number = |field: &str| -> u64 {
        line.split(',').find_map(|part| part.strip_prefix(field)?.trim().parse().ok()).unwrap_or(0)
    };
    number("calls=") + number("rejected_calls=")
}

struct Player<'a> {
    address: &'a Address,
    control: &'a mut Wire,
    wires: Vec<Option<Wire>>,
    blocked: Vec<bool>,
    /// What blocked clients have sent already, and the server would run once they are not.
    deferred: Vec<VecDeque<Request>>,
    /// Blocked clients, as the server says.
    waiting: u64,
    /// Somebody tracks by BCAST: the server gathers the keys of all commands that it finds at once into one message.
    broadcasts: bool,
    /// So far, every request has brought one reply to its own client, and nothing to others.
    calm: bool,
}

impl Player<'_> {
    /// Plays a step; `None` if it cannot be.
    fn step(&mut self, step: &Step) -> Option<Played> {
        let client = step.client();
        let mut played = Played { step: step.clone(), exchanges: Vec::new(), blocked: 0, silent: Vec::new() };
        match step {
            Step::Leave { .. } => {
                self.wires[client].as_mut()?.end_writes();
                self.fence();
                self.blocked[client] = false;
                self.deferred[client].clear();
                let items = self.arrived();
                played.exchanges.push(Exchange { client, request: Vec::new(), items });
                self.wires[client] = None;
                self.waiting = blocked_clients(self.control);
            }
            // What comes is not compared, so it need not come.
            Step::Hit { .. } if self.wires[client].is_some() => return None,
            Step::Hit { .. } => {}
            Step::Send { .. } | Step::Bulk { .. } if self.blocked[client] => return None,
            Step::Bulk { request, count, .. } => {
                self.connect(client);
                let items = self.bulk(client, request, *count);
                played.exchanges.push(Exchange { client, request: request.clone(), items });
            }
            Step::Send { requests, .. } => {
                self.connect(client);
                let mut requests = requests.clone();
                // What is behind a blocking command runs once that ends, and this must not depend on what stands behind
                // the request that ends it.
                if self.broadcasts || self.deferred.iter().any(|deferred| !deferred.is_empty()) {
                    requests.truncate(1);
                }
                self.broadcasts |= requests.iter().any(broadcasts);
                self.deferred[client].extend(requests.iter().cloned());
                played.step = Step::Send { client, requests };
                self.run_deferred(&mut played);
            }
        }
        played.blocked = self.waiting;
        Some(played)
    }

    /// Runs what clients have sent and are not blocked before.
    fn run_deferred(&mut self, played: &mut Played) {
        loop {
            let clients = 0..self.wires.len();
            let ready = clients
                .into_iter()
                .find(|client| !self.blocked[*client] && !self.deferred[*client].is_empty());
            let Some(client) = ready else { return };
            let Some(request) = self.deferred[client].pop_front() else { return };
            let mut exchange = self.exchange(client, request);
            if self.blocked[client] && ends_soon(&exchange.request) {
                self.until_unblocked(client, &mut exchange);
            }
            let ended = exchange.items[client].contains(&Item::Closed);
            if exchange.items[client].is_empty()
                && !self.blocked[client]
                && let Some(spec) = spec(&exchange.request)
                && !matches!(spec.route, RouteClass::Virtual | RouteClass::LocalError)
            {
                let name = spec.name.to_ascii_lowercase();
                let calls = calls(self.control, &name);
                played.silent.push((name, calls));
            }
            played.exchanges.push(exchange);
            if ended {
                self.wires[client] = None;
                self.deferred[client].clear();
            }
        }
    }

    fn exchange(&mut self, client: usize, request: Request) -> Exchange {
        if let Some(wire) = &mut self.wires[client] {
            // Whether it has closed is read, too.
            let _ = wire.write(&encode(&request));
        }
        self.calm &= brings_one_reply(&request);
        if self.calm {
            let until = Instant::now() + Duration::from_secs(30);
            let mut items = vec![Vec::new(); self.wires.len()];
            items[client].extend(self.wires[client].as_mut().and_then(|wire| wire.take(until)));
            // Some servers answer twice.
            items[client].extend(self.wires[client].as_mut().map(Wire::read_already).unwrap_or_default());
            return Exchange { client, request, items };
        }
        self.fence();
        let mut items = self.arrived();
        // A reply that is larger than the socket's buffer comes in parts. One that the server has split never ends.
        let mut unfinished = 0;
        while self.unfinished() > unfinished {
            unfinished = self.unfinished();
            self.fence();
            for (all, more) in items.iter_mut().zip(self.arrived()) {
                unfinished = if more.is_empty() { unfinished } else { 0 };
                all.extend(more);
            }
        }
        let may_block = spec(&request).is_none_or(|spec| spec.flags.contains(Flags::BLOCKING));
        if may_block || self.waiting > 0 {
            self.note_blocked(client, &items);
        }
        Exchange { client, request, items }
    }

    fn note_blocked(&mut self, client: usize, items: &[Vec<Item>]) {
        let before = std::mem::replace(&mut self.waiting, blocked_clients(self.control));
        let answered = |items: &Vec<Item>| {
            items.iter().any(|item| !matches!(item, Item::Frame(value) if value.is_push()))
        };
        for (blocked, items) in self.blocked.iter_mut().zip(items) {
            *blocked &= self.waiting > 0 && !answered(items);
        }
        let others = self.blocked.iter().filter(|blocked| **blocked).count() as u64;
        self.blocked[client] |= !answered(&items[client]) && (self.waiting > before || self.waiting > others);
    }

    /// Waits until a short time is over.
    fn until_unblocked(&mut self, client: usize, exchange: &mut Exchange) {
        let until = Instant::now() + Duration::from_secs(1);
        while self.blocked[client] && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
            self.fence();
            let items = self.arrived();
            self.note_blocked(client, &items);
            for (all, more) in exchange.items.iter_mut().zip(items) {
                all.extend(more);
            }
        }
    }

    fn bulk(&mut self, client: usize, request: &Request, count: usize) -> Vec<Vec<Item>> {
        let bytes = encode(request).repeat(count);
        if let Some(wire) = &mut self.wires[client] {
            wire.write(&bytes).expect("the server to take a pipeline before its replies are read");
        }
        let mut all: Vec<Vec<Item>> = vec![Vec::new(); self.wires.len()];
        let (mut idle, mut unfinished) = (0, 0);
        while idle < 2 {
            self.fence();
            let items = self.arrived();
            let before = std::mem::replace(&mut unfinished, self.unfinished());
            idle = if unfinished <= before && items.iter().all(Vec::is_empty) { idle + 1 } else { 0 };
            for (all, more) in all.iter_mut().zip(items) {
                all.extend(more);
            }
        }
        all
    }

    fn connect(&mut self, client: usize) {
        if self.wires[client].is_none() {
            let wire = Wire::connect(self.address).expect("the server to take a connection");
            self.wires[client] = Some(wire);
        }
    }

    /// Bytes of frames that have not come whole, of all clients.
    fn unfinished(&self) -> usize {
        self.wires.iter().flatten().map(Wire::unfinished).sum()
    }

    fn fence(&mut self) {
        self.control.ask(&["PING"]);
        self.control.ask(&["PING"]);
    }

    fn arrived(&mut self) -> Vec<Vec<Item>> {
        self.wires.iter_mut().map(|wire| wire.as_mut().map(Wire::arrived).unwrap_or_default()).collect()
    }
}

fn broadcasts(request: &Request) -> bool {
    let name = request.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"TRACKING"));
    name && request.iter().any(|word| word.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"BCAST")))
}

/// Whether a request has one reply, and no other consequence, whoever else is connected.
fn brings_one_reply(request: &Request) -> bool {
    let odd = ["CLIENT|TRACKING", "CLIENT|REPLY", "QUIT", "MONITOR"];
    spec(request).is_some_and(|spec| {
        let subscribes = spec.name.contains("SUBSCRIBE");
        !subscribes && !odd.contains(&spec.name) && !spec.flags.contains(Flags::BLOCKING)
    })
}

/// Whether a blocking command may end by itself before the session does.
fn ends_soon(request: &Request) -> bool {
    let milliseconds =
        spec(request).is_some_and(|spec| spec.name.starts_with("WAIT") || spec.name.starts_with("XREAD"));
    let soon = |word: &Vec<u8>| {
        SHORT.iter().any(|short| short.as_bytes() == word)
            || milliseconds && word.len() < 4 && word.iter().all(u8::is_ascii_digit) && word != b"0"
    };
    request.iter().skip(1).any(soon)
}
