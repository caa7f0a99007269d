//! Checks whether the server has room for respgate's connections.

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::server::field;
use crate::resp::control::ControlError;

/// Reads INFO. Returns `None` if the user may not run it, or if the server does not report the numbers (`maxclients` is
/// in INFO since about Redis 6.2, and some providers leave it out).
///
/// # Errors
///
/// Returns the error if the connection fails.
pub(super) async fn examine(
    channel: &mut Channel,
    peer: &Peer,
    ours: usize,
) -> Result<Option<Finding>, ControlError> {
    let deadline = Instant::now() + peer.answer_timeout();
    let info = channel.call(&[b"INFO", b"clients"], deadline).await?;
    let number = |key| info.text().and_then(|info| field(info, key)?.parse::<u64>().ok());
    Ok(number("connected_clients").zip(number("maxclients")).map(|(now, most)| judge(now, most, ours as u64)))
}

/// Compares the connections in use with the limit `most`. `ours` is the number of connections that respgate may open.
fn judge(now: u64, most: u64, ours: u64) -> Finding {
    let used = format!("{now} of {most} connections are in use");
    let finding = if now.saturating_mul(10) >= most.saturating_mul(9) {
        Finding::warning(
            Step::Clients,
            format!("{used}: the server soon turns clients away"),
            "raise its `maxclients`, or find out who holds them (CLIENT LIST)",
        )
    } else if ours > most {
        Finding::warning(
            Step::Clients,
            format!("{used}; respgate alone may open {ours}"),
            format!(
                "lower max-connections to well below {most}, so that respgate, and not the server, does the limiting"
            ),
        )
    } else {
        Finding::ok(Step::Clients, format!("{used}; respgate may open up to {ours}"))
    };
    finding.fact("connected", now).fact("maxclients", most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn room_is_judged() {
        assert_eq!(judge(10, 10_000, 1088).level, Level::Ok);
        assert!(judge(9_500, 10_000, 1088).seen.contains("turns clients away"));
        assert!(judge(1, 3, 1088).remedy.unwrap().contains("max-connections"));
    }
}
