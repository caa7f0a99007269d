//! Configures which commands a tenant may run.

use crate::command::category::Categories;
use crate::command::{self, Flags, Spec};

/// Configures a tenant's policy. Without any key set, everything is allowed.
#[derive(Clone, Debug, Default)]
pub struct PolicyConfig {
    /// The rules about commands, in order; a later rule overrides earlier ones, and at first no command is
    /// allowed. `None` allows every command.
    pub commands: Option<Vec<Rule>>,
    /// The prefixes of keys: every key must begin with one of them. Empty allows any key.
    pub key_prefixes: Vec<Box<[u8]>>,
    /// The prefixes of pub/sub channels: every channel must begin with one of them. Empty allows any channel.
    pub channel_prefixes: Vec<Box<[u8]>>,
    /// True if only commands that change nothing are allowed.
    pub read_only: bool,
    /// See [`Scripts`].
    pub scripts: Scripts,
}

/// Says whether a tenant whose commands, keys or channels are restricted may run scripts. respgate cannot see
/// which commands a script calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scripts {
    /// EVAL, EVALSHA, FCALL and their read-only forms are refused.
    #[default]
    Deny,
    /// Scripts are allowed like any command. The keys that they declare are checked; what they do is not.
    DeclaredKeys,
}

/// A rule about commands.
#[derive(Clone, Debug)]
pub struct Rule {
    /// True for `+`, false for `-`.
    pub allow: bool,
    /// The commands that the rule concerns.
    pub what: What,
}

/// Names the commands that a rule concerns.
#[derive(Clone, Debug)]
pub enum What {
    /// `@all`.
    All,
    /// `@category`.
    Category(Categories),
    /// `@category` of commands that the table lacks, in lower case.
    UnlistedCategory(&'static str),
    /// A command with its subcommands, or one subcommand.
    Command(&'static Spec),
    /// `command` or `container|subcommand`, in upper case, which the table lacks: a module's, or a newer server's.
    Unlisted(Box<str>),
}

/// Says what is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// The rule begins with neither `+` nor `-`.
    NoSign,
    /// No category has this name.
    NoSuchCategory(String),
    /// The rule denies a command that does not exist, and that is denied anyway.
    NoSuchCommand(String),
    /// The rule names a subcommand of a command that has none.
    NoSubcommands(&'static str),
}

impl Rule {
    /// Parses `+get`, `-config|set` or `-@dangerous`, in any case.
    ///
    /// # Errors
    /// Returns what is wrong with the rule.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let (allow, what) = match text.split_at_checked(1) {
            Some(("+", what)) => (true, what),
            Some(("-", what)) => (false, what),
            _ => return Err(RuleError::NoSign),
        };
        let what = match what.strip_prefix('@') {
            Some(category) if category.eq_ignore_ascii_case("all") => What::All,
            Some(category) => self::category(category)?,
            None => command(what)?,
        };
        match what {
            // A name with a dot is a module's, and no misspelling.
            What::Unlisted(name) if !command::printable(name.as_bytes()) || !allow && !name.contains('.') => {
                Err(RuleError::NoSuchCommand(name.to_ascii_lowercase()))
            }
            what => Ok(Self { allow, what }),
        }
    }
}

/// The categories that modules and Redis 8 add. Any other name counts as a misspelling.
const UNLISTED_CATEGORIES: [&str; 9] =
    ["array", "bloom", "cms", "cuckoo", "json", "search", "tdigest", "timeseries", "topk"];

fn category(name: &str) -> Result<What, RuleError> {
    let unlisted = UNLISTED_CATEGORIES.iter().find(|known| known.eq_ignore_ascii_case(name));
    match (Categories::named(name), unlisted) {
        (Some(category), _) => Ok(What::Category(category)),
        (None, Some(name)) => Ok(What::UnlistedCategory(name)),
        (None, None) => Err(RuleError::NoSuchCategory(name.into())),
    }
}

fn command(name: &str) -> Result<What, RuleError> {
    let unlisted = || What::Unlisted(name.to_ascii_uppercase().into());
    let Some((container, subcommand)) = name.split_once('|') else {
        return Ok(command::lookup(name.as_bytes()).map_or_else(unlisted, What::Command));
    };
    match command::lookup(container.as_bytes()) {
        Some(spec) if !spec.flags.contains(Flags::CONTAINER) => Err(RuleError::NoSubcommands(spec.name)),
        Some(spec) => {
            Ok(command::lookup_subcommand(spec, subcommand.as_bytes()).map_or_else(unlisted, What::Command))
        }
        None => Ok(unlisted()),
    }
}

/// Parses a prefix of keys or channels.
///
/// # Errors
/// Returns an error text if the prefix is empty.
pub fn prefix(text: &str) -> Result<Box<[u8]>, String> {
    if text.is_empty() {
        return Err("an empty prefix is one of everything; leave the key out".into());
    }
    Ok(text.as_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_commands_and_categories_in_any_case() {
        let what = |text: &str| match Rule::parse(text).unwrap().what {
            What::All => "all".to_owned(),
            What::Category(_) => "category".into(),
            What::UnlistedCategory(name) => format!("unlisted category {name}"),
            What::Command(spec) => spec.name.into(),
            What::Unlisted(name) => format!("unlisted {name}"),
        };
        assert_eq!(what("+@ALL"), "all");
        assert_eq!(what("-@Dangerous"), "category");
        assert_eq!(what("+@JSON"), "unlisted category json");
        assert_eq!(what("-Config|Set"), "CONFIG|SET");
        assert_eq!(what("+config"), "CONFIG");
        assert_eq!(what("+json.get"), "unlisted JSON.GET");
        assert_eq!(what("+config|later"), "unlisted CONFIG|LATER");
        assert!(!Rule::parse("-get").unwrap().allow);
    }

    #[test]
    fn a_misspelt_rule_is_refused() {
        let error = |text: &str| Rule::parse(text).unwrap_err();
        assert_eq!(error("get"), RuleError::NoSign);
        assert_eq!(error(""), RuleError::NoSign);
        assert_eq!(error("-@dangerus"), RuleError::NoSuchCategory("dangerus".into()));
        assert_eq!(error("-kyes"), RuleError::NoSuchCommand("kyes".into()));
        assert_eq!(error("+"), RuleError::NoSuchCommand(String::new()));
        assert_eq!(error("+get set"), RuleError::NoSuchCommand("get set".into()));
        assert_eq!(error("+get|x"), RuleError::NoSubcommands("GET"));
    }
}
