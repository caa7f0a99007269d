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

impl Shape {
    /// Returns how a value is written, in words, as Markdown.
    pub fn in_words(&self) -> String {
        match self {
            Self::Integer => "whole number".into(),
            Self::Boolean => "`true` or `false`".into(),
            Self::Size => "size".into(),
            Self::Duration => "duration".into(),
            Self::Words(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                match words.split_last() {
                    Some((last, others)) => format!("{} or {last}", others.join(", ")),
                    None => String::new(),
                }
            }
            Self::Text("a text") => "text".into(),
            Self::Text(form) => format!("text ({form})"),
            Self::OneOrMany(form) => format!("text ({form}), or a list of such texts"),
            Self::List { of, least } => {
                let words = of.in_words();
                let (noun, form) = words.split_once(" (").unwrap_or((&words, ""));
                let form = if form.is_empty() { String::new() } else { format!(" ({form}") };
                let least = if *least == 0 { ", perhaps empty" } else { "" };
                format!("list of {noun}s{form}{least}")
            }
            Self::Map(from, to) => format!("table of texts ({from} = {to})"),
        }
    }
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
