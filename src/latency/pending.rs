//! The times of commands whose replies wait to be written to one client.

use std::cell::{Cell, OnceCell, RefCell};

use super::described::Described;
use super::entry::ClientLabel;
use super::times::CommandTimes;

/// Number of commands of one client that can wait to be shown.
const MAX_OBSERVED: usize = 32;

/// A command that the slow log or a tap will show once its reply is written.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) times: CommandTimes,
    /// The command, with its key redacted.
    pub(super) redacted: Described,
    /// The command with its arguments, if the slow log or a tap shows them.
    pub(super) shown: Option<Described>,
    /// True if it took so long that the slow log shows it.
    pub(super) slow: bool,
    /// The taps that show it, by the version of all taps.
    pub(super) taps: (u8, u32),
}

/// Commands in a row that have the same times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) times: CommandTimes,
    pub(super) count: u32,
}

/// The times of commands whose replies wait to be written to one client.
#[derive(Debug, Default)]
pub struct PendingTimes {
    /// The newest commands; earlier ones with other times are counted already.
    run: Cell<Option<Run>>,
    /// The taps whose filters admit the client.
    tapped: Cell<u8>,
    observed: RefCell<Vec<Observed>>,
    /// True if `observed` holds commands.
    has_observed: Cell<bool>,
    /// The client, once it has left while replies were due.
    left: OnceCell<Box<ClientLabel>>,
}

impl PendingTimes {
    /// Adds commands with the same times. Returns earlier ones, which can wait no longer.
    #[inline]
    pub(super) fn add(&self, times: CommandTimes, count: u32) -> Option<Run> {
        self.run.replace(Some(Run { times, count }))
    }

    /// Takes out the commands that wait, because their replies are written.
    #[inline]
    pub(super) fn take_run(&self) -> Option<Run> {
        self.run.take()
    }

    /// Returns true if no further command can wait to be shown.
    pub(super) fn is_full(&self) -> bool {
        self.observed.borrow().len() >= MAX_OBSERVED
    }

    /// Keeps a command until its reply is written.
    pub(super) fn observe(&self, observed: Observed) {
        self.observed.borrow_mut().push(observed);
        self.has_observed.set(true);
    }

    #[inline]
    pub(super) fn has_observed(&self) -> bool {
        self.has_observed.get()
    }

    pub(super) fn take_observed(&self) -> Vec<Observed> {
        self.has_observed.set(false);
        self.observed.take()
    }

    /// Returns the taps whose filters admit the client.
    #[inline]
    pub fn tapped(&self) -> u8 {
        self.tapped.get()
    }

    pub(super) fn set_tapped(&self, taps: u8) {
        self.tapped.set(taps);
    }

    /// Takes note that the client has left while replies were due.
    pub fn set_left(&self, client: ClientLabel) {
        let _ = self.left.set(Box::new(client));
    }

    /// Returns the client if it has left.
    pub(super) fn left(&self) -> Option<&ClientLabel> {
        self.left.get().map(AsRef::as_ref)
    }
}
