use proptest::prelude::*;

use super::*;

fn at(node: usize) -> Address {
    Address::tcp("node", u16::try_from(node + 1).unwrap())
}

fn id(node: usize) -> ClusterNodeId {
    format!("node{node:04}").into()
}

fn claim(node: usize, epoch: u64, slots: &[u16]) -> NodeClaim {
    NodeClaim {
        id: id(node),
        address: Some(at(node)),
        role: ClaimedRole::Primary,
        epoch,
        is_myself: false,
        has_failed: false,
        is_suspected: false,
        slots: slots.iter().map(|slot| *slot..=*slot).collect(),
        moving: Vec::new(),
    }
}

fn by_itself(claim: NodeClaim) -> NodeClaim {
    NodeClaim { is_myself: true, ..claim }
}

fn owner(views: &ClusterViews, slot: usize, now: Instant) -> Option<ClusterNodeId> {
    let owners = owners(&views.effective(|_| None, now), |_| None);
    owners.of(slot).map(|owner| owners.owners[owner].clone())
}

#[test]
fn the_newest_epoch_wins() {
    let now = Instant::now();
    let mut views = ClusterViews::default();
    // Node 0 does not know yet that node 1 has taken the slot over.
    views.heard(at(0), ClusterView { nodes: vec![by_itself(claim(0, 1, &[7])), claim(1, 2, &[])] }, now);
    assert_eq!(owner(&views, 7, now), Some(id(0)));
    views.heard(at(1), ClusterView { nodes: vec![claim(0, 1, &[]), by_itself(claim(1, 3, &[7]))] }, now);
    assert_eq!(owner(&views, 7, now), Some(id(1)));
    // What node 0 repeats changes nothing.
    let later = now + Duration::from_secs(5);
    views.heard(at(0), ClusterView { nodes: vec![by_itself(claim(0, 1, &[7])), claim(1, 2, &[])] }, later);
    assert_eq!(owner(&views, 7, later), Some(id(1)));
    assert_eq!(views.epoch(), 3);
}

#[test]
fn a_node_knows_best_what_it_serves() {
    let now = Instant::now();
    let mut views = ClusterViews::default();
    views.heard(at(0), ClusterView { nodes: vec![by_itself(claim(0, 1, &[]))] }, now);
    views.heard(at(1), ClusterView { nodes: vec![claim(0, 1, &[7]), by_itself(claim(1, 2, &[]))] }, now);
    assert_eq!(owner(&views, 7, now), None);
}

#[test]
fn a_view_outlives_its_speaker_for_a_while() {
    let now = Instant::now();
    let mut views = ClusterViews::default();
    views.heard(at(1), ClusterView { nodes: vec![by_itself(claim(1, 9, &[7]))] }, now);
    let stale = ClusterView { nodes: vec![by_itself(claim(0, 1, &[7]))] };
    views.heard(at(0), stale.clone(), now + RETENTION / 2);
    assert_eq!(owner(&views, 7, now), Some(id(1)));
    views.heard(at(0), stale, now + RETENTION);
    assert_eq!(owner(&views, 7, now), Some(id(0)), "node 1 has been silent for too long");
}

#[test]
fn two_claims_of_one_epoch_leave_the_slot_where_it_is() {
    let claims = |now| {
        let mut views = ClusterViews::default();
        views.heard(at(0), ClusterView { nodes: vec![by_itself(claim(0, 4, &[7])), claim(1, 4, &[7])] }, now);
        views.effective(|_| None, now)
    };
    let now = Instant::now();
    for present in [0, 1] {
        let owners = owners(&claims(now), |_| Some(id(present)));
        assert_eq!(owners.of(7).map(|owner| owners.owners[owner].clone()), Some(id(present)));
        assert_eq!(owners.serving(), [&id(present)]);
    }
}

#[test]
fn most_of_the_others_decide_that_a_node_has_failed() {
    let now = Instant::now();
    let mut views = ClusterViews::default();
    let failed = NodeClaim { has_failed: true, ..claim(0, 1, &[7]) };
    let mut failing = |speaker: usize, says: &NodeClaim, now| {
        views.heard(at(speaker), ClusterView { nodes: vec![says.clone()] }, now);
        views.effective(|_| None, now)[&id(0)].is_failing
    };
    assert!(!failing(1, &claim(0, 1, &[7]), now));
    assert!(!failing(2, &failed, now), "one of two");
    assert!(failing(3, &failed, now));
    assert!(!failing(1, &claim(0, 1, &[7]), now + FRESH), "what the two said is too old");
}

#[test]
fn a_node_keeps_its_address_while_anybody_names_it() {
    let now = Instant::now();
    let mut views = ClusterViews::default();
    let named = |name: &str| NodeClaim { address: Some(Address::tcp(name, 1)), ..claim(0, 1, &[]) };
    let say = |views: &mut ClusterViews, speaker, name, now| {
        views.heard(at(speaker), ClusterView { nodes: vec![named(name)] }, now);
    };
    say(&mut views, 1, "a", now);
    say(&mut views, 2, "b", now);
    say(&mut views, 3, "b", now);
    let address = |views: &ClusterViews, known: Option<&str>, now| {
        let known = known.map(|name| Address::tcp(name, 1));
        views.effective(|_| known.clone(), now)[&id(0)].address.clone()
    };
    assert_eq!(address(&views, None, now), Some(Address::tcp("b", 1)));
    assert_eq!(address(&views, Some("a"), now), Some(Address::tcp("a", 1)));
    say(&mut views, 2, "b", now + FRESH);
    assert_eq!(address(&views, Some("a"), now + FRESH), Some(Address::tcp("b", 1)));
}

proptest! {
    /// Whatever the order in which nodes speak, each slot belongs to a primary whose claim has the highest epoch.
    #[test]
    fn the_order_of_views_does_not_matter(
        spoken in prop::collection::vec(
            (0..4_usize, prop::collection::vec((0..4_usize, 0..6_u64, prop::collection::vec(0..8_u16, 0..4)), 0..6)),
            1..8,
        ),
        seed in any::<u64>(),
    ) {
        // A node has one epoch for each list of slots, as servers have.
        let number = |epoch: u64, node: usize, slots: &[u16]| {
            let slots = slots.iter().fold(0, |sum, slot| sum | 1_u64 << slot);
            (epoch << 10) + slots * 4 + node as u64
        };
        let view = |claims: &[(usize, u64, Vec<u16>)]| {
            let claims = claims.iter().map(|(node, epoch, slots)| claim(*node, number(*epoch, *node, slots), slots));
            ClusterView { nodes: claims.collect() }
        };
        let mut newest = HashMap::new();
        for (speaker, claims) in &spoken {
            newest.insert(*speaker, view(claims));
        }
        let mut speakers: Vec<usize> = newest.keys().copied().collect();
        speakers.sort_unstable();
        let now = Instant::now();
        let table = |order: &[usize]| {
            let mut views = ClusterViews::default();
            for speaker in order {
                views.heard(at(*speaker), newest[speaker].clone(), now);
            }
            let claims = views.effective(|_| None, now);
            let owners = owners(&claims, |_| None);
            let table: Vec<Option<(ClusterNodeId, u64)>> = (0..8)
                .map(|slot| owners.of(slot).map(|owner| owners.owners[owner].clone()))
                .map(|owner| owner.map(|owner| (owner.clone(), claims[&owner].claim.epoch)))
                .collect();
            for (slot, owner) in table.iter().enumerate() {
                for known in claims.values() {
                    let claims_it = known.claim.slots.iter().any(|range| range.contains(&(slot as u16)));
                    assert!(!claims_it || owner.as_ref().is_some_and(|(_, epoch)| *epoch >= known.claim.epoch));
                }
            }
            table
        };
        let sorted = table(&speakers);
        fastrand::Rng::with_seed(seed).shuffle(&mut speakers);
        prop_assert_eq!(table(&speakers), sorted);
    }
}
