//! Tests one client under its tenant's limits, with time passed in.

use std::time::Duration;

use super::*;
use crate::tenant::config::TenantConfig;
use crate::tenant::limits::config::{LimitsConfig, Rates};
use crate::tenant::{Tenant, Tenants};

const MS: u64 = 1_000_000;
const RATE: Rate = Rate { per_second: 100, burst: 2 };

fn tenant(limits: LimitsConfig) -> Arc<Tenant> {
    Tenant::new(0, TenantConfig { name: "shop".into(), limits, ..TenantConfig::default() })
}

fn member(limits: LimitsConfig) -> Member {
    Member::join(&WorkerTenant::new(&tenant(limits)), None, 0).unwrap()
}

fn commands(over_limit: OverLimit) -> LimitsConfig {
    let rates = Rates { commands: Some(RATE), ..Rates::default() };
    LimitsConfig { over_limit, max_delay: Duration::from_millis(25), rates, ..LimitsConfig::default() }
}

fn refused(decision: &LimitDecision) -> String {
    match decision {
        LimitDecision::Refuse(line) => String::from_utf8_lossy(line).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn delays_are_in_turn_and_bounded() {
    let mut member = member(commands(OverLimit::Delay));
    let verdicts: Vec<_> = (0..4).map(|_| member.admit(0, 1, false)).collect();
    assert_eq!(
        verdicts,
        [
            LimitDecision::Pass,
            LimitDecision::Pass,
            LimitDecision::PassAt(10 * MS),
            LimitDecision::PassAt(20 * MS)
        ]
    );
    assert!(refused(&member.admit(0, 1, false)).ends_with("limit of 100; retry in 30 ms"));
    assert_eq!(
        member.admit(5 * MS, 1, false),
        LimitDecision::PassAt(30 * MS),
        "what was refused was not charged"
    );
}

#[test]
fn a_rejected_command_costs_nothing() {
    let limits = LimitsConfig {
        client_rates: Rates { bytes_in: Some(Rate { per_second: 1000, burst: 1000 }), ..Rates::default() },
        ..commands(OverLimit::Reject)
    };
    let mut member = member(limits);
    assert_eq!(member.admit(0, 300, false), LimitDecision::Pass);
    assert_eq!(member.admit(0, 300, false), LimitDecision::Pass);
    for _ in 0..10 {
        assert!(refused(&member.admit(0, 300, false)).contains("commands-per-second"));
    }
    // The bytes of each refused command were refunded.
    assert_eq!(member.admit(10 * MS, 300, false), LimitDecision::Pass);
    assert_eq!(member.admit(10 * MS, 300, true), LimitDecision::Pass, "EXEC is charged and never refused");
    assert!(refused(&member.admit(40 * MS, 300, false)).contains("this client of tenant 'shop'"));
}

#[test]
fn written_bytes_delay_later_commands() {
    let rate = Some(Rate { per_second: 1000, burst: 10 });
    let rates = Rates { bytes_out: rate, ..Rates::default() };
    let mut member = member(LimitsConfig { rates, ..LimitsConfig::default() });
    assert_eq!(member.wrote(0, 5), 0);
    let wait = member.wrote(0, 105);
    assert_eq!(wait, 96 * MS);
    assert_eq!(member.admit(0, 1, false), LimitDecision::PassAt(96 * MS));
    assert_eq!(member.wrote(96 * MS, 105), 0);
}

#[test]
fn commands_in_flight_wait_for_others() {
    for (over_limit, waits) in [(OverLimit::Delay, true), (OverLimit::Reject, false)] {
        let limits = LimitsConfig { in_flight: Some(2), over_limit, ..LimitsConfig::default() };
        let worker_tenant = WorkerTenant::new(&tenant(limits));
        let (mut one, mut two) =
            (Member::join(&worker_tenant, None, 0).unwrap(), Member::join(&worker_tenant, None, 0).unwrap());
        one.in_flight(2);
        let decision = two.admit(0, 1, false);
        assert_eq!(matches!(decision, LimitDecision::Again(_)), waits, "{decision:?}");
        one.in_flight(1);
        assert_eq!(two.admit(0, 1, false), LimitDecision::Pass);
        one.in_flight(2);
        assert_eq!(two.admit(0, 1, true), LimitDecision::Pass);
    }
}

/// The clock stands still, so only a wake-up can end the wait.
#[tokio::test(start_paused = true)]
async fn a_waiting_client_is_woken_by_the_reply_to_another() {
    let limits = LimitsConfig { in_flight: Some(1), ..LimitsConfig::default() };
    let tenant = tenant(limits);
    // The members are on two workers.
    let (here, there) = (WorkerTenant::new(&tenant), WorkerTenant::new(&tenant));
    let mut one = Member::join(&here, None, 0).unwrap();
    let mut two = Member::join(&there, None, 0).unwrap();
    one.in_flight(1);
    assert_eq!(two.admit(0, 1, false), LimitDecision::Again(50 * MS));
    let started = tokio::time::Instant::now();
    let waits = std::future::poll_fn(|cx| match two.room(cx.waker()) {
        true => std::task::Poll::Ready(()),
        false => std::task::Poll::Pending,
    });
    let answered = async {
        tokio::task::yield_now().await;
        one.in_flight(0);
    };
    let both = async { tokio::join!(waits, answered) };
    tokio::time::timeout(Duration::from_millis(1), both).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(two.admit(0, 1, false), LimitDecision::Pass);
    assert!(two.waiting.is_none());
}

#[test]
fn only_a_client_over_its_share_of_a_full_buffer_is_disconnected() {
    let worker_tenant =
        WorkerTenant::new(&tenant(LimitsConfig { buffered: Some(1 << 20), ..LimitsConfig::default() }));
    let (mut large, mut small) =
        (Member::join(&worker_tenant, None, 0).unwrap(), Member::join(&worker_tenant, None, 0).unwrap());
    assert_eq!(large.buffers(1 << 20), None);
    assert_eq!(small.buffers(BUFFER_SHARE), None);
    assert!(large.buffers(1 << 20).is_some());
    drop(large);
    assert_eq!(small.buffers(BUFFER_SHARE + 1), None);
}

#[test]
fn another_configuration_keeps_places_and_what_was_used() {
    let limits = |per_second, in_flight| LimitsConfig {
        rates: Rates { commands: Some(Rate { per_second, burst: 2 }), ..Rates::default() },
        in_flight,
        connections: Some(1),
        ..LimitsConfig::default()
    };
    let config = |limits| TenantConfig { name: "shop".into(), limits, ..TenantConfig::default() };
    let before = Tenants::new(&[config(limits(100, None))], &[], None);
    let worker_tenant = WorkerTenant::new(before.all.first().unwrap());
    let mut member = Member::join(&worker_tenant, None, 0).unwrap();
    member.take_place(Limit::Leased).unwrap();
    (0..3).for_each(|_| {
        assert!(matches!(member.admit(0, 1, false), LimitDecision::Pass | LimitDecision::PassAt(_)))
    });
    let after = before.reconfigured(&[config(limits(1000, Some(5)))], &[]);
    let tenant = after.all.first().unwrap();
    assert_eq!(tenant.number, worker_tenant.tenant.number);
    member.change_tenant_config(&worker_tenant.reconfigured(tenant), 0);
    member.in_flight(3);
    assert_eq!((tenant.connections.taken(), tenant.leased.taken(), tenant.in_flight.taken()), (1, 1, 3));
    // Three units were used of a burst of two. The third one's wait of 10 ms is 1 ms by the new rate.
    assert!(matches!(member.admit(0, 1, false), LimitDecision::PassAt(due) if due <= 3 * MS));
    assert_eq!(member.worker_tenant().figures.commands.get(), 4, "the figures go on");
    assert!(Member::join(member.worker_tenant(), None, 0).is_err(), "it is full");
    let late = Member::join_unchecked(member.worker_tenant(), Some(&member), 0);
    assert_eq!((tenant.connections.taken(), tenant.leased.taken()), (2, 2));
    drop((late, member));
    assert_eq!((tenant.connections.taken(), tenant.leased.taken(), tenant.in_flight.taken()), (0, 0, 0));
    let unchanged = after.reconfigured(&[config(limits(1000, Some(5)))], &[]);
    assert!(Arc::ptr_eq(unchanged.all.first().unwrap(), tenant));
    let other = after.reconfigured(&[], &[]).reconfigured(&[config(limits(1000, Some(5)))], &[]);
    assert_ne!(other.all.first().unwrap().number, tenant.number, "a name that comes back is another tenant");
}

#[test]
fn places_are_taken_along_or_the_tenant_is_not_joined() {
    let limits = LimitsConfig { subscribed: Some(1), connections: Some(2), ..LimitsConfig::default() };
    let (from, to) =
        (WorkerTenant::new(&tenant(LimitsConfig::default())), WorkerTenant::new(&tenant(limits)));
    let subscriber = || {
        let mut member = Member::join(&from, None, 0).unwrap();
        member.take_place(Limit::Subscribed).unwrap();
        member
    };
    let (first, second) = (subscriber(), subscriber());
    let mut joined = Member::join(&to, Some(&first), 0).unwrap();
    assert!(Member::join(&to, Some(&second), 0).is_err());
    assert_eq!(to.tenant.connections.taken(), 1, "who could not join takes no place");
    joined.release_place(Limit::Subscribed);
    assert!(Member::join(&to, Some(&second), 0).is_ok());
    assert_eq!(from.tenant.subscribed.taken(), 2);
    drop((first, second));
    assert_eq!(from.tenant.subscribed.taken(), 0);
}
