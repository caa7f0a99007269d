//! What is looked at while a round goes on: respgate's memory, its health, and how fast the server itself answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::arena::{Arena, connect};
use crate::round::Round;
use crate::words::PASSWORD_MARK;

/// `/livez` must answer within this, on a machine with nothing else to do.
const LIVE_WITHIN: Duration = Duration::from_secs(2);

/// Lines that clients may cause respgate to log in a second, all causes together.
const LINES_PER_SECOND: f64 = 200.0;

/// How often memory is looked at.
const STEP: Duration = Duration::from_millis(50);

/// What was measured.
#[derive(Debug, Default)]
pub struct Gauges {
    /// The most that respgate's process took, in bytes, without the pages of its program.
    pub resident: AtomicUsize,
}

/// Watches until the round is over.
pub fn watch(arena: &Arena, round: &Round, gauges: &Gauges) {
    let mut told = false;
    let mut waited = arena.proxy.waited_for_processor();
    while !round.is_over() {
        let begun = Instant::now();
        thread::sleep(STEP);
        round.look_at_machine();
        let waiting = arena.proxy.waited_for_processor();
        round.preempted(begun, waiting.saturating_sub(std::mem::replace(&mut waited, waiting)));
        let resident = arena.proxy.anonymous_bytes();
        gauges.resident.fetch_max(resident, Ordering::Relaxed);
        if resident > arena.limits.max_resident() && !told {
            told = true;
            let kept = arena.proxy.metric("respgate_buffered_bytes", &[]);
            round.fault(
                "memory",
                format!(
                    "respgate takes {} MiB, more than {} MiB; it says that it keeps {} KiB for clients",
                    resident >> 20,
                    arena.limits.max_resident() >> 20,
                    kept as usize >> 10
                ),
            );
        }
    }
}

/// Asks for `/livez` until the round is over.
pub fn probe(arena: &Arena, round: &Round) {
    while !round.is_over() {
        let begun = Instant::now();
        let answer = arena.proxy.http("/livez");
        round.waited("the prober", "/livez", begun);
        if !answer.starts_with("HTTP/1.1 200") || begun.elapsed() > LIVE_WITHIN.mul_f64(round.contention()) {
            let took = begun.elapsed();
            round.fault("the prober", format!("/livez was answered with {answer:?} after {took:?}"));
            return;
        }
        thread::sleep(STEP);
    }
}

/// Asks the server itself until the round is over: what it waits, a victim may wait too.
pub fn measure(arena: &Arena, round: &Round, server: SocketAddr) {
    let Ok(mut stream) = connect(server, Ipv4Addr::LOCALHOST) else { return };
    let mut answer = [0; 7];
    let login = &mut answer[..5];
    if stream.write_all(&arena.doors.direct_login).and_then(|()| stream.read_exact(login)).is_err() {
        return;
    }
    while !round.is_over() {
        let begun = Instant::now();
        if stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut answer)).is_err() {
            return;
        }
        round.waited_directly(begun);
        thread::sleep(Duration::from_millis(5));
    }
}

/// What respgate's log says, and must not.
pub fn log(arena: &Arena, round: &Round) -> Vec<String> {
    let log = arena.proxy.log();
    let mut wrong = Vec::new();
    let mut find = |what: &str, marks: &[&str]| {
        if let Some(line) = log.lines().find(|line| marks.iter().any(|mark| line.contains(mark))) {
            wrong.push(format!("respgate's log {what}: {line}"));
        }
    };
    find("tells of a panic", &["panicked"]);
    find("holds a password", &[PASSWORD_MARK, "-password", "secret"]);
    find("holds what victims keep", &[&round.secret]);
    let lines = log.lines().count();
    let rate = lines as f64 / round.now().as_secs_f64().max(1.0);
    if rate > LINES_PER_SECOND {
        let sample = log.lines().nth(lines / 2).unwrap_or_default();
        wrong.push(format!("respgate logs {rate:.0} lines a second, such as {sample}"));
    }
    wrong
}
