//! Rules about commands, applied in order as the server applies those of `ACL SETUSER` (acl.c).

use super::config::{Rule, What};
use crate::command::category::Categories;
use crate::command::{Flags, Spec, TABLE};

/// Which commands are allowed.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    rows: Vec<bool>,
    /// Commands that the table lacks, in upper case.
    unlisted: Vec<Box<str>>,
}

impl Commands {
    /// All that the table has. What it lacks must be named.
    pub(super) fn all() -> Self {
        Self { rows: vec![true; TABLE.len()], unlisted: Vec::new() }
    }

    /// Begins with none, as a new user of the server's.
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut commands = Self { rows: vec![false; TABLE.len()], unlisted: Vec::new() };
        for rule in rules {
            commands.apply(rule);
        }
        commands
    }

    /// Whether a command is allowed. What a client may send before AUTH, it may send after it: no rule denies it.
    pub(super) fn allows(&self, spec: &Spec) -> bool {
        spec.flags.contains(Flags::NO_AUTH) || self.rows.get(usize::from(spec.row)) == Some(&true)
    }

    /// Those that the table lacks.
    pub(super) fn into_unlisted(self) -> Vec<Box<str>> {
        self.unlisted
    }

    /// Whether rules deny anything.
    pub(super) fn restrict(&self) -> bool {
        !TABLE.iter().all(|spec| self.allows(spec))
    }

    fn apply(&mut self, rule: &Rule) {
        match &rule.what {
            What::All => {
                self.rows.fill(rule.allow);
                if !rule.allow {
                    self.unlisted.clear();
                }
            }
            What::Category(category) => {
                for spec in TABLE.iter().filter(|spec| Categories::of(spec).contains(*category)) {
                    self.set(spec, rule.allow);
                }
            }
            What::Command(spec) => self.set(spec, rule.allow),
            What::Unlisted(name) => {
                self.unlisted.retain(|known| known != name);
                if rule.allow {
                    self.unlisted.push(name.clone());
                }
            }
        }
    }

    /// A container stands for all of its subcommands, also where only its own category was named.
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
    fn what_the_table_lacks_must_be_named() {
        assert!(commands(&["+@all"]).into_unlisted().is_empty());
        assert_eq!(commands(&["+json.get", "+@all"]).into_unlisted(), [Box::<str>::from("JSON.GET")]);
        assert!(commands(&["+json.get", "-@all"]).into_unlisted().is_empty());
        assert!(commands(&["+json.get", "-json.get"]).into_unlisted().is_empty());
    }
}
