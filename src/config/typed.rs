//! The configuration as typed: a struct of [`Setting`]s for each table.
//! [`super::schema`] declares the keys of each table. [`super::check`] makes a [`super::Config`] of
//! it.

use super::report::Place;
use super::schema::{
    LimitKeys, ListenerKeys, LogKeys, ProcessKeys, ServerTlsKeys, SessionKeys, TenantKeys, UpstreamKeys,
    UserKeys,
};
use super::setting::Setting;
use super::written::Written;
use crate::session::config::AdminCommands;

/// A whole configuration as typed.
#[derive(Debug, Default)]
pub struct Typed {
    /// The place of the file, if there is one.
    pub file: Option<Place>,
    /// The keys of the file.
    pub written: Written,
    pub process: ProcessKeys,
    pub log: LogKeys,
    /// Limits for listeners that do not set their own.
    pub limits: LimitKeys,
    /// Settings from flags and environment variables. They apply to every listener, whatever the
    /// file says.
    pub overrides: Overrides,
    /// TLS settings from flags and environment variables. They apply to every TCP listener that has
    /// no TLS keys of its own.
    pub tls: ServerTlsKeys,
    pub listeners: Vec<Named<ListenerKeys>>,
    pub tenants: Vec<Named<TenantKeys>>,
    pub users: Vec<Named<UserKeys>>,
    pub upstreams: Vec<Named<UpstreamKeys>>,
}

/// Settings from flags and environment variables for every listener.
#[derive(Debug, Default)]
pub struct Overrides {
    pub sessions: SessionKeys,
    pub admin_commands: Setting<AdminCommands>,
}

/// A table whose name the user chooses.
#[derive(Debug)]
pub struct Named<K> {
    pub name: String,
    /// Where the table begins.
    pub place: Place,
    pub keys: K,
}

impl<K: Default> Named<K> {
    /// Creates a table without any setting.
    pub fn new(name: impl Into<String>, place: Place) -> Self {
        Self { name: name.into(), place, keys: K::default() }
    }
}

impl Typed {
    /// Returns the upstream that flags refer to, and that listeners without an `upstream` key use:
    /// `main`, or the only one.
    pub fn usual_upstream(&mut self) -> Option<&mut Named<UpstreamKeys>> {
        let only = self.upstreams.len() == 1;
        self.upstreams.iter_mut().find(|upstream| only || upstream.name == "main")
    }
}
