use proptest::prelude::*;

use super::*;
use crate::upstream::config::UpstreamConfig;

fn room(max_open: usize) -> Rc<ClusterRoom> {
    let config = UpstreamConfig { max_open, ..UpstreamConfig::new("u") };
    let room = ClusterRoom::new(Rc::new(LiveConfig::new(config)));
    room.set_active(true);
    room
}

#[test]
fn each_primary_gets_its_first_connection() {
    let room = room(20);
    let primaries: Vec<_> = (0..10).map(|_| room.count_primary()).collect();
    let others: Vec<_> = std::iter::from_fn(|| room.take()).collect();
    assert_eq!(others.len(), 10);
    let first: Vec<_> = primaries.iter().filter_map(|primary| primary.take(true)).collect();
    assert_eq!((first.len(), room.open.get()), (10, 20));
    assert!(room.limit_error().is_some());
    drop(others);
    assert_eq!(std::iter::from_fn(|| room.take()).collect::<Vec<_>>().len(), 10);
}

#[test]
fn leases_may_have_half_of_the_room_however_many_primaries_there_are() {
    let room = room(20);
    let primaries: Vec<_> = (0..500).map(|_| room.count_primary()).collect();
    let leases: Vec<_> = std::iter::from_fn(|| room.take()).collect();
    let first: Vec<_> = primaries.iter().filter_map(|primary| primary.take(true)).collect();
    assert_eq!((first.len(), leases.len()), (10, 10));
    drop((first, leases));
    let waiting: Rc<Quiet> = Rc::default();
    let node: Rc<dyn NodeConnections> = waiting.clone();
    room.add(Rc::downgrade(&node));
    let mut first: Vec<_> =
        primaries.iter().filter_map(|primary| Some((primary, primary.take(true)?))).collect();
    assert_eq!((first.len(), waiting.0.get()), (20, 0), "nobody else needs room");
    waiting.1.set(true);
    let mut leases = Vec::new();
    while !first.is_empty() && leases.len() < 15 {
        let asked = waiting.0.get();
        leases.extend(room.take_for_lease());
        if waiting.0.get() == asked {
            break;
        }
        let (primary, permit) = first.remove(0);
        drop(permit);
        primary.set_reached(false);
        leases.extend(room.take_for_lease());
        assert!(primary.take(true).is_none(), "a lease waits");
    }
    assert_eq!((first.len(), leases.len()), (10, 10));
}

/// Counts how often a quiet connection should be closed, and says whether a session waits.
#[derive(Default)]
struct Quiet(Cell<usize>, Cell<bool>);

impl NodeConnections for Quiet {
    fn close_spare(&self, kind: Spare) -> bool {
        if kind == Spare::Quiet {
            self.0.set(self.0.get() + 1);
        }
        kind == Spare::Quiet
    }

    fn serve_waiting(&self) -> bool {
        false
    }

    fn waits_for_room(&self) -> bool {
        self.1.get()
    }
}

#[test]
fn one_primary_has_its_own_limits_only() {
    let room = room(2);
    room.set_active(false);
    let all: Vec<_> = (0..100).map_while(|_| room.take()).collect();
    assert_eq!(all.len(), 100);
    room.set_active(true);
    assert!(room.take().is_none(), "those count that are open when it becomes a cluster");
}

proptest! {
    #[test]
    fn the_limit_holds(max_open in 0_usize..40, steps in prop::collection::vec((0_usize..12, 0_u8..4), 0..200)) {
        let room = room(max_open);
        let mut primaries: Vec<(CountedPrimary, Vec<ClusterPermit>)> = Vec::new();
        let mut others = Vec::new();
        for (at, step) in steps {
            match step {
                0 => primaries.push((room.count_primary(), Vec::new())),
                1 => others.extend(room.take()),
                2 => drop(others.pop()),
                _ => {
                    let count = primaries.len().max(1);
                    if let Some((primary, open)) = primaries.get_mut(at % count) {
                        if at % 3 == 0 && !open.is_empty() {
                            open.pop();
                            primary.set_reached(!open.is_empty());
                        } else {
                            open.extend(primary.take(open.is_empty()));
                        }
                    }
                }
            }
            let open = others.len() + primaries.iter().map(|(_, open)| open.len()).sum::<usize>();
            prop_assert_eq!(open, room.open.get());
            prop_assert!(open <= max_open.max(2));
            let reached = primaries.iter().filter(|(_, open)| !open.is_empty()).count();
            prop_assert_eq!(reached, room.reached.get());
        }
        drop((primaries, others));
        prop_assert_eq!((room.open.get(), room.primaries.get(), room.reached.get()), (0, 0, 0));
    }
}
