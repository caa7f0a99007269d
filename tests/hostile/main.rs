//! `make hostile`: victims that know every byte they are owed, beside attackers that damage everything.
//!
//! `victim` are clients with tagged values; `attacker` draws commands from the server's own grammar (`grammar`), damages
//! them (`mutate`), and holds on to nothing that it should let go; `arena` is the server and respgate, with a listener
//! for every kind of rights; `contest` is one round and its verdict; `shrink` finds the few actions that a fault takes.
//! The same seed writes the same actions; which of them meet in time differs from run to run.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "this is a test, and talks to whoever runs it"
)]

mod arena;
mod attacker;
mod contest;
mod grammar;
mod memory;
mod mutate;
mod plan;
mod round;
mod shrink;
#[allow(dead_code, unused_macros, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
mod victim;
mod watch;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use contest::{Attack, Outcome};
use plan::Plan;
use round::Fault;

/// Actions of each attacker that are shown when no shorter story is found.
const SHOWN: usize = 20;

fn main() -> ExitCode {
    let plan = match Plan::read() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("hostile: {error}");
            return ExitCode::from(64);
        }
    };
    let mut arguments = std::env::args().skip_while(|argument| argument != "memory");
    if arguments.next().is_some() {
        let wanted = arguments.next().unwrap_or_default();
        let run = |(flavor, workers)| memory::run(flavor, workers, &wanted);
        let failed: usize = plan.servers().into_iter().map(run).sum();
        return if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let begun = Instant::now();
    let (mut rounds, mut faulty) = (0, Vec::new());
    for number in 0.. {
        if begun.elapsed() >= plan.time || (!faulty.is_empty() && !plan.keeps_going) {
            break;
        }
        let seed = plan.seed + number;
        let setting = plan.settings[number as usize % plan.settings.len()];
        let secret = format!("tag-{:012x}", fastrand::Rng::with_seed(seed).u64(..1 << 48));
        let command = plan.command(seed, setting);
        println!("{:6.1} s  {command}", begun.elapsed().as_secs_f64());
        let attack = Attack::Random { kinds: plan.kinds.clone(), seed, time: plan.round };
        let outcome = contest::run(setting, &secret, attack);
        println!("          {}", outcome.summary);
        rounds += 1;
        if outcome.is_void {
            println!("          void: the server itself has died");
            continue;
        }
        if !outcome.faults.is_empty() {
            report(&plan, setting, &secret, &outcome);
            faulty.push((command, outcome.faults));
        }
    }
    // The faults come last, because whoever keeps only the end of a long output needs them most.
    for (command, faults) in &faulty {
        faults.iter().take(SHOWN).for_each(show);
        println!("The same actions again: {command}");
    }
    println!("{rounds} rounds, {} with faults.", faulty.len());
    if faulty.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(fault: &Fault) {
    println!("  FAULT {:6.2} s  {}: {}", fault.at.as_secs_f64(), fault.who, fault.what);
}

fn report(plan: &Plan, setting: arena::Setting, secret: &str, outcome: &Outcome) {
    outcome.faults.iter().take(SHOWN).for_each(show);
    println!("  the end of respgate's log:");
    outcome.log.iter().for_each(|line| println!("    {line}"));
    let shorter = if plan.shrink.is_zero() {
        None
    } else {
        shrink::shrink(setting, secret, &outcome.deeds, plan.shrink)
    };
    if let Some(shorter) = shorter {
        println!("  the smallest story found, and what came of it:");
        shorter.actions.iter().for_each(|action| println!("    {action}"));
        let faults = shorter.faults.iter().take(SHOWN);
        faults.for_each(|fault| println!("  FAULT {}: {}", fault.who, fault.what));
        return;
    }
    println!("  no attacker alone does it again; what each did before the first fault:");
    let first = outcome.faults.iter().map(|fault| fault.at).min().unwrap_or_default();
    for (name, done) in &outcome.deeds {
        let before: Vec<_> = done.iter().filter(|(at, _)| *at <= first).collect();
        println!("  {name}");
        for (at, action) in &before[before.len().saturating_sub(SHOWN)..] {
            println!("    {:6.2} s  {action}", at.as_secs_f64());
        }
    }
}
