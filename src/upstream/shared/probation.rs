//! Finds the request whose reply makes the server close the connection: its output buffer limit, say. No I/O.
//!
//! When a connection is lost, each read that it leaves unanswered is a suspect. Suspects are written again in batches of
//! 1, 2, 4, ... requests; a batch is answered before the next one leaves, and requests that are no suspects wait until
//! all suspects are answered. If the connection is lost again, suspects of the lost batch are written one by one. So
//! the culprit is soon the only unanswered request of a lost connection, and the others need not pay for it.

/// See the module.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Probation {
    /// Suspects without an answer.
    suspects: usize,
    /// Of these, those that have been let out.
    batch: usize,
    /// How many the present batch had when it was let out.
    size: usize,
    /// Suspects, counted from the first, that are let out one by one.
    singly: usize,
}

impl Probation {
    /// A connection was lost: the first `suspects` requests that are sent again are suspects, and the first `singly` of
    /// them have made it be lost during probation. Returns how many may be let out.
    pub(in crate::upstream) fn begin(&mut self, suspects: usize, singly: usize) -> usize {
        *self = Self { suspects, singly, ..Self::default() };
        self.next_batch()
    }

    /// Suspects that were let out and have no answer.
    pub(in crate::upstream) fn batch(&self) -> usize {
        self.batch
    }

    /// A suspect has been answered, or is gone. Returns how many more may be let out, if that changes now.
    pub(in crate::upstream) fn answered(&mut self) -> Option<usize> {
        self.suspects = self.suspects.saturating_sub(1);
        self.batch = self.batch.saturating_sub(1);
        (self.batch == 0).then(|| self.next_batch())
    }

    fn next_batch(&mut self) -> usize {
        let size = if self.singly > 0 { 1 } else { (2 * self.size).max(1) };
        self.singly = self.singly.saturating_sub(1);
        self.size = size.min(self.suspects);
        self.batch = self.size;
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connections are lost until the request at `place` of `all` is the only unanswered one.
    fn losses(all: usize, place: usize) -> usize {
        let mut probation = Probation::default();
        let (mut answered, mut losses, mut batch) = (0, 1, probation.begin(all, 0));
        loop {
            if (answered..answered + batch).contains(&place) {
                losses += 1;
                if batch == 1 {
                    return losses;
                }
                batch = probation.begin(all - answered, batch);
                continue;
            }
            let written = batch;
            for _ in 0..written {
                answered += 1;
                if let Some(next) = probation.answered() {
                    batch = next;
                }
            }
        }
    }

    #[test]
    fn the_culprit_is_alone_after_three_losses() {
        for all in [1, 2, 3, 10, 1000] {
            assert!((0..all).all(|place| losses(all, place) <= 3), "of {all}");
        }
        assert_eq!(losses(1000, 0), 2);
    }

    #[test]
    fn it_ends_when_every_suspect_is_answered() {
        let mut probation = Probation::default();
        let mut batches = vec![probation.begin(10, 0)];
        while probation.suspects > 0 {
            batches.extend(probation.answered());
        }
        assert_eq!(batches, [1, 2, 4, 3, 0]);
    }
}
