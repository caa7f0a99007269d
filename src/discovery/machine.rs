//! Discovery's decisions: events in, actions out; no I/O and no clock of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::candidate::CandidateProbe;
use crate::discovery::config::{DiscoveryConfig, SentinelConfig, SwitchRule};
use crate::discovery::consensus::{Consensus, ConsensusVerdict, same_node};
use crate::discovery::event::{Claim, FailoverStep, Heard, Notice, View};
use crate::discovery::sentinel_table::{Change, SentinelError, SentinelStatus, SentinelTable};
use crate::discovery::sign::Signs;
use crate::discovery::verify::{AddressNews, Finding, Verifier};
use crate::topology::{Address, Generation, Hint, Outage, Primary, Topology};

/// Sentinels are asked this far apart at least, whatever they publish and whoever hints.
const ASK_MIN: Duration = Duration::from_millis(25);

/// They are asked this often while there are signs of a failover: their events may be forbidden to us, or be lost.
const ASK_IN_FAILOVER: Duration = Duration::from_millis(100);

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A Sentinel is connected; whether it lets us subscribe, and its own id.
    Connected { sentinel: Address, id: Option<String>, subscribed: bool },
    /// A Sentinel answered a round of questions.
    Answered { sentinel: Address, view: View },
    /// A Sentinel cannot be asked; it is tried again without being told to.
    Failed { sentinel: Address, fault: SentinelError },
    /// A Sentinel published an event about our primary.
    Noticed { sentinel: Address, heard: Heard },
    /// A probe ended.
    Probed { ticket: u64, finding: Finding },
    /// A chosen replica answered, or did not: whether it says that it is the primary.
    Scouted { ticket: u64, primary: bool },
    /// A connection that has been open since this generation was verified leads to a node that is no primary any more;
    /// and what it says.
    Denied { generation: Generation, text: String },
    /// An upstream connection saw something.
    Hinted(Hint),
    /// The time that [`Machine::wake_at`] named has come; also the first event of all.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action {
    /// Connect to a Sentinel, and stay so.
    Track(Address),
    /// Close that connection.
    Forget(Address),
    /// Ask every connected Sentinel.
    Ask,
    /// Ask a node for its role; an earlier probe still under way is of no more use.
    Probe { ticket: u64, address: Address },
    /// Ask a chosen replica for its role; an earlier such question is of no more use.
    Scout { ticket: u64, address: Address },
    /// Tell upstreams.
    Publish(Topology),
    /// Tell the operator, once, what does not work.
    Warn(String),
    /// Tell the operator that it works again.
    Inform(String),
}

/// The Sentinels' part; absent with a fixed address.
#[derive(Debug)]
struct Sentinels {
    roster: SentinelTable,
    consensus: Consensus,
    signs: Signs,
    switch: SwitchRule,
    scout: CandidateProbe,
    /// `accepted` is followed on its leader's word alone.
    ahead: bool,
    nat: HashMap<Address, Address>,
    poll_interval: Duration,
    /// The claim that is followed, also while its node is not verified.
    accepted: Option<Claim>,
    /// Why they name nobody at present; `None` while they name `accepted`.
    uncertainty: Option<Outage>,
    last_ask: Option<Instant>,
    ask_at: Instant,
}

/// All of discovery's state.
#[derive(Debug)]
pub(super) struct Machine {
    sentinels: Option<Sentinels>,
    verifier: Verifier,
    published: Option<Topology>,
}

impl Machine {
    /// The machine, and what to do before the first event. A working primary is asked for its role every `interval`;
    /// zero: only when something hints at a change.
    pub(super) fn new(config: &DiscoveryConfig, interval: Duration, now: Instant) -> (Self, Vec<Action>) {
        let mut machine = Self { sentinels: None, verifier: Verifier::new(interval), published: None };
        let actions = match config {
            DiscoveryConfig::Fixed(address) => {
                machine.verifier.aim(address.clone(), None, now);
                Vec::new()
            }
            DiscoveryConfig::Sentinel(config) => {
                let sentinels = Sentinels::new(config, now);
                let seeds = sentinels.roster.sentinels().iter();
                let actions = seeds.map(|sentinel| Action::Track(sentinel.address.clone())).collect();
                machine.sentinels = Some(sentinels);
                actions
            }
        };
        (machine, actions)
    }

    /// What is known of each Sentinel.
    pub(super) fn sentinels(&self) -> &[SentinelStatus] {
        self.sentinels.as_ref().map_or(&[], |sentinels| sentinels.roster.sentinels())
    }

    /// Why the Sentinels name nobody at present.
    pub(super) fn uncertainty(&self) -> Option<&Outage> {
        self.sentinels.as_ref()?.uncertainty.as_ref()
    }

    /// Takes an event; returns what follows from it.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Probed { ticket, finding } => self.verifier.probed(ticket, finding, now),
            Event::Denied { generation, text } => self.verifier.denied(generation, text, now),
            Event::Hinted(hint) => {
                if self.verifier.hint(hint, now)
                    && let (Some(sentinels), Some(probe_at)) = (&mut self.sentinels, self.verifier.wake_at())
                {
                    // At the pace of the probes: hints come from every connection at once.
                    sentinels.ask_at = sentinels.ask_at.min(probe_at.max(now));
                }
            }
            Event::Scouted { ticket, primary } => {
                let Some(sentinels) = &mut self.sentinels else { return actions };
                if let Some(replica) = sentinels.scout.answered(ticket, primary) {
                    actions.extend(sentinels.go_ahead(replica, &mut self.verifier, now));
                }
            }
            Event::Tick => {}
            sentinel => self.hear(sentinel, now, &mut actions),
        }
        self.settle(now, &mut actions);
        actions
    }

    /// When to send [`Event::Tick`]; it is never before the newest event's time without having been acted upon.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let sentinels = self.sentinels.as_ref();
        [
            self.verifier.wake_at(),
            sentinels.map(|sentinels| sentinels.ask_at),
            sentinels.and_then(|sentinels| sentinels.consensus.decide_at()),
            sentinels.and_then(|sentinels| sentinels.signs.expires_at()),
            sentinels.and_then(|sentinels| sentinels.scout.wake_at()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn hear(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        let Some(sentinels) = &mut self.sentinels else { return };
        let roster = &mut sentinels.roster;
        let changes = match event {
            Event::Connected { sentinel, id, subscribed } => {
                roster.connected(&sentinel, id, subscribed);
                Vec::new()
            }
            Event::Answered { sentinel, view } => {
                let (changes, recovered) = roster.answered(&sentinel, view);
                if recovered {
                    actions.push(Action::Inform(format!("Sentinel {sentinel} answers again")));
                }
                changes
            }
            Event::Failed { sentinel, fault } => {
                let (changes, news) = roster.failed(&sentinel, fault);
                actions.extend(news.map(Action::Warn));
                changes
            }
            Event::Noticed { sentinel, heard } => {
                if matters_to_probe(&heard.notice) {
                    self.verifier.nudge(now);
                }
                sentinels.noticed(&sentinel, heard, now);
                Vec::new()
            }
            Event::Probed { .. }
            | Event::Scouted { .. }
            | Event::Denied { .. }
            | Event::Hinted(_)
            | Event::Tick => Vec::new(),
        };
        actions.extend(changes.into_iter().map(|change| match change {
            Change::Track(address) => Action::Track(address),
            Change::Forget(address) => Action::Forget(address),
        }));
    }

    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.verifier.lapse(now);
        if let Some(sentinels) = &mut self.sentinels {
            actions.extend(sentinels.judge(&mut self.verifier, now));
            sentinels.signs.review(sentinels.trouble_is_confirmed(), now);
            let signs = &sentinels.signs;
            sentinels.scout.retain(|leader| signs.leads(leader));
            if let Some((ticket, address)) = sentinels.scout.start(now) {
                actions.push(Action::Scout { ticket, address });
            }
            if sentinels.ask_is_due(now) {
                actions.push(Action::Ask);
            }
        }
        if let Some((ticket, address)) = self.verifier.start_probe(now) {
            actions.push(Action::Probe { ticket, address });
        }
        actions.extend(self.verifier.take_news().into_iter().map(tell));
        let topology = self.topology();
        if self.published.as_ref().is_none_or(|published| !same(published, &topology)) {
            self.published = Some(topology.clone());
            actions.push(Action::Publish(topology));
        }
    }

    /// What may be published.
    fn topology(&self) -> Topology {
        let sign = self.sentinels.as_ref().and_then(|sentinels| sentinels.signs.newest());
        match (self.verifier.topology(), sign) {
            (Some(Topology::Known(primary)), Some(sign)) => Topology::Failing(primary, sign),
            (Some(topology), _) => topology,
            (None, _) => Topology::Unknown(Arc::new(self.uncertainty().cloned().unwrap_or(Outage::Starting))),
        }
    }
}

impl Sentinels {
    fn new(config: &SentinelConfig, now: Instant) -> Self {
        Self {
            roster: SentinelTable::new(config),
            consensus: Consensus::new(config),
            signs: Signs::default(),
            switch: config.switch,
            scout: CandidateProbe::default(),
            ahead: false,
            nat: config.nat.clone(),
            poll_interval: config.poll_interval,
            accepted: None,
            uncertainty: Some(Outage::Starting),
            last_ask: None,
            ask_at: now + config.poll_interval,
        }
    }

    /// Takes in an event. Signs count if they are about the primary that is followed: the leader speaks of the
    /// former one for some time after a switch.
    fn noticed(&mut self, sentinel: &Address, heard: Heard, now: Instant) {
        let Heard { notice, primary, replica } = heard;
        if primary.is_some_and(|primary| self.follows(sentinel, &primary))
            && self.signs.noticed(sentinel, &notice, now)
            && self.switch == SwitchRule::Leader
            && matches!(notice, Notice::Failover(FailoverStep::Selecting | FailoverStep::Promoted))
            && let Some(replica) = replica
        {
            self.scout.choose(sentinel, replica, now);
        }
        self.roster.noticed(sentinel, notice);
        self.ask_at = now;
    }

    /// Follows a replica that the leader has chosen and that says that it is the primary. Its epoch is not known yet:
    /// if the majority goes on naming the former primary, that looks like an epoch that does not rise.
    fn go_ahead(&mut self, replica: Address, verifier: &mut Verifier, now: Instant) -> Option<Action> {
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
        self.ahead = true;
        Some(Action::Inform(text))
    }

    /// Whether this Sentinel means the followed primary by that address: others may know it by another.
    fn follows(&self, sentinel: &Address, primary: &Address) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let claim = self.roster.claim(sentinel).filter(|claim| claim.address == *primary);
        accepted.address == *primary || claim.is_some_and(|claim| same_node(claim, accepted))
    }

    /// Whether more than half of the Sentinels that answer show the primary down, or a failover.
    fn trouble_is_confirmed(&self) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let views = self.roster.views();
        let shown = views.iter().filter_map(|(_, view)| view.claim.as_ref()).filter(|claim| {
            let flagged =
                claim.flags.split(',').any(|flag| flag == "o_down" || flag == "failover_in_progress");
            flagged || claim.epoch > accepted.epoch
        });
        shown.count() * 2 > views.len()
    }

    /// Aims at whom the Sentinels name. When they name nobody any more, whoever was named last is kept, and the
    /// operator is told why.
    fn judge(&mut self, verifier: &mut Verifier, now: Instant) -> Option<Action> {
        let successor = verifier.successor().map(|announced| self.nat.get(announced).unwrap_or(announced));
        match self.consensus.verdict(&self.roster, self.accepted.as_ref(), successor, now) {
            ConsensusVerdict::Named(claim) => {
                self.uncertainty = None;
                self.ahead = false;
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
            ConsensusVerdict::Undecided(doubt) => {
                let news = self.uncertainty.as_ref() != Some(&doubt);
                let kept = self.accepted.as_ref().filter(|_| news && !self.ahead);
                let warning = kept.map(|kept| Action::Warn(format!("keeping {}: {doubt}", kept.address)));
                self.uncertainty = Some(doubt);
                warning
            }
        }
    }

    fn ask_is_due(&mut self, now: Instant) -> bool {
        if self.ask_at > now {
            return false;
        }
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

/// Words for the operator.
fn tell(news: AddressNews) -> Action {
    match news {
        AddressNews::Switched(address, former) => Action::Inform(format!(
            "{address} leads to another node than before, or the server there has restarted: connections to the \
             former one (run_id {former}) are cut"
        )),
        AddressNews::Alternates(address) => Action::Warn(format!(
            "{address} leads to several nodes in turn, each of which says that it is a primary: clients see different \
             data, and connections are cut at most once a minute; name an address that leads to one primary"
        )),
    }
}

/// Whether a node that was no primary a moment ago may be one now.
fn matters_to_probe(notice: &Notice) -> bool {
    matches!(
        notice,
        Notice::Switched { .. }
            | Notice::Other
            | Notice::Failover(FailoverStep::Promoted | FailoverStep::Ended | FailoverStep::Aborted)
    )
}

/// Whether publishing the second after the first would tell nobody anything.
fn same(one: &Topology, other: &Topology) -> bool {
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
