//! What a user can say of a tenant's commands.

/// A tenant's policy as configured; without any of it, everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyConfig {
    /// In order, each over those before it. Empty: every command is allowed.
    pub commands: Vec<Rule>,
    /// What every key must begin with, one of these; empty: any key.
    pub key_prefixes: Vec<Box<[u8]>>,
    /// What every pub/sub channel must begin with, one of these; empty: any channel.
    pub channel_prefixes: Vec<Box<[u8]>>,
    /// Only commands that change nothing.
    pub read_only: bool,
}

/// One rule about commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `+` or `-`.
    pub allow: bool,
    /// A command, `container|subcommand` or `@category`, in lower case.
    pub what: Box<str>,
}

impl Rule {
    /// Parses `+get`, `-config|set` or `-@dangerous`.
    ///
    /// # Errors
    /// What is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (allow, what) = match text.split_at_checked(1) {
            Some(("+", what)) => (true, what),
            Some(("-", what)) => (false, what),
            _ => {
                return Err(format!(
                    "{text:?} begins with neither + nor -; write \"+{text}\" to allow or \"-{text}\" to deny"
                ));
            }
        };
        Ok(Self { allow, what: what.to_ascii_lowercase().into() })
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
