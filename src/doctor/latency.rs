//! Measures the round-trip time to a node.

use std::time::Duration;

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::words::milliseconds;
use crate::resp::control::ControlError;

/// The number of round trips, one after the other.
const ROUNDS: usize = 20;

/// The time after which the measurement ends, even if fewer round trips are done.
const LONGEST: Duration = Duration::from_secs(3);

/// A median above this is longer than in a network of one site, and causes a warning.
const FAR: Duration = Duration::from_millis(5);

/// A single round trip above this shows that the node or the network stalled.
const STALL: Duration = Duration::from_millis(100);

/// Measures PINGs. An error reply counts like a PONG.
///
/// # Errors
///
/// Returns the error if the connection fails.
pub(super) async fn examine(channel: &mut Channel, peer: &Peer) -> Result<Finding, ControlError> {
    let begun = Instant::now();
    let mut times = Vec::with_capacity(ROUNDS);
    while times.len() < ROUNDS && begun.elapsed() < LONGEST {
        let sent = Instant::now();
        channel.call(&[b"PING"], sent + peer.answer_timeout()).await?;
        times.push(sent.elapsed());
    }
    Ok(judge(times))
}

fn judge(mut times: Vec<Duration>) -> Finding {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times.last().copied().unwrap_or_default();
    let seen =
        format!("{} PINGs: median {}, worst {}", times.len(), milliseconds(median), milliseconds(worst));
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let finding = if median > FAR {
        let remedy = "every command waits at least that long: run respgate nearer to the server (same region, same \
                      zone), and let clients pipeline";
        Finding::warning(Step::Latency, seen, remedy)
    } else if worst > STALL {
        let remedy = "something stood still for a moment: a slow command (SLOWLOG GET on the server), a fork for \
                      saving (LATENCY LATEST), a busy machine or network. Run this again to see whether it lasts";
        Finding::warning(Step::Latency, seen, remedy)
    } else {
        Finding::ok(Step::Latency, seen)
    };
    finding.fact("median_ms", ms(median)).fact("worst_ms", ms(worst)).fact("pings", times.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn distance_and_stalls_are_told_apart() {
        let times = |usual: u64, last: u64| {
            let mut times = vec![Duration::from_millis(usual); 19];
            times.push(Duration::from_millis(last));
            judge(times)
        };
        assert_eq!(times(1, 2).level, Level::Ok);
        assert_eq!(times(1, 2).seen, "20 PINGs: median 1.0 ms, worst 2.0 ms");
        assert!(times(30, 40).remedy.unwrap().contains("nearer"));
        assert!(times(1, 150).remedy.unwrap().contains("SLOWLOG"));
    }
}
