//! The redirected commands that were sent again and are not answered. No I/O.
//!
//! A node may redirect a command that came to it by a redirect, or its connection may be lost. So the next command for the same slot may
//! be sent only behind it, on the same connection: elsewhere it could run first.

use std::collections::HashMap;
use std::rc::{Rc, Weak};

use super::waiting::Series;
use crate::upstream::replies::Replies;
use crate::upstream::shared::lane::Lane;

/// The number of series from which on those without an unanswered command are looked for and forgotten.
const SWEPT_FROM: usize = 64;

/// One command that was sent.
struct Sent {
    replies: Weak<Replies>,
    lane: Weak<Lane>,
}

impl Sent {
    fn is_due(&self) -> bool {
        self.replies.upgrade().is_some_and(|replies| replies.due() > 0)
    }
}

/// The commands that were sent and are not answered.
#[derive(Default)]
pub(super) struct UnderWay {
    series: HashMap<Series, Vec<Sent>>,
    /// The number of series after the last sweep.
    swept: usize,
}

impl UnderWay {
    /// Takes note that `lane` carries a command.
    pub(super) fn add(&mut self, series: Series, replies: &Rc<Replies>, lane: &Rc<Lane>) {
        if self.series.len() >= SWEPT_FROM.max(2 * self.swept) {
            self.series.retain(|_, sent| sent.iter().any(Sent::is_due));
            self.swept = self.series.len();
        }
        let sent = self.series.entry(series).or_default();
        sent.retain(Sent::is_due);
        sent.push(Sent { replies: Rc::downgrade(replies), lane: Rc::downgrade(lane) });
    }

    /// Takes note that no lane carries a command any more: its node has not run it either.
    pub(super) fn remove(&mut self, series: Series, replies: &Rc<Replies>) {
        if let Some(sent) = self.series.get_mut(&series) {
            sent.retain(|sent| sent.is_due() && !std::ptr::eq(sent.replies.as_ptr(), Rc::as_ptr(replies)));
            if sent.is_empty() {
                self.series.remove(&series);
            }
        }
    }

    /// Returns true if a command of the series is under way on another lane than `lane`.
    pub(super) fn is_elsewhere(&self, series: Series, lane: &Rc<Lane>) -> bool {
        let sent = self.series.get(&series).into_iter().flatten();
        sent.filter(|sent| sent.is_due()).any(|sent| !std::ptr::eq(sent.lane.as_ptr(), Rc::as_ptr(lane)))
    }
}

#[cfg(test)]
mod tests;
