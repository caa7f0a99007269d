//! The rates of commands of the last minutes, for the plot. Does no I/O.

use std::collections::{HashMap, VecDeque};

use crate::status::Status;
use crate::status::state::{text, total};

/// The number of rates that are kept for each upstream. No terminal is wider.
const KEPT: usize = 500;

/// The rates by upstream, the newest last.
#[derive(Default)]
pub(super) struct RateHistory(HashMap<String, VecDeque<u64>>);

impl RateHistory {
    /// Adds the rates of an answer, and forgets upstreams that it does not have.
    pub(super) fn add(&mut self, status: &Status) {
        let mut former = std::mem::take(&mut self.0);
        for upstream in status.list("upstreams") {
            let name = text(&upstream["name"]);
            let mut rates = former.remove(&name).unwrap_or_default();
            if rates.len() == KEPT {
                rates.pop_front();
            }
            rates.push_back(total(&upstream["per_second"]["commands"]) as u64);
            self.0.insert(name, rates);
        }
    }

    /// Returns the newest `count` rates of an upstream.
    pub(super) fn newest(&self, upstream: &str, count: usize) -> Vec<u64> {
        let rates = self.0.get(upstream);
        rates
            .map(|rates| rates.iter().skip(rates.len().saturating_sub(count)).copied().collect())
            .unwrap_or_default()
    }
}
