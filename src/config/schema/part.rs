//! Reads one part of a table.

use std::path::Path;

use super::super::document::Section;
use super::super::report::Report;
use super::entry::Entry;

/// A part of a table: some of its keys, and the struct that holds what the user typed for them.
pub trait Part: Sized {
    /// The declarations of the keys.
    const ENTRIES: &'static [Entry];

    /// Reads the keys, each with `prefix` before its name. Relative paths start from `folder`.
    fn read(section: &Section<'_>, prefix: &str, folder: &Path, report: &mut Report) -> Self;
}
