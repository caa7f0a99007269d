//! Looks at the Sentinels all the time, apart from respgate, to know when their majority names another primary.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::timeline::Timeline;
use crate::support::client::Client;
use crate::support::deployment::NAME;
use crate::support::wait;

/// How often each Sentinel is asked: what a measured time may be too late by.
const PACE: Duration = Duration::from_millis(5);

/// Whom each Sentinel named when: `(time, Sentinel, port of the primary)`.
type Answers = Arc<Mutex<Vec<(Duration, usize, u16)>>>;

/// The watching threads.
pub struct Watch {
    sentinels: usize,
    answers: Answers,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches these Sentinels.
    pub fn start(sentinels: &[SocketAddr], timeline: &Timeline) -> Self {
        let (answers, stop) = (Answers::default(), Arc::new(AtomicBool::new(false)));
        let threads = sentinels
            .iter()
            .copied()
            .enumerate()
            .map(|(sentinel, address)| {
                let (answers, stop, timeline) = (Arc::clone(&answers), Arc::clone(&stop), timeline.clone());
                thread::spawn(move || watch(sentinel, address, &answers, &stop, &timeline))
            })
            .collect();
        Self { sentinels: sentinels.len(), answers, stop, threads }
    }

    /// When more than half of the Sentinels first named another node than the one at `port`, and which.
    pub fn majority_left(&self, port: u16) -> Option<(Duration, u16)> {
        let answers = self.answers.lock().expect("the answers");
        let mut newest = vec![None; self.sentinels];
        let mut sorted = answers.clone();
        sorted.sort_unstable();
        for (at, sentinel, named) in sorted {
            newest[sentinel] = Some(named);
            let votes = newest.iter().filter(|other| **other == Some(named)).count();
            if named != port && votes * 2 > self.sentinels {
                return Some((at, named));
            }
        }
        None
    }

    /// Waits for it.
    #[track_caller]
    pub fn wait_for_majority(&self, port: u16) -> (Duration, u16) {
        let what = "the Sentinels' majority to name another primary";
        wait::until_some(what, Duration::from_secs(40), || self.majority_left(port))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn watch(sentinel: usize, address: SocketAddr, answers: &Answers, stop: &AtomicBool, timeline: &Timeline) {
    let mut client = None;
    let mut named = None;
    while !stop.load(Ordering::Relaxed) {
        if client.is_none() {
            client = Client::try_connect(address).ok();
            client.iter_mut().for_each(|client| client.deadline(Duration::from_millis(500)));
        }
        if let Some(connected) = &mut client {
            connected.send_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
            match connected.try_reply() {
                Ok(reply) => {
                    let text = String::from_utf8_lossy(&reply).into_owned();
                    let now: Option<u16> = text.lines().nth(4).and_then(|port| port.parse().ok());
                    if let Some(primary) = now.filter(|_| now != named) {
                        let at = timeline.now();
                        answers.lock().expect("the answers").push((at, sentinel, primary));
                        timeline.note_at(at, format!("Sentinel {sentinel} names port {primary}"));
                    }
                    named = now;
                }
                Err(_) => client = None,
            }
        }
        thread::sleep(PACE);
    }
}
