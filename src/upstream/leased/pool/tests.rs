use super::*;
use crate::resp::Resp;
use crate::rotation::login::Login;
use crate::upstream::connection::identity::Identities;

#[tokio::test(start_paused = true)]
async fn what_was_begun_before_a_change_is_outdated_by_it() {
    let identities = Identities::new(Login::default());
    let key = |identity| ConnectionKey::new(identity, 0, Resp::V2);
    let (own, other) = (key(identities.own().clone()), key(identities.of(None, b"x")));
    let leases = Leases::new(1);
    let outdated = |began| (leases.is_outdated(&own, began), leases.is_outdated(&other, began));
    let began = Instant::now();
    assert_eq!(outdated(began), (false, false));
    leases.outdate(Some(&own.identity));
    assert_eq!(outdated(began), (true, false));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(outdated(Instant::now()), (false, false));
    leases.outdate(None);
    let certified = Instant::now();
    assert_eq!(outdated(certified), (true, true));
    tokio::time::advance(Duration::from_secs(1)).await;
    leases.outdate(Some(&own.identity));
    assert_eq!(outdated(certified), (true, true), "a later change does not undo an earlier one");
    assert_eq!(outdated(Instant::now() + Duration::from_secs(1)), (false, false));
}

#[test]
fn sessions_that_left_the_queue_do_not_pile_up() {
    let leases = Leases::new(1);
    for _ in 0..10_000 {
        let place = leases.enqueue(oneshot::channel().0, Share::default());
        drop(place);
    }
    assert!(leases.waiting.borrow().is_empty() && leases.queue.borrow().is_empty());
}
