//! What is done to the servers, the network and the clients: drawn from the seed, then performed.

use std::fmt;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::churn::Churn;
use crate::cluster::{Cluster, DOWN_AFTER, FAILOVER_TIMEOUT};
use crate::network::{HOSTS, Network, PROXY};
use crate::support::deployment::NAME;
use crate::support::wait;
use crate::timeline::Timeline;
use crate::watch::Watch;

/// What replication may lag behind on a busy machine.
const REPLICATION_LAG: Duration = Duration::from_millis(100);

/// What respgate may take to learn of a failover once it hears the Sentinels again: up to 2 s until it dials them anew,
/// a dial that began too early and times out, the questions, and the look at the new primary.
const LEARNING: Duration = Duration::from_secs(4);

/// What clients may notice of a planned failover on a busy machine; of a mere breath of the servers or the network.
const PLANNED: Duration = Duration::from_secs(4);
const BREATH: Duration = Duration::from_millis(1500);

/// What they may notice of a failover that has to be detected, and whose first attempt may be refused: another one
/// comes after twice the timeout.
const DETECTED: Duration =
    Duration::from_millis(2 * FAILOVER_TIMEOUT.as_millis() as u64 + DOWN_AFTER.as_millis() as u64 + 5000);

/// One step, with its parameters. Nodes are relative to the primary of the moment.
#[derive(Clone, Debug)]
pub enum Step {
    /// SENTINEL FAILOVER.
    Planned { sentinel: usize },
    /// And another one, soon after.
    PlannedTwice { sentinel: usize, between: Duration },
    /// SIGKILL. Later it is back, as a replica, or believing that it is the primary still.
    Crash { back_after: Duration, as_replica: bool },
    /// Together with one of the Sentinels.
    CrashWithSentinel { sentinel: usize, back_after: Duration },
    /// SIGSTOP, and SIGCONT when another primary is named.
    Freeze { thaw_after: Duration },
    /// SIGSTOP and SIGCONT before anybody calls it down.
    Blink { time: Duration },
    /// SIGKILL, and started again before anybody calls it down.
    Restart,
    /// All Sentinels are killed, and later started again.
    SentinelsGone { time: Duration },
    /// REPLICAOF on all nodes; then the Sentinels are told.
    Manual { replica: usize, tell_after: Duration },
    /// The primary's host is cut off.
    CutPrimary { heal_after: Duration },
    /// respgate's host is cut off, and nothing else happens.
    CutProxy { time: Duration },
    /// respgate's host is cut off while there is a failover.
    CutProxyInFailover { sentinel: usize, heal_after: Duration },
    /// The primary's host and respgate's hear each other, and nobody else.
    CutTogether { heal_after: Duration },
    /// CLIENT KILL of all but replicas, after the server has run what was sent and before it has answered.
    KillLinks { times: u64, gap: Duration },
    /// Many clients come and go.
    Churn { time: Duration },
}

/// How many kinds there are.
const KINDS: usize = 15;

/// How many of so many failovers are tidied up after by an operator; the others are left to the Sentinels, who take 20 s.
const TIDIED: (u32, u32) = (2, 3);

/// Steps without end: every kind once in random order, and so on; and whether an operator tidies up after each. The
/// same seed gives the same.
pub fn steps(mut random: Rng) -> impl Iterator<Item = (Step, bool)> {
    std::iter::repeat_with(move || {
        let mut kinds: Vec<usize> = (0..KINDS).collect();
        random.shuffle(&mut kinds);
        let drawn =
            kinds.into_iter().map(|kind| (draw(kind, &mut random), random.u32(..TIDIED.1) < TIDIED.0));
        drawn.collect::<Vec<_>>()
    })
    .flatten()
}

fn draw(kind: usize, random: &mut Rng) -> Step {
    let mut ms = |range: Range<u64>| Duration::from_millis(random.u64(range));
    let (time, sentinel) = (ms(0..1000), ms(0..HOSTS as u64).as_millis() as usize);
    match kind {
        0 => Step::Planned { sentinel },
        // Not at once: until the Sentinels have heard from all replicas anew, the node that they have not demoted yet
        // is as good to them as any.
        1 => Step::PlannedTwice { sentinel, between: time + Duration::from_millis(1500) },
        2 => Step::Crash { back_after: 2 * time, as_replica: sentinel != 0 },
        3 => Step::CrashWithSentinel { sentinel, back_after: 2 * time },
        4 => Step::Freeze { thaw_after: time },
        5 => Step::Blink { time: time / 2 + Duration::from_millis(200) },
        6 => Step::Restart,
        7 => Step::SentinelsGone { time: 3 * time + Duration::from_secs(1) },
        8 => Step::Manual { replica: 1 + sentinel % 2, tell_after: time / 2 },
        9 => Step::CutPrimary { heal_after: 2 * time },
        10 => Step::CutProxy { time: 5 * time + Duration::from_millis(300) },
        11 => Step::CutProxyInFailover { sentinel, heal_after: 2 * time },
        12 => Step::CutTogether { heal_after: 2 * time },
        13 => Step::KillLinks { times: 1 + sentinel as u64, gap: time / 2 + Duration::from_millis(100) },
        _ => Step::Churn { time: time + Duration::from_secs(2) },
    }
}

/// What a step may have done to the clients, and no more.
pub struct Effect {
    /// Writes acknowledged then may be lost: the primary of that time could not replicate them any more.
    pub lossy: Vec<Range<Duration>>,
    /// How often connections to the primary broke with something under way; each time, what each client has under
    /// way is uncertain.
    pub breaks: u64,
    /// Sessions had to move, or their connections to be made anew.
    pub moved: bool,
    /// The longest time without a success.
    pub pause: Duration,
}

impl Effect {
    fn none(pause: Duration) -> Self {
        Self { lossy: Vec::new(), breaks: 0, moved: false, pause }
    }

    /// Sessions move; nothing is lost, nothing uncertain.
    fn smooth(pause: Duration) -> Self {
        Self { moved: true, ..Self::none(pause) }
    }

    /// The primary is gone at once.
    fn abrupt(lossy: Range<Duration>, pause: Duration) -> Self {
        Self { lossy: vec![lossy], breaks: 1, moved: true, pause }
    }
}

/// Whom a step acts on.
pub struct Stage<'a> {
    pub cluster: &'a mut Cluster,
    pub churn: &'a Churn,
    pub timeline: &'a Timeline,
    /// The number of the primary.
    pub primary: usize,
}

impl Step {
    /// Whether it can be done on this network.
    pub fn possible(&self, network: Network) -> bool {
        let cuts = matches!(
            self,
            Self::CutPrimary { .. }
                | Self::CutProxy { .. }
                | Self::CutProxyInFailover { .. }
                | Self::CutTogether { .. }
        );
        network == Network::Hosts || !cuts
    }

    /// Does it, and waits until another primary is named if one has to be.
    pub fn perform(&self, mut stage: Stage<'_>) -> Effect {
        let mut watch = stage.watch();
        let network = stage.cluster.network;
        let begun = stage.timeline.now();
        let gone = begun.saturating_sub(REPLICATION_LAG);
        match *self {
            Self::Planned { sentinel } => {
                stage.fail_over(sentinel);
                stage.successor(&watch);
                Effect::smooth(PLANNED)
            }
            Self::PlannedTwice { sentinel, between } => {
                stage.fail_over(sentinel);
                let (_, second) = stage.successor(&watch);
                stage.wait_for_a_replica_of(second);
                thread::sleep(between);
                let first = std::mem::replace(&mut stage.primary, second);
                watch = stage.watch();
                let again = stage.timeline.now();
                stage.fail_over(sentinel);
                let (named, third) = stage.successor(&watch);
                if third == first {
                    // The Sentinels' choice: it had not become a replica of the second one yet.
                    stage.timeline.note("back to the first, which was not a replica yet");
                    return Effect { lossy: vec![begun..named], ..Effect::smooth(PLANNED) };
                }
                stage.timeline.note(format!("{:?} for the second", named.saturating_sub(again)));
                Effect::smooth(PLANNED)
            }
            Self::Crash { back_after, as_replica } => {
                stage.cluster.nodes[stage.primary].crash();
                let (named, successor) = stage.successor(&watch);
                thread::sleep(back_after);
                stage.cluster.restart(stage.primary, as_replica.then_some(successor));
                Effect::abrupt(gone..named, DETECTED)
            }
            Self::CrashWithSentinel { sentinel, back_after } => {
                stage.cluster.sentinels[sentinel].crash();
                stage.cluster.nodes[stage.primary].crash();
                let (named, _) = stage.successor(&watch);
                thread::sleep(back_after);
                stage.cluster.restart(stage.primary, None);
                stage.cluster.sentinels[sentinel].restart_sentinel();
                Effect::abrupt(gone..named, DETECTED)
            }
            Self::Freeze { thaw_after } => {
                stage.cluster.nodes[stage.primary].signal("STOP");
                let (named, _) = stage.successor(&watch);
                thread::sleep(thaw_after);
                stage.cluster.nodes[stage.primary].signal("CONT");
                Effect::abrupt(gone..named, DETECTED)
            }
            Self::Blink { time } => {
                stage.cluster.nodes[stage.primary].signal("STOP");
                thread::sleep(time);
                stage.cluster.nodes[stage.primary].signal("CONT");
                stage.unless_replaced(&watch, gone, Effect::none(time + BREATH))
            }
            Self::Restart => {
                stage.cluster.nodes[stage.primary].crash();
                stage.cluster.restart(stage.primary, None);
                let again = Effect { breaks: 1, ..Effect::smooth(PLANNED) };
                stage.unless_replaced(&watch, gone, again)
            }
            Self::SentinelsGone { time } => {
                stage.cluster.sentinels.iter_mut().for_each(|sentinel| sentinel.crash());
                thread::sleep(time);
                stage.cluster.sentinels.iter_mut().for_each(|sentinel| sentinel.restart_sentinel());
                Effect::none(BREATH)
            }
            Self::Manual { replica, tell_after } => {
                let replaced = stage.replace_by_hand((stage.primary + replica) % HOSTS);
                thread::sleep(tell_after);
                stage.cluster.point_sentinels_at((stage.primary + replica) % HOSTS);
                // Known at epoch 0, which is believed after 5 s.
                let pause = Duration::from_secs(5) + tell_after + PLANNED;
                Effect { lossy: vec![gone..replaced], ..Effect::smooth(pause) }
            }
            Self::CutPrimary { heal_after } => {
                network.part(&[stage.primary]);
                let (named, _) = stage.successor(&watch);
                thread::sleep(heal_after);
                network.heal();
                Effect::abrupt(gone..named, DETECTED)
            }
            Self::CutProxy { time } => {
                network.part(&[PROXY]);
                thread::sleep(time);
                network.heal();
                // TCP tries again after twice the time that it waited before.
                Effect::none(3 * time + BREATH)
            }
            Self::CutProxyInFailover { sentinel, heal_after } => {
                network.part(&[PROXY]);
                thread::sleep(Duration::from_millis(200));
                stage.fail_over(sentinel);
                stage.successor(&watch);
                thread::sleep(heal_after);
                stage.heal_unlearnt(gone)
            }
            Self::CutTogether { heal_after } => {
                network.part(&[stage.primary, PROXY]);
                stage.successor(&watch);
                thread::sleep(heal_after);
                stage.heal_unlearnt(gone)
            }
            Self::KillLinks { times, gap } => {
                for _ in 0..times {
                    stage.cluster.kill_links_unanswered(stage.primary);
                    thread::sleep(gap);
                }
                Effect { breaks: times, ..Effect::smooth(BREATH + gap) }
            }
            Self::Churn { time } => {
                let visits = stage.churn.burst(time);
                stage.timeline.note(format!("{visits} clients came and went"));
                Effect::none(BREATH)
            }
        }
    }
}

impl Stage<'_> {
    fn watch(&self) -> Watch {
        Watch::start(&self.cluster.sentinel_addresses(), self.timeline)
    }

    /// SENTINEL FAILOVER, asked of this Sentinel first.
    fn fail_over(&self, sentinel: usize) {
        let order: Vec<usize> = (0..HOSTS).map(|next| (sentinel + next) % HOSTS).collect();
        self.cluster.tell_a_sentinel(&order, &["SENTINEL", "FAILOVER", NAME]);
        self.timeline.note("SENTINEL FAILOVER");
    }

    /// When the majority named another primary, and its number.
    fn successor(&self, watch: &Watch) -> (Duration, usize) {
        let (at, port) = watch.wait_for_majority(self.cluster.nodes[self.primary].port);
        (at, self.cluster.number(port))
    }

    /// What was meant to be short; on a machine that stood still, the Sentinels may have called the primary down.
    fn unless_replaced(&self, watch: &Watch, gone: Duration, effect: Effect) -> Effect {
        thread::sleep(DOWN_AFTER);
        match watch.majority_left(self.cluster.nodes[self.primary].port) {
            None => effect,
            Some((named, _)) => {
                self.timeline.note("it took too long: there was a failover");
                Effect::abrupt(gone..named, DETECTED)
            }
        }
    }

    /// Of the two that remain, one copies this node.
    fn wait_for_a_replica_of(&self, node: usize) {
        let port = format!("master_port:{}\r\n", self.cluster.nodes[node].port);
        let others = (0..HOSTS).filter(|other| *other != node && *other != self.primary);
        let copies = |other| {
            let info = self.cluster.ask(other, &["INFO", "replication"]).unwrap_or_default();
            info.contains(&port) && info.contains("master_link_status:up")
        };
        let others: Vec<usize> = others.collect();
        wait::until("a replica of the new primary", || others.iter().any(|other| copies(*other)));
    }

    /// REPLICAOF on all nodes. When the former primary had become a replica.
    fn replace_by_hand(&self, successor: usize) -> Duration {
        let address = self.cluster.nodes[successor].address();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let order = |node: usize, arguments: [&str; 3]| {
            let reply = self.cluster.ask(node, &arguments).unwrap_or_default();
            assert!(reply.starts_with("+OK"), "{arguments:?}: {reply}");
        };
        order(self.primary, ["REPLICAOF", &host, &port]);
        let replaced = self.timeline.now();
        order(successor, ["REPLICAOF", "NO", "ONE"]);
        let third = HOSTS - self.primary - successor;
        order(third, ["REPLICAOF", &host, &port]);
        // Replies that were on their way are noted later than they were given.
        replaced + REPLICATION_LAG
    }

    /// respgate could not know of the failover before, and its primary went on: what it acknowledged is lost.
    fn heal_unlearnt(&self, gone: Duration) -> Effect {
        self.cluster.network.heal();
        let now = self.timeline.now();
        self.timeline.note("healed");
        let cut = now.saturating_sub(gone);
        Effect::abrupt(gone..now + LEARNING, 3 * cut + LEARNING)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::as_secs_f64;
        match self {
            Self::Planned { .. } => write!(f, "SENTINEL FAILOVER"),
            Self::PlannedTwice { between, .. } => {
                write!(f, "SENTINEL FAILOVER twice, {:.1} s between", seconds(between))
            }
            Self::Crash { back_after, as_replica } => {
                let what = if *as_replica { "replica" } else { "primary" };
                write!(f, "SIGKILL, back after {:.1} s as {what}", seconds(back_after))
            }
            Self::CrashWithSentinel { sentinel, back_after } => {
                write!(f, "SIGKILL with Sentinel {sentinel}, back after {:.1} s", seconds(back_after))
            }
            Self::Freeze { thaw_after } => {
                write!(f, "SIGSTOP, thawed {:.1} s after the switch", seconds(thaw_after))
            }
            Self::Blink { time } => write!(f, "SIGSTOP for {:.1} s", seconds(time)),
            Self::Restart => write!(f, "SIGKILL, back at once"),
            Self::SentinelsGone { time } => write!(f, "all Sentinels gone for {:.1} s", seconds(time)),
            Self::Manual { tell_after, .. } => {
                write!(f, "REPLICAOF by hand, Sentinels told {:.1} s later", seconds(tell_after))
            }
            Self::CutPrimary { heal_after } => {
                write!(f, "primary cut off, until {:.1} s after the switch", seconds(heal_after))
            }
            Self::CutProxy { time } => write!(f, "respgate cut off for {:.1} s", seconds(time)),
            Self::CutProxyInFailover { heal_after, .. } => {
                write!(f, "respgate cut off in a failover, and {:.1} s more", seconds(heal_after))
            }
            Self::CutTogether { heal_after } => {
                write!(f, "respgate and primary cut off, and {:.1} s more", seconds(heal_after))
            }
            Self::KillLinks { times, gap } => {
                write!(f, "CLIENT KILL, {times} times every {:.1} s", seconds(gap))
            }
            Self::Churn { time } => write!(f, "clients come and go for {:.1} s", seconds(time)),
        }
    }
}
