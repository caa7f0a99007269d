//! Counts one tenant's commands and refusals on one worker.

use super::limits::refusal::Limit;
use crate::metrics::LocalCounter;

/// Holds the counts in plain cells, since only one thread uses them.
#[derive(Debug, Default)]
pub struct Figures {
    /// Number of commands taken from the tenant's clients.
    pub commands: LocalCounter,
    /// Number of those commands that the tenant's policy denied.
    pub denied: LocalCounter,
    delayed: [LocalCounter; Limit::ALL.len()],
    refused: [LocalCounter; Limit::ALL.len()],
}

/// Holds the counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// See [`Figures::commands`].
    pub commands: u64,
    /// See [`Figures::denied`].
    pub denied: u64,
    /// How often each limit delayed a command, in the order of [`Limit::ALL`].
    pub delayed: [u64; Limit::ALL.len()],
    /// How often each limit refused a command or a client, in the same order.
    pub refused: [u64; Limit::ALL.len()],
}

impl Figures {
    /// Counts that a limit delayed a command (`delayed`) or refused it.
    pub fn note(&self, limit: Limit, delayed: bool) {
        let figures = if delayed { &self.delayed } else { &self.refused };
        if let Some(figure) = figures.get(limit as usize) {
            figure.inc();
        }
    }

    /// Returns the counts now.
    pub fn snapshot(&self) -> Counted {
        let all = |figures: &[LocalCounter; Limit::ALL.len()]| {
            std::array::from_fn(|at| figures.get(at).map_or(0, LocalCounter::get))
        };
        Counted {
            commands: self.commands.get(),
            denied: self.denied.get(),
            delayed: all(&self.delayed),
            refused: all(&self.refused),
        }
    }
}

impl Counted {
    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.denied += other.denied;
        self.delayed.iter_mut().zip(other.delayed).for_each(|(sum, more)| *sum += more);
        self.refused.iter_mut().zip(other.refused).for_each(|(sum, more)| *sum += more);
    }
}
