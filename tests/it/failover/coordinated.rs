//! `SENTINEL FAILOVER name COORDINATED` (Valkey 9): the primary itself hands over to the replica that the Sentinel chose.

use super::*;

/// What clients may notice of a hand-over, and again of the moment when the Sentinel closes all connections. They notice
/// 0.13 to 0.22 s, most of it two turns of the Sentinel's timer, which is late on a busy machine. Without the nodes' word
/// they would wait for the majority, 1.1 s.
const PAUSE: Duration = Duration::from_millis(800);

/// Starts a coordinated failover. Returns false if the Sentinels do not know the word, as those of Valkey 8 and Redis.
pub(super) fn begin(deployment: &Deployment) -> bool {
    let reply = deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME, "COORDINATED"]);
    let known = deployment.primary.flavor == Flavor::Valkey && major_version(&deployment.primary) >= 9;
    match known {
        true => assert_eq!(reply, "+OK\r\n"),
        false => assert!(reply.starts_with("-ERR "), "{reply}"),
    }
    known
}

fn major_version(server: &Server) -> u32 {
    let version = server.version();
    let number = version.split([' ', '.']).nth(1).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("a version: {version}"))
}

#[test]
fn coordinated_on_valkey() {
    (0..REPEATS).for_each(|_| coordinated(Flavor::Valkey, ""));
}

#[test]
fn coordinated_on_redis() {
    coordinated(Flavor::Redis, "");
}

/// The leader's word adds nothing: both nodes say the same as early.
#[test]
fn coordinated_and_followed_by_the_leaders_word() {
    coordinated(Flavor::Valkey, "switch = \"leader\"");
}

/// Clients notice two short pauses, and nothing else.
fn coordinated(flavor: Flavor, upstream: &str) {
    let mut drill = Drill::start_with(flavor, &[], upstream);
    if !drill.begin() {
        return;
    }
    let (_, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(2));
    let (verdict, _) = drill.finish(survivor);
    drill.report("coordinated", &verdict);
    expect_unnoticed(&verdict);
    drill.turn.expect_within(PAUSE, verdict.longest_pause, "the longest pause");
    assert_eq!(drill.proxy.metric("respgate_failovers_total", &[]), 1.0);
    drill.expect_timeline("\"lossless\": true");
}

#[track_caller]
fn expect_unnoticed(verdict: &Verdict) {
    assert_eq!((verdict.lost, verdict.doubled), (0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert_eq!((verdict.unknown, verdict.dropped), (0, 0), "{verdict}");
}

/// The successor is frozen, so that the primary hands over to nobody and gives up: clients continue there.
#[test]
fn a_coordinated_failover_that_is_given_up() {
    let mut drill = Drill::start(Flavor::Valkey);
    drill.shorten_failovers();
    drill.deployment.replicas.iter().for_each(|replica| replica.signal("STOP"));
    if !drill.begin() {
        return;
    }
    drill.wait_for_event("+failover-state-wait-promotion");
    drill.wait_for_event("-failover-abort-");
    drill.note("aborted");
    drill.deployment.replicas.iter().for_each(|replica| replica.signal("CONT"));
    wait::until_some("no client to be held", Duration::from_secs(20), || {
        (drill.proxy.metric("respgate_clients_held", &[]) == 0.0).then_some(())
    });
    assert_eq!(drill.proxy.metric("respgate_failovers_total", &[]), 0.0);
    let (verdict, _) = drill.finish(drill.deployment.primary.announced());
    drill.report("coordinated and given up", &verdict);
    expect_unnoticed(&verdict);
    let held = Duration::from_millis(1000);
    assert!(verdict.longest_pause >= held, "they were not held: {verdict}");
}

/// The primary is killed while it waits for its successor. What happens then is a failover from a dead primary.
#[test]
fn a_primary_that_dies_while_it_hands_over() {
    let mut drill = Drill::start(Flavor::Valkey);
    drill.shorten_failovers();
    drill.deployment.replicas.iter().for_each(|replica| replica.signal("STOP"));
    if !drill.begin() {
        return;
    }
    drill.wait_for_event("+failover-state-wait-promotion");
    drill.note("SIGKILL");
    let gone = drill.timeline.now();
    drill.deployment.primary.crash();
    drill.deployment.replicas.iter().for_each(|replica| replica.signal("CONT"));
    let (named, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(1));
    let (verdict, records) = drill.finish(survivor);
    drill.expect_crash_like(&verdict, &records, gone, named, "died while it handed over");
}

/// The former primary is killed as soon as clients write to its successor: nothing is lost, and nobody notices.
#[test]
fn a_former_primary_that_dies_after_it_has_handed_over() {
    let mut drill = Drill::start(Flavor::Valkey);
    if !drill.begin() {
        return;
    }
    let former = format!("primary 127.0.0.1:{} ", drill.deployment.primary.announced());
    let named = |ready: String| ready.contains(": primary ") && !(ready.replace('\n', " ")).contains(&former);
    wait::until("the successor to be followed", || named(drill.proxy.http("/readyz")));
    drill.note("SIGKILL");
    drill.deployment.primary.crash();
    let (_, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(1));
    let (verdict, _) = drill.finish(survivor);
    drill.report("died after it had handed over", &verdict);
    expect_unnoticed(&verdict);
}

impl Drill {
    /// Starts a coordinated failover. Ends the writing and returns false if the Sentinels do not know the word.
    fn begin(&mut self) -> bool {
        self.note("SENTINEL FAILOVER COORDINATED");
        let begun = begin(&self.deployment);
        if !begun {
            self.writers.take().expect("writers").finish();
        }
        begun
    }

    fn shorten_failovers(&self) {
        for sentinel in &self.deployment.sentinels {
            assert_eq!(sentinel.run_text(&["SENTINEL", "SET", NAME, "failover-timeout", "2000"]), "+OK\r\n");
        }
    }

    #[track_caller]
    fn wait_for_event(&self, event: &str) {
        wait::until(event, || self.deployment.sentinels[0].log().contains(event));
    }
}
