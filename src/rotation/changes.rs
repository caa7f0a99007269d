//! Decides when to load a set of files, and when to report a bad one. No I/O.

use super::digest::Digest;

/// Tracks the contents of one set of files.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The content that is in use.
    adopted: Option<Digest>,
    /// The content that failed to load when it was last read. A writer may have written half of it.
    suspect: Option<Digest>,
    /// The content that failed to load and was reported. It is loaded again and again, because the same content can
    /// become good: a certificate may be valid only in a minute, and a file that could not be opened because no
    /// descriptor was free can be opened later.
    reported: Option<Digest>,
    /// The content that loaded and was refused for good. Only a prompt makes respgate load it again.
    refused: Option<Digest>,
    /// True if a set has been adopted, or has failed to load.
    begun: bool,
}

impl Changes {
    /// Returns true if the set should be loaded: its content is not the one in use, or a content was reported as bad
    /// since the last one that loaded. A content that was refused for good is loaded only if it was `prompted`.
    pub(super) fn worth_loading(&mut self, digest: Digest, prompted: bool) -> bool {
        if self.refused == Some(digest) && !prompted {
            return false;
        }
        let new = self.adopted != Some(digest) || self.reported.is_some();
        if !new {
            self.suspect = None;
        }
        new
    }

    /// Returns true if a set has been adopted, or has failed to load: the next one replaces another.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Notes that this content is in use.
    pub(super) fn adopted(&mut self, digest: Digest) {
        (self.adopted, self.suspect, self.reported, self.refused) = (Some(digest), None, None, None);
        self.begun = true;
    }

    /// Notes that this content loaded and was refused for good.
    pub(super) fn refused(&mut self, digest: Digest) {
        (self.suspect, self.reported, self.refused) = (None, Some(digest), Some(digest));
        self.begun = true;
    }

    /// Notes that this content did not load. Returns true if the failure should be reported: the content has not
    /// changed since it failed before, and it has not been reported.
    pub(super) fn failed(&mut self, digest: Digest) -> bool {
        (self.begun, self.refused) = (true, None);
        let still = self.suspect.replace(digest) == Some(digest);
        still && self.reported.replace(digest) != Some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Digest = Digest(1);
    const HALF: Digest = Digest(2);
    const NEW: Digest = Digest(3);

    #[test]
    fn half_written_sets_are_not_reported() {
        let mut changes = Changes::default();
        assert!(changes.worth_loading(OLD, false));
        assert!(!changes.has_begun(), "the first replaces nothing");
        changes.adopted(OLD);
        assert!(!changes.worth_loading(OLD, false));
        assert!(changes.worth_loading(HALF, false));
        assert!(!changes.failed(HALF));
        assert!(changes.worth_loading(NEW, false));
        assert!(changes.has_begun());
        changes.adopted(NEW);
        assert!(!changes.worth_loading(NEW, false));
    }

    #[test]
    fn a_bad_set_is_reported_once_and_loaded_again() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        assert!(changes.worth_loading(HALF, false) && !changes.failed(HALF));
        assert!(changes.worth_loading(HALF, false) && changes.failed(HALF));
        assert!(changes.worth_loading(HALF, false) && !changes.failed(HALF), "reported already");
        assert!(changes.worth_loading(OLD, false), "the old content is back: the error is over");
        changes.adopted(OLD);
        assert!(changes.worth_loading(HALF, false) && !changes.failed(HALF));
        assert!(changes.worth_loading(HALF, false) && changes.failed(HALF), "reported again");
    }

    #[test]
    fn the_same_content_may_become_good() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        assert!(changes.worth_loading(NEW, false) && !changes.failed(NEW));
        assert!(changes.worth_loading(NEW, false) && changes.failed(NEW));
        assert!(changes.worth_loading(NEW, false));
        changes.adopted(NEW);
        assert!(!changes.worth_loading(NEW, false));
    }

    #[test]
    fn a_content_refused_for_good_is_loaded_again_when_prompted() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        changes.refused(NEW);
        assert!(!changes.worth_loading(NEW, false) && changes.worth_loading(NEW, true));
        assert!(changes.worth_loading(HALF, false), "another content");
        assert!(changes.worth_loading(OLD, false), "the refusal is over");
        changes.adopted(OLD);
        assert!(!changes.worth_loading(OLD, true) && changes.worth_loading(NEW, false));
    }

    #[test]
    fn content_that_keeps_changing_is_reported_when_it_rests() {
        let mut changes = Changes::default();
        changes.adopted(OLD);
        for number in 10..20 {
            assert!(changes.worth_loading(Digest(number), false) && !changes.failed(Digest(number)));
        }
        assert!(changes.worth_loading(Digest(19), false) && changes.failed(Digest(19)));
    }
}
