//! Whether an address still leads to the node that was verified there. Pure.
//!
//! # The rule
//!
//! - Another `run_id` is another node. The switch to it is made at once, and cuts every connection to the former one.
//! - A second switch within [`ALTERNATION`] is made only to a process that started after the first: a restarted server.
//!   Otherwise the address alternates between nodes that run side by side (a round-robin name, a load balancer). It is
//!   reported, and connections to either node are used until the time is over.
//! - A node that does not tell its `run_id` is never found to be another.

use std::time::Duration;

use tokio::time::Instant;

use crate::topology::{Node, NodeId};

/// The least time between two switches of one address among nodes that run side by side.
pub(super) const ALTERNATION: Duration = Duration::from_secs(60);

/// After this many new connections that led elsewhere than the probe that followed each, the address alternates.
const STRAYS: u32 = 3;

/// The result of comparing the node that a probe reached with the node that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// It leads to the node that was verified, as far as anybody can tell.
    Same,
    /// It leads to another node than this one.
    Switched(NodeId),
    /// It leads to several nodes in turn: this one and the one that was verified.
    Alternates(NodeId),
}

/// The node that an address leads to.
#[derive(Debug, Default)]
pub(super) struct KnownNode {
    id: Option<NodeId>,
    /// When the address last led to another node than before.
    switched: Option<Instant>,
    /// Until when new connections may lead to any node.
    any_until: Option<Instant>,
    /// A new connection led elsewhere, and no probe has been answered since.
    elsewhere: bool,
    elsewhere_count: u32,
}

impl KnownNode {
    /// The node that new connections must lead to.
    pub(super) fn required(&self) -> Option<NodeId> {
        self.id.clone().filter(|_| self.any_until.is_none())
    }

    /// A new connection led to another node.
    pub(super) fn note_elsewhere(&mut self) {
        self.elsewhere = true;
    }

    /// Compares the node that a probe reached with the one before. `serving`: connections to that one may be open; if
    /// not, a switch cuts nothing and is made whenever it is seen.
    pub(super) fn compare(&mut self, seen: Option<&Node>, serving: bool, now: Instant) -> Comparison {
        let stray = std::mem::take(&mut self.elsewhere);
        let Some(seen) = seen else { return Comparison::Same };
        let Some(known) = self.id.clone() else {
            self.id = Some(seen.id.clone());
            return Comparison::Same;
        };
        if known == seen.id {
            return self.seen_again(known, stray, now);
        }
        self.elsewhere_count = 0;
        let recent =
            self.switched.map(|at| now.saturating_duration_since(at)).filter(|ago| *ago < ALTERNATION);
        let restarted = recent.is_some_and(|ago| seen.uptime < ago);
        if serving && recent.is_some() && !restarted {
            return self.alternates(seen.id.clone(), now);
        }
        self.id = Some(seen.id.clone());
        self.switched = Some(now);
        // The address may still alternate: connections to either node are accepted for the next minute.
        self.any_until = self.any_until.filter(|until| *until > now).map(|_| now + ALTERNATION);
        Comparison::Switched(known)
    }

    fn seen_again(&mut self, known: NodeId, stray: bool, now: Instant) -> Comparison {
        if self.any_until.is_some_and(|until| until <= now) {
            (self.any_until, self.elsewhere_count) = (None, 0);
        }
        self.elsewhere_count += u32::from(stray);
        if self.elsewhere_count < STRAYS {
            return Comparison::Same;
        }
        self.elsewhere_count = 0;
        self.switched = Some(now);
        self.alternates(known, now)
    }

    /// Says so once, until new connections must lead to one node again.
    fn alternates(&mut self, seen: NodeId, now: Instant) -> Comparison {
        match self.any_until.replace(now + ALTERNATION) {
            Some(_) => Comparison::Same,
            None => Comparison::Alternates(seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Duration = Duration::from_secs(3600);

    fn node(name: &str) -> Node {
        Node { id: NodeId(name.into()), uptime: OLD }
    }

    fn id(name: &str) -> NodeId {
        NodeId(name.into())
    }

    fn known(name: &str) -> (KnownNode, Instant) {
        let (mut known, now) = (KnownNode::default(), Instant::now());
        assert_eq!(known.compare(Some(&node(name)), true, now), Comparison::Same);
        (known, now)
    }

    #[test]
    fn another_run_id_is_another_node_and_none_says_nothing() {
        let (mut a, now) = known("a");
        assert_eq!(a.compare(None, true, now), Comparison::Same);
        assert_eq!(a.required(), Some(id("a")));
        assert_eq!(a.compare(Some(&node("b")), true, now), Comparison::Switched(id("a")));
        assert_eq!(a.required(), Some(id("b")));
        let mut silent = KnownNode::default();
        assert_eq!(silent.compare(None, true, now), Comparison::Same);
        assert_eq!(silent.required(), None);
    }

    #[test]
    fn a_server_that_restarts_again_and_again_is_followed_each_time() {
        let (mut known, mut now) = known("0");
        for number in 1..20 {
            now += Duration::from_secs(5);
            let seen = Node { id: id(&number.to_string()), uptime: Duration::from_secs(1) };
            let switched = Comparison::Switched(id(&(number - 1).to_string()));
            assert_eq!(known.compare(Some(&seen), true, now), switched);
        }
    }

    #[test]
    fn what_no_connection_is_open_to_is_left_whenever_another_is_seen() {
        let (mut known, now) = known("a");
        for (name, former) in [("b", "a"), ("a", "b"), ("b", "a")] {
            assert_eq!(known.compare(Some(&node(name)), false, now), Comparison::Switched(id(former)));
        }
    }

    #[test]
    fn new_connections_that_go_elsewhere_than_probes_show_an_alternation() {
        let (mut known, now) = known("a");
        for attempt in 1..=STRAYS {
            known.note_elsewhere();
            let found = known.compare(Some(&node("a")), true, now);
            let expected = if attempt == STRAYS { Comparison::Alternates(id("a")) } else { Comparison::Same };
            assert_eq!(found, expected);
        }
        assert_eq!(known.required(), None);
    }

    /// Whatever a number of nodes answers in whatever order: one switch a minute, and the report comes with the second.
    #[test]
    fn alternation_cuts_at_most_once_a_minute() {
        for nodes in 2..5_u64 {
            let (mut known, start) = known("0");
            let (mut now, mut random) = (start, nodes);
            let (mut switches, mut reports) = (Vec::new(), 0);
            while now < start + Duration::from_secs(600) {
                now += Duration::from_millis(700);
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let name = ((random >> 33) % nodes).to_string();
                match known.compare(Some(&node(&name)), true, now) {
                    Comparison::Switched(_) => switches.push(now),
                    Comparison::Alternates(_) => reports += 1,
                    Comparison::Same => {}
                }
            }
            assert!((8..=11).contains(&switches.len()), "{} switches in 10 minutes", switches.len());
            assert!(switches.windows(2).all(|pair| pair[1] - pair[0] >= ALTERNATION));
            assert!(reports >= 1, "it was never reported");
            assert_eq!(known.required(), None);
        }
    }

    #[test]
    fn an_address_that_has_come_to_rest_is_compared_again() {
        let (mut known, now) = known("a");
        known.compare(Some(&node("b")), true, now);
        assert_eq!(known.compare(Some(&node("a")), true, now), Comparison::Alternates(id("a")));
        assert_eq!(known.required(), None);
        let later = now + ALTERNATION;
        assert_eq!(known.compare(Some(&node("b")), true, later), Comparison::Same);
        assert_eq!(known.required(), Some(id("b")));
    }
}
