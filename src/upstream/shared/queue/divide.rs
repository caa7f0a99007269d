//! Divides the requests of one connection between two: one client's replies have outgrown the connection, or one client's read
//! made the server close it. No I/O.

use std::collections::HashSet;
use std::rc::Rc;

use super::{IfLost, MAX_SENDS, Queue, Slot};
use crate::upstream::replies::{ClientState, Replies};

impl Queue {
    /// Takes out the requests of the client whose read made the server close the connection, if there is one. They get a connection
    /// of their own. If that is lost too, the read is given up.
    pub fn take_culprit(&mut self, nobody: &Rc<Replies>) -> Option<Self> {
        let client = self.culprit.take()?;
        client.sizes().use_own();
        let mut own = self.divide(&client, nobody);
        if let Some(culprit) = own.slots.iter_mut().find(|slot| slot.outcome.is_none()) {
            culprit.sends = MAX_SENDS - 1;
        }
        own.slots.iter_mut().for_each(|slot| slot.suspect = slot.if_lost.resends());
        own.restart_probation();
        Some(own)
    }

    /// Divides the requests between this connection and another one to the same server, which takes the place of this one. The
    /// other one carries the requests that stay in `self`, and this one those that are returned.
    ///
    /// This connection keeps all requests of `client`, all requests of each client that has a written request which may not be
    /// sent twice, and every written request, since its reply comes here. The client of a written read gets the reply from the
    /// other connection, to which the read is sent again; the reply from this one goes to `nobody`. So the requests of each client
    /// stay on one connection, in order.
    pub fn divide(&mut self, client: &Rc<Replies>, nobody: &Rc<Replies>) -> Self {
        let staying = self.staying(client);
        let bytes = std::mem::take(&mut self.bytes);
        self.marks.clear();
        let (mut at, written) = (self.head, self.written);
        let mut kept = Self { written: written - at, progress: self.progress, ..Self::default() };
        (self.head, self.written) = (0, 0);
        for mut slot in std::mem::take(&mut self.slots) {
            // A request that was written in part counts as begun: its rest must follow on the same connection.
            let (begun, end) = (at < written && slot.outcome.is_none(), at + slot.len);
            let request = bytes.get(at..end).unwrap_or_default();
            at = end;
            let gone = slot.replies.client_state() != ClientState::Open;
            if gone || staying.contains(&slot.replies.owner()) {
                if begun || !gone {
                    slot.suspect = false;
                    kept.bytes.extend_from_slice(request);
                    kept.slots.push_back(slot);
                }
                continue;
            }
            if begun {
                kept.bytes.extend_from_slice(request);
                let (replies, len) = (nobody.clone(), slot.len);
                let (mute, if_lost, sends, suspect) = (true, IfLost::Resend, 0, false);
                let arrival = slot.arrival;
                kept.slots.push_back(Slot {
                    replies,
                    mute,
                    len,
                    if_lost,
                    sends,
                    suspect,
                    arrival,
                    outcome: None,
                });
            }
            self.bytes.extend_from_slice(request);
            self.slots.push_back(slot);
        }
        self.restart_probation();
        kept
    }

    /// Returns the clients whose requests cannot move to another connection, and `client`.
    fn staying(&self, client: &Rc<Replies>) -> HashSet<*const Replies> {
        let mut staying = HashSet::from([client.owner()]);
        let mut at = self.head;
        for slot in &self.slots {
            let begun = at < self.written && slot.outcome.is_none();
            at += slot.len;
            let moves = slot.if_lost == IfLost::Resend && !slot.replies.is_partial();
            if begun && !moves && staying.insert(slot.replies.owner()) {
                slot.replies.sizes().wait_until_answered();
            }
        }
        staying
    }

    pub(super) fn restart_probation(&mut self) {
        let suspects = self.slots.iter().filter(|slot| slot.suspect).count();
        let batch = self.probation.begin(suspects, 0);
        self.let_out(batch);
    }
}
