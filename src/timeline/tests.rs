use super::*;
use crate::topology::Address;

fn primary(generation: u64) -> Arc<Primary> {
    Arc::new(Primary {
        generation: Generation(generation),
        address: Address::tcp("n", 6379 + generation as u16),
        config_epoch: None,
        server: None,
        node: None,
    })
}

async fn after(ms: u64) {
    tokio::time::advance(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_planned_failover_is_lossless() {
    let timelines = Timelines::default();
    timelines.verified(&primary(1));
    timelines.sign(Generation(1), "a Sentinel has begun a failover", true);
    timelines.client_held();
    after(1000).await;
    timelines.named(Generation(1), true);
    timelines.named(Generation(1), true);
    after(10).await;
    timelines.verified(&primary(2));
    after(5).await;
    timelines.succeeded(Generation(1));
    timelines.succeeded(Generation(2));
    assert!(timelines.finished().is_empty(), "others may still report");
    after(1000).await;
    let line = timelines.finished().pop().unwrap();
    assert!(line.lossless());
    assert_eq!(line.first_success, Some(Duration::from_millis(1015)));
    assert_eq!((line.from.as_str(), line.to.as_str(), line.clients_held), ("n:6380", "n:6381", 1));
    assert!(timelines.finished().is_empty());
    assert_eq!(timelines.past().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_not() {
    let timelines = Timelines::default();
    timelines.verified(&primary(1));
    timelines.sign(Generation(1), "a connection was lost", false);
    timelines.settled(3, 1, 0);
    timelines.named(Generation(1), true);
    timelines.named(Generation(1), false);
    timelines.verified(&primary(2));
    timelines.succeeded(Generation(2));
    after(2000).await;
    let line = timelines.finished().pop().unwrap();
    assert!(!line.lossless());
    assert_eq!((line.resent, line.unknown), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_primary_and_a_false_alarm_are_no_failovers() {
    let timelines = Timelines::default();
    timelines.sign(Generation(1), "x", true);
    timelines.verified(&primary(1));
    timelines.succeeded(Generation(1));
    timelines.sign(Generation(1), "x", true);
    timelines.dismissed_unless_switched(Some(Generation(1)));
    after(5000).await;
    assert!(timelines.finished().is_empty());
}

/// The workers may report any events in any order. An entry is always a change of generation.
#[tokio::test(start_paused = true)]
async fn an_unnoticed_failover_is_one_entry_with_any_number_of_workers() {
    for workers in 1..=3 {
        let timelines = Timelines::default();
        timelines.verified(&primary(1));
        for generation in 2..=3 {
            for _ in 0..workers {
                timelines.named(Generation(generation - 1), true);
                timelines.verified(&primary(generation));
            }
            after(1000).await;
        }
        timelines.named(Generation(1), false);
        after(20_000).await;
        timelines.succeeded(Generation(3));
        let lines = timelines.finished();
        let generations: Vec<u64> = lines.iter().map(|line| line.generation.0).collect();
        assert_eq!(generations, [2, 3]);
        assert!(lines.iter().all(|line| line.verified.is_some_and(|at| at < Duration::from_millis(100))));
        let totals = timelines.totals();
        assert_eq!(totals.lossless + totals.other, 2);
        assert!(timelines.finished().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_and_an_outage_are_no_failovers() {
    let timelines = Timelines::default();
    timelines.verified(&primary(1));
    timelines.sign(Generation(1), "a connection was lost", false);
    timelines.reached(Generation(1));
    after(5000).await;
    timelines.sign(Generation(1), "a connection was lost", false);
    timelines.named(Generation(1), true);
    timelines.verified(&primary(1));
    after(5000).await;
    timelines.sign(Generation(1), "a connection was lost", false);
    after(20_000).await;
    assert!(timelines.finished().is_empty());
    timelines.sign(Generation(1), "the Sentinels find the primary down", true);
    timelines.verified(&primary(2));
    after(5000).await;
    let line = timelines.finished().pop().unwrap();
    assert_eq!((line.verified, line.first_success), (Some(Duration::ZERO), None));
    assert_eq!(timelines.totals().other + timelines.totals().lossless, 1);
}

/// In a cluster, the upstream's primary is that of one of the shards, and both report.
#[tokio::test(start_paused = true)]
async fn the_failover_of_a_shard_is_one_entry() {
    let timelines = Timelines::default();
    let (first, second) = (timelines.of_shard(ShardNumber(1)), timelines.of_shard(ShardNumber(2)));
    for handle in [&timelines, &first, &second] {
        handle.verified(&primary(1));
    }
    for handle in [&first, &timelines] {
        handle.sign(Generation(1), "a node has failed", true);
    }
    second.sign(Generation(1), "a connection was lost", false);
    second.reached(Generation(1));
    first.client_held();
    assert_eq!(timelines.under_way().unwrap().0.shard, Some(ShardNumber(1)));
    for handle in [&timelines, &first] {
        handle.named(Generation(1), true);
        handle.verified(&primary(2));
        handle.succeeded(Generation(2));
    }
    after(5000).await;
    let lines = second.finished();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].shard, lines[0].clients_held), (Some(ShardNumber(1)), 1));
    assert!(timelines.under_way().is_none() && timelines.finished().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_shards_the_upstream_reports_for_itself_again() {
    let timelines = Timelines::default();
    timelines.verified(&primary(1));
    // An operator moves the upstream to a cluster.
    timelines.sign(Generation(1), "switched", true);
    let shard = timelines.of_shard(ShardNumber(1));
    shard.verified(&primary(2));
    timelines.named(Generation(1), true);
    timelines.verified(&primary(2));
    after(5000).await;
    assert_eq!(timelines.finished().pop().unwrap().shard, None);
    // And away from it.
    shard.forget_shard();
    timelines.sign(Generation(2), "switched", true);
    timelines.verified(&primary(3));
    after(5000).await;
    assert_eq!(timelines.finished().pop().unwrap().generation, Generation(3));
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_at_the_home_shard_goes_on_without_the_cluster() {
    let timelines = Timelines::default();
    let (home, other) = (timelines.of_shard(ShardNumber(1)), timelines.of_shard(ShardNumber(2)));
    for (handle, generation) in [(&timelines, 1), (&home, 1), (&other, 2)] {
        handle.verified(&primary(generation));
        handle.sign(Generation(generation), "switched", true);
    }
    after(10).await;
    // Both workers leave it.
    for _ in 0..2 {
        timelines.leave_cluster();
        for (handle, generation) in [(&home, 1), (&other, 2), (&timelines, 1)] {
            handle.named(Generation(generation), true);
        }
        [&home, &other].into_iter().for_each(Timelines::forget_shard);
        timelines.verified(&primary(3));
    }
    after(5000).await;
    let lines = timelines.finished();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].shard, lines[0].sign.as_str(), lines[0].lossless()), (None, "switched", true));
    assert_eq!((lines[0].from.as_str(), lines[0].to.as_str()), ("n:6380", "n:6382"));
}
