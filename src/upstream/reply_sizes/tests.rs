use proptest::prelude::*;

use super::*;

const LIMIT: usize = 256 * 1024 * 1024;

#[test]
fn a_new_client_has_few_requests_under_way_and_doubles_them() {
    let sizes = ReplySizes::new(LIMIT);
    let mut windows = vec![sizes.window()];
    for _ in 0..10 {
        let under_way = sizes.window();
        sizes.replied(under_way, 5 * under_way as usize, 5, 0, 0);
        windows.push(sizes.window());
    }
    assert_eq!(windows[..4], [FIRST_WINDOW, 2 * FIRST_WINDOW, 4 * FIRST_WINDOW, 8 * FIRST_WINDOW]);
    assert_eq!(windows.last(), Some(&MAX_WINDOW));
}

#[test]
fn a_large_reply_moves_its_client_and_several_small_leases_bring_it_back() {
    let sizes = ReplySizes::new(LIMIT);
    assert!(!sizes.announced(LARGE, 100));
    assert_eq!(sizes.placement(), Placement::Shared);
    assert!(!sizes.announced(LARGE + 1, 1), "others wait for one");
    assert_eq!(sizes.placement(), Placement::Own);
    assert!(sizes.announced(LARGE + 1, 2), "they do not wait for two");
    assert!(sizes.announced(HUGE + 1, 1));
    for _ in 0..3 {
        (1..SMALL_AGAIN).for_each(|_| sizes.lease_ended());
        assert_eq!(sizes.placement(), Placement::Own);
        sizes.replied_on_lease(LARGE + 1);
        sizes.lease_ended();
    }
    (0..SMALL_AGAIN).for_each(|_| sizes.lease_ended());
    assert_eq!(sizes.placement(), Placement::Shared);
}

#[test]
fn whoever_waits_for_its_replies_shares_again_afterwards() {
    let sizes = ReplySizes::new(LIMIT);
    sizes.wait_until_answered();
    assert_eq!(sizes.placement(), Placement::SharedWhenAnswered);
    sizes.all_answered();
    assert_eq!(sizes.placement(), Placement::Shared);
    sizes.use_own();
    sizes.wait_until_answered();
    sizes.all_answered();
    assert_eq!(sizes.placement(), Placement::Own);
}

proptest! {
    /// Whatever sizes come: a client that sends whenever its window lets it has no more bytes on their way than its
    /// bound and one jump in size explain, and a jump that brings more than is tolerated is noticed.
    #[test]
    fn what_is_under_way_stays_bounded(
        sizes in prop::collection::vec(prop_oneof![1usize..2048, 1usize..(1 << 20)], 1..3000),
        limit in (1usize << 20)..(1 << 28),
    ) {
        let client = ReplySizes::new(limit);
        let (mut sent, mut answered) = (0, 0);
        let mut received_in_excess = 0;
        while answered < sizes.len() {
            while sent < sizes.len() && ((sent - answered) as u32) < client.window() {
                sent += 1;
            }
            let size = sizes[answered];
            answered += 1;
            let awaited = (sent - answered) as u32;
            client.replied(1, size, size, awaited, 0);
            prop_assert!(client.window() >= 1);
            prop_assert!(client.window() == 1 || client.window() as usize * size <= client.bound());
            let under_way: usize = sizes[answered..sent].iter().sum();
            if under_way > 2 * client.bound() && awaited as usize * size > 2 * client.bound() {
                received_in_excess += size;
                prop_assert!(client.outgrown() || received_in_excess <= TOLERATED);
            } else {
                received_in_excess = 0;
            }
        }
    }
}
