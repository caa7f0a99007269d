//! The server's side of the table: the commands that the connection must send, and the replies to them. No I/O.

use super::entries::{CommandPurpose, Name, SentCommand, Subscriber};
use super::moves::{is_same_slot, one_slot_each};
use super::{Mismatch, NAMES_PER_COMMAND, Table};
use crate::cluster::redirect::Redirect;
use crate::resp::pubsub::{Confirmation, Kind};
use crate::resp::request;

impl<S: Subscriber + Clone> Table<S> {
    /// Appends the next command for the server to `out`. Returns false if there is none.
    pub(in crate::upstream::fanin) fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some((kind, names)) = self.restoring.pop_front() {
            self.send(out, kind, names, CommandPurpose::Restore);
            return true;
        }
        let ends = !self.unwanted.is_empty();
        if let Some((kind, names)) = self.take_unwanted() {
            self.send(out, kind, names, CommandPurpose::End);
            return true;
        }
        if ends {
            self.note_ends();
        }
        while let Some((_, request)) = self.queued.pop_first() {
            self.set_position(&request, None);
            let kind = request.kind;
            // Another session may have made the server confirm some of the names since the request was queued.
            let missing: Vec<Name> =
                request.names.iter().filter(|name| !self.topic(kind, name).active).cloned().collect();
            if missing.is_empty() {
                self.grant(request);
                continue;
            }
            let mut parts = one_slot_each(kind, missing);
            let last = parts.pop().unwrap_or_default();
            for part in parts {
                self.send(out, kind, part, CommandPurpose::Part);
            }
            self.send(out, kind, last, CommandPurpose::Request(request));
            return true;
        }
        false
    }

    /// Appends `request` to `out`, which changes nothing and which the server answers.
    pub(in crate::upstream::fanin) fn ping(&mut self, out: &mut Vec<u8>, request: &[u8]) {
        out.extend_from_slice(request);
        let (kind, names) = (Kind::Channel, Vec::new());
        let purpose = CommandPurpose::Ping;
        self.sent.push_back(SentCommand { kind, names, confirmed: 0, purpose, refused: false });
    }

    /// Returns true if the server owes a reply.
    pub(in crate::upstream::fanin) fn is_reply_due(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Handles a confirmation from the server.
    ///
    /// # Errors
    /// Returns an error if it is not the next confirmation that a sent command makes due.
    pub(in crate::upstream::fanin) fn confirm(
        &mut self,
        confirmation: &Confirmation<'_>,
    ) -> Result<(), Mismatch> {
        if self.is_unasked(confirmation) {
            if let Some(name) = confirmation.name {
                self.end_moved(name);
            }
            return Ok(());
        }
        let front = self.sent.front_mut().ok_or(Mismatch)?;
        if front.is_end_of_channels() {
            front.confirmed += 1;
            return Ok(());
        }
        let name = front.names.get(front.confirmed).cloned().ok_or(Mismatch)?;
        let ends = matches!(front.purpose, CommandPurpose::End);
        let expected = (front.kind, !ends, Some(&*name));
        if (confirmation.kind, confirmation.begins, confirmation.name) != expected {
            return Err(Mismatch);
        }
        front.confirmed += 1;
        let (kind, done) = (front.kind, front.confirmed == front.names.len());
        if !ends && let Some(state) = self.topics.of_mut(kind).get_mut(&name) {
            state.active = true;
        }
        if done && let Some(sent) = self.sent.pop_front() {
            match sent.purpose {
                CommandPurpose::Request(request) => match self.part_refused.take() {
                    Some(line) => self.refuse(request, &line),
                    None => self.grant(request),
                },
                CommandPurpose::Restore => self.release(kind, &sent.names),
                CommandPurpose::Part | CommandPurpose::End | CommandPurpose::Ping => {}
            }
        }
        Ok(())
    }

    /// Handles a reply that is no error. Only a ping gets one, and the probe behind the end of shard channels.
    ///
    /// # Errors
    /// Returns an error if neither is unanswered.
    pub(in crate::upstream::fanin) fn replied(&mut self) -> Result<(), Mismatch> {
        let sent = self.sent.pop_front().ok_or(Mismatch)?;
        match sent.purpose {
            CommandPurpose::Ping => Ok(()),
            CommandPurpose::End if sent.kind == Kind::Shard => {
                self.note_ends();
                Ok(())
            }
            _ => Err(Mismatch),
        }
    }

    /// Handles an error line. Returns the number of sessions that lose a subscription by it.
    ///
    /// # Errors
    /// Returns an error if no command is unanswered, or if the server has confirmed a part of it.
    pub(in crate::upstream::fanin) fn refused(&mut self, line: &[u8]) -> Result<usize, Mismatch> {
        let redirected = Redirect::of(line).is_some();
        let front = self.sent.front_mut().ok_or(Mismatch)?;
        if front.is_end_of_channels() && !front.refused && (redirected || front.confirmed < front.names.len())
        {
            front.refused = true;
            return Ok(0);
        }
        let sent = self.sent.pop_front().ok_or(Mismatch)?;
        if sent.confirmed > 0 && !sent.is_end_of_channels() {
            return Err(Mismatch);
        }
        match sent.purpose {
            CommandPurpose::Request(request) => {
                let first = self.part_refused.take();
                self.refuse(request, first.as_deref().unwrap_or(line));
                Ok(0)
            }
            CommandPurpose::Part => {
                self.part_refused.get_or_insert_with(|| line.to_vec());
                Ok(0)
            }
            CommandPurpose::Restore if redirected && sent.kind == Kind::Shard => {
                sent.names.iter().for_each(|name| self.displace(name));
                self.release(sent.kind, &sent.names);
                Ok(0)
            }
            CommandPurpose::Restore => Ok(self.retry_restore(sent.kind, sent.names)),
            CommandPurpose::End => {
                self.note_ends();
                Ok(0)
            }
            CommandPurpose::Ping => Ok(0),
        }
    }

    /// Resets the table after the connection was lost. Requests that it did not answer are sent first on the next one.
    pub(in crate::upstream::fanin) fn disconnected(&mut self) {
        for kind in Kind::ALL {
            self.topics.of_mut(kind).values_mut().for_each(|state| state.active = false);
        }
        let restoring = std::mem::take(&mut self.restoring);
        for (kind, names) in restoring {
            self.release(kind, &names);
        }
        // In reverse, because each request goes before all others.
        for sent in std::mem::take(&mut self.sent).into_iter().rev() {
            match sent.purpose {
                CommandPurpose::Request(request) => self.queue_first(request),
                CommandPurpose::Restore => self.release(sent.kind, &sent.names),
                CommandPurpose::Part | CommandPurpose::End | CommandPurpose::Ping => {}
            }
        }
        self.part_refused = None;
        self.retract_grants();
        for (kind, name) in std::mem::take(&mut self.unwanted) {
            if let Some(state) = self.topics.of_mut(kind).get_mut(&name) {
                state.unwanted = false;
            }
            self.drop_if_unwanted(kind, &name);
        }
        self.note_ends();
    }

    /// Has every subscription restored on a new connection. Returns the number of sessions that have any.
    pub(in crate::upstream::fanin) fn connected(&mut self) -> usize {
        for kind in Kind::ALL {
            let topics = self.topics.of(kind).iter();
            let subscribed = topics.filter(|(_, state)| !state.members.is_empty());
            let names: Vec<Name> = subscribed.map(|(name, _)| name.clone()).collect();
            let parts = one_slot_each(kind, names);
            for names in parts.iter().flat_map(|names| names.chunks(NAMES_PER_COMMAND)) {
                names.iter().for_each(|name| self.topic(kind, name).requests += 1);
                self.restoring.push_back((kind, names.to_vec()));
            }
        }
        self.sessions.values().filter(|entry| entry.total() > 0).count()
    }

    fn send(&mut self, out: &mut Vec<u8>, kind: Kind, names: Vec<Name>, purpose: CommandPurpose) {
        let command = if matches!(purpose, CommandPurpose::End) { kind.end() } else { kind.begin() };
        let args: Vec<&[u8]> = std::iter::once(command).chain(names.iter().map(AsRef::as_ref)).collect();
        request::encode(&args, out);
        let sent = SentCommand { kind, names, confirmed: 0, purpose, refused: false };
        if sent.is_end_of_channels() {
            out.extend_from_slice(self.probe);
        }
        self.sent.push_back(sent);
    }

    /// Takes names of one kind that no session wants any more, for one command that ends them.
    fn take_unwanted(&mut self) -> Option<(Kind, Vec<Name>)> {
        let mut ending: Option<(Kind, Vec<Name>)> = None;
        while let Some((kind, name)) = self.unwanted.last() {
            let full = |(first, names): &(Kind, Vec<Name>)| {
                first != kind || names.len() >= NAMES_PER_COMMAND || !is_same_slot(*kind, names.first(), name)
            };
            if ending.as_ref().is_some_and(full) {
                break;
            }
            let Some((kind, name)) = self.unwanted.pop() else { break };
            let topics = self.topics.of_mut(kind);
            let Some(state) = topics.get_mut(&name) else { continue };
            state.unwanted = false;
            // A session may want the name again since it was added to the list.
            if !state.is_wanted() && topics.remove(&name).is_some_and(|state| state.active) {
                ending.get_or_insert_with(|| (kind, Vec::new())).1.push(name);
            }
        }
        ending
    }

    /// Handles the refusal of a command that restores subscriptions. One of its names is the reason, so each half is sent again by
    /// itself. A refused command with one name ends the subscriptions to it. Returns the number of sessions that lose one.
    fn retry_restore(&mut self, kind: Kind, mut names: Vec<Name>) -> usize {
        if names.len() > 1 {
            let rest = names.split_off(names.len() / 2);
            self.restoring.push_front((kind, rest));
            self.restoring.push_front((kind, names));
            return 0;
        }
        let mut lost = 0;
        for name in &names {
            for subscriber in std::mem::take(&mut self.topic(kind, name).members).into_values() {
                subscriber.lost();
                lost += 1;
            }
        }
        self.release(kind, &names);
        lost
    }
}
