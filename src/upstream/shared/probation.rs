//! Finds the request whose reply makes the server close the connection, for example because of its output buffer limit. No I/O.
//!
//! When a connection is lost, each unanswered read is a suspect. Suspects are written again in batches of 1, 2, 4, ... requests. A
//! batch is answered before the next one is written, and requests that are no suspects wait until all suspects are answered. If the
//! connection is lost again, the suspects of the lost batch are written one by one. So the culprit is soon the only unanswered
//! request of a lost connection, and the other requests do not fail with it.

/// The suspects of one connection. See the module.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Probation {
    /// The number of unanswered suspects.
    suspects: usize,
    /// The number of unanswered suspects of the present batch.
    batch: usize,
    /// The number of suspects with which the present batch began.
    size: usize,
    /// The number of suspects, counted from the first, that get a batch each.
    singly: usize,
}

impl Probation {
    /// Begins after a connection was lost. The first `suspects` requests are suspects. The first `singly` of them were the batch that
    /// was under way when the connection was lost. Returns the number of suspects that may be written.
    pub(in crate::upstream) fn begin(&mut self, suspects: usize, singly: usize) -> usize {
        *self = Self { suspects, singly, ..Self::default() };
        self.next_batch()
    }

    /// Returns the number of unanswered suspects of the present batch.
    pub(in crate::upstream) fn batch(&self) -> usize {
        self.batch
    }

    /// Takes note that a suspect was answered, or that its client has left. If the batch is over, returns the number of suspects that
    /// may be written next.
    pub(in crate::upstream) fn answered(&mut self) -> Option<usize> {
        self.suspects = self.suspects.saturating_sub(1);
        self.batch = self.batch.saturating_sub(1);
        (self.batch == 0).then(|| self.next_batch())
    }

    fn next_batch(&mut self) -> usize {
        // Doubling finds the culprit among many suspects soon, and keeps the pauses few if there is none.
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

    /// Returns how many connections are lost until the request at `position` of `all` is the only unanswered one.
    fn losses(all: usize, position: usize) -> usize {
        let mut probation = Probation::default();
        let (mut answered, mut losses, mut batch) = (0, 1, probation.begin(all, 0));
        loop {
            if (answered..answered + batch).contains(&position) {
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
            assert!((0..all).all(|position| losses(all, position) <= 3), "of {all}");
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
