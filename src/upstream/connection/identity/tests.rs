use super::*;
use crate::upstream::connection::identities::Identities;

#[tokio::test(start_paused = true)]
async fn an_old_connection_ends_only_if_another_is_to_be_had() {
    let identities = Identities::new(Login::default());
    let identity = identities.of(None, b"pw");
    identity.confirm();
    tokio::time::advance(Duration::from_secs(1)).await;
    let due = Instant::now();
    assert_eq!(identity.fate_at_max_age(due), AgeFate::AskFirst);
    identity.note_refused();
    assert_eq!(identity.fate_at_max_age(due), AgeFate::Stays);
    assert!(identity.is_dead());
    tokio::time::advance(ASK_AGAIN).await;
    assert_eq!(identity.fate_at_max_age(due), AgeFate::AskFirst);
    identity.note_needless_password();
    assert_eq!(identity.fate_at_max_age(due), AgeFate::Ends);
    assert!(!identity.is_dead() && identity.was_accepted() && !identity.believed());
    let own = identities.own();
    assert_eq!(own.fate_at_max_age(due), AgeFate::Ends);
    own.note_refused();
    assert_eq!(own.fate_at_max_age(due), AgeFate::Stays);
    assert!(!own.is_dead());
}

#[tokio::test(start_paused = true)]
async fn belief_ends_after_a_minute() {
    let identities = Identities::new(Login::new(None));
    let identity = identities.of(None, b"pw");
    assert!(!identity.believed());
    identity.confirm();
    assert!(identity.believed());
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(!identity.believed());
}
