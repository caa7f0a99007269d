//! The errors and warnings of a configuration, each with the place where the setting was typed.

use std::fmt;
use std::sync::Arc;

/// Where a setting was typed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The path as the user gave it.
        path: Arc<str>,
        /// Line, counted from 1; 0 means the file as a whole.
        line: usize,
        /// Column, counted from 1; only for syntax errors.
        column: Option<usize>,
        /// The dotted key; empty for the file as a whole and for syntax errors.
        key: String,
    },
    /// An environment variable.
    Env(String),
    /// A flag, including its dashes.
    Flag(&'static str),
}

impl Place {
    /// Returns the precedence of this place if a setting is typed in several: a flag wins over the
    /// environment, and that over the file.
    pub fn precedence(&self) -> u8 {
        match self {
            Self::File { .. } => 0,
            Self::Env(_) => 1,
            Self::Flag(_) => 2,
        }
    }

    /// Returns the dotted key in the file; empty for other places.
    pub fn key(&self) -> &str {
        match self {
            Self::File { key, .. } => key,
            _ => "",
        }
    }

    /// Returns the first line of the same file, for a key that the file should have.
    pub fn first_line(&self, key: &str) -> Self {
        match self {
            Self::File { path, .. } => {
                Self::File { path: path.clone(), line: 1, column: None, key: key.into() }
            }
            other => other.clone(),
        }
    }

    /// Returns another key of the same table, on the same line, for a key that is missing.
    pub fn sub_key(&self, name: &str) -> Self {
        match self {
            Self::File { path, line, key, .. } => Self::File {
                path: path.clone(),
                line: *line,
                column: None,
                key: if key.is_empty() { name.into() } else { format!("{key}.{name}") },
            },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column, key } => {
                f.write_str(path)?;
                if *line > 0 {
                    write!(f, ":{line}")?;
                }
                if let Some(column) = column {
                    write!(f, ":{column}")?;
                }
                if !key.is_empty() {
                    write!(f, ": {key}")?;
                }
                Ok(())
            }
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One error or warning. Its text never contains a password.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where the setting was typed.
    pub place: Place,
    /// What is wrong, and how to fix it.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// The findings so far. respgate runs a configuration with warnings, but not one with errors.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Errors. respgate refuses to run with them.
    pub errors: Vec<Finding>,
    /// Warnings: respgate runs, but probably not as intended.
    pub warnings: Vec<Finding>,
    /// Advice about the server's own settings, which only `check` prints. respgate cannot see here
    /// whether the server already follows it.
    pub advice: Vec<Finding>,
}

impl Report {
    /// Adds an error.
    pub fn error(&mut self, place: &Place, text: impl Into<String>) {
        self.errors.push(Finding { place: place.clone(), text: text.into() });
    }

    /// Adds a warning.
    pub fn warn(&mut self, place: &Place, text: impl Into<String>) {
        self.warnings.push(Finding { place: place.clone(), text: text.into() });
    }

    /// Adds advice.
    pub fn advise(&mut self, place: &Place, text: impl Into<String>) {
        self.advice.push(Finding { place: place.clone(), text: text.into() });
    }

    /// Sorts the findings: first the file in its order, then environment variables, then flags.
    pub fn sort(&mut self) {
        self.errors.sort();
        self.warnings.sort();
        self.advice.sort();
        self.advice.dedup();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

/// Returns `; did you mean "…"?` if a known word is similar, else an empty text.
pub fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len().max(typed.len()) / 5)
        .min()
        .map(|(_, word)| format!("; did you mean {word:?}?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(suggestion("lease-wiat", ["lease-wait", "pool"]), "; did you mean \"lease-wait\"?");
        assert_eq!(suggestion("poll", ["pool", "lease-wait"]), "; did you mean \"pool\"?");
        assert_eq!(suggestion("colour", ["pool", "lease-wait"]), "");
    }
}
