//! Restarts SCAN, HSCAN, SSCAN and ZSCAN after a failover. A cursor is valid only on the node that returned it:
//! the order of keys depends on a seed that each server draws when it starts (valkey issue 4). A client that
//! continues with a former primary's cursor therefore starts again from the beginning: it may see keys twice,
//! which SCAN always allows, and misses none.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Session;
use super::step::Step;
use crate::resp::request::{self, Request};
use crate::topology::Generation;
use crate::upstream::shared::queue::IfLost;

/// Number of scans that a session remembers. The oldest are forgotten.
const REMEMBERED: usize = 16;

/// Stands for all nodes of a cluster. No primary has this generation.
const CLUSTER: Generation = Generation(0);

/// Remembers which primary each of a session's scans last asked.
#[derive(Debug, Default)]
pub(super) struct Scans(Vec<(u64, Generation)>);

impl Scans {
    /// Returns true if the cursor of this scan is a former primary's.
    fn stale(&self, scan: u64, now: Generation) -> bool {
        self.0.iter().any(|(known, asked)| *known == scan && *asked != now)
    }

    /// Notes that this scan has asked the primary of generation `now`.
    fn asked(&mut self, scan: u64, now: Generation) {
        self.0.retain(|(known, _)| *known != scan);
        if self.0.len() == REMEMBERED {
            self.0.remove(0);
        }
        self.0.push((scan, now));
    }
}

impl Session {
    /// Sends a SCAN, HSCAN, SSCAN or ZSCAN, from the beginning if its cursor is a former primary's.
    pub(super) fn scan(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        let Some(now) = self.generation_for(request) else {
            return self.send_shared_only(request, if_lost);
        };
        let cursor = cursor_index(request.name());
        let scan = identity(request, cursor);
        let begins = request.arg(cursor) == Some(b"0");
        let step = if !begins && self.lanes.scans.stale(scan, now) {
            match Request::parse(&from_the_beginning(request, cursor)) {
                Some(restarted) => self.send_shared_only(&restarted, if_lost),
                None => self.send_shared_only(request, if_lost),
            }
        } else {
            self.send_shared_only(request, if_lost)
        };
        if matches!(step, Step::Done) {
            self.lanes.scans.asked(scan, now);
        }
        step
    }
}

/// Scans of a whole cluster, whose cursors say by themselves how they go on.
impl Session {
    /// Returns a SCAN from the beginning if its cursor is that of a primary that a cluster has replaced.
    pub(super) fn scan_cluster_anew(&self, request: &Request<'_>) -> Option<Vec<u8>> {
        let cursor = cursor_index(request.name());
        let stale =
            request.arg(cursor) != Some(b"0") && self.lanes.scans.stale(identity(request, cursor), CLUSTER);
        stale.then(|| from_the_beginning(request, cursor))
    }

    /// Takes note of a SCAN that was sent to a cluster.
    pub(super) fn note_cluster_scan(&mut self, request: &Request<'_>) {
        let scan = identity(request, cursor_index(request.name()));
        self.lanes.scans.asked(scan, CLUSTER);
    }
}

/// Returns the index of the cursor argument: HSCAN, SSCAN and ZSCAN have a key before it.
fn cursor_index(name: &[u8]) -> usize {
    if name.eq_ignore_ascii_case(b"SCAN") { 1 } else { 2 }
}

/// Returns a hash that tells a session's scans apart, of the command and the key.
fn identity(request: &Request<'_>, cursor: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.name().to_ascii_uppercase().hash(&mut hasher);
    request.args().take(cursor).skip(1).for_each(|arg| arg.hash(&mut hasher));
    hasher.finish()
}

/// Returns the request with the cursor `0`.
fn from_the_beginning(request: &Request<'_>, cursor: usize) -> Vec<u8> {
    let mut args: Vec<&[u8]> = request.args().collect();
    if let Some(arg) = args.get_mut(cursor) {
        *arg = b"0";
    }
    let mut frame = Vec::with_capacity(request.len());
    request::encode(&args, &mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(words: &[&str]) -> Vec<u8> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        request::encode(&words, &mut frame);
        frame
    }

    #[test]
    fn only_a_former_primary_s_cursor_is_stale() {
        let mut scans = Scans::default();
        assert!(!scans.stale(1, Generation(2)), "a cursor of another connection's is passed on");
        scans.asked(1, Generation(1));
        assert!(!scans.stale(1, Generation(1)));
        assert!(scans.stale(1, Generation(2)));
        assert!(!scans.stale(2, Generation(2)));
        scans.asked(1, Generation(2));
        assert!(!scans.stale(1, Generation(2)));
        (10..40).for_each(|scan| scans.asked(scan, Generation(2)));
        assert_eq!(scans.0.len(), REMEMBERED);
    }

    #[test]
    fn the_cursor_alone_is_replaced() {
        let scan = frame(&["scan", "123", "MATCH", "a*", "COUNT", "10"]);
        let scan = Request::parse(&scan).unwrap();
        assert_eq!(
            from_the_beginning(&scan, cursor_index(scan.name())),
            frame(&["scan", "0", "MATCH", "a*", "COUNT", "10"])
        );
        let hscan = frame(&["HSCAN", "h", "77"]);
        let hscan = Request::parse(&hscan).unwrap();
        assert_eq!(from_the_beginning(&hscan, cursor_index(hscan.name())), frame(&["HSCAN", "h", "0"]));
        assert_ne!(identity(&scan, 1), identity(&hscan, 2));
    }
}
