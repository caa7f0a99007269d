//! Translates a policy into the server's ACL rules, to restrict scripts to what respgate allows.
//!
//! respgate sees a script, but not the commands that it calls, and a server stops only commands flagged NOSCRIPT
//! in a script. The server's ACL applies to every call, so the same restrictions must be set there.

use super::config::{PolicyConfig, Rule, What};

/// The commands that respgate itself needs wherever commands are restricted: its greeting (HELLO, CLIENT, PING,
/// SELECT), the check of a script's reply (ECHO) and the table of commands.
const NEEDED: &str = "+@connection +command";
/// Denies administration, except what respgate needs (ROLE) and what clients may send although the server counts
/// it as administration: LASTSAVE, and CONFIG GET of harmless parameters, which no script can run.
const NO_ADMINISTRATION: &str = "-@admin -memory|purge +role +lastsave +config|get";

/// Returns the rules that a user of the server needs, in the syntax of `ACL SETUSER`, so that its scripts can run
/// nothing that `policy` and a listener with `admin-commands = "deny"` refuse.
pub fn rules(policy: Option<&PolicyConfig>) -> String {
    let mut rules = Vec::new();
    if let Some(policy) = policy {
        if let Some(commands) = &policy.commands {
            rules.push("-@all".to_owned());
            rules.extend(commands.iter().map(rule));
            rules.push(NEEDED.to_owned());
        }
        if policy.read_only {
            rules.push("-@write".to_owned());
        }
    }
    rules.push(NO_ADMINISTRATION.to_owned());
    if let Some(policy) = policy {
        prefixes(&mut rules, "resetkeys", '~', &policy.key_prefixes);
        prefixes(&mut rules, "resetchannels", '&', &policy.channel_prefixes);
    }
    rules.join(" ")
}

fn rule(rule: &Rule) -> String {
    let sign = if rule.allow { '+' } else { '-' };
    match &rule.what {
        What::All => format!("{sign}@all"),
        What::Category(category) => {
            let names = category.members().map(|name| format!("{sign}@{name}"));
            names.collect::<Vec<_>>().join(" ")
        }
        What::UnlistedCategory(name) => format!("{sign}@{name}"),
        What::Command(spec) => format!("{sign}{}", spec.name.to_ascii_lowercase()),
        What::Unlisted(name) => format!("{sign}{}", name.to_ascii_lowercase()),
    }
}

fn prefixes(rules: &mut Vec<String>, reset: &str, sign: char, prefixes: &[Box<[u8]>]) {
    if !prefixes.is_empty() {
        rules.push(reset.to_owned());
        rules.extend(prefixes.iter().map(|prefix| format!("{sign}{}*", prefix.escape_ascii())));
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Scripts;
    use super::*;

    #[test]
    fn a_policy_becomes_rules_of_the_server() {
        assert_eq!(rules(None), "-@admin -memory|purge +role +lastsave +config|get");
        let read_only = PolicyConfig { read_only: true, ..PolicyConfig::default() };
        assert_eq!(rules(Some(&read_only)), "-@write -@admin -memory|purge +role +lastsave +config|get");
        let commands = ["+@all", "-@dangerous", "+config|get"].map(|text| Rule::parse(text).unwrap());
        let policy = PolicyConfig {
            commands: Some(commands.into()),
            key_prefixes: vec![(*b"app1:").into()],
            channel_prefixes: vec![(*b"news:").into()],
            scripts: Scripts::DeclaredKeys,
            ..PolicyConfig::default()
        };
        assert_eq!(
            rules(Some(&policy)),
            "-@all +@all -@dangerous +config|get +@connection +command -@admin -memory|purge +role +lastsave +config|get resetkeys \
             ~app1:* resetchannels &news:*"
        );
    }
}
