//! The redirected commands that wait until they can be sent. No I/O.

use std::collections::HashSet;
use std::rc::Rc;

use tokio::time::Instant;

use crate::cluster::slot::Slot;
use crate::net::budget::Charge;
use crate::topology::{Address, Generation};
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::replies::{ClientState, Replies};
use crate::upstream::shared::lane::Lane;
use crate::upstream::shared::queue::redirected::RedirectedRequest;

/// The number of commands that may wait.
const MAX_WAITING: usize = 16 * 1024;

/// A command that a node has not run, and that goes to another node or to the same one again.
pub(in crate::upstream) struct WaitingCommand {
    /// The request.
    pub(in crate::upstream) request: RedirectedRequest,
    /// The kind of connection that carries it.
    pub(in crate::upstream) key: ConnectionKey,
    /// Its slot, if it is known.
    pub(in crate::upstream) slot: Option<Slot>,
    /// The node that gets it; `None` if that is the one that serves the slot.
    pub(in crate::upstream) to: Option<Address>,
    /// True if ASKING must precede it.
    pub(in crate::upstream) asks: bool,
    /// The lane that gets it if its slot is not known and no node is named.
    pub(in crate::upstream) origin: Option<Rc<Lane>>,
    /// The primary that has not run it.
    pub(in crate::upstream) from: Generation,
    /// When it may be sent.
    pub(in crate::upstream) ready: Instant,
    /// When it fails.
    pub(in crate::upstream) deadline: Instant,
    /// The server's error, which says why it waits.
    pub(in crate::upstream) why: Box<[u8]>,
}

/// One waiting command, with what it costs its client.
struct Entry {
    command: WaitingCommand,
    _charge: Charge,
}

/// What becomes of a waiting command.
pub(in crate::upstream) enum Fate {
    /// It was sent, or has failed.
    Gone,
    /// It goes on waiting.
    Waits(WaitingCommand),
}

/// The commands that wait, in the order in which they were redirected.
#[derive(Default)]
pub(in crate::upstream) struct WaitingCommands {
    entries: Vec<Entry>,
    bytes: usize,
}

/// Commands of which one must not overtake the other: those of one client for one slot.
pub(super) type Series = (*const Replies, Option<Slot>);

impl WaitingCommand {
    pub(super) fn series(&self) -> Series {
        (self.request.replies.owner(), self.slot)
    }

    fn size(&self) -> usize {
        self.request.bytes.len() + self.why.len() + size_of::<Entry>()
    }
}

impl WaitingCommands {
    /// Adds a command. One that comes back goes in front of the later ones of its series. Returns it if `limit` bytes or [`MAX_WAITING`] commands wait already.
    pub(in crate::upstream) fn add(
        &mut self,
        command: WaitingCommand,
        limit: usize,
    ) -> Result<(), Box<WaitingCommand>> {
        let size = command.size();
        if self.entries.len() >= MAX_WAITING || self.bytes.saturating_add(size) > limit {
            return Err(Box::new(command));
        }
        let mut charge = Charge::new(command.request.replies.account());
        charge.set(size);
        self.bytes += size;
        let (series, number) = (command.series(), command.request.replies.hole_number());
        let is_later = |entry: &Entry| {
            entry.command.series() == series && entry.command.request.replies.hole_number() > number
        };
        let at = self.entries.iter().position(is_later).unwrap_or(self.entries.len());
        self.entries.insert(at, Entry { command, _charge: charge });
        Ok(())
    }

    /// Returns true if an earlier command waits that `command` must not overtake.
    pub(in crate::upstream) fn is_behind(&self, command: &WaitingCommand) -> bool {
        let series = command.series();
        self.entries.iter().any(|entry| entry.command.series() == series)
    }

    /// Returns the clients whose commands wait.
    pub(in crate::upstream) fn clients(&self) -> HashSet<*const Replies> {
        self.entries.iter().map(|entry| entry.command.request.replies.owner()).collect()
    }

    /// Returns true if no command waits.
    pub(in crate::upstream) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns when a command may be sent next, or fails.
    pub(in crate::upstream) fn next_at(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.command.ready.min(entry.command.deadline)).min()
    }

    /// Asks `decide` about each command that may be sent or must fail at `now`, in order, but about none behind a waiting one that it
    /// must not overtake. Drops the commands of clients that have left.
    pub(in crate::upstream) fn review(
        &mut self,
        now: Instant,
        mut decide: impl FnMut(WaitingCommand) -> Fate,
    ) {
        let mut waiting: HashSet<Series> = HashSet::new();
        for Entry { command, _charge } in std::mem::take(&mut self.entries) {
            let (size, series) = (command.size(), command.series());
            self.bytes -= size;
            if command.request.replies.client_state() != ClientState::Open {
                command.request.replies.swallow();
                continue;
            }
            let due = command.deadline <= now || command.ready <= now && !waiting.contains(&series);
            let fate = if due { decide(command) } else { Fate::Waits(command) };
            if let Fate::Waits(command) = fate {
                waiting.insert(series);
                self.bytes += size;
                self.entries.push(Entry { command, _charge });
            }
        }
    }
}

#[cfg(test)]
mod tests;
