//! `make differential`: random sessions of several clients, each with the server itself and through respgate. Replies and
//! pushes must be the same byte for byte, and so must the data. Every difference is covered by a documented rule
//! ([`rules::RULES`]) or is a fault, which is made small and printed as a script that can be run again.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "this is a test, and talks to whoever runs it"
)]

mod behind;
mod cluster_rules;
mod compare;
mod direct;
mod docs;
mod lane;
mod requests;
mod rules;
mod seen;
mod session;
mod shrink;
mod slots;
#[allow(dead_code, unused_macros, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
mod themes;
mod through;
mod value;
mod vocabulary;
mod wire;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use respgate::command::TABLE;

use behind::Layout;
use lane::{AdminLevel, Fault, Lane, Report, Setup};
use rules::all_rules;
use support::servers::Flavor;

/// What was asked for in the environment.
struct Plan {
    seed: u64,
    seconds: u64,
    flavors: Vec<Flavor>,
    layouts: Vec<Layout>,
    /// For how many seconds each failing case is made smaller.
    shrink: u64,
    /// A script to run instead of random sessions.
    script: Option<String>,
}

impl Plan {
    fn read() -> Result<Self, String> {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str| match text(name) {
            Some(text) => {
                text.parse().map(Some).map_err(|_| format!("{name} must be a number, not {text:?}"))
            }
            None => Ok(None),
        };
        let flavors = match text("DIFFERENTIAL_SERVER").as_deref() {
            None => Flavor::ALL.to_vec(),
            Some("redis") => vec![Flavor::Redis],
            Some("valkey") => vec![Flavor::Valkey],
            Some(other) => return Err(format!("DIFFERENTIAL_SERVER must be valkey or redis, not {other:?}")),
        };
        let layouts = match text("DIFFERENTIAL_LAYOUT") {
            None => Layout::ALL.to_vec(),
            Some(name) => match Layout::ALL.into_iter().find(|layout| layout.name() == name) {
                Some(layout) => vec![layout],
                None => {
                    return Err(format!("DIFFERENTIAL_LAYOUT must be server or cluster, not {name:?}"));
                }
            },
        };
        let script = match text("DIFFERENTIAL_SCRIPT") {
            Some(path) => Some(std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?),
            None => None,
        };
        Ok(Self {
            seed: number("DIFFERENTIAL_SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000)),
            seconds: number("DIFFERENTIAL_SECONDS")?.unwrap_or(60),
            flavors,
            layouts,
            shrink: number("DIFFERENTIAL_SHRINK")?.unwrap_or(30),
            script,
        })
    }
}

fn main() -> ExitCode {
    let plan = match Plan::read() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("differential: {error}");
            return ExitCode::from(64);
        }
    };
    if let Err(error) = documents() {
        eprintln!("differential: {error}");
        return ExitCode::FAILURE;
    }
    let Plan { seed, seconds, .. } = plan;
    println!("DIFFERENTIAL_SEED={seed} DIFFERENTIAL_SECONDS={seconds}");
    let until = Instant::now() + Duration::from_secs(seconds);
    let (faults, once): (Vec<String>, Vec<String>) = thread::scope(|scope| {
        let lanes: Vec<_> = plan
            .flavors
            .iter()
            .flat_map(|flavor| plan.layouts.iter().map(|layout| (*flavor, *layout)))
            .map(|(flavor, layout)| {
                let plan = &plan;
                scope.spawn(move || {
                    let mut lane = Lane::start(flavor, layout, plan.seed, Duration::from_secs(plan.shrink));
                    match &plan.script {
                        Some(script) => run_script(&mut lane, script),
                        None => lane.run(until),
                    }
                    tell(&lane.name(), plan.seed, &lane.report)
                })
            })
            .collect();
        let failed = |_| (vec!["a lane's thread panicked; its message stands above".to_owned()], Vec::new());
        let told: Vec<_> = lanes.into_iter().map(|lane| lane.join().unwrap_or_else(failed)).collect();
        let (faults, once): (Vec<_>, Vec<_>) = told.into_iter().unzip();
        (faults.concat(), once.concat())
    });
    for fault in &once {
        eprintln!("  FAULT (not again), {fault}");
    }
    if faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    // Last, because a log is often shown from its end.
    for fault in &faults {
        eprintln!("  FAULT, {fault}");
    }
    eprintln!(
        "differential: {} faults. A script above, in a file, runs again with DIFFERENTIAL_SCRIPT=FILE; everything, with DIFFERENTIAL_SEED={seed}.",
        faults.len()
    );
    ExitCode::FAILURE
}

/// Checks that the documentation says what the rules say; with DIFFERENTIAL_WRITE_DOCS it is written.
fn documents() -> Result<(), String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/differences.md");
    let text = rules::document();
    if std::env::var_os("DIFFERENTIAL_WRITE_DOCS").is_some() {
        return std::fs::write(path, text).map_err(|error| format!("{path}: {error}"));
    }
    match std::fs::read_to_string(path) {
        Ok(written) if written == text => Ok(()),
        _ => Err("docs/differences.md is behind the rules; write it with: make differential-docs".to_owned()),
    }
}

fn run_script(lane: &mut Lane, script: &str) {
    let case = session::parse_script(script).unwrap_or_else(|error| panic!("{error}"));
    for workers in [1, 2] {
        for admin in AdminLevel::ALL {
            lane.run_script(&case, Setup { workers, admin });
        }
    }
}

/// Prints what a lane did, and returns a description of each fault: first those that appeared again, then the others, with
/// the script and the seed of their session.
fn tell(lane: &str, seed: u64, report: &Report) -> (Vec<String>, Vec<String>) {
    let drawn = report.rows.iter().filter(|times| **times > 0).count();
    println!(
        "{lane}: {} sessions, {} commands, {drawn} of {} rows of the command table; {} sessions ended at a documented difference.",
        report.sessions,
        report.commands,
        TABLE.len(),
        report.parted
    );
    for (rule, used) in all_rules().zip(&report.rules).filter(|(_, used)| **used > 0) {
        println!("  {used:>7} times: {}", rule.name);
    }
    let (certain, once): (Vec<_>, Vec<_>) = report.faults.values().partition(|fault| fault.case.is_some());
    let describe =
        |fault: &Fault| format!("{lane}, {} times, {:?}: {}", fault.times, fault.setup, fault.difference);
    let with_script = |fault: &Fault| {
        format!(
            "{}\n# DIFFERENTIAL_SEED={seed}, session {} of {lane}:\n{}",
            describe(fault),
            fault.session,
            fault.script
        )
    };
    (certain.into_iter().map(describe).collect(), once.into_iter().map(with_script).collect())
}
