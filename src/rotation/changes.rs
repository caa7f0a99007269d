//! When a set of files is worth loading, and when a bad one is worth telling. No I/O.

use super::digest::Digest;

/// What is known of one set.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The content that is in use.
    adopted: Option<Digest>,
    /// The content that failed when it was last looked at: it may be half written.
    suspect: Option<Digest>,
    /// The content that failed and was reported. It is tried on: the same certificate that counts only in a minute is
    /// good then, and a file that could not be opened for want of
    /// descriptors can be later.
    told: Option<Digest>,
    /// Something has been adopted.
    begun: bool,
}

impl Changes {
    /// Whether this content is not the one in use, or follows one that is reported as bad.
    pub(super) fn worth_loading(&mut self, digest: Digest) -> bool {
        let new = self.adopted != Some(digest) || self.told.is_some();
        if !new {
            self.suspect = None;
        }
        new
    }

    /// This content loaded. False for the first of all, which replaces nothing.
    pub(super) fn adopted(&mut self, digest: Digest) -> bool {
        (self.adopted, self.suspect, self.told) = (Some(digest), None, None);
        std::mem::replace(&mut self.begun, true)
    }

    /// This content did not load. True if it should be told: it did not change since it failed before, and has not been
    /// told.
    pub(super) fn failed(&mut self, digest: Digest) -> bool {
        self.begun = true;
        let still = self.suspect.replace(digest) == Some(digest);
        still && self.told.replace(digest) != Some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Digest = Digest(1);
    const HALF: Digest = Digest(2);
    const NEW: Digest = Digest(3);

    #[test]
    fn half_written_sets_are_not_told() {
        let mut changes = Changes::default();
        assert!(changes.worth_loading(OLD));
        assert!(!changes.adopted(OLD), "the first replaces nothing");
        assert!(!changes.worth_loading(OLD));
        assert!(changes.worth_loading(HALF));
        assert!(!changes.failed(HALF));
        assert!(changes.worth_loading(NEW));
        assert!(changes.adopted(NEW));
        assert!(!changes.worth_loading(NEW));
    }

    #[test]
    fn a_bad_set_is_told_once_and_tried_on() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        assert!(changes.worth_loading(HALF) && !changes.failed(HALF));
        assert!(changes.worth_loading(HALF) && changes.failed(HALF));
        assert!(changes.worth_loading(HALF) && !changes.failed(HALF), "told already");
        assert!(changes.worth_loading(OLD), "the old content is back: the fault is over");
        assert!(changes.adopted(OLD));
        assert!(changes.worth_loading(HALF) && !changes.failed(HALF));
        assert!(changes.worth_loading(HALF) && changes.failed(HALF), "told again");
    }

    #[test]
    fn the_same_content_may_become_good() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        assert!(changes.worth_loading(NEW) && !changes.failed(NEW));
        assert!(changes.worth_loading(NEW) && changes.failed(NEW));
        assert!(changes.worth_loading(NEW) && changes.adopted(NEW));
        assert!(!changes.worth_loading(NEW));
    }

    #[test]
    fn what_goes_on_changing_is_not_told_until_it_rests() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        for number in 10..20 {
            assert!(changes.worth_loading(Digest(number)) && !changes.failed(Digest(number)));
        }
        assert!(changes.worth_loading(Digest(19)) && changes.failed(Digest(19)));
    }
}
