//! What a user can say of a tenant's commands.

use crate::command::category::Categories;
use crate::command::{self, Flags, Spec};

/// A tenant's policy as configured; without any of it, everything is allowed.
#[derive(Clone, Debug, Default)]
pub struct PolicyConfig {
    /// In order, each over those before it; at first nothing is allowed. `None`: every command is.
    pub commands: Option<Vec<Rule>>,
    /// What every key must begin with, one of these; empty: any key.
    pub key_prefixes: Vec<Box<[u8]>>,
    /// What every pub/sub channel must begin with, one of these; empty: any channel.
    pub channel_prefixes: Vec<Box<[u8]>>,
    /// Only commands that change nothing.
    pub read_only: bool,
    /// See [`Scripts`].
    pub scripts: Scripts,
}

/// Whether a tenant whose commands, keys or channels are restricted may run scripts: what a script calls cannot be
/// seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scripts {
    /// EVAL, EVALSHA, FCALL and their read-only forms are refused.
    #[default]
    Deny,
    /// They are allowed like any command, and the keys that they declare are checked; what they do is not.
    DeclaredKeys,
}

/// One rule about commands.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `+` or `-`.
    pub allow: bool,
    /// What it is about.
    pub what: What,
}

/// What a rule is about.
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

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleFault {
    /// It begins with neither `+` nor `-`.
    NoSign,
    /// No category is named so.
    NoSuchCategory(String),
    /// A command is denied that nobody knows, which is denied anyway.
    NoSuchCommand(String),
    /// Something stands behind the `|` of a command that has no subcommands.
    NoSubcommands(&'static str),
}

impl Rule {
    /// Parses `+get`, `-config|set` or `-@dangerous`, in any case.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, RuleFault> {
        let (allow, what) = match text.split_at_checked(1) {
            Some(("+", what)) => (true, what),
            Some(("-", what)) => (false, what),
            _ => return Err(RuleFault::NoSign),
        };
        let what = match what.strip_prefix('@') {
            Some(category) if category.eq_ignore_ascii_case("all") => What::All,
            Some(category) => self::category(category)?,
            None => command(what)?,
        };
        match what {
            // A module's name is no misspelling.
            What::Unlisted(name) if !command::printable(name.as_bytes()) || !allow && !name.contains('.') => {
                Err(RuleFault::NoSuchCommand(name.to_ascii_lowercase()))
            }
            what => Ok(Self { allow, what }),
        }
    }
}

/// Categories that modules and Redis 8 add. Any other name is taken for a misspelling.
const UNLISTED_CATEGORIES: [&str; 9] =
    ["array", "bloom", "cms", "cuckoo", "json", "search", "tdigest", "timeseries", "topk"];

fn category(name: &str) -> Result<What, RuleFault> {
    let unlisted = UNLISTED_CATEGORIES.iter().find(|known| known.eq_ignore_ascii_case(name));
    match (Categories::named(name), unlisted) {
        (Some(category), _) => Ok(What::Category(category)),
        (None, Some(name)) => Ok(What::UnlistedCategory(name)),
        (None, None) => Err(RuleFault::NoSuchCategory(name.into())),
    }
}

fn command(name: &str) -> Result<What, RuleFault> {
    let unlisted = || What::Unlisted(name.to_ascii_uppercase().into());
    let Some((container, subcommand)) = name.split_once('|') else {
        return Ok(command::lookup(name.as_bytes()).map_or_else(unlisted, What::Command));
    };
    match command::lookup(container.as_bytes()) {
        Some(spec) if !spec.flags.contains(Flags::CONTAINER) => Err(RuleFault::NoSubcommands(spec.name)),
        Some(spec) => {
            Ok(command::lookup_subcommand(spec, subcommand.as_bytes()).map_or_else(unlisted, What::Command))
        }
        None => Ok(unlisted()),
    }
}

/// Parses what keys or channels must begin with.
///
/// # Errors
/// It is empty.
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
    fn what_is_misspelt_is_no_rule() {
        let fault = |text: &str| Rule::parse(text).unwrap_err();
        assert_eq!(fault("get"), RuleFault::NoSign);
        assert_eq!(fault(""), RuleFault::NoSign);
        assert_eq!(fault("-@dangerus"), RuleFault::NoSuchCategory("dangerus".into()));
        assert_eq!(fault("-kyes"), RuleFault::NoSuchCommand("kyes".into()));
        assert_eq!(fault("+"), RuleFault::NoSuchCommand(String::new()));
        assert_eq!(fault("+get set"), RuleFault::NoSuchCommand("get set".into()));
        assert_eq!(fault("+get|x"), RuleFault::NoSubcommands("GET"));
    }
}
