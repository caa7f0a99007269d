//! The same session through respgate, compared frame by frame with what the server itself gave.

use std::fmt;
use std::time::{Duration, Instant};

use crate::behind::Behind;
use crate::compare::{Comparator, Verdict};
use crate::direct::{Exchange, Played, Trace, spec};
use crate::session::{Request, Session, Step, show};
use crate::support::client::encode;
use crate::value::Item;
use crate::wire::{Address, Wire};

/// How long a command that gives no reply is waited for. It need not reach the server at all.
const SILENT: Duration = Duration::from_millis(200);

/// Where a respgate listens.
#[derive(Clone, Debug)]
pub struct Target {
    pub tcp: Address,
    pub unix: Address,
}

/// How a session that showed no fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// A documented difference made the rest incomparable.
    Parted,
}

/// What is not the same.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What kind of difference, for telling known ones apart.
    pub what: &'static str,
    pub step: usize,
    pub client: usize,
    pub request: Request,
    pub direct: String,
    pub through: String,
}

impl Difference {
    /// Differences with one signature are taken for one fault: numbers, and what stands in quotes, do not tell two apart.
    pub fn signature(&self) -> String {
        let parts = spec(&self.request).map_or(1, |spec| spec.name.split('|').count());
        let name: Vec<String> =
            self.request.iter().take(parts).map(|word| word.escape_ascii().to_string()).collect();
        let name = name.join(" ").to_ascii_uppercase();
        let (direct, through) = (outline(&self.direct), outline(&self.through));
        // What subscribers may not do is one fault, whatever they try.
        let name = if direct.contains("only (P|S)SUBSCRIBE") { "" } else { &name };
        format!("{} {name} {direct} / {through}", self.what)
    }
}

/// A frame's text without quoted parts and numbers.
fn outline(text: &str) -> String {
    let mut outline = String::new();
    let mut quoted = false;
    for c in text.chars().take(100) {
        match c {
            '"' | '\'' => quoted = !quoted,
            _ if quoted || c.is_ascii_digit() || c == '\\' => {}
            _ => outline.push(c),
        }
    }
    outline
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (step {}, client {}): {}", self.what, self.step, self.client, show(&self.request))?;
        writeln!(f, "  direct:  {}", self.direct)?;
        write!(f, "  through: {}", self.through)
    }
}

/// Plays a session that the server has answered already.
///
/// # Errors
/// The first difference that no rule covers.
pub fn play(
    target: &Target,
    behind: &mut Behind,
    session: &Session,
    trace: &Trace,
    comparator: &mut Comparator<'_>,
    patience: Duration,
) -> Result<End, Difference> {
    let wires = session.unix.iter().map(|_| None).collect();
    let mut player = Player { target, behind, session, wires, comparator, patience, blocked: 0, step: 0 };
    let end = player.steps(trace)?;
    if end == End::Parted {
        player.run_out();
    }
    if end == End::Whole {
        let digest = player.behind.digest();
        if digest != trace.digest {
            return Err(player.difference("data", 0, &Vec::new(), trace.digest.clone(), digest));
        }
        player.leave_all()?;
    }
    drop(std::mem::take(&mut player.wires));
    player.nothing_is_left()?;
    Ok(end)
}

struct Player<'a, 'r> {
    target: &'a Target,
    behind: &'a mut Behind,
    session: &'a Session,
    wires: Vec<Option<Wire>>,
    comparator: &'a mut Comparator<'r>,
    /// How long a frame may take that the server gives at once.
    patience: Duration,
    blocked: u64,
    step: usize,
}

impl Player<'_, '_> {
    fn steps(&mut self, trace: &Trace) -> Result<End, Difference> {
        for (index, played) in trace.steps.iter().enumerate() {
            self.step = index;
            self.act(played)?;
            for exchange in &played.exchanges {
                if self.exchange(exchange)? == End::Parted {
                    return Ok(End::Parted);
                }
            }
            if self.synchronise(played)? == End::Parted {
                return Ok(End::Parted);
            }
        }
        Ok(End::Whole)
    }

    /// Writes what the client writes.
    fn act(&mut self, played: &Played) -> Result<(), Difference> {
        let client = played.step.client();
        match &played.step {
            Step::Leave { .. } => {
                if let Some(wire) = &mut self.wires[client] {
                    wire.end_writes();
                }
            }
            Step::Hit { request, .. } => {
                let wire = self.connect(client);
                let _ = wire.write(&encode(request));
                wire.anything(Instant::now() + SILENT);
                self.wires[client] = None;
            }
            Step::Send { requests, .. } => {
                let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
                let _ = self.connect(client).write(&bytes);
            }
            Step::Bulk { request, count, .. } => {
                let bytes = encode(request).repeat(*count);
                if let Err(error) = self.connect(client).write(&bytes) {
                    let direct = format!("takes all {} bytes before a reply is read", bytes.len());
                    let through = format!("does not take them: {error}");
                    return Err(self.difference("pipeline not taken", client, request, direct, through));
                }
            }
        }
        Ok(())
    }

    /// Reads and compares what a request brings.
    fn exchange(&mut self, exchange: &Exchange) -> Result<End, Difference> {
        if self.comparator.sent(exchange) == Verdict::Parts {
            return Ok(End::Parted);
        }
        let others = (0..exchange.items.len()).filter(|client| *client != exchange.client);
        for client in std::iter::once(exchange.client).chain(others) {
            for direct in &exchange.items[client] {
                let until = Instant::now() + self.patience;
                let through = self.wires[client].as_mut().and_then(|wire| wire.take(until));
                if through.is_none() && self.comparator.may_lack(client) {
                    return Ok(End::Parted);
                }
                let Some(through) = through else {
                    let nothing = format!("(nothing within {} s)", self.patience.as_secs_f32());
                    return Err(self.difference(
                        "missing",
                        client,
                        &exchange.request,
                        direct.to_string(),
                        nothing,
                    ));
                };
                match self.comparator.compare(client, direct, &through) {
                    Verdict::Same => {}
                    Verdict::Parts => return Ok(End::Parted),
                    Verdict::Differs => {
                        let (left, right) = (direct.to_string(), through.to_string());
                        let difference = self.difference("reply", client, &exchange.request, left, right);
                        if !self.comparator.goes_on(&difference, direct, &through) {
                            return Err(difference);
                        }
                    }
                }
                if *direct == Item::Closed {
                    self.wires[client] = None;
                    self.comparator.left(client);
                }
            }
        }
        Ok(End::Whole)
    }

    /// Waits until the server stands where it stood: the same clients blocked, the commands without a reply run.
    fn synchronise(&mut self, played: &Played) -> Result<End, Difference> {
        for (name, expected) in &played.silent {
            let until = Instant::now() + SILENT;
            while self.behind.calls(name) < *expected && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        if played.blocked == 0 && self.blocked == 0 {
            return Ok(End::Whole);
        }
        self.blocked = played.blocked;
        let until = Instant::now() + self.patience;
        loop {
            let blocked = self.behind.blocked();
            if blocked == played.blocked {
                return Ok(End::Whole);
            }
            if self.comparator.may_lack(played.step.client()) {
                return Ok(End::Parted);
            }
            if Instant::now() >= until {
                let (client, request) = match &played.step {
                    Step::Send { client, requests } => {
                        (*client, requests.last().cloned().unwrap_or_default())
                    }
                    step => (step.client(), Vec::new()),
                };
                let text = |count: u64| format!("{count} blocked clients");
                let (direct, through) = (text(played.blocked), text(blocked));
                return Err(self.difference("blocked", client, &request, direct, through));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Every client ends its writes, and what it has sent is answered, so that nothing of it runs later.
    fn run_out(&mut self) {
        let until = Instant::now() + self.patience;
        for wire in self.wires.iter_mut().flatten() {
            wire.end_writes();
        }
        for wire in self.wires.iter_mut().flatten() {
            while wire.take(until).is_some_and(|item| item != Item::Closed) {}
        }
    }

    /// Every client ends its writes; nothing may come but the end.
    fn leave_all(&mut self) -> Result<(), Difference> {
        for client in 0..self.wires.len() {
            let Some(mut wire) = self.wires[client].take() else { continue };
            wire.end_writes();
            match wire.take(Instant::now() + self.patience) {
                Some(item) if self.comparator.compare(client, &Item::Closed, &item) != Verdict::Differs => {}
                Some(item) => {
                    let (direct, through) = ("(nothing more)".to_owned(), item.to_string());
                    return Err(self.difference("unexpected", client, &Vec::new(), direct, through));
                }
                None => {
                    let direct = "closes the connection when its client ends".to_owned();
                    let through = format!("does not within {} s", self.patience.as_secs_f32());
                    return Err(self.difference("not closed", client, &Vec::new(), direct, through));
                }
            }
        }
        Ok(())
    }

    /// When all clients are gone, the server knows of respgate's connections nothing that it would not know of new ones.
    fn nothing_is_left(&mut self) -> Result<(), Difference> {
        let until = Instant::now() + self.patience;
        loop {
            let left = left_on_servers(self.behind);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let direct = "nothing of them is left once clients have gone".to_owned();
                return Err(self.difference("left behind", 0, &Vec::new(), direct, left));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn connect(&mut self, client: usize) -> &mut Wire {
        let address = if self.session.unix[client] { &self.target.unix } else { &self.target.tcp };
        self.wires[client]
            .get_or_insert_with(|| Wire::connect(address).expect("respgate to take a connection"))
    }

    fn difference(
        &self,
        what: &'static str,
        client: usize,
        request: &Request,
        direct: String,
        through: String,
    ) -> Difference {
        Difference { what, step: self.step, client, request: request.clone(), direct, through }
    }
}

/// State of connections other than this one, as CLIENT LIST shows it. Empty: all are as new ones.
fn left_on_servers(behind: &mut Behind) -> String {
    let list = behind.ask_each(&["CLIENT", "LIST"]).concat();
    let mut left = Vec::new();
    for line in list.lines().filter(|line| !line.contains("cmd=client|list")) {
        let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or_default();
        for (name, fresh) in [
            ("flags=", "N"),
            ("sub=", "0"),
            ("psub=", "0"),
            ("ssub=", "0"),
            ("multi=", "-1"),
            ("watch=", "0"),
        ] {
            // Unix sockets are marked too.
            let value = field(name).replace('U', "");
            let value = if value.is_empty() { "N" } else { &value };
            // Valkey 9 says 0 after the first EXEC; a client in a transaction has a flag too.
            let ended = name == "multi=" && value == "0";
            if value != fresh && !ended && line.contains(name) {
                left.push(format!("{name}{value}"));
            }
        }
        if !matches!(field("lib-name="), "respgate" | "") || !field("name=").is_empty() {
            left.push(format!("name={} lib-name={}", field("name="), field("lib-name=")));
        }
    }
    left.sort();
    left.dedup();
    left.join(" ")
}
