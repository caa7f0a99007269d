//! Whether two frames are the same, by the rules.

use std::collections::BTreeMap;

use respgate::command::{Flags, RouteClass, Spec, Verb};

use crate::behind::Layout;
use crate::direct::{Exchange, spec};
use crate::lane::{AdminLevel, Fault};
use crate::rules::{Effect, RULES, SILENT_RULES, Unseen, all_rules};
use crate::seen::Seen;
use crate::session::Request;
use crate::slots::in_several;
use crate::support::servers::Flavor;
use crate::through::Difference;
use crate::value::{Item, Value};

/// What two frames are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// They differ, as documented, and what follows cannot be compared.
    Parts,
    Differs,
}

/// How far a command in a transaction has come. Both are false outside of one.
#[derive(Clone, Copy)]
struct Stage {
    /// Its reply is QUEUED.
    queued: bool,
    /// Its reply is a member of EXEC's.
    executed: bool,
}

/// Compares the frames of one session.
pub struct Comparator<'r> {
    flavor: Flavor,
    layout: Layout,
    admin: AdminLevel,
    clients: Vec<Sent>,
    /// A client has left, or has given up the state of its connection.
    ended: bool,
    /// How often each rule was needed.
    used: &'r mut [u64],
    sought: Sought<'r>,
}

/// Which differences end a session. Those of which only the words of an error differ need not: more can be found behind
/// them.
pub enum Sought<'r> {
    /// Any that is not known yet.
    New(&'r mut BTreeMap<String, Fault>),
    /// The one with this signature, and those that are no errors both ways.
    Only(&'r str),
    /// Any.
    Any,
}

/// What a client is waiting for.
#[derive(Clone, Default)]
struct Sent {
    /// Its last request, whose reply may come while others act.
    last: Request,
    /// Requests that the server has queued since MULTI.
    queued: Vec<Request>,
    /// It has sent a NUL in a command about its connection.
    nul: bool,
    /// It has sent a line break to a script, a function or their commands, whose errors may repeat it.
    split: bool,
    /// It has sent a HELLO that the server refused.
    failed_hello: bool,
    /// It has sent MULTI or WATCH, which bind it to a slot of a cluster.
    bound: bool,
    /// It has sent MULTI, and does not see replies.
    silent_transaction: bool,
}

impl<'r> Comparator<'r> {
    /// `used` has a place for each of [`all_rules`].
    pub fn new(
        flavor: Flavor,
        layout: Layout,
        admin: AdminLevel,
        clients: usize,
        used: &'r mut [u64],
        sought: Sought<'r>,
    ) -> Self {
        Self { flavor, layout, admin, clients: vec![Sent::default(); clients], ended: false, used, sought }
    }

    /// Whether a session goes on behind a difference.
    pub fn goes_on(&mut self, difference: &Difference, direct: &Item, through: &Item) -> bool {
        let error = |item: &Item| matches!(item, Item::Frame(value) if value.error().is_some());
        if !error(direct) || !error(through) {
            return false;
        }
        match &mut self.sought {
            Sought::New(known) => known.get_mut(&difference.signature()).is_some_and(|fault| {
                fault.times += 1;
                true
            }),
            Sought::Only(signature) => difference.signature() != *signature,
            Sought::Any => false,
        }
    }

    /// What follows answers this request, or is its consequence. Gives `Parts` if it has no reply, and does not mean the same
    /// both ways.
    pub fn sent(&mut self, exchange: &Exchange) -> Verdict {
        let sent = &mut self.clients[exchange.client];
        if !exchange.request.is_empty() {
            sent.last.clone_from(&exchange.request);
        }
        let silent = exchange.items[exchange.client].is_empty();
        let Some(spec) = spec(&exchange.request) else {
            // A name that the server may know, and respgate does not.
            let odd = exchange.request.iter().take(2).any(|word| !word.iter().all(u8::is_ascii_graphic));
            return if silent && odd { Verdict::Parts } else { Verdict::Same };
        };
        self.ended |= matches!(spec.verb, Verb::Reset | Verb::Quit);
        let about_connection =
            matches!(spec.route, RouteClass::Virtual | RouteClass::Pin | RouteClass::LeaseIfBlock);
        sent.nul |= about_connection && sent.last.iter().any(|word| word.contains(&0));
        sent.split |= spec.flags.contains(Flags::SCRIPT)
            && sent.last.iter().any(|word| word.contains(&b'\r') || word.contains(&b'\n'));
        match spec.verb {
            Verb::Multi | Verb::Watch => sent.bound = true,
            // DISCARD with arguments leaves the transaction open.
            Verb::Discard if exchange.request.len() > 1 => {}
            Verb::Exec | Verb::Discard | Verb::Reset => sent.bound = false,
            _ => {}
        }
        match spec.verb {
            Verb::Multi => sent.silent_transaction = silent,
            Verb::Exec | Verb::Discard | Verb::Reset => sent.silent_transaction = false,
            _ => {}
        }
        let queued = exchange.items[exchange.client].iter().any(queued);
        let unseen = Unseen {
            spec,
            in_transaction: sent.silent_transaction,
            cluster: self.layout == Layout::Cluster,
            queued,
            spread: in_several(&exchange.request),
        };
        let rule = SILENT_RULES.iter().find(|rule| (silent || queued) && (rule.covers)(&unseen));
        if rule.is_some() { Verdict::Parts } else { Verdict::Same }
    }

    /// Compares two frames that `client` got.
    pub fn compare(&mut self, client: usize, direct: &Item, through: &Item) -> Verdict {
        let sent = &self.clients[client];
        let verdict = if direct == through {
            Verdict::Same
        } else if let Some(members) = members(&sent.queued, &sent.last, direct, through) {
            self.transaction(client, &members)
        } else {
            let request = sent.last.clone();
            let queued = queued(direct);
            self.by_rules(client, &request, Stage { queued, executed: false }, direct, through)
        };
        if let Item::Frame(value) = direct {
            self.follow(client, value);
        }
        verdict
    }

    /// Whether a reply may be missing.
    pub fn may_lack(&self, client: usize) -> bool {
        self.clients[client].nul
    }

    /// The client's connection has ended.
    pub fn left(&mut self, client: usize) {
        self.ended = true;
        self.clients[client] = Sent::default();
    }

    /// EXEC's replies, each by the rules of its own command.
    fn transaction(&mut self, client: usize, members: &[Member]) -> Verdict {
        let mut verdict = Verdict::Same;
        for (request, direct, through) in members.iter().filter(|(_, direct, through)| direct != through) {
            match self.by_rules(client, request, Stage { queued: false, executed: true }, direct, through) {
                Verdict::Same => {}
                Verdict::Parts => verdict = Verdict::Parts,
                Verdict::Differs => return Verdict::Differs,
            }
        }
        verdict
    }

    fn by_rules(
        &mut self,
        client: usize,
        request: &Request,
        stage: Stage,
        direct: &Item,
        through: &Item,
    ) -> Verdict {
        let spec: Option<&'static Spec> = spec(request);
        let Stage { queued, executed } = stage;
        let sent = &self.clients[client];
        let seen = Seen {
            flavor: self.flavor,
            cluster: self.layout == Layout::Cluster,
            executed,
            admin: self.admin,
            spec,
            request,
            queued,
            nul: sent.nul,
            split: sent.split,
            failed_hello: sent.failed_hello,
            bound: sent.bound,
            ended: self.ended,
            direct,
            through,
        };
        // Those of a cluster are the last.
        let rules = if seen.cluster { self.used.len() } else { RULES.len() };
        for (rule, used) in all_rules().take(rules).zip(self.used.iter_mut()) {
            if (rule.covers)(&seen) {
                *used += 1;
                return match rule.effect {
                    Effect::GoesOn if !queued => Verdict::Same,
                    _ => Verdict::Parts,
                };
            }
        }
        Verdict::Differs
    }

    /// Keeps account of what is queued.
    fn follow(&mut self, client: usize, reply: &Value) {
        if reply.is_push() {
            return;
        }
        let sent = &mut self.clients[client];
        if reply.is_simple("QUEUED") {
            sent.queued.push(sent.last.clone());
            return;
        }
        let name = sent.last.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        sent.failed_hello |= name == b"HELLO" && reply.error().is_some();
        let begins = name == b"MULTI" && reply.is_simple("OK");
        if begins || matches!(&*name, b"EXEC" | b"DISCARD" | b"RESET") {
            sent.queued.clear();
        }
    }
}

/// Returns true if the server has queued a command.
fn queued(item: &Item) -> bool {
    matches!(item, Item::Frame(value) if value.is_simple("QUEUED"))
}

/// A queued request, and what EXEC gave for it, both ways.
type Member = (Request, Item, Item);

/// The members of EXEC's replies, each with its request; `None` if this is something else.
fn members(queued: &[Request], last: &Request, direct: &Item, through: &Item) -> Option<Vec<Member>> {
    let (Item::Frame(direct), Item::Frame(through)) = (direct, through) else { return None };
    let exec = last.first().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC"));
    let (left, right) = (direct.members()?, through.members()?);
    let whole = exec && left.len() == right.len() && left.len() == queued.len();
    let pairs = queued.iter().zip(left.iter().zip(right));
    whole.then(|| {
        pairs
            .map(|(request, (left, right))| {
                (request.clone(), Item::Frame(left.clone()), Item::Frame(right.clone()))
            })
            .collect()
    })
}
