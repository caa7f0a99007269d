//! Parses a tenant's rules about commands.

use super::report::suggestion;
use crate::command::TABLE;
use crate::command::category::Categories;
use crate::tenant::policy::config::{Rule, RuleError};

/// Parses one rule.
///
/// # Errors
/// Returns what is wrong and how to write it.
pub fn rule(text: &str) -> Result<Rule, String> {
    Rule::parse(text).map_err(|error| match error {
        RuleError::NoSign => {
            format!("{text:?} begins with neither + nor -; write \"+{text}\" to allow or \"-{text}\" to deny")
        }
        RuleError::NoSuchCategory(name) => {
            let known = Categories::names();
            match suggestion(&name, known.iter().copied().chain(["all"])) {
                near if near.is_empty() => {
                    format!("no category is named {name:?}; known are all, {}", known.join(", "))
                }
                near => format!("no category is named {name:?}{near}"),
            }
        }
        RuleError::NoSuchCommand(name) => format!("no command is named {name:?}{}", near(&name)),
        RuleError::NoSubcommands(command) => {
            let command = command.to_ascii_lowercase();
            format!("{command} has no subcommands; write \"{}{command}\"", text.get(..1).unwrap_or_default())
        }
    })
}

fn near(name: &str) -> String {
    let names: Vec<String> = TABLE.iter().map(|spec| spec.name.to_ascii_lowercase()).collect();
    suggestion(name, names.iter().map(String::as_str))
}
