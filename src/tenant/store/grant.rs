//! The script that grants units, its replies, and what one rate was granted.

use std::sync::Arc;

use tokio::time::Instant;

use super::state::Rated;
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;
use crate::tenant::limits::ledger::Ledger;

/// Prefix of the keys. `{tenant}:limit` follows it.
pub(super) const PREFIX: &str = "__respgate:limit:";

/// KEYS: the key. ARGV: units per second, burst, units wanted. Returns the units granted. The key holds the time
/// in µs up to which units are granted. A time ahead of the server's clock was written by another server before a
/// failover, so it is capped.
pub(super) const SCRIPT: &str = "\
local t = redis.call('TIME')
local now, rate = t[1] * 1000000 + t[2], ARGV[1] / 1000000
local due = math.min(tonumber(redis.call('GET', KEYS[1])) or 0, now)
due = math.max(due, now - ARGV[2] / rate)
local granted = math.min(tonumber(ARGV[3]), math.floor((now - due) * rate))
if granted < 1 then return 0 end
redis.call('SET', KEYS[1], string.format('%.3f', due + granted / rate), 'PX', math.ceil(ARGV[2] / rate / 1000) + 1000)
return granted";

/// Tracks the grants of one rate.
pub(super) struct Account {
    pub(super) key: String,
    pub(super) ledger: Arc<Ledger>,
    pub(super) per_second: String,
    pub(super) burst: String,
    granted_at: Instant,
}

impl Account {
    pub(super) fn new(Rated { key, ledger }: Rated) -> Self {
        Self {
            key,
            per_second: ledger.whole().per_second.to_string(),
            burst: ledger.whole().burst.to_string(),
            ledger,
            granted_at: Instant::now(),
        }
    }

    pub(super) fn grant(&mut self, granted: u64, wanted: u64) {
        let now = Instant::now();
        if self.ledger.live() {
            self.ledger.grant(granted, wanted, now - self.granted_at);
        } else {
            self.ledger.open(granted.min(wanted));
        }
        self.granted_at = now;
    }
}

/// Says why rates are not shared.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The server could not be asked. This may pass, as in a failover.
    #[error("{0}")]
    Away(String),
    /// The server was asked, and refused.
    #[error("{0}")]
    Refused(String),
}

/// Returns the units that a reply grants. A node that is not a primary (yet) counts as unreachable, because that
/// may pass; any other error counts as a refusal.
pub(super) fn granted(reply: &Value) -> Result<u64, StoreError> {
    match reply {
        Value::Integer(units) => Ok(u64::try_from(*units).unwrap_or_default()),
        Value::Error(line) => {
            let error = ServerError::of(line);
            let mut message = line.escape_ascii().to_string();
            if error == ServerError::NoPermission {
                message.push_str(&format!("; give respgate's user +eval +get +set +time ~{PREFIX}*"));
            }
            Err(match error.is_not_primary() || error == ServerError::Busy {
                true => StoreError::Away(message),
                false => StoreError::Refused(message),
            })
        }
        _ => Err(StoreError::Refused("the server's answer to EVAL is not a number".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_grants_or_say_why_not() {
        let error = |line: &'static str| granted(&Value::Error(line.into()));
        assert_eq!(granted(&Value::Integer(7)).unwrap(), 7);
        assert_eq!(granted(&Value::Integer(-7)).unwrap(), 0);
        assert!(matches!(
            error("READONLY You can't write against a read only replica."),
            Err(StoreError::Away(_))
        ));
        assert!(matches!(error("NOPERM this user has no permissions"), Err(StoreError::Refused(_))));
        assert!(matches!(error("OOM command not allowed"), Err(StoreError::Refused(_))));
        assert!(matches!(granted(&Value::Null), Err(StoreError::Refused(_))));
    }
}
