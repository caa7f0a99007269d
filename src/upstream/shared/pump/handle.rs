//! Gives each reply of a shared connection to the client of its request.

use std::rc::Rc;

use super::Pump;
use super::redirect::{Refused, take_refused};
use crate::cluster::redirect::Redirect;
use crate::latency::{Arrival, Class, CommandTimes, PendingTimes, UpstreamLatency};
use crate::resp::reply::{ReplyKind, ScannedReply};
use crate::resp::server_error::ServerError;
use crate::upstream::replies::Replies;
use crate::upstream::reply_sizes::LARGE;
use crate::upstream::shared::lane::Lane;
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::queue::answer::answer;
use crate::upstream::shared::queue::{IfLost, Queue, RequestOutcome, Slot};

/// The size above which a reply is passed on in pieces, in bytes.
const STREAMED: usize = 256 * 1024;

impl Pump {
    /// Gives every whole reply to its client, and every command that the node has not run to another node.
    pub(super) fn handle_replies(&mut self, lane: &Lane, lanes: &Lanes) -> Result<(), String> {
        let mut refused = Vec::new();
        let handled = self.give_replies(lane, lanes, &mut refused);
        if !refused.is_empty() {
            self.redirect(lane, lanes, refused);
        }
        handled
    }

    /// Gives every whole reply to its client. Replies that follow each other and belong to one client are given in one piece. Adds the
    /// commands that the node has not run to `refused`.
    fn give_replies(&mut self, lane: &Lane, lanes: &Lanes, refused: &mut Vec<Refused>) -> Result<(), String> {
        let bytes = self.link.read.bytes();
        let mut queue = lane.queue.borrow_mut();
        let latency = &*lanes.reports.latency;
        let timed = latency.worker.is_active();
        let now = if timed { latency.worker.now() } else { 0 };
        let mut run = Run::new(latency, now);
        let mut at = 0;
        loop {
            match self.scanner.scan(bytes.get(at..).unwrap_or_default()) {
                ScannedReply::Complete { len, kind: ReplyKind::Push } => {
                    run.end(bytes, at);
                    at += len;
                    lanes.reports.counters.unsolicited_pushes.inc();
                }
                ScannedReply::Complete { len, kind } => {
                    if queue.front().is_none() {
                        run.end(bytes, at);
                        return Err("a reply that nothing was asked for".into());
                    }
                    let reply = bytes.get(at..at + len).unwrap_or_default();
                    if kind == ReplyKind::Error {
                        lanes.reports.note_error(reply, self.link.generation);
                        if !self.demoted && serves_no_longer(reply, lanes) {
                            run.end(bytes, at);
                            self.demoted = true;
                            if !lanes.is_of_replica() {
                                lanes.hold.begin();
                            }
                            lane.close_gate(true);
                        } else if !self.demoted
                            && lanes.redirects().is_some()
                            && let Some(redirect) = Redirect::of(reply)
                        {
                            run.end(bytes, at);
                            at += len;
                            take_refused(&mut queue, redirect, reply, refused);
                            answer_decided(&mut queue);
                            continue;
                        }
                    }
                    if self.demoted && !queue.front().is_some_and(|slot| slot.replies.is_partial()) {
                        defer(&mut queue, reply, kind, self.fence.is_some(), lanes.redirects().is_some());
                        at += len;
                        continue;
                    }
                    if timed {
                        run.time(&mut queue, bytes, at);
                    }
                    let Some(slot) = queue.pop() else { break };
                    if slot.mute {
                        run.end(bytes, at);
                        slot.replies.swallow();
                    } else {
                        run.take(bytes, at, len, slot.replies);
                    }
                    at += len;
                    // A request behind a read that was sent again may have its outcome already: the server sends no reply for it.
                    while let Some((slot, outcome)) = queue.pop_decided() {
                        run.end(bytes, at);
                        answer(&slot, &outcome.reply());
                    }
                }
                ScannedReply::Incomplete => break,
                ScannedReply::Malformed(error) => {
                    run.end(bytes, at);
                    return Err(error.to_string());
                }
            }
        }
        run.end(bytes, at);
        if at > 0 {
            self.passed = 0;
        }
        if at > 0 && !self.demoted {
            lanes.reports.succeeded(self.link.generation);
            if std::mem::take(&mut self.unproven) {
                lanes.hold.end();
            }
        }
        let rest = bytes.len() - at;
        if rest > 0 {
            queue.progressed();
            let size = self.passed + self.scanner.announced();
            if size > LARGE
                && let Some(slot) = queue.front()
                && slot.replies.sizes().announced(size, slot.replies.awaited())
            {
                run.outgrown = Some(slot.replies.clone());
            }
        }
        // A read that a demoted node answers may be sent again elsewhere, so no part of its reply may be passed on.
        if rest > STREAMED && self.scanner.scanned() > 0 && !self.demoted {
            let part = self.scanner.scanned().min(rest);
            if let Some(slot) = queue.front().filter(|slot| !slot.mute) {
                slot.replies.deliver_part(bytes.get(at..at + part).unwrap_or_default());
                if slot.replies.sizes().outgrown() {
                    run.outgrown = Some(slot.replies.clone());
                }
            }
            self.scanner.rebase(part);
            self.passed += part as u64;
            at += part;
        }
        drop(queue);
        self.link.read.consume(at);
        if let Some(client) = run.outgrown {
            self.outgrown_by(&client, lane, lanes);
        }
        Ok(())
    }
}

/// Returns true if an error reply shows that the node runs no further command that is meant for it: it is not the primary, or it is a
/// replica of a cluster that it finds down.
fn serves_no_longer(reply: &[u8], lanes: &Lanes) -> bool {
    ServerError::of(reply).is_not_primary()
        || lanes.is_of_replica()
            && lanes.redirects().is_some()
            && Redirect::of(reply) == Some(Redirect::ClusterDown)
}

/// Answers the requests at the front whose outcome is decided.
fn answer_decided(queue: &mut Queue) {
    while let Some((slot, outcome)) = queue.pop_decided() {
        answer(&slot, &outcome.reply());
    }
}

/// Handles a reply of a node that is not the primary. A refused command did not run, and a read may have given old data: both are
/// sent again, a read only if `retry-reads` allows it. A write that the node has run gets its reply in its turn. If a newer primary
/// has taken over (`superseded`), that write may or may not be lost there, so its outcome is unknown. In a cluster, a redirected
/// command did not run either.
///
/// A node of a cluster refuses everything from the moment that it knows its successor. What it has run, it ran before, and the successor
/// of a planned failover has it.
fn defer(queue: &mut Queue, reply: &[u8], kind: ReplyKind, superseded: bool, in_cluster: bool) {
    let refused = kind == ReplyKind::Error
        && (ServerError::of(reply).is_not_primary() || in_cluster && Redirect::of(reply).is_some());
    let if_lost = queue.front().map_or(IfLost::ReportUnknown, Slot::if_lost);
    match if_lost {
        _ if refused => queue.defer(None),
        IfLost::Resend => queue.defer(None),
        IfLost::ReportLost => queue.defer(Some(&RequestOutcome::Lost.reply())),
        IfLost::ResendWrite if superseded && !in_cluster => queue.defer(None),
        IfLost::ReportUnknown if superseded && !in_cluster => {
            queue.defer(Some(&RequestOutcome::OutcomeUnknown.reply()))
        }
        IfLost::ResendWrite | IfLost::ReportUnknown => queue.defer(Some(reply)),
    }
}

/// Consecutive replies of one client within one read.
struct Run<'a> {
    latency: &'a UpstreamLatency,
    owner: Option<Rc<Replies>>,
    start: usize,
    count: u32,
    /// The size of the largest reply, in bytes.
    largest: usize,
    /// The client whose replies are too large for a shared connection, if there is one.
    outgrown: Option<Rc<Replies>>,
    /// When this read began.
    now: u32,
    /// When and how the requests of the present series came: requests in a row with the same times.
    arrival: Arrival,
    /// The number of bytes of requests, since the queue's start, up to which the series can go on.
    series_end: u64,
    /// The times of the series, if it is measured.
    times: Option<CommandTimes>,
    /// The number of times that each request of the series counts in the histograms.
    weight: u32,
    /// The number of replies before those of the series.
    counted: u32,
    /// True if somebody watches the requests of the series.
    watched: bool,
}

impl<'a> Run<'a> {
    fn new(latency: &'a UpstreamLatency, now: u32) -> Self {
        Self {
            latency,
            owner: None,
            start: 0,
            count: 0,
            largest: 0,
            outgrown: None,
            now,
            arrival: Arrival::default(),
            series_end: 0,
            times: None,
            weight: 0,
            counted: 0,
            watched: false,
        }
    }

    /// Adds a reply that starts at `at` and has `len` bytes.
    fn take(&mut self, bytes: &[u8], at: usize, len: usize, owner: Rc<Replies>) {
        if !self.is_of(&owner) {
            // `begin_series` has ended the run already if times are noted: `times` are those of this reply.
            if self.owner.is_some() {
                self.end(bytes, at);
            }
            (self.owner, self.start, self.count, self.largest) = (Some(owner), at, 0, 0);
        }
        self.count += 1;
        self.largest = self.largest.max(len);
    }

    fn is_of(&self, owner: &Rc<Replies>) -> bool {
        self.owner.as_ref().is_some_and(|mine| Rc::ptr_eq(mine, owner))
    }

    /// Notes the times of the front request, whose reply starts at `at`. Most belong to the series of the request before.
    #[inline]
    fn time(&mut self, queue: &mut Queue, bytes: &[u8], at: usize) {
        let Some((slot, end)) = queue.front_end() else { return };
        let goes_on = slot.arrival() == self.arrival && end <= self.series_end && self.is_of(&slot.replies);
        if !goes_on && self.begin_series(slot, bytes, at) {
            self.measure_series(queue);
        }
        if self.watched {
            self.look_at(queue);
        }
    }

    /// Begins a series of requests with the request of `slot`. Returns true if the series is measured.
    #[inline]
    fn begin_series(&mut self, slot: &Slot, bytes: &[u8], at: usize) -> bool {
        match self.is_of(&slot.replies) && !slot.mute {
            true => self.end_series(),
            false => self.end(bytes, at),
        }
        (self.arrival, self.series_end) = (slot.arrival(), u64::MAX);
        let worker = &self.latency.worker;
        let chosen = worker.chooses_next();
        (chosen || worker.is_remarkable(self.arrival, self.now)) && !slot.mute && {
            self.weight = worker.weight(self.arrival, self.now, chosen);
            self.arrival.is_noted()
        }
    }

    /// Finds the times of the series that begins with the front request.
    #[inline(never)]
    fn measure_series(&mut self, queue: &mut Queue) {
        let Some((slot, end)) = queue.front_end() else { return };
        let (arrival, pending) = (slot.arrival(), slot.replies.known_times().map(PendingTimes::tapped));
        let (sent, series_end) = queue.written_at(end).unwrap_or((arrival.passed(), end));
        let times = CommandTimes { arrival, sent, replied: self.now, class: Class::Shared };
        self.watched = self.latency.worker.looks_at(&times, pending.unwrap_or_default());
        (self.times, self.series_end) = (Some(times), series_end);
    }

    /// Shows the front request to those who watch it.
    #[cold]
    fn look_at(&self, queue: &Queue) {
        if let (Some(times), Some((slot, _))) = (self.times, queue.front_end())
            && !slot.mute
        {
            self.latency.look_at(slot.replies.times(), queue.front_bytes(), times);
        }
    }

    /// Ends the series, and gives its times to its client if they count.
    fn end_series(&mut self) {
        if let (Some(times), Some(owner)) = (self.times.take(), &self.owner)
            && self.weight > 0
        {
            let count = (self.count - self.counted).saturating_mul(self.weight);
            self.latency.replied(owner.times(), times, count);
        }
        self.counted = self.count;
        self.watched = false;
    }

    /// Ends the run before `at`, and gives its replies to the client.
    fn end(&mut self, bytes: &[u8], at: usize) {
        if self.times.is_some() {
            self.end_series();
        }
        self.counted = 0;
        if let Some(owner) = self.owner.take() {
            owner.deliver(bytes.get(self.start..at).unwrap_or_default(), self.count, self.largest);
            if owner.sizes().outgrown() {
                self.outgrown = Some(owner);
            }
        }
    }
}
