//! Makes a failing case small: drops sessions, steps and requests, as long as the same fault shows.

use std::time::Instant;

use crate::session::{Request, Session, Step};

/// The smallest list found for which `fails` is true, by dropping halves, quarters and so on, down to single members.
pub fn fewest<T: Clone>(all: &[T], until: Instant, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = all.to_vec();
    let mut size = kept.len().div_ceil(2);
    while size > 0 && !kept.is_empty() {
        let mut dropped = false;
        let mut at = kept.len();
        // From the end: what comes after the fault is of no use.
        while at > 0 {
            if Instant::now() >= until {
                return kept;
            }
            let start = at.saturating_sub(size);
            let mut fewer = kept.clone();
            fewer.drain(start..at);
            if fails(&fewer) {
                kept = fewer;
                dropped = true;
            }
            at = start.min(kept.len());
        }
        if size == 1 && !dropped {
            break;
        }
        size = if dropped && size == 1 { 1 } else { size / 2 };
    }
    kept
}

/// The smallest case found that fails.
pub fn smallest(case: &[Session], until: Instant, mut fails: impl FnMut(&[Session]) -> bool) -> Vec<Session> {
    let mut case = fewest(case, until, &mut fails);
    for session in 0..case.len() {
        case[session].steps = fewest(&case[session].steps.clone(), until, |steps| {
            let mut smaller = case.clone();
            smaller[session].steps = steps.to_vec();
            fails(&smaller)
        });
        for step in 0..case[session].steps.len() {
            shrink_step(&mut case, session, step, until, &mut fails);
        }
    }
    case
}

/// Drops requests of a step, and then words of those that are left.
fn shrink_step(
    case: &mut Vec<Session>,
    session: usize,
    step: usize,
    until: Instant,
    fails: &mut impl FnMut(&[Session]) -> bool,
) {
    let Step::Send { client, requests } = case[session].steps[step].clone() else { return };
    let with = |requests: &[Request]| {
        let mut smaller = case.clone();
        smaller[session].steps[step] = Step::Send { client, requests: requests.to_vec() };
        smaller
    };
    let mut requests = fewest(&requests, until, |fewer| !fewer.is_empty() && fails(&with(fewer)));
    for index in 0..requests.len() {
        let words = fewest(&requests[index].clone(), until, |words| {
            let mut fewer = requests.clone();
            fewer[index] = words.to_vec();
            !words.is_empty() && fails(&with(&fewer))
        });
        requests[index] = words;
    }
    *case = with(&requests);
}
