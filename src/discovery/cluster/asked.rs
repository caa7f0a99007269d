//! The nodes that are asked for their views: the seeds until others are known, then the primaries, and whoever was named by a redirect.
//! Pure.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;

use super::status::{AskedNode, NodeError};
use crate::topology::Address;

/// The greatest number of nodes that are asked. The others' news come by gossip, and through redirects.
pub const MAX_ASKED: usize = 32;

/// The number of nodes that are asked in a round in which only some are: they take turns. Each is asked within [`TURNS`] rounds.
const PART: usize = 8;
pub(super) const TURNS: u32 = 5;

/// The greatest number of nodes that are asked because a redirect named them, and for how long.
const MAX_NAMED: usize = 4;
const NAMED_FOR: Duration = Duration::from_secs(10);

/// How long nobody may answer before the seeds are asked again too, beside three rounds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The number of failures in a row of which the operator is told.
const TOLD: u32 = 2;

/// The nodes that are asked.
#[derive(Debug)]
pub(super) struct AskedNodes {
    seeds: Vec<Address>,
    /// How long nobody may answer before the seeds are asked again too.
    patience: Duration,
    nodes: BTreeMap<String, Known>,
    /// Nodes that redirects named, with the time until which they are asked.
    named: Vec<(Address, Instant)>,
    /// When a node answered last.
    answered: Option<Instant>,
    /// The node that was asked last of those that take turns.
    last_in_turn: String,
}

#[derive(Debug)]
struct Known {
    address: Address,
    answers: bool,
    error: Option<NodeError>,
    /// The number of failures in a row.
    failures: u32,
}

/// A change of the nodes that are asked: connect to these, and leave those.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AskedChange {
    pub(super) track: Vec<Address>,
    pub(super) forget: Vec<Address>,
}

impl AskedNodes {
    /// Creates the list for these seeds, with a round every `interval`. [`AskedNodes::choose`] names the seeds first.
    pub(super) fn new(seeds: Vec<Address>, interval: Duration) -> Self {
        let patience = PATIENCE.max(interval.saturating_mul(3));
        Self {
            seeds,
            patience,
            nodes: BTreeMap::new(),
            named: Vec::new(),
            answered: None,
            last_in_turn: String::new(),
        }
    }

    /// Notes that a node answered. Returns true if the operator was told that it failed.
    pub(super) fn answered(&mut self, address: &Address, now: Instant) -> bool {
        self.answered = Some(now);
        self.nodes.get_mut(&address.to_string()).is_some_and(|node| {
            (node.answers, node.error) = (true, None);
            std::mem::take(&mut node.failures) >= TOLD
        })
    }

    /// Notes that a node did not answer. Returns true if the operator should know: once, and of a node that does not answer in time
    /// only when that happens again.
    pub(super) fn failed(&mut self, address: &Address, error: NodeError) -> bool {
        self.nodes.get_mut(&address.to_string()).is_some_and(|node| {
            let before = node.failures;
            let is_final = !matches!(error, NodeError::Unreachable(_));
            node.failures = before.saturating_add(1).max(if is_final { TOLD } else { 1 });
            (node.answers, node.error) = (false, Some(error));
            before < TOLD && node.failures >= TOLD
        })
    }

    /// Notes that a redirect named this node.
    pub(super) fn named(&mut self, address: Address, now: Instant) {
        self.named.retain(|(known, until)| *known != address && *until > now);
        if self.named.len() < MAX_NAMED {
            self.named.push((address, now + NAMED_FOR));
        }
    }

    /// Chooses the nodes to ask, given the addresses of nodes in the order in which they should be asked. `is_member` returns true if
    /// a node of the cluster announces an address. A script of a client may forge a redirect, and respgate sends its password only to
    /// addresses that the cluster announces.
    pub(super) fn choose(
        &mut self,
        wanted: impl Iterator<Item = Address>,
        is_member: impl Fn(&Address) -> bool,
        now: Instant,
    ) -> AskedChange {
        self.named.retain(|(_, until)| *until > now);
        let named = self.named.iter().map(|(address, _)| address).filter(|address| is_member(address));
        let mut chosen: Vec<Address> = named.cloned().collect();
        let named = chosen.len();
        for address in wanted {
            if chosen.len() >= MAX_ASKED {
                break;
            }
            if !chosen.contains(&address) {
                chosen.push(address);
            }
        }
        let is_answered = self.answered.is_some_and(|at| now.saturating_duration_since(at) < self.patience);
        if chosen.len() <= named || !is_answered {
            let missing = self.seeds.iter().filter(|seed| !chosen.contains(seed)).cloned();
            let missing: Vec<Address> = missing.take(MAX_ASKED).collect();
            chosen.extend(missing);
        }
        let mut change = AskedChange::default();
        self.nodes.retain(|_, node| {
            let stays = chosen.contains(&node.address);
            if !stays {
                change.forget.push(node.address.clone());
            }
            stays
        });
        for address in chosen {
            self.nodes.entry(address.to_string()).or_insert_with(|| {
                change.track.push(address.clone());
                Known { address, answers: false, error: None, failures: 0 }
            });
        }
        change
    }

    /// Returns the nodes to ask in a round in which only some need be asked. Returns `None` if all must be: because they are not more than
    /// can be asked, or because one of them has not answered.
    pub(super) fn part(&mut self) -> Option<Vec<Address>> {
        if self.nodes.len() < MAX_ASKED || !self.nodes.values().all(|node| node.answers) {
            return None;
        }
        let after = self.nodes.range::<String, _>((Bound::Excluded(&self.last_in_turn), Bound::Unbounded));
        let part: Vec<(&String, &Known)> = after.chain(&self.nodes).take(PART).collect();
        let last = part.last().map(|(name, _)| (*name).clone());
        let mut part: Vec<Address> = part.into_iter().map(|(_, node)| node.address.clone()).collect();
        self.last_in_turn = last.unwrap_or_default();
        // Those that a redirect named are asked because something changes there.
        let named = self.named.iter().map(|(address, _)| address);
        let named: Vec<Address> = named.filter(|address| !part.contains(address)).cloned().collect();
        part.extend(named);
        Some(part)
    }

    /// Returns why the nodes do not answer, as far as the operator should know; nothing if any node answers.
    pub(super) fn errors(&self) -> Vec<&NodeError> {
        if self.nodes.values().any(|node| node.answers) {
            return Vec::new();
        }
        let told = self.nodes.values().filter(|node| node.failures >= TOLD);
        told.filter_map(|node| node.error.as_ref()).collect()
    }

    /// Returns the state of each node.
    pub(super) fn status(&self) -> Vec<AskedNode> {
        let nodes = self.nodes.values();
        nodes
            .map(|Known { address, answers, error, .. }| AskedNode {
                address: address.clone(),
                answers: *answers,
                error: error.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Address {
        Address::tcp(name, 7000)
    }

    #[test]
    fn seeds_are_asked_until_others_answer_and_again_when_none_does() {
        let now = Instant::now();
        let mut asked = AskedNodes::new(vec![at("seed")], Duration::from_millis(100));
        assert_eq!(asked.choose([].into_iter(), |_| true, now).track, [at("seed")]);
        assert_eq!(asked.choose([].into_iter(), |_| true, now), AskedChange::default());
        assert!(!asked.answered(&at("seed"), now));
        let change = asked.choose([at("a"), at("b")].into_iter(), |_| true, now);
        assert_eq!(change, AskedChange { track: vec![at("a"), at("b")], forget: vec![at("seed")] });
        let later = now + PATIENCE;
        assert!(!asked.failed(&at("a"), NodeError::Unreachable("x".into())), "once is no reason to tell");
        assert!(asked.failed(&at("a"), NodeError::Unreachable("x".into())));
        assert!(!asked.failed(&at("a"), NodeError::Unreachable("x".into())), "logged once");
        assert_eq!(asked.choose([at("a"), at("b")].into_iter(), |_| true, later).track, [at("seed")]);
        assert!(asked.answered(&at("a"), later), "it answers again");
        assert!(!asked.answered(&at("a"), later));
        assert!(asked.failed(&at("b"), NodeError::NoCluster("x".into())), "that does not end by itself");
    }

    #[test]
    fn many_nodes_take_turns() {
        let now = Instant::now();
        let mut asked = AskedNodes::new(vec![at("seed")], Duration::from_millis(100));
        asked.answered(&at("seed"), now);
        let change = asked.choose((0..100).map(|number| at(&format!("p{number}"))), |_| true, now);
        assert_eq!(asked.part(), None, "they have not answered");
        change.track.iter().for_each(|node| {
            asked.answered(node, now);
        });
        let mut questions: Vec<Address> = (0..TURNS).flat_map(|_| asked.part().unwrap()).collect();
        assert_eq!(questions.len(), PART * TURNS as usize);
        questions.sort_by_key(Address::to_string);
        questions.dedup();
        assert_eq!(questions.len(), MAX_ASKED, "each had its turn");
        asked.failed(&at("p3"), NodeError::Unreachable("x".into()));
        assert_eq!(asked.part(), None);
        asked.choose((0..31).map(|number| at(&format!("p{number}"))), |_| true, now);
        asked.answered(&at("p3"), now);
        assert_eq!(asked.part(), None, "there are few");
    }

    #[test]
    fn few_nodes_are_asked_because_of_redirects_and_not_for_ever() {
        let now = Instant::now();
        let mut asked = AskedNodes::new(vec![at("seed")], Duration::from_millis(100));
        asked.answered(&at("seed"), now);
        (0..100).for_each(|number| asked.named(at(&number.to_string()), now));
        let change = asked.choose((0..1000).map(|number| at(&format!("p{number}"))), |_| true, now);
        assert_eq!(change.track.len(), MAX_ASKED);
        let change = asked.choose((0..1000).map(|number| at(&format!("p{number}"))), |_| false, now);
        assert_eq!(change.forget.len(), MAX_NAMED, "no node of the cluster announces them: {change:?}");
        let later = now + NAMED_FOR;
        asked.answered(&at("p0"), later);
        let change = asked.choose([at("p0")].into_iter(), |_| true, later);
        assert_eq!(change.forget.len(), MAX_ASKED - 1, "{change:?}");
    }
}
