//! Takes requests out of a queue that a node of a cluster has not run, and puts them into the queue of another. No I/O.

use std::rc::Rc;

use super::answer::answer;
use super::{IfLost, Queue, Slot};
use crate::latency::Arrival;
use crate::upstream::replies::Replies;

/// Lets the next request on a connection have the keys of a slot that is being moved to the node.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// A request that a node has not run.
pub(in crate::upstream) struct RedirectedRequest {
    /// The replies that keep the place of its reply (see [`Replies::redirected`]).
    pub(in crate::upstream) replies: Rc<Replies>,
    /// True if the client asked not to see the reply.
    pub(in crate::upstream) mute: bool,
    /// What happens to it if its connection is lost.
    pub(in crate::upstream) if_lost: IfLost,
    /// When and how it came.
    pub(in crate::upstream) arrival: Arrival,
    /// The request.
    pub(in crate::upstream) bytes: Vec<u8>,
}

impl RedirectedRequest {
    fn of(slot: Slot, bytes: Vec<u8>) -> Self {
        let Slot { mute, if_lost, arrival, .. } = slot;
        Self { replies: slot.replies.redirected(), mute, if_lost, arrival, bytes }
    }

    /// Answers it in the servers' place, with a whole error line.
    pub(in crate::upstream) fn fail(&self, line: &[u8]) {
        if self.mute {
            self.replies.swallow();
        } else {
            self.replies.deliver(line, 1, line.len());
        }
    }
}

impl Queue {
    /// Takes the front request out, because the node has not run it. What the connection delivers from now on stands behind its reply.
    pub(in crate::upstream) fn take_redirected(&mut self) -> Option<RedirectedRequest> {
        let bytes = self.front_bytes().to_vec();
        self.pop().map(|slot| RedirectedRequest::of(slot, bytes))
    }

    /// Takes out the requests of the clients for which `is_behind` returns true, because earlier ones of theirs wait elsewhere. The
    /// connection was lost and the queue is settled: nothing is written. Requests with an outcome are answered.
    pub(in crate::upstream) fn take_behind(
        &mut self,
        is_behind: impl Fn(*const Replies) -> bool,
    ) -> Vec<RedirectedRequest> {
        if !self.slots.iter().any(|slot| is_behind(slot.replies.owner())) {
            return Vec::new();
        }
        let (bytes, mut at) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.head));
        let mut taken = Vec::new();
        for slot in std::mem::take(&mut self.slots) {
            let end = at + slot.len;
            let request = bytes.get(at..end).unwrap_or_default();
            at = end;
            if !is_behind(slot.replies.owner()) {
                self.bytes.extend_from_slice(request);
                self.slots.push_back(slot);
                continue;
            }
            // Each must take its place in the order before the next one does.
            match slot.outcome() {
                Some(outcome) => answer(&slot, &outcome.reply()),
                // The command is not sent to this node again.
                None if slot.mute && request == ASKING => slot.replies.swallow(),
                None => taken.push(RedirectedRequest::of(slot, request.to_vec())),
            }
        }
        self.restart_probation();
        taken
    }

    /// Appends a redirected request. `asks`: with an ASKING before it, whose reply nobody gets.
    pub(in crate::upstream) fn push_redirected(&mut self, request: RedirectedRequest, asks: bool) {
        let RedirectedRequest { replies, mute, if_lost, arrival, bytes } = request;
        if asks {
            // It is a request of the same client, so both stay together. If the connection is lost between the two replies, the request
            // is sent again without it, and is redirected once more.
            replies.expect();
            self.push(ASKING, replies.clone(), IfLost::Resend, true, Arrival::default());
        }
        self.push(&bytes, replies, if_lost, mute, arrival);
    }
}
