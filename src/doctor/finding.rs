//! The results of the checks: one finding for each step, in one section for each peer.

use std::fmt;

use serde_json::{Map, Value};

/// The result of a step. Levels are ordered: the worst one is the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The step was not tried, because an earlier step failed.
    NotTried,
    /// The step found no problem.
    Ok,
    /// respgate serves clients, but something is not as it should be.
    Warning,
    /// respgate serves no clients, or soon will not.
    Broken,
}

impl Level {
    /// Returns the level as one word, the same for people and for machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotTried => "not tried",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// A step of the check. The steps are in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Can respgate bind the listener?
    Listen,
    /// Does the name have an address?
    Dns,
    /// Does a process accept connections at the address?
    Connect,
    /// Does the TLS handshake succeed, with a certificate that respgate trusts?
    Tls,
    /// Does the peer accept the credentials?
    Login,
    /// Which server is it, and does it serve commands?
    Server,
    /// Which node does this Sentinel name as primary?
    Sentinel,
    /// Which node do the Sentinels name together?
    Agreement,
    /// Which cluster does the node belong to, and do its primaries serve all slots?
    Cluster,
    /// Could a replica take over?
    Replicas,
    /// Is the node a primary?
    Role,
    /// May the replica serve reads?
    Reads,
    /// May the user select the database?
    Database,
    /// Does the server have room for respgate's connections?
    Clients,
    /// Can scripts run commands that clients may not run?
    Scripts,
    /// How long does a round trip take?
    Latency,
}

impl Step {
    /// Returns the step as one word.
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
            Self::Cluster => "cluster",
            Self::Replicas => "replicas",
            Self::Role => "role",
            Self::Reads => "reads",
            Self::Database => "database",
            Self::Clients => "clients",
            Self::Scripts => "scripts",
            Self::Latency => "latency",
        }
    }
}

/// The result of one step, for people and for machines.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The step.
    pub step: Step,
    /// The level of the result.
    pub level: Level,
    /// What the step saw, in one sentence.
    pub seen: String,
    /// More about what the step saw, one line each.
    pub details: Vec<String>,
    /// What the operator should do about it.
    pub remedy: Option<String>,
    /// What the step saw as named values, for machines.
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

    /// Returns a finding without a problem.
    pub fn ok(step: Step, seen: impl AsRef<str>) -> Self {
        Self::new(step, Level::Ok, seen.as_ref(), None)
    }

    /// Returns a finding about a problem with which respgate still serves clients.
    pub fn warning(step: Step, seen: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self::new(step, Level::Warning, seen.as_ref(), Some(remedy.as_ref()))
    }

    /// Returns a finding about a problem with which respgate serves no clients.
    pub fn broken(step: Step, seen: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self::new(step, Level::Broken, seen.as_ref(), Some(remedy.as_ref()))
    }

    /// Returns a finding for a step that was not tried; `why` names the step that failed.
    pub fn not_tried(step: Step, why: impl AsRef<str>) -> Self {
        Self::new(step, Level::NotTried, why.as_ref(), None)
    }

    /// Adds a line to the details.
    #[must_use]
    pub fn detail(mut self, line: impl AsRef<str>) -> Self {
        self.details.push(printable(line.as_ref()));
        self
    }

    /// Adds a named value for machines.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// Replaces control characters: names and errors come from peers, and a terminal interprets what it receives.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The kind of peer that a section is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A listener for clients, or the admin listener.
    Listener,
    /// One Sentinel.
    Sentinel,
    /// All Sentinels of an upstream together.
    Sentinels,
    /// A configured node of a cluster.
    Node,
    /// All nodes of a cluster together.
    Cluster,
    /// The node that receives commands.
    Primary,
    /// A node that may become the primary.
    Replica,
}

impl Subject {
    /// Returns the subject as one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Sentinel => "sentinel",
            Self::Sentinels => "sentinels",
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// The findings about one listener, Sentinel or node.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// What the section is about.
    pub subject: Subject,
    /// The name of the upstream or of the listener.
    pub name: String,
    /// The address; empty for a section without one.
    pub address: String,
    /// The findings, in the order of the steps.
    pub findings: Vec<Finding>,
}

impl Section {
    /// Returns the level of the worst finding.
    pub fn level(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// Turns `Broken` findings into warnings, because respgate serves clients without this peer.
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
            Subject::Node => write!(f, "upstream {}: node {}", self.name, self.address),
            Subject::Cluster => write!(f, "upstream {}: the cluster", self.name),
            Subject::Primary if self.address.is_empty() => write!(f, "upstream {}: primary", self.name),
            Subject::Primary => write!(f, "upstream {}: primary {}", self.name, self.address),
            Subject::Replica => write!(f, "upstream {}: replica {}", self.name, self.address),
        }
    }
}

/// The exit code if something is broken: `EX_UNAVAILABLE` of sysexits.
pub const BROKEN: u8 = 69;

/// The result of the whole check.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diagnosis {
    /// The listeners come first, then for each upstream its Sentinels, the Sentinels together, the primary, and the
    /// replicas; or the configured nodes of its cluster, the cluster, and its primaries.
    pub sections: Vec<Section>,
}

impl Diagnosis {
    /// Returns the number of findings of this level.
    pub fn count(&self, level: Level) -> usize {
        self.sections
            .iter()
            .flat_map(|section| &section.findings)
            .filter(|finding| finding.level == level)
            .count()
    }

    /// Returns true if something is broken.
    pub fn broken(&self) -> bool {
        self.count(Level::Broken) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_peers_contain_no_control_characters() {
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
