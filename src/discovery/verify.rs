//! Whether the named node is the primary by its own word, and what may be published of it. Pure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::node::{Comparison, KnownNode};
use crate::net::backoff::Backoff;
use crate::topology::{Address, Generation, Hint, Node, NodeId, Outage, Primary, ServerInfo, Sign, Topology};

/// How long a demoted node may take to answer what was sent to it. Cutting it off at once would leave clients not
/// knowing what became of their writes, where the node says within milliseconds that it refused them.
pub(super) const LEAVE: Duration = Duration::from_millis(500);

/// Bounds of the time between two probes of one node, however many hints come.
const PROBE_MIN: Duration = Duration::from_millis(200);
const PROBE_MAX: Duration = Duration::from_secs(1);

/// After this long without a hint, the next one is acted upon at once.
const CALM: Duration = Duration::from_secs(5);

/// A node that served is given up after this many probes in a row that could not reach it: one may be lost to an
/// overfull accept queue.
const UNREACHABLE_LIMIT: u32 = 2;

/// What a primary says of itself, as far as it may be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// From its reply to HELLO.
    pub server: Option<Arc<ServerInfo>>,
    /// From INFO.
    pub node: Option<Node>,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It says that it is the primary, or may not be asked: then whoever named it is believed.
    Primary(Description),
    /// It says that it is something else, or that it cannot serve (LOADING, MASTERDOWN).
    NotPrimary(String),
    /// It says that it is a replica of this node, as it knows it; and the text for the operator.
    Replica(Address, String),
    /// It serves others but not us: too many clients, or the credentials are refused. Says nothing of its role.
    AuthRejected(Outage),
    /// No answer.
    Unreachable(String),
}

/// The node that is followed.
#[derive(Debug)]
struct Target {
    address: Address,
    epoch: Option<u64>,
    generation: Generation,
    state: State,
    node: KnownNode,
    /// It was verified, and has said since that it is not a primary: it counts as another node from now on.
    denied: bool,
    unreachable: u32,
    /// Whose replica it said it was when it was asked last.
    successor: Option<Address>,
}

#[derive(Debug)]
enum State {
    Verified(Option<Arc<ServerInfo>>),
    /// It was verified, and now says that it is not the primary: until then, what was sent to it may be answered.
    Leaving(Option<Arc<ServerInfo>>, Outage, Instant),
    Unverified(Outage),
}

impl State {
    /// The node says that it is not the primary.
    fn deny(&mut self, why: Outage, now: Instant) {
        *self = match std::mem::replace(self, Self::Unverified(why.clone())) {
            Self::Verified(server) => Self::Leaving(server, why, now + LEAVE),
            Self::Leaving(server, _, until) => Self::Leaving(server, why, until),
            Self::Unverified(_) => Self::Unverified(why),
        };
    }
}

impl Target {
    /// It says that it is not the primary.
    fn deny(&mut self, text: String, now: Instant) {
        self.denied |= !matches!(self.state, State::Unverified(_));
        self.state.deny(Outage::Unverified(text), now);
    }

    fn primary(&self, server: &Option<Arc<ServerInfo>>) -> Arc<Primary> {
        Arc::new(Primary {
            generation: self.generation,
            address: self.address.clone(),
            config_epoch: self.epoch,
            server: server.clone(),
            node: self.node.required(),
        })
    }
}

/// The node that is followed, when to ask it next, and how often it may be asked.
#[derive(Debug)]
pub(super) struct Verifier {
    target: Option<Target>,
    /// The generation that was published last.
    followed: u64,
    pace: Backoff,
    /// When the last probe was started.
    started: Option<Instant>,
    /// No regular probe before this.
    earliest: Option<Instant>,
    due: Option<Instant>,
    ticket: u64,
    in_flight: bool,
    /// A hint came during the probe, whose answer may be older.
    again: bool,
    /// A working primary is asked this often; zero: only when something hints at a change.
    interval: Duration,
    news: Vec<AddressNews>,
}

/// What the operator should know of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AddressNews {
    /// It leads to another node than this one.
    Switched(Address, NodeId),
    /// It leads to several nodes in turn.
    Alternates(Address),
}

impl Verifier {
    /// A working primary is asked every `interval`; zero: only when something hints at a change.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            news: Vec::new(),
            target: None,
            followed: 0,
            pace: Backoff::new(PROBE_MIN, PROBE_MAX),
            started: None,
            earliest: None,
            due: None,
            ticket: 0,
            in_flight: false,
            again: false,
        }
    }

    /// Follows another node from now on. Until it is verified nothing is published as the primary: a newer one is
    /// known, so the older must not be written to.
    pub(super) fn aim(&mut self, address: Address, epoch: Option<u64>, now: Instant) {
        let named =
            Outage::Verifying(format!("{address} is named as primary and is being asked for its role"));
        self.target = Some(Target {
            address,
            epoch,
            generation: Generation(self.followed + 1),
            state: State::Unverified(named),
            node: KnownNode::default(),
            denied: false,
            unreachable: 0,
            successor: None,
        });
        self.pace.reset();
        // A probe of the former node may still be under way: its ticket is now old.
        self.in_flight = false;
        self.again = false;
        self.due = Some(now);
    }

    /// Takes note of the epoch under which the same node is named now.
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        if let Some(target) = &mut self.target {
            target.epoch = Some(epoch);
        }
    }

    pub(super) fn hint(&mut self, hint: Hint, now: Instant) -> bool {
        let (Hint::Lost(generation) | Hint::NotPrimary(generation) | Hint::OtherNode(generation)) = hint;
        let Some(target) = self.target.as_mut().filter(|target| target.generation == generation) else {
            return false;
        };
        if matches!(hint, Hint::OtherNode(_)) {
            target.node.note_elsewhere();
        }
        if self.in_flight {
            self.again = true;
            return true;
        }
        if self.earliest.is_none_or(|earliest| now > earliest + CALM) {
            self.pace.reset();
            self.earliest = None;
        }
        if matches!(hint, Hint::OtherNode(_)) {
            // Commands wait for this answer.
            self.want(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
            return true;
        }
        self.want(self.earliest.map_or(now, |earliest| earliest.max(now)));
        true
    }

    /// A Sentinel said that something changed: a node that could not be verified is asked again soon.
    pub(super) fn nudge(&mut self, now: Instant) {
        let waiting = self.target.as_ref().is_some_and(|target| !matches!(target.state, State::Verified(_)));
        if waiting && !self.in_flight {
            self.want(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
        }
    }

    fn want(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// The probe to start now, if one is due: its ticket and the address.
    pub(super) fn start_probe(&mut self, now: Instant) -> Option<(u64, Address)> {
        let target = self.target.as_ref()?;
        if self.in_flight || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.in_flight = true;
        self.again = false;
        self.ticket += 1;
        self.started = Some(now);
        self.earliest = Some(now + self.pace.next_delay());
        Some((self.ticket, target.address.clone()))
    }

    pub(super) fn probed(&mut self, ticket: u64, finding: Finding, now: Instant) {
        let Some(target) = self.target.as_mut().filter(|_| self.in_flight && ticket == self.ticket) else {
            return;
        };
        self.in_flight = false;
        let verified = matches!(target.state, State::Verified(_));
        let mut settled = false;
        target.successor = None;
        match finding {
            Finding::Primary(Description { server, node }) => {
                target.unreachable = 0;
                let switched = match target.node.compare(node.as_ref(), verified, now) {
                    Comparison::Same => false,
                    Comparison::Switched(former) => {
                        self.news.push(AddressNews::Switched(target.address.clone(), former));
                        true
                    }
                    Comparison::Alternates(_) => {
                        self.news.push(AddressNews::Alternates(target.address.clone()));
                        false
                    }
                };
                if std::mem::take(&mut target.denied) || switched {
                    target.generation = Generation(self.followed + 1);
                }
                target.state = State::Verified(server);
                self.followed = target.generation.0;
                settled = true;
            }
            Finding::NotPrimary(text) => target.deny(text, now),
            Finding::Replica(of, text) => {
                target.deny(text, now);
                target.successor = Some(of);
            }
            // A working primary is not given up because it has no room for the probe.
            Finding::AuthRejected(_) if verified => {
                target.unreachable = 0;
                settled = true;
            }
            Finding::AuthRejected(outage) => target.state = State::Unverified(outage),
            Finding::Unreachable(text) => {
                target.unreachable += 1;
                if !verified || target.unreachable >= UNREACHABLE_LIMIT {
                    target.state = State::Unverified(Outage::Unverified(text));
                }
            }
        }
        if !settled || self.again {
            self.due = Some(self.earliest.map_or(now, |earliest| earliest.max(now)));
        } else if !self.interval.is_zero() {
            self.due = Some(now + self.interval);
        }
    }

    /// A connection that has been open since this generation was verified leads to a node that says that it is not a
    /// primary any more.
    pub(super) fn denied(&mut self, generation: Generation, text: String, now: Instant) {
        let Some(target) = self.target.as_mut().filter(|target| target.generation == generation) else {
            return;
        };
        target.deny(text, now);
        if self.in_flight {
            self.again = true;
        }
        self.want(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
    }

    /// What the operator should know, once.
    pub(super) fn take_news(&mut self) -> Vec<AddressNews> {
        std::mem::take(&mut self.news)
    }

    /// Whose replica the followed node says it is, as that node knows it.
    pub(super) fn successor(&self) -> Option<&Address> {
        self.target.as_ref()?.successor.as_ref()
    }

    /// What may be published; `None` while no node is named.
    pub(super) fn topology(&self) -> Option<Topology> {
        self.target.as_ref().map(|target| match &target.state {
            State::Verified(server) => Topology::Known(target.primary(server)),
            State::Leaving(server, ..) => Topology::Failing(target.primary(server), Sign::Demotion),
            State::Unverified(outage) => Topology::Unknown(Arc::new(outage.clone())),
        })
    }

    /// When [`Verifier::lapse`] or [`Verifier::start_probe`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let lapse = self.target.as_ref().and_then(|target| match target.state {
            State::Leaving(_, _, until) => Some(until),
            _ => None,
        });
        self.due.filter(|_| !self.in_flight).into_iter().chain(lapse).min()
    }

    /// Ends the time of a node that says that it is not the primary any more.
    pub(super) fn lapse(&mut self, now: Instant) {
        let Some(target) = &mut self.target else { return };
        if let State::Leaving(_, outage, until) = &target.state
            && *until <= now
        {
            target.state = State::Unverified(outage.clone());
        }
    }
}

#[cfg(test)]
mod tests;
