//! Refuses commands that a setting forbids: writes the error line, counts and logs.

use super::Session;
use super::config::AdminCommands;
use super::refusal;
use crate::command::{self, Found};
use crate::metrics::{Counters, LocalCounter};
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::tenant::policy::PolicyKey;

/// Names a setting that refuses commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// `admin-commands` of the listener, at this level.
    AdminCommands(AdminCommands),
    /// A key of the tenant's policy.
    Policy(PolicyKey),
}

/// Describes a refusal that a setting causes. No part of the request may reach the server, not even in a
/// transaction.
pub(super) struct Forbidden {
    /// The error line for the client.
    pub(super) line: ErrorLine,
    /// The setting; `None` if the request has too few arguments for a policy to judge it.
    pub(super) setting: Option<Setting>,
}

impl Setting {
    /// Returns the setting's key in the configuration.
    fn key(self) -> &'static str {
        match self {
            Self::AdminCommands(_) => "admin-commands",
            Self::Policy(key) => key.name(),
        }
    }

    fn counter(self, counters: &Counters) -> &LocalCounter {
        match self {
            Self::AdminCommands(_) => &counters.refused_admin,
            Self::Policy(PolicyKey::Commands) => &counters.refused_commands,
            Self::Policy(PolicyKey::ReadOnly) => &counters.refused_read_only,
            Self::Policy(PolicyKey::Scripts) => &counters.refused_scripts,
            Self::Policy(PolicyKey::KeyPrefixes) => &counters.refused_key_prefixes,
            Self::Policy(PolicyKey::ChannelPrefixes) => &counters.refused_channel_prefixes,
        }
    }
}

impl Session {
    /// Returns the refusal of a request. `line` is the error in the words of the server's ACL; the setting is
    /// appended to it.
    pub(super) fn forbidden(&self, setting: Setting, line: &[u8]) -> Forbidden {
        let named = match setting {
            Setting::AdminCommands(level) => format!("admin-commands = \"{}\"", level.name()),
            Setting::Policy(key) => format!("{} of tenant '{}'", key.name(), self.tenancy.name()),
        };
        let line = [line, format!(" (respgate: {named})").as_bytes()].concat();
        Forbidden { line: refusal::one_line(line), setting: Some(setting) }
    }

    /// Returns the level of administrative commands that applies to this client, and the setting that causes it.
    /// On a listener that allows everything, a policy that confines the client to reading or to some keys reduces
    /// the level to read-only: CONFIG GET could otherwise show the client the password of an unconfined user.
    pub(super) fn admin_level(&self) -> (AdminCommands, Setting) {
        let level = self.ctx.config.admin_commands;
        let confinement = self.tenancy.policy.as_ref().and_then(|policy| policy.confinement());
        match confinement.filter(|_| level == AdminCommands::Allow) {
            Some(key) => (AdminCommands::ReadOnly, Setting::Policy(key)),
            None => (level, Setting::AdminCommands(level)),
        }
    }

    /// Returns the refusal of an administrative command. `name` is as in the command table.
    #[cold]
    pub(super) fn forbidden_by_level(&self, name: &str) -> Forbidden {
        let (_, setting) = self.admin_level();
        self.forbidden(setting, &self.no_permission(name))
    }

    /// Answers a request that a setting forbids.
    #[cold]
    pub(super) fn answer_forbidden(&mut self, forbidden: &Forbidden, request: &Request<'_>) {
        self.note_forbidden(forbidden.setting, request);
        self.answer_line(&forbidden.line);
    }

    /// Counts and logs a request that a setting forbids.
    #[cold]
    pub(super) fn note_forbidden(&self, setting: Option<Setting>, request: &Request<'_>) {
        let counters = &self.ctx.upstream.counters;
        setting.map_or(&counters.refused_other, |setting| setting.counter(counters)).inc();
        if matches!(setting, Some(Setting::Policy(_)) | None)
            && let Some(member) = &self.tenancy.member
        {
            member.worker_tenant().figures.denied.inc();
        }
        let Some(setting) = setting else { return };
        let (client, peer, listener) = (self.client.id, &self.client.peer, &self.client.local);
        let (command, setting_key) = (named(request), setting.key());
        let (level, tenant) = match setting {
            Setting::AdminCommands(level) => (Some(level.name()), None),
            Setting::Policy(_) => (None, Some(self.tenancy.name())),
        };
        tracing::info!(
            client,
            peer,
            listener,
            command,
            setting = setting_key,
            level,
            tenant,
            "respgate refused a command: a setting of its listener or tenant does not allow it"
        );
    }

    /// Answers a request that one of its tenant's limits refuses. `line` names the limit.
    #[cold]
    pub(super) fn refuse_for_limit(&mut self, line: &[u8]) {
        self.note_limit(line);
        self.answer_line(line);
    }

    /// Counts and logs a request that one of its tenant's limits refuses.
    pub(super) fn note_limit(&self, line: &[u8]) {
        self.ctx.upstream.counters.refused_limits.inc();
        tracing::info!(
            client = self.client.id,
            peer = self.client.peer,
            listener = self.client.local,
            tenant = self.tenancy.name(),
            answer = %String::from_utf8_lossy(line),
            "respgate refused a command: its tenant is at a limit"
        );
    }
}

/// Limit of a logged command name, in bytes. A longer name is cut.
const MAX_LOGGED: usize = 64;

/// Returns the name of a request's command, for the log. Omits the arguments, and also a subcommand that the
/// table lacks.
fn named(request: &Request<'_>) -> String {
    match command::find(request) {
        Some(Found::Spec(spec) | Found::NoSuchSubcommand(spec)) => spec.name.replace('|', " "),
        None => {
            let name = request.name();
            name.get(..name.len().min(MAX_LOGGED)).unwrap_or_default().escape_ascii().to_string()
        }
    }
}
