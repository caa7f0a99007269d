//! Compares the listeners of two versions.

use crate::listener::{Bind, ListenerConfig};
use crate::net::tls::server::ServerProfile;

/// What differs about one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerChange {
    /// The older version had no listener of this name.
    Added,
    /// The newer version has no listener of this name.
    Removed,
    /// At least one aspect differs.
    Changed(Vec<&'static str>),
}

/// Returns the changed listeners, by name.
pub(super) fn changes(now: &[ListenerConfig], next: &[ListenerConfig]) -> Vec<(String, ListenerChange)> {
    let removed = now
        .iter()
        .filter(|old| !next.iter().any(|new| new.name == old.name))
        .map(|old| (old.name.clone(), ListenerChange::Removed));
    let others = next.iter().filter_map(|new| {
        let change = match now.iter().find(|old| old.name == new.name) {
            None => ListenerChange::Added,
            Some(old) => ListenerChange::Changed(aspects(old, new)?),
        };
        Some((new.name.clone(), change))
    });
    removed.chain(others).collect()
}

/// Returns the aspects that differ; `None` if there is none.
fn aspects(old: &ListenerConfig, new: &ListenerConfig) -> Option<Vec<&'static str>> {
    let ListenerConfig {
        name: _,
        bind,
        upstream,
        tenant,
        proxy_protocol,
        moving_endpoint,
        keepalive,
        max_clients,
        source_rate,
        session,
        tls: _,
    } = old;
    let limits = (keepalive, max_clients, source_rate)
        != (&new.keepalive, &new.max_clients, &new.source_rate)
        || session.request != new.session.request
        || session.max_reply_buffer != new.session.max_reply_buffer
        || session.max_pipeline != new.session.max_pipeline
        || session.write_timeout != new.session.write_timeout
        || session.timeouts != new.session.timeouts;
    let all = [
        ("address", !bind.same_address(&new.bind)),
        ("mode", mode(bind) != mode(&new.bind)),
        ("upstream", *upstream != new.upstream),
        ("tenant", *tenant != new.tenant),
        ("proxy-protocol", *proxy_protocol != new.proxy_protocol),
        ("moving-endpoint", *moving_endpoint != new.moving_endpoint),
        ("admin-commands", session.admin_commands != new.session.admin_commands),
        ("reads", session.reads != new.session.reads),
        ("limits", limits),
        ("TLS", profile(old) != profile(new)),
    ];
    let differing: Vec<_> =
        all.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect();
    (!differing.is_empty()).then_some(differing)
}

fn mode(bind: &Bind) -> Option<u32> {
    match bind {
        Bind::Tcp(_) => None,
        Bind::Unix { mode, .. } => Some(*mode),
    }
}

/// Returns the paths and rules of TLS. Files that change their content are followed elsewhere.
fn profile(listener: &ListenerConfig) -> Option<&ServerProfile> {
    listener.tls.as_ref().map(|tls| &tls.profile)
}
