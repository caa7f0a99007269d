//! The part of `/status` about one primary.

use serde_json::{Value, json};

use crate::topology::Primary;

/// Returns what is known of a primary.
pub(super) fn primary_json(primary: &Primary) -> Value {
    json!({
        "address": primary.address.to_string(),
        "generation": primary.generation.0,
        "config_epoch": primary.config_epoch,
        "server": primary.server.as_ref().map(|info| format!("{} {}", info.server, info.version)),
        "node": primary.node.as_ref().map(ToString::to_string),
    })
}
