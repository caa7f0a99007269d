//! Checks whether a process accepts connections at the address.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::concurrently::concurrently;
use super::finding::{Finding, Step};
use super::words::milliseconds;
use crate::net::connect::{DialError, Dialer};
use crate::net::stream::Stream;
use crate::topology::Address;

/// The result of one attempt to connect.
#[derive(Debug)]
struct Attempt {
    /// The target: an IP address and port, or a unix socket.
    to: Address,
    took: Duration,
    result: Result<Stream, AttemptError>,
}

/// Why an attempt failed.
#[derive(Debug)]
enum AttemptError {
    Timeout,
    Io(io::Error),
}

/// Connects to all addresses of a name at the same time and keeps the connection that opens first. `limit` is the
/// proxy's time limit; the doctor waits for 3 s at least, so that it can tell a slow peer from a dead one. `hint` is
/// appended to the remedy.
pub(super) async fn connect(
    address: &Address,
    ips: Option<Vec<SocketAddr>>,
    limit: Duration,
    hint: &str,
) -> (Finding, Option<(Address, Stream)>) {
    let targets = match ips {
        None => vec![address.clone()],
        Some(ips) => ips.iter().map(|ip| Address::tcp(ip.ip().to_string(), ip.port())).collect(),
    };
    let attempts = concurrently(targets.into_iter().map(|to| attempt(to, limit))).await;
    let finding = judge(address, &attempts, limit, hint);
    let first = attempts
        .into_iter()
        .filter_map(|attempt| Some((attempt.took, attempt.to, attempt.result.ok()?)))
        .min_by_key(|(took, ..)| *took);
    (finding, first.map(|(_, to, stream)| (to, stream)))
}

async fn attempt(to: Address, limit: Duration) -> Attempt {
    let dialer = Dialer { connect_timeout: doctor_limit(limit), ..Dialer::default() };
    let begun = Instant::now();
    let result = dialer.dial(&to).await.map_err(|error| failure(&error));
    Attempt { to, took: begun.elapsed(), result }
}

/// Returns the doctor's time limit, which is long enough to see a late answer.
fn doctor_limit(limit: Duration) -> Duration {
    limit.max(Duration::from_secs(3))
}

fn failure(error: &DialError) -> AttemptError {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => {
            AttemptError::Io(error.raw_os_error().map_or_else(
                || io::Error::new(error.kind(), error.to_string()),
                io::Error::from_raw_os_error,
            ))
        }
        None => AttemptError::Timeout,
    }
}

fn judge(address: &Address, attempts: &[Attempt], limit: Duration, hint: &str) -> Finding {
    let mut failed =
        attempts.iter().filter_map(|attempt| Some((&attempt.to, attempt.result.as_ref().err()?)));
    let fastest = attempts.iter().filter(|attempt| attempt.result.is_ok()).map(|attempt| attempt.took).min();
    let Some((first_failed, why)) = failed.next() else {
        let took = fastest.unwrap_or_default();
        let where_ = if attempts.len() > 1 { " on every address" } else { "" };
        let seen = format!("accepted{where_} within {}", milliseconds(took));
        return if took > limit {
            let remedy = format!(
                "respgate allows {}: raise connect-timeout (for Sentinels, sentinel-timeout), or find out what \
                 delays the packets",
                milliseconds(limit)
            );
            Finding::broken(Step::Connect, seen, remedy)
        } else {
            Finding::ok(Step::Connect, seen).fact("ms", took.as_secs_f64() * 1000.0)
        };
    };
    let (problem, remedy) = explain(why, first_failed);
    let remedy = format!("{remedy}{hint}");
    if fastest.is_some() {
        let others = failed.count() + 1;
        let seen = format!(
            "{address} is {}, and {} not accept: {first_failed} {problem}",
            format_args!("{} addresses", attempts.len()),
            if others == 1 { "1 of them does".to_owned() } else { format!("{others} of them do") },
        );
        return Finding::warning(Step::Connect, seen, format!("{remedy}; or take that address out of DNS"));
    }
    let mut finding = Finding::broken(Step::Connect, format!("{first_failed} {problem}"), remedy);
    for (to, why) in failed {
        finding = finding.detail(format!("{to} {}", explain(why, to).0));
    }
    finding
}

/// Returns what happened, as a predicate that follows the address, and what to do.
fn explain(failure: &AttemptError, to: &Address) -> (String, &'static str) {
    let AttemptError::Io(error) = failure else {
        return (
            "gave no sign of life".into(),
            "check that the machine is up, and that no firewall, security group or network policy drops the \
             packets: nothing came back, not even a refusal",
        );
    };
    match (error.kind(), to) {
        (io::ErrorKind::ConnectionRefused, Address::Tcp { .. }) => (
            "refuses the connection: the machine is there, but nothing listens on that port".into(),
            "check that the server runs, that the port is right, and that its `bind` covers more than 127.0.0.1 \
             if it is on another machine",
        ),
        (io::ErrorKind::ConnectionRefused, Address::Unix(_)) => (
            "refuses the connection: the socket file is there, but nobody listens on it".into(),
            "check that the server runs; a file left behind by a crash is replaced when it starts",
        ),
        (io::ErrorKind::NotFound, Address::Unix(_)) => (
            "does not exist".into(),
            "check the path, that the server runs with `unixsocket` set to it, and in a container that its folder is \
             mounted",
        ),
        (io::ErrorKind::PermissionDenied, Address::Unix(_)) => (
            "may not be opened by this user".into(),
            "set `unixsocketperm` on the server, or run respgate as the server's user or in its group",
        ),
        (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable, _) => (
            format!("cannot be reached: {error}"),
            "there is no route from this machine: check its network, VPN or peering, and whether the address is of a \
             family (IPv4, IPv6) that it has",
        ),
        _ => (format!("cannot be connected to: {error}"), "check the address and the way to it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn one_dead_address_of_two_is_a_warning() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let name = Address::tcp("db.example", good.port());
        let second = Duration::from_secs(1);
        let (finding, stream) = connect(&name, Some(vec![gone, good]), second, "").await;
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.seen.contains("is 2 addresses, and 1 of them does not accept"), "{}", finding.seen);
        assert!(finding.seen.contains(&gone.to_string()));
        assert_eq!(stream.unwrap().0, Address::tcp("127.0.0.1", good.port()));

        let (finding, stream) = connect(&name, Some(vec![gone]), second, "; then this").await;
        assert!(finding.level == Level::Broken && stream.is_none());
        assert!(finding.seen.contains("nothing listens") && finding.remedy.unwrap().ends_with("; then this"));
        let (finding, _) = connect(&Address::Unix("/nonexistent/x".into()), None, second, "").await;
        assert_eq!(finding.seen, "unix:/nonexistent/x does not exist");
    }

    #[test]
    fn a_late_peer_differs_from_a_dead_one() {
        let to = Address::tcp("10.0.0.5", 6379);
        let limit = Duration::from_millis(500);
        let dead = Attempt { to: to.clone(), took: limit, result: Err(AttemptError::Timeout) };
        let finding = judge(&to, &[dead], limit, "");
        assert!(finding.seen.contains("no sign of life") && finding.remedy.unwrap().contains("firewall"));
    }
}
