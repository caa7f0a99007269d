//! Applies rules about commands in order, as the server applies those of `ACL SETUSER` (acl.c).

use super::config::{Rule, What};
use crate::command::category::Categories;
use crate::command::{Flags, Spec, TABLE};
use crate::resp::request::Request;

/// Holds which commands are allowed.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    /// True for each allowed row of the command table.
    rows: Vec<bool>,
    /// The rules about commands that the table lacks, in order.
    unlisted: Vec<UnlistedRule>,
}

/// The part of a rule that concerns commands that the table lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnlistedRule {
    allow: bool,
    what: Unlisted,
}

/// See [`UnlistedRule`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unlisted {
    All,
    /// In lower case.
    Category(&'static str),
    /// `COMMAND` or `CONTAINER|SUBCOMMAND`, in upper case.
    Command(Box<str>),
}

impl UnlistedRule {
    /// Returns true if the rule allows its commands, and false if it denies them.
    pub(super) fn allows(&self) -> bool {
        self.allow
    }

    /// Returns true if the rule concerns a request whose command the table lacks. `categories` are the command's
    /// categories.
    fn is_about(&self, request: &Request<'_>, categories: &[Box<str>]) -> bool {
        match &self.what {
            Unlisted::All => true,
            Unlisted::Category(name) => categories.iter().any(|category| **category == **name),
            Unlisted::Command(_) => self.names(request),
        }
    }

    /// Returns true if the rule names the request's command.
    fn names(&self, request: &Request<'_>) -> bool {
        let is = |known: &str, arg: Option<&[u8]>| {
            arg.is_some_and(|arg| known.as_bytes().eq_ignore_ascii_case(arg))
        };
        match &self.what {
            Unlisted::Command(name) => match name.split_once('|') {
                Some((container, subcommand)) => {
                    is(container, Some(request.name())) && is(subcommand, request.arg(1))
                }
                None => is(name, Some(request.name())),
            },
            Unlisted::All | Unlisted::Category(_) => false,
        }
    }
}

/// Returns true if the rules allow a command that the table lacks and that has these `categories`. The last rule
/// that concerns it decides.
pub(super) fn allows_unlisted(
    rules: &[UnlistedRule],
    request: &Request<'_>,
    categories: &[Box<str>],
) -> bool {
    rules.iter().rev().find(|rule| rule.is_about(request, categories)).is_some_and(|rule| rule.allow)
}

/// Returns true if the rules allow, by its name, a command of which nothing else is known.
pub(super) fn names_unlisted(rules: &[UnlistedRule], request: &Request<'_>) -> bool {
    let last =
        rules.iter().rev().find(|rule| rule.names(request) || !rule.allow && rule.what == Unlisted::All);
    last.is_some_and(|rule| rule.allow)
}

impl Commands {
    /// Allows all commands.
    pub(super) fn all() -> Self {
        let all = UnlistedRule { allow: true, what: Unlisted::All };
        Self { rows: vec![true; TABLE.len()], unlisted: vec![all] }
    }

    /// Applies rules to an empty set of commands, as the server does for a new user.
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut commands = Self { rows: vec![false; TABLE.len()], unlisted: Vec::new() };
        for rule in rules {
            commands.apply(rule);
        }
        commands
    }

    /// Returns true if a command is allowed. Commands that a client may send before AUTH are always allowed: no
    /// rule denies them.
    pub(super) fn allows(&self, spec: &Spec) -> bool {
        spec.flags.contains(Flags::NO_AUTH) || self.rows.get(usize::from(spec.row)) == Some(&true)
    }

    /// Returns the rules about commands that the table lacks.
    pub(super) fn into_unlisted(self) -> Vec<UnlistedRule> {
        self.unlisted
    }

    /// Returns true if the rules deny any command.
    pub(super) fn restrict(&self) -> bool {
        !TABLE.iter().all(|spec| self.allows(spec))
    }

    fn apply(&mut self, rule: &Rule) {
        let mut about = Vec::new();
        match &rule.what {
            What::All => {
                self.rows.fill(rule.allow);
                self.unlisted.clear();
                about.push(Unlisted::All);
            }
            What::Category(category) => {
                for spec in TABLE.iter().filter(|spec| Categories::of(spec).contains(*category)) {
                    self.set(spec, rule.allow);
                }
                about.extend(category.members().map(Unlisted::Category));
            }
            What::UnlistedCategory(category) => about.push(Unlisted::Category(category)),
            What::Command(spec) => self.set(spec, rule.allow),
            What::Unlisted(name) => about.push(Unlisted::Command(name.clone())),
        }
        self.unlisted.extend(about.into_iter().map(|what| UnlistedRule { allow: rule.allow, what }));
    }

    /// Allows or denies a command. A container stands for all of its subcommands, even where only the container's
    /// category was named.
    fn set(&mut self, spec: &Spec, allow: bool) {
        let within = |row: &Spec| row.name.split_once('|').is_some_and(|(holder, _)| holder == spec.name);
        for row in TABLE.iter().filter(|row| row.row == spec.row || within(row)) {
            if let Some(allowed) = self.rows.get_mut(usize::from(row.row)) {
                *allowed = allow;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{lookup, lookup_subcommand};
    use crate::resp::request::encode;

    fn commands(rules: &[&str]) -> Commands {
        Commands::of(&rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect::<Vec<_>>())
    }

    fn allows(commands: &Commands, name: &str) -> bool {
        let spec = match name.split_once('|') {
            Some((holder, sub)) => lookup_subcommand(lookup(holder.as_bytes()).unwrap(), sub.as_bytes()),
            None => lookup(name.as_bytes()),
        };
        commands.allows(spec.unwrap())
    }

    #[test]
    fn the_last_rule_wins() {
        let usual = commands(&["+@all", "-@dangerous", "+info", "-config", "+config|get"]);
        for allowed in ["get", "set", "info", "config|get", "eval", "auth"] {
            assert!(allows(&usual, allowed), "{allowed}");
        }
        for denied in ["keys", "flushall", "config|set", "config|resetstat", "sort", "shutdown"] {
            assert!(!allows(&usual, denied), "{denied}");
        }
        assert!(!allows(&commands(&["-@dangerous", "+@all", "-get"]), "get"));
        assert!(allows(&commands(&["-keys", "+@all"]), "keys"));
    }

    #[test]
    fn without_a_plus_nothing_is_allowed_but_what_precedes_authentication() {
        let none = commands(&["-@dangerous"]);
        assert!(!allows(&none, "get"));
        for name in ["auth", "hello", "quit", "reset"] {
            assert!(allows(&none, name), "{name}");
        }
        assert!(!commands(&["+@all"]).restrict() && !Commands::all().restrict());
        assert!(commands(&["+@all", "-keys"]).restrict());
    }

    #[test]
    fn the_last_rule_about_a_command_that_the_table_lacks_wins() {
        let allowed = |rules: &[&str], name: &str, categories: &[&str]| {
            let rules = commands(rules).into_unlisted();
            let mut frame = Vec::new();
            encode(&[name.as_bytes()], &mut frame);
            let categories: Vec<Box<str>> = categories.iter().map(|name| (*name).into()).collect();
            let request = Request::parse(&frame).unwrap();
            (allows_unlisted(&rules, &request, &categories), names_unlisted(&rules, &request))
        };
        let json = ["json", "read"];
        assert_eq!(allowed(&["+@all"], "json.get", &json), (true, false));
        assert_eq!(allowed(&["+@all", "-@json"], "json.get", &json), (false, false));
        assert_eq!(allowed(&["+@json"], "JSON.GET", &json), (true, false));
        assert_eq!(allowed(&["+@read"], "json.get", &json), (true, false));
        assert_eq!(allowed(&["+@read"], "json.set", &["json", "write"]), (false, false));
        assert_eq!(allowed(&["+json.get", "-@json"], "json.get", &json), (false, true));
        assert_eq!(allowed(&["-@all", "+json.get"], "Json.Get", &[]), (true, true));
        assert_eq!(allowed(&["+json.get", "+@all"], "json.get", &[]), (true, false));
        assert_eq!(allowed(&["+json.get", "-@all"], "json.get", &[]), (false, false));
        assert_eq!(allowed(&["+json.get", "-json.get"], "json.get", &[]), (false, false));
        assert_eq!(allowed(&["+get"], "json.get", &[]), (false, false));
    }
}
