//! How soon nothing more is written to the old primary, on any connection, once a newer epoch is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::*;
use crate::support::scripted::{Said, Scripted, as_primary, as_sentinel};

/// The bound that the documentation states. In it is all that lies between a Sentinel's answer and the last byte on
/// the last connection: reading it, telling the workers, and what a worker had begun to write.
const BOUND: Duration = Duration::from_millis(50);

/// When something happened last, in microseconds since the start; zero: never.
#[derive(Default)]
struct Last(AtomicU64);

impl Last {
    fn note(&self, start: Instant) {
        self.0.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    fn at(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Duration::from_micros)
    }
}

/// Nobody tells the old primary, which goes on answering everything, and no connection breaks. Clients write without
/// a pause on shared connections and on their own.
#[test]
fn nothing_is_written_to_the_old_primary_past_the_bound() {
    let turn = Turn::wait();
    let worst = (0..REPEATS).map(|_| once()).max().expect("a measurement");
    eprintln!("the last byte on an old connection: {worst:?} after the new epoch was told");
    turn.expect_within(BOUND, worst, "the last byte on an old connection");
}

fn once() -> Duration {
    let start = Instant::now();
    let (shared, pinned) = (Arc::new(Last::default()), Arc::new(Last::default()));
    let (old_shared, old_pinned) = (Arc::clone(&shared), Arc::clone(&pinned));
    let old = Scripted::start(move |command| {
        Said::Bytes(as_primary(command).unwrap_or_else(|| {
            if command[0] == "INCR" {
                old_shared.note(start)
            } else {
                old_pinned.note(start)
            }
            write_reply(command)
        }))
    });
    let new =
        Scripted::start(|command| Said::Bytes(as_primary(command).unwrap_or_else(|| write_reply(command))));
    let (switched, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Last::default()));
    let (flag, first_told) = (Arc::clone(&switched), Arc::clone(&told));
    let (old_port, new_port) = (old.port, new.port);
    // A real Sentinel answers the three questions of a round, which come together, from one state.
    let answers_new = AtomicBool::new(false);
    let sentinel = Scripted::start(move |command| {
        if command.get(1).is_some_and(|word| word == "GET-MASTER-ADDR-BY-NAME") {
            answers_new.store(flag.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let (port, epoch) = if answers_new.load(Ordering::Relaxed) { (new_port, 2) } else { (old_port, 1) };
        // The last of the three answers of a round, without which it does not count.
        if epoch == 2 && command.get(1).is_some_and(|word| word == "SENTINELS") && first_told.at().is_none() {
            first_told.note(start);
        }
        Said::Bytes(as_sentinel(command, port, epoch))
    });
    let toml = format!(
        "[upstreams.main]\nurl = \"redis-sentinel://127.0.0.1:{}/0#{NAME}\"\npoll-interval = \"30ms\"\n",
        sentinel.port
    );
    let mut proxy = Proxy::start_file(2, &toml);
    proxy.allow_log("\"WARN\"");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (mut client, stop) = (proxy.client(), Arc::clone(&stop));
            thread::spawn(move || {
                let queued = number % 2 == 1;
                if queued {
                    client.expect(&["MULTI"], "+OK\r\n");
                }
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.call(if queued { &["APPEND", "k", "v"][..] } else { &["INCR", "k"] });
                    let fine: [&[u8]; 3] = [b":1\r\n", b"+QUEUED\r\n", b"-OUTCOMEUNKNOWN "];
                    assert!(fine.iter().any(|fine| reply.starts_with(fine)), "{}", reply.escape_ascii());
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    switched.store(true, Ordering::Relaxed);
    wait::until("the new epoch to be told", || told.at().is_some());
    thread::sleep(Duration::from_millis(400));
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let told = told.at().expect("the new epoch was told");
    let lasts = [&shared, &pinned].map(|last| last.at().expect("writes on such a connection"));
    for last in lasts {
        // Otherwise nothing was fenced.
        assert!(last + Duration::from_millis(200) > told, "writes had ended before: {last:?}, {told:?}");
    }
    assert!(new.accepted() > 4, "the sessions moved");
    lasts.into_iter().map(|last| last.saturating_sub(told)).max().unwrap_or_default()
}

fn write_reply(command: &[String]) -> Vec<u8> {
    match command[0].as_str() {
        "MULTI" => b"+OK\r\n".to_vec(),
        "APPEND" => b"+QUEUED\r\n".to_vec(),
        _ => b":1\r\n".to_vec(),
    }
}
