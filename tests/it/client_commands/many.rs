//! A list of many clients delays nobody, which respgate measures itself.

use super::{Site, list};
use crate::stalls::{ATTEMPTS, POLL, longest_poll};
use crate::support::servers::Flavor;

/// Number of clients. Each takes two files in this process.
const CLIENTS: usize = 2000;

/// That a step looks at 64 clients, and that one poll writes 512 KiB, is counted in the unit tests.
#[test]
fn a_long_list_keeps_no_worker_from_its_sessions() {
    let mut longest = Vec::new();
    while longest.last().is_none_or(|longest| *longest >= POLL) {
        assert!(longest.len() < ATTEMPTS, "{longest:?} s");
        let site = Site::start(Flavor::Valkey, 2);
        let clients: Vec<_> = (0..CLIENTS).map(|_| site.proxy.client()).collect();
        let (mut asker, mut other) = (site.proxy.client(), site.named("other"));
        for _ in 0..3 {
            assert_eq!(list(&mut asker, &[]).len(), CLIENTS + 2);
            assert_eq!(list(&mut asker, &["NAME", "other"]).len(), 1);
            asker.expect(&["CLIENT", "KILL", "NAME", "nobody"], ":0\r\n");
        }
        asker.expect(&["CLIENT", "KILL", "TYPE", "normal", "NOT-NAME", "other"], &format!(":{CLIENTS}\r\n"));
        other.expect(&["PING"], "+PONG\r\n");
        for mut client in clients {
            assert!(client.rest().is_empty());
        }
        longest.push(longest_poll(&site.proxy));
    }
    assert!(longest.iter().all(|longest| *longest > 0.0), "nothing was measured");
}
