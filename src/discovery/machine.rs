//! Discovery's decision logic: takes events and returns actions. It does no I/O and reads no clock: the caller passes
//! the time.

mod sentinels;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::config::DiscoveryConfig;
use crate::discovery::event::{FailoverStep, Notice, SentinelEvent, View};
use crate::discovery::handover::Parties;
use crate::discovery::machine::sentinels::Sentinels;
use crate::discovery::resolved::ResolvedName;
use crate::discovery::sentinel_table::{Change, SentinelError, SentinelStatus};
use crate::discovery::verify::{AddressNews, Finding, Verifier};
use crate::hint::Hint;
use crate::topology::{Address, Generation, Outage, Topology};

/// Why discovery follows the successor of a coordinated failover.
const HANDED_OVER: &str = "the former primary has handed over to it";

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
    /// The watch with this ticket found that the primary of a coordinated failover has handed over. The leading Sentinel
    /// closes the connections to the new primary at `closing` at the earliest.
    HandedOver { ticket: u64, closing: Instant },
    /// The watch with this ticket ended: the connections to the new primary have been closed, or somebody did not answer.
    HandoverWatchEnded { ticket: u64 },
    /// The connection that the role monitor has kept open since this generation was verified leads to a node that says
    /// that it is not a primary any more. `text` quotes the node for the operator.
    Denied { generation: Generation, text: String },
    /// The name of the fixed address leads to these IP addresses now.
    Resolved(BTreeSet<IpAddr>),
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
    /// Ask both nodes of a coordinated failover, and its leader, whether the primary has handed over. The driver aborts
    /// an earlier watch.
    WatchHandover { ticket: u64, parties: Parties },
    /// Abort the watch of a coordinated failover.
    StopHandoverWatch,
    /// Publish this topology to the upstream's connections.
    Publish(Topology),
    /// Log a warning about what does not work. The machine returns it once per problem.
    Warn(String),
    /// Log that it works again.
    Inform(String),
}

/// Holds the whole state of discovery and turns events into actions.
#[derive(Debug)]
pub(super) struct Machine {
    sentinels: Option<Sentinels>,
    verifier: Verifier,
    /// The name of the fixed address.
    name: ResolvedName,
    /// The topology that was published last.
    published: Option<Topology>,
}

impl Machine {
    /// Creates the machine and returns the actions to run before the first event. The verifier probes a working primary
    /// every `interval`; if `interval` is zero, it probes only when something hints at a change.
    pub(super) fn new(config: &DiscoveryConfig, interval: Duration, now: Instant) -> (Self, Vec<Action>) {
        let verifier = match config {
            DiscoveryConfig::Fixed(_) => Verifier::for_address(interval),
            DiscoveryConfig::Sentinel(_) | DiscoveryConfig::Cluster(_) => Verifier::new(interval),
        };
        let mut machine = Self { sentinels: None, verifier, name: ResolvedName::default(), published: None };
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
            // `cluster` has a machine of its own.
            DiscoveryConfig::Cluster(_) => Vec::new(),
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
            Event::Resolved(addresses) => {
                if self.name.update(addresses, now) {
                    self.verifier.address_changed(now);
                }
            }
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
                    let text = sentinels.follow_ahead(replica, "it was promoted", &mut self.verifier, now);
                    actions.extend(text.map(Action::Inform));
                }
            }
            Event::HandedOver { ticket, closing } => {
                let Some(sentinels) = &mut self.sentinels else { return actions };
                if let Some(successor) = sentinels.handover.handed_over(ticket, closing, now) {
                    let text = sentinels.follow_ahead(successor, HANDED_OVER, &mut self.verifier, now);
                    actions.extend(text.map(Action::Inform));
                }
            }
            Event::HandoverWatchEnded { ticket } => {
                if let Some(sentinels) = &mut self.sentinels {
                    sentinels.handover.ended(ticket);
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
            sentinels.and_then(|sentinels| sentinels.handover.wake_at()),
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
            | Event::HandedOver { .. }
            | Event::HandoverWatchEnded { .. }
            | Event::Denied { .. }
            | Event::Resolved(_)
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
            actions.extend(sentinels.apply_consensus(&mut self.verifier, now).map(Action::Warn));
            // The order matters: the new answers may change the primary, which clears its signs. Only then do the
            // remaining signs expire, and probes of candidates whose leader has no active sign end.
            sentinels.signs.review(sentinels.majority_reports_failover(), now);
            let coordinated = sentinels.coordinated_leaders();
            let signs = &sentinels.signs;
            sentinels.candidate.retain(|leader| signs.leads(leader) && !coordinated.contains(leader));
            let accepted = sentinels.accepted.as_ref().map(|claim| &claim.address);
            if sentinels.handover.review(accepted, |leader| signs.leads(leader), now) {
                actions.push(Action::StopHandoverWatch);
            }
            if let Some((ticket, parties)) = sentinels.handover.start(|leader| coordinated.contains(leader)) {
                actions.push(Action::WatchHandover { ticket, parties });
            }
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
        if self.published.as_ref().is_none_or(|published| *published != topology) {
            self.published = Some(topology.clone());
            actions.push(Action::Publish(topology));
        }
    }

    /// Returns the topology that discovery may publish now.
    fn topology(&self) -> Topology {
        let sign = self.sentinels.as_ref().and_then(Sentinels::sign);
        match (self.verifier.topology(), sign) {
            // The primary is verified, but a failover may replace it: commands wait instead of being lost.
            (Some(Topology::Known(primary)), Some(sign)) => Topology::Failing(primary, sign),
            (Some(topology), _) => topology,
            (None, _) => Topology::Unknown(Arc::new(self.uncertainty().cloned().unwrap_or(Outage::Starting))),
        }
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

#[cfg(test)]
mod tests;
