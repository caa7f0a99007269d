//! `make demo`: a Sentinel deployment on loopback, respgate in front of it, clients at work through it, and two
//! failovers while they work. `make demo CLUSTER=1`: the same with a cluster, whose slots move too.
//!
//! `deployment` and `cluster` say what runs, `processes` starts and stops it, `workload` is the clients, `drill` the failovers
//! and `cluster_drill` the changes of a cluster, `watch` what can be seen of failovers, `verdict` what became of the writes,
//! `screen` what you see. Everything lives in a temporary folder and ends with this program.

#![allow(clippy::disallowed_methods, reason = "it reads files that it wrote")]

mod cluster;
mod cluster_drill;
mod connection;
mod deployment;
mod drill;
mod processes;
mod screen;
mod verdict;
mod watch;
mod workload;

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::cluster_drill::ClusterDrill;
use crate::deployment::Deployment;
use crate::drill::Drill;
use crate::screen::Screen;
use crate::watch::Watch;
use crate::workload::Workload;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let (once, screen) = (asked("--once"), Screen::new());
    let shown = if asked("--cluster") { run_cluster(once, screen).await } else { run(once, screen).await };
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.say(&format!("demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Starts everything, shows it, and ends everything, however the showing ended. Whether the promises were kept.
async fn run(once: bool, screen: Screen) -> io::Result<bool> {
    let mut end = End::new()?;
    let mut deployment = Deployment::new()?;
    // Without a verdict yet: asked to end before it, which is a failure only of a run that is for the verdict.
    let mut kept = !once;
    let shown = tokio::select! {
        shown = show(&mut deployment, once, screen, &mut kept) => shown,
        () = end.asked() => Ok(()),
    };
    if shown.is_err() || !kept {
        screen.say(&format!("The end of respgate's log:\n{}", deployment.log_tail()));
    }
    screen.say("\nStopping everything …");
    deployment.stop().await?;
    shown.map(|()| kept)
}

/// As [`run`], with a cluster.
async fn run_cluster(once: bool, screen: Screen) -> io::Result<bool> {
    let mut end = End::new()?;
    let mut cluster = Cluster::new()?;
    let mut kept = !once;
    let shown = tokio::select! {
        shown = show_cluster(&mut cluster, once, screen, &mut kept) => shown,
        () = end.asked() => Ok(()),
    };
    if shown.is_err() || !kept {
        screen.say(&format!("The end of respgate's log:\n{}", cluster.log_tail()));
    }
    screen.say("\nStopping everything …");
    cluster.stop().await?;
    shown.map(|()| kept)
}

/// The two failovers; then, unless it is `once`, the workload without end.
async fn show(deployment: &mut Deployment, once: bool, screen: Screen, kept: &mut bool) -> io::Result<()> {
    screen.say("Starting a primary, two replicas, three Sentinels and respgate …");
    deployment.start().await?;
    screen.say(&deployment.introduction());
    let workload = Workload::start(deployment.port());
    let watch = Watch::start(deployment.sentinels(), deployment.admin());
    let _follow = follow(&workload, screen);
    let drill = Drill { deployment, workload: &workload, watch: &watch, screen };
    *kept = drill.run().await?;
    drop(watch);
    if !once {
        invite(&deployment.invitation(), screen).await;
    }
    Ok(())
}

/// The three changes; then, unless it is `once`, the workload without end.
async fn show_cluster(cluster: &mut Cluster, once: bool, screen: Screen, kept: &mut bool) -> io::Result<()> {
    screen.say("Starting a cluster of three primaries with a replica each, and respgate …");
    cluster.start().await?;
    screen.say(&cluster.introduction());
    let workload = Workload::start(cluster.port());
    let _follow = follow(&workload, screen);
    let drill = ClusterDrill { cluster, workload: &workload, screen };
    *kept = drill.run().await?;
    if !once {
        invite(&cluster.invitation(), screen).await;
    }
    Ok(())
}

/// Shows how the clients fare, as long as the set lives.
fn follow(workload: &Workload, screen: Screen) -> JoinSet<()> {
    screen.say("Eight clients write through respgate, each counting up a key of its own; four read.\n");
    let mut follow = JoinSet::new();
    follow.spawn(screen.follow(workload.shared_books()));
    follow
}

/// Says what to try, and lets the workload go on without end.
async fn invite(invitation: &str, screen: Screen) {
    screen.say("");
    screen.say(invitation);
    std::future::pending::<()>().await;
}

/// Ctrl-C, a terminal that is closed, or a supervisor's word.
struct End {
    signals: [Signal; 3],
}

impl End {
    fn new() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
