//! What one worker counts for each replica.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::metrics::LocalCounter;
use crate::topology::Address;

/// The number of replicas from which the counts of replicas that are gone are dropped.
const KEPT: usize = 32;

/// Holds one worker's counts for one replica.
#[derive(Default)]
pub(super) struct ReplicaCounters {
    /// Reads that were sent to the replica.
    pub(super) reads: LocalCounter,
    /// Connections to the replica that are open now.
    connections: LocalCounter,
    /// Connections to the replica that could not be opened.
    connect_errors: LocalCounter,
    /// Why the newest attempt to connect failed; `None` if it succeeded.
    connect_error: RefCell<Option<Arc<str>>>,
}

/// The counts of one replica at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounts {
    /// Reads that were sent to the replica.
    pub reads: u64,
    /// Reads that the replica has not answered yet.
    pub outstanding: u64,
    /// Connections to the replica that are open now.
    pub connections: u64,
    /// Connections to the replica that could not be opened.
    pub connect_errors: u64,
    /// Why the newest attempt to connect failed; `None` if it succeeded.
    pub connect_error: Option<Arc<str>>,
}

/// The counters of every replica, by address. They outlive the replica's place in the samples.
#[derive(Default)]
pub(super) struct CountersByReplica(RefCell<HashMap<Address, Rc<ReplicaCounters>>>);

/// Counts one open connection as long as it lives.
pub(super) struct OpenConnection(Rc<ReplicaCounters>);

impl ReplicaCounters {
    /// Counts an open connection.
    pub(super) fn note_opened(self: &Rc<Self>) -> OpenConnection {
        self.connect_error.take();
        self.connections.inc();
        OpenConnection(self.clone())
    }

    /// Counts a connection that could not be opened.
    pub(super) fn note_connect_error(&self, why: &str) {
        self.connect_errors.inc();
        self.connect_error.replace(Some(why.into()));
    }

    /// Returns the number of open connections.
    pub(super) fn connections(&self) -> u64 {
        self.connections.get()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

impl CountersByReplica {
    /// Returns the counters of the replica at `address`.
    pub(super) fn of(&self, address: &Address) -> Rc<ReplicaCounters> {
        let mut all = self.0.borrow_mut();
        if let Some(known) = all.get(address) {
            return known.clone();
        }
        if all.len() >= KEPT {
            // One reference is the map's: nobody counts there any more.
            all.retain(|_, counters| Rc::strong_count(counters) > 1);
        }
        all.entry(address.clone()).or_default().clone()
    }

    /// Returns the counts of every replica. `outstanding` returns the number of reads that the replica at an address owes.
    pub(super) fn snapshot(&self, outstanding: impl Fn(&Address) -> u64) -> Vec<(Address, ReplicaCounts)> {
        let all = self.0.borrow();
        let counts = all.iter().map(|(address, counters)| {
            let counts = ReplicaCounts {
                reads: counters.reads.get(),
                outstanding: outstanding(address),
                connections: counters.connections.get(),
                connect_errors: counters.connect_errors.get(),
                connect_error: counters.connect_error.borrow().clone(),
            };
            (address.clone(), counts)
        });
        counts.collect()
    }
}

impl ReplicaCounts {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.outstanding += other.outstanding;
        self.connections += other.connections;
        self.connect_errors += other.connect_errors;
        self.connect_error = self.connect_error.take().or(other.connect_error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_outlive_the_samples_and_are_bounded() {
        let all = CountersByReplica::default();
        let address = |port| Address::tcp("10.0.0.6", port);
        let kept = all.of(&address(1));
        kept.reads.add(3);
        kept.note_connect_error("refused");
        let open = kept.note_opened();
        assert_eq!(all.of(&address(1)).connections(), 1);
        for port in 2..1000 {
            all.of(&address(port));
        }
        let counts = all.snapshot(|_| 7);
        assert!(counts.len() <= KEPT, "{}", counts.len());
        let (_, counted) = counts.into_iter().find(|(known, _)| *known == address(1)).unwrap();
        let expected = ReplicaCounts {
            reads: 3,
            outstanding: 7,
            connections: 1,
            connect_errors: 1,
            connect_error: None,
        };
        assert_eq!(counted, expected);
        let mut sum = counted;
        sum.add(ReplicaCounts { reads: 1, connect_error: Some("x".into()), ..expected });
        assert_eq!((sum.reads, sum.outstanding, sum.connect_error.as_deref()), (4, 14, Some("x")));
        drop(open);
        assert_eq!(kept.connections(), 0);
    }
}
