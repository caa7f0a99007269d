//! Decides which commands a tenant may run, and on which keys and channels, from the request alone. No I/O.
//!
//! A policy refuses what it cannot inspect: commands that the table lacks, unless the server describes them or a
//! rule names them; scripts; and, under key prefixes, every command that can reach keys that it does not name.

pub mod acl;
pub mod config;
mod prefix;
mod rules;

use std::rc::Rc;

use self::config::{PolicyConfig, Scripts};
use self::prefix::Prefixes;
use self::rules::{Commands, UnlistedRule, allows_unlisted, names_unlisted};
use crate::command::administration::Administration;
use crate::command::keys::{self, Channels, Keys, Unclear};
use crate::command::learned::LearnedCommand;
use crate::command::{self, Flags, Found, RouteClass, Spec, TABLE};
use crate::resp::request::Request;

/// Judges requests. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The permission of each row of the command table.
    rows: Box<[Permission]>,
    /// The rules about commands that the table lacks.
    unlisted: Vec<UnlistedRule>,
    read_only: bool,
    keys: Prefixes,
    channels: Prefixes,
    /// See [`acl::rules`].
    acl_rules: Box<str>,
}

/// Says why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The command is denied, because of this key of the policy.
    Command(PolicyKey),
    /// One of the request's keys is denied, or a pattern that can match denied keys.
    Key,
    /// One of the request's channels is denied.
    Channel,
    /// The request has too few or too many arguments to find its keys.
    Arity,
}

/// Names a key of a tenant's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKey {
    /// `commands`.
    Commands,
    /// `read-only`.
    ReadOnly,
    /// `scripts`.
    Scripts,
    /// `key-prefixes`.
    KeyPrefixes,
    /// `channel-prefixes`.
    ChannelPrefixes,
}

impl PolicyKey {
    /// Returns the key as the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::ReadOnly => "read-only",
            Self::Scripts => "scripts",
            Self::KeyPrefixes => "key-prefixes",
            Self::ChannelPrefixes => "channel-prefixes",
        }
    }

    /// Returns the key because of which a tenant's arguments are inspected.
    fn of_prefixes(has_key_prefixes: bool) -> Self {
        if has_key_prefixes { Self::KeyPrefixes } else { Self::ChannelPrefixes }
    }
}

/// Says what a policy checks for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    /// Denied because of this key, whatever the arguments.
    Denied(PolicyKey),
    /// Allowed, whatever the arguments.
    Allowed,
    /// Allowed if the keys and channels are.
    If(Reach, Channels),
}

/// Says what a command reaches in the keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The keys that it names.
    Named(Keys),
    /// The keys that it names and, with BY or GET, any others (SORT).
    Sorted,
    /// The keys that its pattern matches (KEYS).
    Matching,
    /// The keys that its MATCH option matches (SCAN).
    Scanned,
    /// The keys that invalidation messages name (CLIENT TRACKING).
    Tracked,
}

impl Policy {
    /// Creates a policy; `None` if the configuration allows everything.
    pub fn new(config: &PolicyConfig) -> Option<Self> {
        let prefixed = !config.key_prefixes.is_empty() || !config.channel_prefixes.is_empty();
        if config.commands.is_none() && !prefixed && !config.read_only {
            return None;
        }
        let commands = config.commands.as_deref().map_or_else(Commands::all, Commands::of);
        let blind = prefixed || commands.restrict();
        let rows = TABLE
            .iter()
            .map(|spec| {
                if !commands.allows(spec) {
                    Permission::Denied(PolicyKey::Commands)
                } else if is_script(spec) && blind && config.scripts == Scripts::Deny {
                    Permission::Denied(PolicyKey::Scripts)
                } else if config.read_only && changes(spec) {
                    Permission::Denied(PolicyKey::ReadOnly)
                } else if prefixed && administers(spec) {
                    Permission::Denied(PolicyKey::of_prefixes(!config.key_prefixes.is_empty()))
                } else {
                    permission(spec, config)
                }
            })
            .collect();
        Some(Self {
            rows,
            unlisted: commands.into_unlisted(),
            read_only: config.read_only,
            keys: Prefixes(config.key_prefixes.clone().into()),
            channels: Prefixes(config.channel_prefixes.clone().into()),
            acl_rules: acl::rules(Some(config)).into(),
        })
    }

    /// Returns true if no command is allowed, except those before AUTH.
    pub fn allows_nothing(&self) -> bool {
        let denied = |spec: &Spec| {
            spec.flags.contains(Flags::NO_AUTH)
                || matches!(self.rows.get(usize::from(spec.row)), Some(Permission::Denied(_)) | None)
        };
        !self.unlisted.iter().any(UnlistedRule::allows) && TABLE.iter().all(denied)
    }

    /// Returns true if a script of any kind may be run.
    pub fn allows_scripts(&self) -> bool {
        let allowed =
            |spec: &Spec| !matches!(self.rows.get(usize::from(spec.row)), Some(Permission::Denied(_)) | None);
        TABLE.iter().any(|spec| is_script(spec) && allowed(spec))
    }

    /// Returns the rules of the server's ACL that restrict scripts to this policy, in the syntax of `ACL
    /// SETUSER`.
    pub fn acl_rules(&self) -> &str {
        &self.acl_rules
    }

    /// Returns true if keys or channels must have a prefix.
    pub fn looks_at_arguments(&self) -> bool {
        !self.keys.is_empty() || !self.channels.is_empty()
    }

    /// Returns the key that confines clients to reading, or to some keys or channels.
    pub fn confinement(&self) -> Option<PolicyKey> {
        match self.looks_at_arguments() {
            true => Some(self.prefix_key()),
            false => self.read_only.then_some(PolicyKey::ReadOnly),
        }
    }

    /// Judges a request whose command has been looked up. `learned` returns the server's description of a command
    /// that the table lacks.
    ///
    /// # Errors
    /// Returns the reason if the request is denied. It must then not reach a server.
    pub fn permit(
        &self,
        found: Option<Found>,
        request: &Request<'_>,
        learned: impl FnOnce() -> Option<Rc<LearnedCommand>>,
    ) -> Result<(), Denial> {
        match found {
            Some(Found::Spec(spec)) => match self.rows.get(usize::from(spec.row)) {
                Some(Permission::Allowed) => Ok(()),
                Some(Permission::If(reach, channels)) => self.permit_names(spec, *reach, *channels, request),
                Some(Permission::Denied(key)) => Err(Denial::Command(*key)),
                None => Err(Denial::Command(PolicyKey::Commands)),
            },
            Some(Found::NoSuchSubcommand(_)) | None => self.permit_unlisted(request, learned().as_deref()),
        }
    }

    /// Judges a command that the table lacks.
    fn permit_unlisted(&self, request: &Request<'_>, learned: Option<&LearnedCommand>) -> Result<(), Denial> {
        let Some(command) = learned.filter(|command| command.described) else {
            // Neither the command's keys are known, nor whether it writes.
            return if self.looks_at_arguments() {
                Err(Denial::Command(self.prefix_key()))
            } else if self.read_only {
                Err(Denial::Command(PolicyKey::ReadOnly))
            } else if names_unlisted(&self.unlisted, request) {
                Ok(())
            } else {
                Err(Denial::Command(PolicyKey::Commands))
            };
        };
        let administers = command.route == RouteClass::Admin;
        if !allows_unlisted(&self.unlisted, request, &command.categories) {
            return Err(Denial::Command(PolicyKey::Commands));
        }
        if self.read_only && (!command.only_reads() || administers) {
            return Err(Denial::Command(PolicyKey::ReadOnly));
        }
        if self.looks_at_arguments() && (administers || command.pubsub) {
            return Err(Denial::Command(self.prefix_key()));
        }
        if self.keys.is_empty() {
            return Ok(());
        }
        // A command that names no key may reach any key, for example through an index.
        let Some(keys) = command.keys.as_ref().filter(|keys| !keys.is_empty()) else {
            return Err(Denial::Command(PolicyKey::KeyPrefixes));
        };
        match keys.all(request, |key| self.keys.admit(key)) {
            Ok(true) => Ok(()),
            Ok(false) | Err(Unclear) => Err(Denial::Key),
        }
    }

    fn prefix_key(&self) -> PolicyKey {
        PolicyKey::of_prefixes(!self.keys.is_empty())
    }

    /// Judges the keys and channels of an allowed command.
    fn permit_names(
        &self,
        spec: &Spec,
        reach: Reach,
        channels: Channels,
        request: &Request<'_>,
    ) -> Result<(), Denial> {
        if !command::arity_ok(spec, request.argc()) {
            return Err(Denial::Arity);
        }
        // Without key prefixes, no command has keys to inspect.
        let named = |places: Keys| places.all(request, |key| self.keys.admit(key)).unwrap_or(false);
        let keys_admitted = match reach {
            Reach::Named(places) => named(places),
            Reach::Sorted => named(Keys::Sort) && !keys::follows_patterns(request),
            Reach::Matching => self.keys.admit_keys(request),
            Reach::Scanned => self.keys.admit_scan(request),
            Reach::Tracked => self.keys.admit_tracking(request),
        };
        if !keys_admitted {
            return Err(Denial::Key);
        }
        if !self.channels.admit_channels(channels, request) {
            return Err(Denial::Channel);
        }
        Ok(())
    }
}

/// Returns what is checked for a command that the rules allow.
fn permission(spec: &Spec, config: &PolicyConfig) -> Permission {
    let reach = if config.key_prefixes.is_empty() {
        Reach::Named(Keys::None)
    } else {
        match (spec.name, Keys::of(spec)) {
            // The target of MIGRATE is out of sight, and the server itself calls its key specification
            // incomplete.
            (_, Keys::Migrate) => return Permission::Denied(PolicyKey::KeyPrefixes),
            (_, Keys::Sort) => Reach::Sorted,
            ("KEYS", _) => Reach::Matching,
            ("SCAN", _) => Reach::Scanned,
            ("CLIENT|TRACKING", _) => Reach::Tracked,
            ("RANDOMKEY", _) => return Permission::Denied(PolicyKey::KeyPrefixes),
            (_, Keys::None) if spec.flags.contains(Flags::WRITE) => {
                return Permission::Denied(PolicyKey::KeyPrefixes);
            }
            (_, keys) => Reach::Named(keys),
        }
    };
    let channels = if config.channel_prefixes.is_empty() { Channels::None } else { Channels::of(spec) };
    match (reach, channels) {
        (Reach::Named(Keys::None), Channels::None) => Permission::Allowed,
        (reach, channels) => Permission::If(reach, channels),
    }
}

/// Returns true if a command runs a user's code. The code can call commands that respgate does not see.
fn is_script(spec: &Spec) -> bool {
    matches!(spec.name, "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO")
}

/// Returns true if a command may change data or the server. PUBLISH changes neither.
fn changes(spec: &Spec) -> bool {
    spec.flags.contains(Flags::WRITE)
        || administers(spec)
        || (is_script(spec) && !spec.flags.contains(Flags::READONLY))
}

/// Returns true if a command concerns the server as a whole, including other tenants' keys and commands. CONFIG
/// GET is excluded: the listener decides about it, since many clients begin with it.
fn administers(spec: &Spec) -> bool {
    !matches!(
        spec.administration(),
        Administration::None | Administration::ShowsParameters | Administration::ConcernsClients
    )
}

#[cfg(test)]
mod tests;
