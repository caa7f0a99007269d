//! Discovery's decision logic: takes events and returns actions. It does no I/O and reads no clock: the caller passes
//! the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::candidate::CandidateProbe;
use crate::discovery::config::{DiscoveryConfig, SentinelConfig, SwitchRule};
use crate::discovery::consensus::{Consensus, ConsensusVerdict, same_node};
use crate::discovery::event::{Claim, FailoverStep, Notice, SentinelEvent, View};
use crate::discovery::sentinel_table::{Change, SentinelError, SentinelStatus, SentinelTable};
use crate::discovery::sign::Signs;
use crate::discovery::verify::{AddressNews, Finding, Verifier};
use crate::topology::{Address, Generation, Hint, Outage, Primary, Topology};

/// The least time between two rounds of queries to the Sentinels, however many events and hints arrive.
const ASK_MIN: Duration = Duration::from_millis(25);

/// The time between two rounds of queries while a sign of a failover is active. Events alone are not enough: an ACL may
/// forbid respgate to subscribe to them, and they may be lost.
const ASK_IN_FAILOVER: Duration = Duration::from_millis(100);

/// An input of the machine.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection to a Sentinel is open. `id` is the Sentinel's own id; `subscribed` is true if the Sentinel lets
    /// respgate subscribe to its events.
    Connected { sentinel: Address, id: Option<String>, subscribed: bool },
    /// A Sentinel answered a round of queries.
    Answered { sentinel: Address, view: View },
    /// The connection to a Sentinel, or a query on it, failed. The Sentinel's `Follower` connects again without an
    /// action of the machine.
    Failed { sentinel: Address, error: SentinelError },
    /// A Sentinel published an event about the primary of this upstream.
    Noticed { sentinel: Address, event: SentinelEvent },
    /// The probe with this ticket ended.
    Probed { ticket: u64, finding: Finding },
    /// The query to a chosen replica ended. `primary` is true if the replica says that it is the primary.
    CandidateProbed { ticket: u64, primary: bool },
    /// The connection that the role monitor has kept open since this generation was verified leads to a node that says
    /// that it is not a primary any more. `text` quotes the node for the operator.
    Denied { generation: Generation, text: String },
    /// An upstream connection reported a sign of a change.
    Hinted(Hint),
    /// The time that [`Machine::wake_at`] returned has come. The driver also sends this as the first event.
    Tick,
}

/// An output of the machine: what the driver must do.
#[derive(Debug)]
pub(super) enum Action {
    /// Connect to a Sentinel and keep the connection open.
    Track(Address),
    /// Close the connection to a Sentinel.
    Forget(Address),
    /// Query every connected Sentinel.
    Ask,
    /// Ask a node for its role. The driver aborts an earlier probe that has not ended.
    Probe { ticket: u64, address: Address },
    /// Ask a chosen replica for its role. The driver aborts an earlier such query that has not ended.
    ProbeCandidate { ticket: u64, address: Address },
    /// Publish this topology to the upstream's connections.
    Publish(Topology),
    /// Log a warning about what does not work. The machine returns it once per problem.
    Warn(String),
    /// Log that it works again.
    Inform(String),
}

/// The state that only discovery by Sentinels has. It is absent with a fixed address.
#[derive(Debug)]
struct Sentinels {
    table: SentinelTable,
    consensus: Consensus,
    signs: Signs,
    switch: SwitchRule,
    candidate: CandidateProbe,
    /// True if discovery follows `accepted` on the leading Sentinel's word alone, before the majority names it.
    ahead_of_majority: bool,
    /// Maps an announced address to the address to dial.
    nat: HashMap<Address, Address>,
    /// The time between two rounds of queries while no event arrives.
    poll_interval: Duration,
    /// The claim that discovery follows, even while its node is not verified.
    accepted: Option<Claim>,
    /// Why the Sentinels name no primary at present; `None` while they name `accepted`.
    uncertainty: Option<Outage>,
    /// When the last round of queries started.
    last_ask: Option<Instant>,
    /// When the next round of queries is due.
    ask_at: Instant,
}

/// Holds the whole state of discovery and turns events into actions.
#[derive(Debug)]
pub(super) struct Machine {
    sentinels: Option<Sentinels>,
    verifier: Verifier,
    /// The topology that was published last.
    published: Option<Topology>,
}

impl Machine {
    /// Creates the machine and returns the actions to run before the first event. The verifier probes a working primary
    /// every `interval`; if `interval` is zero, it probes only when something hints at a change.
    pub(super) fn new(config: &DiscoveryConfig, interval: Duration, now: Instant) -> (Self, Vec<Action>) {
        let mut machine = Self { sentinels: None, verifier: Verifier::new(interval), published: None };
        let actions = match config {
            DiscoveryConfig::Fixed(address) => {
                machine.verifier.aim(address.clone(), None, now);
                Vec::new()
            }
            DiscoveryConfig::Sentinel(config) => {
                let sentinels = Sentinels::new(config, now);
                let seeds = sentinels.table.sentinels().iter();
                let actions = seeds.map(|sentinel| Action::Track(sentinel.address.clone())).collect();
                machine.sentinels = Some(sentinels);
                actions
            }
        };
        (machine, actions)
    }

    /// Returns the status of each Sentinel.
    pub(super) fn sentinels(&self) -> &[SentinelStatus] {
        self.sentinels.as_ref().map_or(&[], |sentinels| sentinels.table.sentinels())
    }

    /// Returns why the Sentinels name no primary at present.
    pub(super) fn uncertainty(&self) -> Option<&Outage> {
        self.sentinels.as_ref()?.uncertainty.as_ref()
    }

    /// Handles an event and returns the actions that follow from it.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Probed { ticket, finding } => self.verifier.probed(ticket, finding, now),
            Event::Denied { generation, text } => self.verifier.denied(generation, text, now),
            Event::Hinted(hint) => {
                if self.verifier.hint(hint, now)
                    && let (Some(sentinels), Some(probe_at)) = (&mut self.sentinels, self.verifier.wake_at())
                {
                    // Use the pace of the probes, which backs off: after a failure every connection sends a hint at
                    // once.
                    sentinels.ask_at = sentinels.ask_at.min(probe_at.max(now));
                }
            }
            Event::CandidateProbed { ticket, primary } => {
                let Some(sentinels) = &mut self.sentinels else { return actions };
                if let Some(replica) = sentinels.candidate.answered(ticket, primary) {
                    actions.extend(sentinels.follow_candidate(replica, &mut self.verifier, now));
                }
            }
            Event::Tick => {}
            sentinel => self.handle_sentinel(sentinel, now, &mut actions),
        }
        self.settle(now, &mut actions);
        actions
    }

    /// Returns when the driver must send the next [`Event::Tick`]. After [`Machine::handle`] this time is never in the
    /// past, so a driver that sleeps until then does not spin.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let sentinels = self.sentinels.as_ref();
        [
            self.verifier.wake_at(),
            sentinels.map(|sentinels| sentinels.ask_at),
            sentinels.and_then(|sentinels| sentinels.consensus.decide_at()),
            sentinels.and_then(|sentinels| sentinels.signs.expires_at()),
            sentinels.and_then(|sentinels| sentinels.candidate.wake_at()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Updates the table of Sentinels, and the signs, from an event of a Sentinel.
    fn handle_sentinel(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        let Some(sentinels) = &mut self.sentinels else { return };
        let table = &mut sentinels.table;
        let changes = match event {
            Event::Connected { sentinel, id, subscribed } => {
                table.connected(&sentinel, id, subscribed);
                Vec::new()
            }
            Event::Answered { sentinel, view } => {
                let (changes, recovered) = table.answered(&sentinel, view);
                if recovered {
                    actions.push(Action::Inform(format!("Sentinel {sentinel} answers again")));
                }
                changes
            }
            Event::Failed { sentinel, error } => {
                let (changes, news) = table.failed(&sentinel, error);
                actions.extend(news.map(Action::Warn));
                changes
            }
            Event::Noticed { sentinel, event } => {
                if may_change_role(&event.notice) {
                    self.verifier.nudge(now);
                }
                sentinels.noticed(&sentinel, event, now);
                Vec::new()
            }
            Event::Probed { .. }
            | Event::CandidateProbed { .. }
            | Event::Denied { .. }
            | Event::Hinted(_)
            | Event::Tick => Vec::new(),
        };
        actions.extend(changes.into_iter().map(|change| match change {
            Change::Track(address) => Action::Track(address),
            Change::Forget(address) => Action::Forget(address),
        }));
    }

    /// Decides what follows from the new state: applies the consensus, expires signs, and starts the queries and probes
    /// that are due. Publishes the topology if it has changed.
    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.verifier.lapse(now);
        if let Some(sentinels) = &mut self.sentinels {
            actions.extend(sentinels.apply_consensus(&mut self.verifier, now));
            // The order matters: the new answers may change the primary, which clears its signs. Only then do the
            // remaining signs expire, and probes of candidates whose leader has no active sign end.
            sentinels.signs.review(sentinels.majority_reports_failover(), now);
            let signs = &sentinels.signs;
            sentinels.candidate.retain(|leader| signs.leads(leader));
            if let Some((ticket, address)) = sentinels.candidate.start(now) {
                actions.push(Action::ProbeCandidate { ticket, address });
            }
            if sentinels.ask_is_due(now) {
                actions.push(Action::Ask);
            }
        }
        if let Some((ticket, address)) = self.verifier.start_probe(now) {
            actions.push(Action::Probe { ticket, address });
        }
        actions.extend(self.verifier.take_news().into_iter().map(operator_message));
        let topology = self.topology();
        if self.published.as_ref().is_none_or(|published| !same_topology(published, &topology)) {
            self.published = Some(topology.clone());
            actions.push(Action::Publish(topology));
        }
    }

    /// Returns the topology that discovery may publish now.
    fn topology(&self) -> Topology {
        let sign = self.sentinels.as_ref().and_then(|sentinels| sentinels.signs.newest());
        match (self.verifier.topology(), sign) {
            // The primary is verified, but a failover may replace it: commands wait instead of being lost.
            (Some(Topology::Known(primary)), Some(sign)) => Topology::Failing(primary, sign),
            (Some(topology), _) => topology,
            (None, _) => Topology::Unknown(Arc::new(self.uncertainty().cloned().unwrap_or(Outage::Starting))),
        }
    }
}

impl Sentinels {
    fn new(config: &SentinelConfig, now: Instant) -> Self {
        Self {
            table: SentinelTable::new(config),
            consensus: Consensus::new(config),
            signs: Signs::default(),
            switch: config.switch,
            candidate: CandidateProbe::default(),
            ahead_of_majority: false,
            nat: config.nat.clone(),
            poll_interval: config.poll_interval,
            accepted: None,
            uncertainty: Some(Outage::Starting),
            last_ask: None,
            ask_at: now + config.poll_interval,
        }
    }

    /// Handles an event of a Sentinel. An event counts as a sign only if it is about the followed primary: after a
    /// switch the leader goes on publishing events about the former primary for some time.
    fn noticed(&mut self, sentinel: &Address, event: SentinelEvent, now: Instant) {
        let SentinelEvent { notice, primary, replica } = event;
        if primary.is_some_and(|primary| self.follows(sentinel, &primary))
            && self.signs.noticed(sentinel, &notice, now)
            && self.switch == SwitchRule::Leader
            && matches!(notice, Notice::Failover(FailoverStep::Selecting | FailoverStep::Promoted))
            && let Some(replica) = replica
        {
            self.candidate.choose(sentinel, replica, now);
        }
        self.table.noticed(sentinel, notice);
        self.ask_at = now;
    }

    /// Follows a replica that the leading Sentinel has chosen and that says that it is the primary. The replica's epoch
    /// is not known yet, so the claim takes the former primary's epoch. If the majority goes on naming the former
    /// primary, the consensus treats that as an epoch that does not rise, and switches back after `STALE_EPOCH_DELAY`.
    fn follow_candidate(
        &mut self,
        replica: Address,
        verifier: &mut Verifier,
        now: Instant,
    ) -> Option<Action> {
        let former = self.accepted.as_ref()?;
        let text =
            format!("following {replica}, promoted in place of {}, ahead of the majority", former.address);
        let claim = Claim {
            address: replica.clone(),
            epoch: former.epoch,
            run_id: None,
            flags: String::new(),
            failover_state: None,
        };
        verifier.aim(replica, Some(claim.epoch), now);
        self.accepted = Some(claim);
        self.signs.clear();
        self.ahead_of_majority = true;
        Some(Action::Inform(text))
    }

    /// Returns true if `sentinel` means the followed primary by the address `primary`. Sentinels may know one node by
    /// different addresses.
    fn follows(&self, sentinel: &Address, primary: &Address) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let claim = self.table.claim(sentinel).filter(|claim| claim.address == *primary);
        accepted.address == *primary || claim.is_some_and(|claim| same_node(claim, accepted))
    }

    /// Returns true if more than half of the Sentinels that answer report the primary as `o_down`, a failover in
    /// progress, or a higher epoch.
    fn majority_reports_failover(&self) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let views = self.table.views();
        let shown = views.iter().filter_map(|(_, view)| view.claim.as_ref()).filter(|claim| {
            let flagged =
                claim.flags.split(',').any(|flag| flag == "o_down" || flag == "failover_in_progress");
            flagged || claim.epoch > accepted.epoch
        });
        shown.count() * 2 > views.len()
    }

    /// Points the verifier at the node that the Sentinels name together. If they name no node any more, discovery keeps
    /// the node that they named last and returns a warning with the reason.
    fn apply_consensus(&mut self, verifier: &mut Verifier, now: Instant) -> Option<Action> {
        let successor = verifier.successor().map(|announced| self.nat.get(announced).unwrap_or(announced));
        match self.consensus.verdict(&self.table, self.accepted.as_ref(), successor, now) {
            ConsensusVerdict::Named(claim) => {
                self.uncertainty = None;
                self.ahead_of_majority = false;
                let stays = self
                    .accepted
                    .as_ref()
                    .is_some_and(|accepted| same_node(accepted, &claim) && accepted.address == claim.address);
                if stays {
                    if self.accepted.as_ref().is_some_and(|accepted| accepted.epoch != claim.epoch) {
                        self.signs.clear();
                    }
                    verifier.set_epoch(claim.epoch);
                } else {
                    self.signs.clear();
                    verifier.aim(claim.address.clone(), Some(claim.epoch), now);
                }
                self.accepted = Some(claim);
                None
            }
            ConsensusVerdict::Undecided(outage) => {
                let news = self.uncertainty.as_ref() != Some(&outage);
                let kept = self.accepted.as_ref().filter(|_| news && !self.ahead_of_majority);
                let warning = kept.map(|kept| Action::Warn(format!("keeping {}: {outage}", kept.address)));
                self.uncertainty = Some(outage);
                warning
            }
        }
    }

    /// Returns true if a round of queries must start now, and schedules the next one.
    fn ask_is_due(&mut self, now: Instant) -> bool {
        if self.ask_at > now {
            return false;
        }
        // Many events may request a round at once: postpone it to keep `ASK_MIN` between two rounds.
        let earliest = self.last_ask.map_or(now, |last| last + ASK_MIN);
        if earliest > now {
            self.ask_at = earliest;
            return false;
        }
        self.last_ask = Some(now);
        let signs = self.signs.newest().is_some();
        self.ask_at = now + if signs { self.poll_interval.min(ASK_IN_FAILOVER) } else { self.poll_interval };
        true
    }
}

/// Returns the log message for the news about an address.
fn operator_message(news: AddressNews) -> Action {
    match news {
        AddressNews::Switched(address, former) => Action::Inform(format!(
            "{address} leads to another node than before, or the server there has restarted: connections to the \
             former one (run_id {former}) are closed"
        )),
        AddressNews::Alternates(address) => Action::Warn(format!(
            "{address} leads to several nodes in turn, each of which says that it is a primary: clients see different \
             data; respgate closes connections at most once a minute; use an address that leads to one primary"
        )),
    }
}

/// Returns true if, after this event, a node that was not a primary may have become one.
fn may_change_role(notice: &Notice) -> bool {
    matches!(
        notice,
        Notice::Switched { .. }
            | Notice::Other
            | Notice::Failover(FailoverStep::Promoted | FailoverStep::Ended | FailoverStep::Aborted)
    )
}

/// Returns true if both topologies tell subscribers the same, so that publishing the second one is unnecessary.
fn same_topology(one: &Topology, other: &Topology) -> bool {
    match (one, other) {
        (Topology::Unknown(one), Topology::Unknown(other)) => one == other,
        (Topology::Known(one), Topology::Known(other)) => same_primary(one, other),
        (Topology::Failing(one, sign), Topology::Failing(other, also)) => {
            sign == also && same_primary(one, other)
        }
        _ => false,
    }
}

fn same_primary(one: &Primary, other: &Primary) -> bool {
    one.generation == other.generation
        && one.address == other.address
        && one.config_epoch == other.config_epoch
        && one.server == other.server
        && one.node == other.node
}

#[cfg(test)]
mod tests;
