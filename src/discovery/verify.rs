//! Verifies that the named node says itself that it is the primary, and decides what discovery may publish of it. Pure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::node::{Comparison, KnownNode};
use crate::hint::Hint;
use crate::net::backoff::Backoff;
use crate::topology::{Address, Generation, Node, NodeId, Outage, Primary, ServerInfo, Sign, Topology};

/// How long a demoted node may take to answer the commands that it received. If respgate cut the connections at once,
/// clients would not know the result of their writes, although the node answers within milliseconds that it refused
/// them.
pub(super) const LEAVE: Duration = Duration::from_millis(500);

/// The shortest and the longest time between two probes of one node, however many hints arrive.
const PROBE_MIN: Duration = Duration::from_millis(200);
const PROBE_MAX: Duration = Duration::from_secs(1);

/// The longest time between two probes of a fixed address: nobody announces when it leads to another node.
const ADDRESS_PROBE_MAX: Duration = Duration::from_millis(400);

/// The time without a hint after which the next hint causes a probe at once.
const CALM: Duration = Duration::from_secs(5);

/// The number of failed probes in a row after which discovery gives up a node that served. One failure is not enough:
/// an overfull accept queue may lose one connection.
const UNREACHABLE_LIMIT: u32 = 2;

/// The same for a fixed address, whose probes start sooner after a hint. Together three take longer than a server that
/// runs a slow script is silent (`busy-reply-threshold`, 5 s), two do not.
const ADDRESS_UNREACHABLE_LIMIT: u32 = 3;

/// What a primary reports about itself, as far as the user may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The server's name, version and modules, from the reply to HELLO.
    pub server: Option<Arc<ServerInfo>>,
    /// The run id and the uptime, from INFO.
    pub node: Option<Node>,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The node says that it is the primary; or the user may not ask, and discovery believes whoever named the node.
    Primary(Description),
    /// The node says that it has another role, or that it cannot serve (LOADING, MASTERDOWN).
    NotPrimary(String),
    /// The node says that it is a replica of the node at this address, as the replica knows it. The text is for the
    /// operator.
    Replica(Address, String),
    /// The node serves others but refuses respgate: it has too many clients, or refuses the credentials. This tells
    /// nothing about its role.
    AuthRejected(Outage),
    /// The node does not answer.
    Unreachable(String),
    /// The name leads to no IP address: nobody was asked.
    Unresolved(String),
}

/// The node that discovery follows.
#[derive(Debug)]
struct Target {
    address: Address,
    epoch: Option<u64>,
    generation: Generation,
    state: State,
    node: KnownNode,
    /// True if the node was verified and has said since that it is not a primary. If a later probe finds it a primary,
    /// it gets a new generation, like another node.
    denied: bool,
    /// The number of probes in a row that could not reach the node.
    unreachable: u32,
    /// True if a connection was lost since the last probe that the node answered.
    lost: bool,
    /// The address of the node's own primary, if the newest probe found it a replica.
    successor: Option<Address>,
}

#[derive(Debug)]
enum State {
    Verified(Option<Arc<ServerInfo>>),
    /// The node was verified and now says that it is not the primary. Until the instant it may answer the commands that
    /// it received.
    Leaving(Option<Arc<ServerInfo>>, Outage, Instant),
    Unverified(Outage),
}

impl State {
    /// Notes that the node says that it is not the primary.
    fn deny(&mut self, why: Outage, now: Instant) {
        *self = match std::mem::replace(self, Self::Unverified(why.clone())) {
            Self::Verified(server) => Self::Leaving(server, why, now + LEAVE),
            Self::Leaving(server, _, until) => Self::Leaving(server, why, until),
            Self::Unverified(_) => Self::Unverified(why),
        };
    }
}

impl Target {
    /// Notes that the node says that it is not the primary.
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

/// Verifies the node that discovery follows, and limits how often it is probed.
#[derive(Debug)]
pub(super) struct Verifier {
    target: Option<Target>,
    /// The generation that was published last.
    followed: u64,
    /// The delay between probes, which grows from `PROBE_MIN` to `PROBE_MAX` while hints continue.
    pace: Backoff,
    /// When the last probe was started.
    started: Option<Instant>,
    /// No regular probe starts before this time.
    earliest: Option<Instant>,
    /// When the next probe is due.
    due: Option<Instant>,
    /// The ticket of the newest probe.
    ticket: u64,
    /// True while a probe runs.
    in_flight: bool,
    /// True if a hint arrived during the probe, so that the probe's answer may be older than the change.
    hint_during_probe: bool,
    /// The time between two probes of a working primary. Zero: only hints cause probes.
    interval: Duration,
    /// The number of failed probes in a row after which a node that served is given up.
    unreachable_limit: u32,
    news: Vec<AddressNews>,
}

/// A finding about an address that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AddressNews {
    /// The address leads to another node than the one with this id, which is the former one.
    Switched(Address, NodeId),
    /// The address leads to several nodes in turn.
    Alternates(Address),
}

impl Verifier {
    /// Creates a verifier that probes a working primary every `interval`; if it is zero, only hints cause probes.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            unreachable_limit: UNREACHABLE_LIMIT,
            news: Vec::new(),
            target: None,
            followed: 0,
            pace: Backoff::new(PROBE_MIN, PROBE_MAX),
            started: None,
            earliest: None,
            due: None,
            ticket: 0,
            in_flight: false,
            hint_during_probe: false,
        }
    }

    /// Creates a verifier for an address that no Sentinel names: only its own probes show where it leads.
    pub(super) fn for_address(interval: Duration) -> Self {
        Self {
            pace: Backoff::new(PROBE_MIN, ADDRESS_PROBE_MAX),
            unreachable_limit: ADDRESS_UNREACHABLE_LIMIT,
            ..Self::new(interval)
        }
    }

    /// Follows another node from now on. Until it is verified, discovery publishes no primary: a newer primary is
    /// known, so nobody must write to the older one.
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
            lost: false,
            successor: None,
        });
        self.pace.reset();
        // A probe of the former node may still be under way: its ticket is now old and its answer is ignored.
        self.in_flight = false;
        self.hint_during_probe = false;
        self.due = Some(now);
    }

    /// Sets the epoch under which the Sentinels name the same node now.
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        if let Some(target) = &mut self.target {
            target.epoch = Some(epoch);
        }
    }

    /// Handles a hint. Returns true if it is about the current generation; hints about former generations are outdated.
    pub(super) fn hint(&mut self, hint: Hint, now: Instant) -> bool {
        // Only a cluster redirects commands or says that it is down: its own discovery handles that.
        let (Hint::Lost(generation) | Hint::NotPrimary(generation) | Hint::OtherNode(generation)) = hint
        else {
            return false;
        };
        let Some(target) = self.target.as_mut().filter(|target| target.generation == generation) else {
            return false;
        };
        if matches!(hint, Hint::OtherNode(_)) {
            target.node.note_elsewhere();
        }
        target.lost |= matches!(hint, Hint::Lost(_));
        if self.in_flight {
            self.hint_during_probe = true;
            return true;
        }
        // The hints have paused for `CALM`: restart the backoff and probe at once.
        if self.earliest.is_none_or(|earliest| now > earliest + CALM) {
            self.pace.reset();
            self.earliest = None;
        }
        if matches!(hint, Hint::OtherNode(_)) {
            // Commands wait for the answer of this probe, so it does not wait for the backoff.
            self.schedule(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
            return true;
        }
        self.schedule(self.earliest.map_or(now, |earliest| earliest.max(now)));
        true
    }

    /// Notes that a Sentinel reported a change: the verifier soon probes a node that it could not verify before.
    pub(super) fn nudge(&mut self, now: Instant) {
        let waiting = self.target.as_ref().is_some_and(|target| !matches!(target.state, State::Verified(_)));
        if waiting && !self.in_flight {
            self.schedule(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
        }
    }

    /// Schedules a probe at this time, unless an earlier one is scheduled.
    fn schedule(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Starts the probe that is due now, if any, and returns its ticket and the address.
    pub(super) fn start_probe(&mut self, now: Instant) -> Option<(u64, Address)> {
        let target = self.target.as_ref()?;
        if self.in_flight || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.in_flight = true;
        self.hint_during_probe = false;
        self.ticket += 1;
        self.started = Some(now);
        self.earliest = Some(now + self.pace.next_delay());
        Some((self.ticket, target.address.clone()))
    }

    /// Handles the result of the probe `ticket`. Results of former probes are ignored.
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
                (target.unreachable, target.lost) = (0, false);
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
                // Another node, or one that was demoted in between, needs a new generation, which cuts connections to
                // the old one.
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
            // Keep a working primary even if it has no room for the probe.
            Finding::AuthRejected(_) if verified => {
                (target.unreachable, target.lost) = (0, false);
                settled = true;
            }
            Finding::AuthRejected(outage) => target.state = State::Unverified(outage),
            // Keep a primary whose connections work while the DNS does not.
            Finding::Unresolved(_) if verified && !target.lost => settled = true,
            Finding::Unreachable(text) | Finding::Unresolved(text) => {
                target.unreachable += 1;
                if !verified || target.unreachable >= self.unreachable_limit {
                    target.state = State::Unverified(Outage::Unverified(text));
                }
            }
        }
        // Probe again soon if the probe settled nothing, or if a hint arrived while it ran.
        if !settled || self.hint_during_probe {
            self.due = Some(self.earliest.map_or(now, |earliest| earliest.max(now)));
        } else if !self.interval.is_zero() {
            self.due = Some(now + self.interval);
        }
    }

    /// Notes that the connection that is open since this generation was verified leads to a node that says that it is
    /// not a primary any more.
    pub(super) fn denied(&mut self, generation: Generation, text: String, now: Instant) {
        let current = self.target.as_mut().filter(|target| target.generation == generation);
        // If the node does not count as a primary any more, probes are under way, and they report what they find.
        let Some(target) = current.filter(|target| matches!(target.state, State::Verified(_))) else {
            return;
        };
        target.deny(text, now);
        if self.in_flight {
            self.hint_during_probe = true;
        }
        self.schedule(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
    }

    /// Notes that the name of the fixed address leads to other IP addresses now. The next probe does not wait for the one
    /// under way, which may have gone to an address that the name does not lead to any more.
    pub(super) fn address_changed(&mut self, now: Instant) {
        self.in_flight = false;
        self.schedule(self.started.map_or(now, |started| (started + PROBE_MIN).max(now)));
    }

    /// Takes the findings that the operator does not know yet.
    pub(super) fn take_news(&mut self) -> Vec<AddressNews> {
        std::mem::take(&mut self.news)
    }

    /// Returns the node that the followed node names as its own primary, if it says that it is a replica. The address
    /// is the one that the followed node knows.
    pub(super) fn successor(&self) -> Option<&Address> {
        self.target.as_ref()?.successor.as_ref()
    }

    /// Returns the topology that discovery may publish; `None` while no node is named.
    pub(super) fn topology(&self) -> Option<Topology> {
        self.target.as_ref().map(|target| match &target.state {
            State::Verified(server) => Topology::Known(target.primary(server)),
            State::Leaving(server, ..) => Topology::Failing(target.primary(server), Sign::Demotion),
            State::Unverified(outage) => Topology::Unknown(Arc::new(outage.clone())),
        })
    }

    /// Returns when [`Verifier::lapse`] or [`Verifier::start_probe`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let lapse = self.target.as_ref().and_then(|target| match target.state {
            State::Leaving(_, _, until) => Some(until),
            _ => None,
        });
        self.due.filter(|_| !self.in_flight).into_iter().chain(lapse).min()
    }

    /// Gives up a demoted node when its time to answer (`LEAVE`, 500 ms) is over.
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
