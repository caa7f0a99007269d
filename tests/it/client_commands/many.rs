//! A list of many clients delays nobody.

use std::thread;
use std::time::{Duration, Instant};

use super::{Site, list};
use crate::support::servers::Flavor;

/// What another client may wait here. An unoptimised binary shares a busy machine with other tests; that a step looks at
/// 64 clients is counted in the unit tests.
const LONGEST: Duration = Duration::from_millis(1500);

/// Number of clients. Each takes two files in this process.
const CLIENTS: usize = 2000;

#[test]
fn a_long_list_delays_no_session() {
    let site = Site::at_level(Flavor::Valkey, 2, "read-only");
    let _clients: Vec<_> = (0..CLIENTS).map(|_| site.proxy.client()).collect();
    let (mut asker, mut victim) = (site.proxy.client(), site.proxy.client());
    asker.deadline(Duration::from_secs(60));
    let longest = thread::scope(|scope| {
        let lists = scope.spawn(|| {
            for _ in 0..5 {
                assert_eq!(list(&mut asker, &[]).len(), CLIENTS + 2);
            }
        });
        let mut longest = Duration::ZERO;
        while !lists.is_finished() {
            let begun = Instant::now();
            victim.expect(&["GET", "k"], "$-1\r\n");
            longest = longest.max(begun.elapsed());
        }
        lists.join().expect("all lists");
        longest
    });
    assert!(longest < LONGEST, "{longest:?}");
}
