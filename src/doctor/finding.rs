//! What the walk found: one finding for each step, in sections by whom it was asked of.

use std::fmt;

use serde_json::{Map, Value};

/// How a step ended. Ordered: the worst one is the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It could not be tried, since an earlier step failed.
    NotTried,
    /// As it should be.
    Ok,
    /// Clients are served, but something is not as it should be.
    Warning,
    /// Clients are not served, or will not be.
    Broken,
}

impl Level {
    /// One word, the same for people and for machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotTried => "not tried",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// One question of the walk, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Can the listener be bound?
    Listen,
    /// Has the name an address?
    Dns,
    /// Does something accept connections there?
    Connect,
    /// Who does it say that it is, and may that be believed?
    Tls,
    /// Are the credentials taken?
    Login,
    /// What is it, and is it willing to work?
    Server,
    /// Whom does this Sentinel name?
    Sentinel,
    /// Whom do they name together?
    Agreement,
    /// Could another node take over?
    Replicas,
    /// Is it a primary?
    Role,
    /// May the database be used?
    Database,
    /// Is there room for respgate's connections?
    Clients,
    /// Can scripts do what clients may not?
    Scripts,
    /// How far away is it?
    Latency,
}

impl Step {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Server => "server",
            Self::Sentinel => "sentinel",
            Self::Agreement => "agreement",
            Self::Replicas => "replicas",
            Self::Role => "role",
            Self::Database => "database",
            Self::Clients => "clients",
            Self::Scripts => "scripts",
            Self::Latency => "latency",
        }
    }
}

/// The end of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which step.
    pub step: Step,
    /// How it ended.
    pub level: Level,
    /// What was seen, in one sentence.
    pub seen: String,
    /// More of what was seen, a line each.
    pub details: Vec<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The same in figures, for machines.
    pub facts: Map<String, Value>,
}

impl Finding {
    fn new(step: Step, level: Level, seen: &str, remedy: Option<&str>) -> Self {
        Self {
            step,
            level,
            seen: printable(seen),
            details: Vec::new(),
            remedy: remedy.map(printable),
            facts: Map::new(),
        }
    }

    /// All is well.
    pub fn ok(step: Step, seen: impl AsRef<str>) -> Self {
        Self::new(step, Level::Ok, seen.as_ref(), None)
    }

    /// Clients are served, but.
    pub fn warning(step: Step, seen: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self::new(step, Level::Warning, seen.as_ref(), Some(remedy.as_ref()))
    }

    /// Clients are not served.
    pub fn broken(step: Step, seen: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self::new(step, Level::Broken, seen.as_ref(), Some(remedy.as_ref()))
    }

    /// It could not be asked; `why` names the step that failed.
    pub fn not_tried(step: Step, why: impl AsRef<str>) -> Self {
        Self::new(step, Level::NotTried, why.as_ref(), None)
    }

    /// Adds a line.
    #[must_use]
    pub fn detail(mut self, line: impl AsRef<str>) -> Self {
        self.details.push(printable(line.as_ref()));
        self
    }

    /// Adds a figure for machines.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// Without control characters: names and errors come from peers, and a terminal obeys what it is sent.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a section is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Where clients connect, or the admin address.
    Listener,
    /// One Sentinel.
    Sentinel,
    /// All Sentinels of an upstream together.
    Sentinels,
    /// The node that commands go to.
    Primary,
    /// A node that may become that.
    Replica,
}

impl Subject {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Sentinel => "sentinel",
            Self::Sentinels => "sentinels",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// The findings about one listener, Sentinel or node.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// What it is about.
    pub subject: Subject,
    /// The upstream's or the listener's name.
    pub name: String,
    /// Where it is; empty where that makes no sense.
    pub address: String,
    /// In the order of the steps.
    pub findings: Vec<Finding>,
}

impl Section {
    /// Its worst finding.
    pub fn level(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// What is broken here is no more than a warning, since clients are served without it.
    pub fn soften(&mut self) {
        for finding in &mut self.findings {
            finding.level = finding.level.min(Level::Warning);
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Listener if self.name.is_empty() => write!(f, "admin listener {}", self.address),
            Subject::Listener => write!(f, "listener {}: {}", self.name, self.address),
            Subject::Sentinels => write!(f, "upstream {}: the Sentinels together", self.name),
            Subject::Sentinel => write!(f, "upstream {}: Sentinel {}", self.name, self.address),
            Subject::Primary if self.address.is_empty() => write!(f, "upstream {}: primary", self.name),
            Subject::Primary => write!(f, "upstream {}: primary {}", self.name, self.address),
            Subject::Replica => write!(f, "upstream {}: replica {}", self.name, self.address),
        }
    }
}

/// The whole walk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diagnosis {
    /// Listeners first, then each upstream: its Sentinels, what they say together, the primary, the replicas.
    pub sections: Vec<Section>,
}

impl Diagnosis {
    /// How many findings have this level.
    pub fn count(&self, level: Level) -> usize {
        self.sections.iter().flat_map(|section| &section.findings).filter(|it| it.level == level).count()
    }

    /// Whether something is broken.
    pub fn broken(&self) -> bool {
        self.count(Level::Broken) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_say_cannot_steer_a_terminal() {
        let finding =
            Finding::broken(Step::Login, "it says \x1b]0;x\x07\r\n", "wait\x1b[2J").detail("\x1b[H");
        for text in [finding.seen, finding.details[0].clone(), finding.remedy.unwrap()] {
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn a_softened_section_has_warnings_at_most() {
        let mut section = Section {
            subject: Subject::Sentinel,
            name: "main".into(),
            address: "s1:26379".into(),
            findings: vec![
                Finding::ok(Step::Dns, "x"),
                Finding::broken(Step::Connect, "x", "y"),
                Finding::not_tried(Step::Login, "z"),
            ],
        };
        assert_eq!(section.level(), Level::Broken);
        section.soften();
        let levels: Vec<Level> = section.findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warning, Level::NotTried]);
    }
}
