//! Decides whether an address still leads to the node that was verified there. Pure.
//!
//! # The rule
//!
//! - A node with another `run_id` is another node. Discovery switches to it at once and cuts every connection to the
//!   former node.
//! - A second switch within [`ALTERNATION`] (60 s) needs a node that started after the first switch: a restarted
//!   server. Otherwise the address alternates between nodes that run side by side (a round-robin name, a load
//!   balancer). Discovery reports this, and connections to any of the nodes stay in use until [`ALTERNATION`] is over.
//! - A node that reports no `run_id` never counts as another node.

use std::time::Duration;

use tokio::time::Instant;

use crate::topology::{Node, NodeId};

/// The least time between two switches of one address between nodes that run side by side.
pub(super) const ALTERNATION: Duration = Duration::from_secs(60);

/// The number of new connections after which the address alternates, if each led to another node than the probe that
/// followed it.
const ELSEWHERE_LIMIT: u32 = 3;

/// The precision of a node's uptime: a server reports the difference of two times in whole seconds.
const UPTIME_ROUNDING: Duration = Duration::from_secs(1);

/// The result of comparing the node that a probe reached with the known node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The address leads to the known node, as far as respgate can tell.
    Same,
    /// The address leads to another node now. This is the id of the former node.
    Switched(NodeId),
    /// The address leads to several nodes in turn. This is the id of one of them.
    Alternates(NodeId),
}

/// Holds the node that an address leads to.
#[derive(Debug, Default)]
pub(super) struct KnownNode {
    id: Option<NodeId>,
    /// The node before the last switch.
    former: Option<NodeId>,
    /// The time of the last switch to another node.
    switched: Option<Instant>,
    /// Until this time new connections may lead to any node.
    any_until: Option<Instant>,
    /// True if a new connection has led to another node since the last probe.
    elsewhere: bool,
    /// The number of probes that reached the known node after a new connection had led elsewhere.
    elsewhere_count: u32,
}

impl KnownNode {
    /// Returns the node that new connections must lead to.
    pub(super) fn required(&self) -> Option<NodeId> {
        self.id.clone().filter(|_| self.any_until.is_none())
    }

    /// Notes that a new connection led to another node.
    pub(super) fn note_elsewhere(&mut self) {
        self.elsewhere = true;
    }

    /// Compares the node that a probe reached with the known node. `serving` is true if connections to the known node
    /// may be open; if it is false, a switch cuts no connection, so `compare` makes the switch every time.
    pub(super) fn compare(&mut self, seen: Option<&Node>, serving: bool, now: Instant) -> Comparison {
        let led_elsewhere = std::mem::take(&mut self.elsewhere);
        let Some(seen) = seen else { return Comparison::Same };
        let Some(known) = self.id.clone() else {
            self.id = Some(seen.id.clone());
            return Comparison::Same;
        };
        if known == seen.id {
            return self.seen_again(known, led_elsewhere, now);
        }
        self.elsewhere_count = 0;
        let recent =
            self.switched.map(|at| now.saturating_duration_since(at)).filter(|ago| *ago < ALTERNATION);
        // A node that has run for less time than has passed since the switch was started after it.
        // The former node did not start after the switch; of any other node, the uptime may be rounded up by a second.
        let rounding = if self.former.as_ref() == Some(&seen.id) { Duration::ZERO } else { UPTIME_ROUNDING };
        let restarted = recent.is_some_and(|ago| seen.uptime.saturating_sub(rounding) < ago);
        if serving && recent.is_some() && !restarted {
            return self.alternates(seen.id.clone(), now);
        }
        self.id = Some(seen.id.clone());
        self.former = Some(known.clone());
        self.switched = Some(now);
        // The address may still alternate: accept connections to any node for another `ALTERNATION`.
        self.any_until = self.any_until.filter(|until| *until > now).map(|_| now + ALTERNATION);
        Comparison::Switched(known)
    }

    fn seen_again(&mut self, known: NodeId, led_elsewhere: bool, now: Instant) -> Comparison {
        // The alternation is over: new connections must lead to this node again.
        if self.any_until.is_some_and(|until| until <= now) {
            (self.any_until, self.elsewhere_count) = (None, 0);
        }
        // The probe reached the known node, but a connection opened before it did not.
        self.elsewhere_count += u32::from(led_elsewhere);
        if self.elsewhere_count < ELSEWHERE_LIMIT {
            return Comparison::Same;
        }
        self.elsewhere_count = 0;
        self.switched = Some(now);
        self.alternates(known, now)
    }

    /// Returns `Alternates` once, then `Same` until new connections must lead to one node again.
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

    /// A server that started 0.1 s ago can report an uptime of 1 s.
    #[test]
    fn a_server_that_restarts_twice_in_a_second_is_followed() {
        let (mut a, now) = known("a");
        let seen = |name: &str| Node { id: id(name), uptime: Duration::from_secs(1) };
        assert_eq!(a.compare(Some(&seen("b")), true, now), Comparison::Switched(id("a")));
        let later = now + Duration::from_millis(200);
        assert_eq!(a.compare(Some(&seen("c")), true, later), Comparison::Switched(id("b")));
        let later = later + Duration::from_millis(200);
        assert_eq!(a.compare(Some(&seen("b")), true, later), Comparison::Alternates(id("b")));
    }

    #[test]
    fn without_open_connections_every_other_node_is_a_switch() {
        let (mut known, now) = known("a");
        for (name, former) in [("b", "a"), ("a", "b"), ("b", "a")] {
            assert_eq!(known.compare(Some(&node(name)), false, now), Comparison::Switched(id(former)));
        }
    }

    #[test]
    fn new_connections_that_go_elsewhere_than_probes_show_an_alternation() {
        let (mut known, now) = known("a");
        for attempt in 1..=ELSEWHERE_LIMIT {
            known.note_elsewhere();
            let found = known.compare(Some(&node("a")), true, now);
            let expected =
                if attempt == ELSEWHERE_LIMIT { Comparison::Alternates(id("a")) } else { Comparison::Same };
            assert_eq!(found, expected);
        }
        assert_eq!(known.required(), None);
    }

    /// Two to four nodes answer in random order: there is one switch a minute, and the second switch brings the report.
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
