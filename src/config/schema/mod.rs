//! The configuration schema: every key of a file, declared once.
//!
//! The files beside this one declare the keys, table by table; `table` explains the lines. The struct that holds what was
//! typed, its reader, the known keys, the defaults, and whether a reload applies a change all come from these lines.
//! `make config-docs` writes `config/full.toml`, `config/respgate.schema.json` and `docs/configuration.md` from them.

#[macro_use]
mod table;
mod credentials;
pub(super) mod entry;
mod kinds;
mod limits;
mod listeners;
mod part;
mod process;
mod rates;
pub(super) mod shape;
mod tenants;
#[cfg(test)]
mod tests;
mod tls;
mod upstreams;
mod users;

pub use credentials::{CredentialDefaults, Credentials};
pub use entry::{DefaultValue, Entry, Group, Key, Reload, Table, TableKey, paragraphs};
pub use kinds::Kind;
pub use limits::{LimitDefaults, LimitKeys, SessionDefaults, SessionKeys};
pub use listeners::{ListenerDefaults, ListenerKeys};
pub use part::Part;
pub use process::{LogDefaults, LogKeys, ProcessDefaults, ProcessKeys};
pub use rates::{QuotaDefaults, QuotaKeys, RateKeys};
pub use shape::{Shape, Shown};
pub use tenants::{TenantDefaults, TenantKeys};
pub use tls::{ClientTlsDefaults, ClientTlsKeys, ServerTlsDefaults, ServerTlsKeys};
pub use upstreams::{
    ClusterDefaults, ClusterKeys, ConnectionDefaults, ConnectionKeys, DiscoveryDefaults, DiscoveryKeys,
    FailoverDefaults, FailoverKeys, ReplicaDefaults, ReplicaKeys, UpstreamKeys,
};
pub use users::UserKeys;

/// The tables of a file, in the order of `config/full.toml`.
pub const TABLES: [Table; 7] = [
    process::TABLE,
    process::LOG,
    limits::TABLE,
    listeners::TABLE,
    tenants::TABLE,
    users::TABLE,
    upstreams::TABLE,
];

/// Returns when a change of a key takes effect. `name` is the key's dotted name in a file, such as
/// `listeners.app.tenant`. Adding or removing a table takes effect at once if each of its keys
/// does.
pub fn reload(name: &str) -> Reload {
    let parts: Vec<&str> = name.split('.').collect();
    let (path, key) = match parts[..] {
        [key] => ("", Some(key)),
        [table @ ("log" | "limits"), key] => (table, Some(key)),
        [table, _] => (table, None),
        [table, _, key, ..] => (table, Some(key)),
        [] => ("", None),
    };
    let table = TABLES.iter().find(|table| table.path.strip_suffix(".*").unwrap_or(table.path) == path);
    let mut keys = table.map(Table::keys).unwrap_or_default();
    keys.retain(|known| key.is_none_or(|key| known.name == key));
    let live = !keys.is_empty() && keys.iter().all(|known| known.reload() == Reload::Live);
    if live { Reload::Live } else { Reload::Restart }
}
