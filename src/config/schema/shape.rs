//! Describes how values are written, for the documents and the JSON Schema, and formats defaults.

use std::time::Duration;

use ipnet::IpNet;

use super::super::size::show_duration;

/// The form of a key's value in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A whole number of at least 0.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A number of bytes, such as `"64KiB"` or `65536`.
    Size,
    /// A duration, such as `"250ms"`.
    Duration,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A text. The string describes its form.
    Text(&'static str),
    /// A text, or a list of such texts. The string describes the form of each.
    OneOrMany(&'static str),
    /// A list.
    List {
        /// The shape of one element.
        of: &'static Shape,
        /// Minimum number of elements.
        least: usize,
    },
    /// A table. The first string describes the form of its keys, the second that of its values.
    Map(&'static str, &'static str),
}

/// A default value that can be shown as TOML.
pub trait Shown {
    /// Returns the value as a user would write it.
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        format!("{:?}", show_duration(*self))
    }
}

impl Shown for usize {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for bool {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for Vec<IpNet> {
    fn shown(&self) -> String {
        let quoted: Vec<String> = self.iter().map(|network| format!("\"{network}\"")).collect();
        format!("[{}]", quoted.join(", "))
    }
}
