//! Checks whether the name has an address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::finding::{Finding, Step};
use super::words::{list, milliseconds};
use crate::topology::Address;

/// A look-up that takes longer than this causes a warning: respgate looks the name up on every dial.
const SLOW: Duration = Duration::from_millis(200);

/// The greatest number of addresses of one name to try.
const MAX_ADDRESSES: usize = 16;

/// Looks a name up, as each dial does. Returns an empty list if the name has no address, and `None` for a unix socket.
pub(super) async fn look_up(address: &Address, limit: Duration) -> (Finding, Option<Vec<SocketAddr>>) {
    let (host, port) = match address {
        Address::Unix(_) => {
            return (Finding::ok(Step::Dns, "a unix socket: there is no name to look up"), None);
        }
        Address::Tcp { host, port } => (host, *port),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        let finding = Finding::ok(Step::Dns, "an IP address: there is no name to look up");
        return (finding, Some(vec![SocketAddr::new(ip, port)]));
    }
    let begun = Instant::now();
    let found = match timeout(limit, lookup_host((host.as_str(), port))).await {
        Ok(found) => found.map(Iterator::collect::<Vec<_>>),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    let (finding, mut addresses) = judge(host, found, begun.elapsed(), limit);
    addresses.truncate(MAX_ADDRESSES);
    (finding, Some(addresses))
}

fn judge(
    host: &str,
    found: io::Result<Vec<SocketAddr>>,
    took: Duration,
    limit: Duration,
) -> (Finding, Vec<SocketAddr>) {
    const SPELLING: &str = "check the spelling, and that this machine's resolver knows it: getent hosts NAME; in \
                            Kubernetes, outside of the service's namespace, write service.namespace.svc";
    match found {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let seen = format!("the resolver gave no answer about {host:?} within {}", milliseconds(limit));
            let remedy =
                "check the name servers in /etc/resolv.conf, and that UDP and TCP port 53 reach them";
            (Finding::broken(Step::Dns, seen, remedy), Vec::new())
        }
        Err(error) => {
            let error = error.to_string();
            let why = error.strip_prefix("failed to lookup address information: ").unwrap_or(&error);
            let seen = format!("{host:?} cannot be looked up: {why}");
            (Finding::broken(Step::Dns, seen, SPELLING), Vec::new())
        }
        Ok(addresses) if addresses.is_empty() => {
            (Finding::broken(Step::Dns, format!("{host:?} has no address"), SPELLING), Vec::new())
        }
        Ok(mut addresses) => {
            addresses.dedup();
            let ips = list(addresses.iter().map(|address| address.ip().to_string()));
            let seen = format!("{host} is {ips}, looked up in {}", milliseconds(took));
            let finding = if took > SLOW {
                let remedy = "the name is looked up for every new connection, so all of them take that much \
                              longer: find out why the resolver is slow, or run a caching one on this machine";
                Finding::warning(Step::Dns, seen, remedy)
            } else {
                Finding::ok(Step::Dns, seen)
            };
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            (finding.fact("addresses", shown).fact("ms", took.as_secs_f64() * 1000.0), addresses)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn each_outcome_has_its_text() {
        let second = Duration::from_secs(1);
        let judged = |found, took| judge("db.example", found, took, second);
        let (finding, _) = judged(Err(io::ErrorKind::TimedOut.into()), second);
        assert!(finding.level == Level::Broken && finding.remedy.unwrap().contains("resolv.conf"));
        let error = io::Error::other("failed to lookup address information: Name or service not known");
        let (finding, addresses) = judged(Err(error), second);
        assert_eq!(finding.seen, "\"db.example\" cannot be looked up: Name or service not known");
        assert!(addresses.is_empty());
        let (finding, _) = judged(Ok(Vec::new()), second);
        assert_eq!(finding.level, Level::Broken);
        let address: SocketAddr = "10.0.0.5:6379".parse().unwrap();
        let (finding, addresses) = judged(Ok(vec![address, address]), Duration::from_millis(2));
        assert_eq!(finding.seen, "db.example is 10.0.0.5, looked up in 2.0 ms");
        assert_eq!(addresses, [address]);
        assert_eq!(judged(Ok(vec![address]), second).0.level, Level::Warning);
    }
}
