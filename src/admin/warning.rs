//! One warning to operators.

use serde_json::{Value, json};

/// How much a warning matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Clients are not served, or soon are not.
    Critical,
    /// Something is wrong, and clients are served.
    Warning,
    /// Something is unusual.
    Info,
}

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) severity: Severity,
    /// What the warning is about: `upstream main`.
    pub(super) subject: String,
    pub(super) text: String,
    /// What to do.
    pub(super) remedy: String,
}

impl Warning {
    pub(super) fn new(
        severity: Severity,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity, subject: subject.into(), text: text.into(), remedy: remedy.into() }
    }

    /// Returns the line of `/readyz`.
    pub(super) fn line(&self) -> String {
        format!("{}: {}\n", self.subject, self.text)
    }

    /// Returns the entry of `/status`.
    pub(super) fn json(&self) -> Value {
        let severity = match self.severity {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        json!({ "severity": severity, "subject": self.subject, "text": self.text, "remedy": self.remedy })
    }
}
