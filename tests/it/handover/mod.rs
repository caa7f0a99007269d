//! Managed services without Sentinels that hand over by themselves: how long clients wait for the new node.

mod site;
mod traffic;

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use self::site::{Moved, OldNode, Plan, Site, can_move_names};
use self::traffic::{Clients, Traffic};
use crate::support::servers::Flavor;

/// Clients wait less than 1 s on a machine that has nothing else to do, and longer where processors are busy. What waits
/// for `ping-interval` or for a timeout takes longer than this in the end.
const LIMIT: Duration = Duration::from_secs(4);

/// The default `ping-interval`: the time between two probes while nothing shows that a balancer has moved.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// The time that a service takes to hand over.
const OUTAGES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(2600)];

/// Hands one service over, with one respgate for each kind of traffic, and checks how long each waits.
fn hand_over(plan: Plan) {
    let site = Site::start(plan);
    site.old.run(&["SET", "where", "old"]);
    let mut clients = Traffic::ALL.map(|traffic| Clients::start(&site, traffic));
    let moved = OnceLock::new();
    let (site, moved) = (&site, &moved);
    let waits = thread::scope(|scope| {
        let waiting = clients.each_mut().map(|clients| {
            scope.spawn(|| {
                let answered = clients.first_success(site, || moved.get().copied());
                clients.expect_nothing_more();
                (clients.traffic, answered)
            })
        });
        let moved_at = *moved.get_or_init(|| site.hand_over());
        waiting.map(|one| {
            let (traffic, answered) = one.join().expect("clients that saw no error");
            (traffic, answered.duration_since(moved_at))
        })
    });
    eprintln!("{plan:?}: {waits:?}");
    let limit = match (plan.moved, plan.old) {
        (Moved::Target, OldNode::Untouched) => PING_INTERVAL + LIMIT,
        _ => LIMIT,
    };
    for (traffic, wait) in waits {
        assert!(wait <= limit, "{traffic:?} waited {wait:?}; {plan:?}");
    }
}

/// Hands over in this way on both servers, at once and after an outage, with one worker and with two.
fn hand_over_each(moved: Moved, old: OldNode, tls: bool) {
    if moved == Moved::Name && !can_move_names() {
        eprintln!("no mount namespaces here: not tested");
        return;
    }
    for (flavor, workers, outage) in [(Flavor::Valkey, 1, OUTAGES[1]), (Flavor::Redis, 2, OUTAGES[0])] {
        hand_over(Plan { flavor, workers, moved, old, tls, outage });
    }
}

#[test]
fn a_name_moves_and_the_old_node_is_demoted() {
    hand_over_each(Moved::Name, OldNode::Demoted, false);
}

#[test]
fn a_name_moves_and_the_old_node_is_stopped() {
    hand_over_each(Moved::Name, OldNode::Stopped, false);
}

#[test]
fn a_name_moves_and_the_old_node_is_frozen() {
    hand_over_each(Moved::Name, OldNode::Frozen, false);
}

#[test]
fn a_name_moves_and_the_old_node_works_on() {
    hand_over_each(Moved::Name, OldNode::Untouched, false);
}

#[test]
fn a_name_moves_after_a_failover_by_hand() {
    hand_over_each(Moved::Name, OldNode::FailedOver, false);
}

#[test]
fn a_balancer_moves_and_the_old_node_is_demoted() {
    hand_over_each(Moved::Target, OldNode::Demoted, false);
}

#[test]
fn a_balancer_moves_and_the_old_node_is_stopped() {
    hand_over_each(Moved::Target, OldNode::Stopped, false);
}

#[test]
fn a_balancer_moves_and_the_old_node_is_frozen() {
    hand_over_each(Moved::Target, OldNode::Frozen, false);
}

#[test]
fn a_balancer_moves_and_the_old_node_works_on() {
    hand_over_each(Moved::Target, OldNode::Untouched, false);
}

#[test]
fn a_name_with_tls_moves_and_the_old_node_is_demoted() {
    hand_over_each(Moved::Name, OldNode::Demoted, true);
}

#[test]
fn a_name_with_tls_moves_and_the_old_node_is_frozen() {
    hand_over_each(Moved::Name, OldNode::Frozen, true);
}

#[test]
fn a_balancer_with_tls_moves_and_the_old_node_is_demoted() {
    hand_over_each(Moved::Target, OldNode::Demoted, true);
}
