//! What one worker counts of one tenant.

use super::limits::refusal::Limit;
use crate::metrics::LocalCounter;

/// Counted in plain cells, as everything on the data path.
#[derive(Debug, Default)]
pub struct Figures {
    /// Commands taken from its clients.
    pub commands: LocalCounter,
    /// Those that its policy denied.
    pub denied: LocalCounter,
    delayed: [LocalCounter; Limit::ALL.len()],
    refused: [LocalCounter; Limit::ALL.len()],
}

/// The figures at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// See [`Figures::commands`].
    pub commands: u64,
    /// See [`Figures::denied`].
    pub denied: u64,
    /// By limit, in the order of [`Limit::ALL`].
    pub delayed: [u64; Limit::ALL.len()],
    /// As `delayed`.
    pub refused: [u64; Limit::ALL.len()],
}

impl Figures {
    /// A limit has taken hold.
    pub fn note(&self, limit: Limit, delayed: bool) {
        let figures = if delayed { &self.delayed } else { &self.refused };
        if let Some(figure) = figures.get(limit as usize) {
            figure.inc();
        }
    }

    /// The figures now.
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
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.denied += other.denied;
        self.delayed.iter_mut().zip(other.delayed).for_each(|(sum, more)| *sum += more);
        self.refused.iter_mut().zip(other.refused).for_each(|(sum, more)| *sum += more);
    }
}
