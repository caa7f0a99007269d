//! Takes a leased session's state from one primary into a cluster, and back: a switch may replace one by the other.

use std::collections::VecDeque;

use super::Leased;
use super::expect::{Awaited, Effect, Expect};
use super::pins::Transaction;
use crate::cluster::slot::Slot;
use crate::resp::request::Request;
use crate::session::Session;
use crate::session::cluster::Place;

/// Where a transaction can run in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransactionPlace {
    /// At any node: none of its commands has keys.
    Any,
    /// At the node of this slot.
    Slot(Slot),
    /// Nowhere: its keys belong to several slots.
    Nowhere,
}

impl Leased {
    /// Gives up the place of the lost connection if the upstream has another layout now: a cluster has replaced one primary, or the
    /// other way round. Has a transaction fail whose keys belong to several slots. Returns false if the state cannot be on one node.
    pub(super) fn follow_layout(
        &mut self,
        session: &mut Session,
        pending: &mut VecDeque<(Expect, usize)>,
    ) -> bool {
        let upstream = session.ctx.upstream.clone();
        if self.placement.layout == upstream.layout_version() {
            return true;
        }
        (self.placement.slot, self.placement.moves_to) = (None, None);
        if !upstream.is_cluster() {
            return true;
        }
        if self.pins.tracking.is_some() {
            return false;
        }
        session.adopt_shard_channels(self.pins.take_shard_channels());
        let mut exec = pending.iter_mut().find_map(|(expect, _)| match expect {
            Expect::Reply(Awaited { effect: Effect::Exec(transaction), .. }) => Some(&mut **transaction),
            _ => None,
        });
        if let Some(transaction) = exec.take().or(self.pins.transaction.as_mut()) {
            match place_of(transaction, |request| session.place_of(request)) {
                TransactionPlace::Any => {}
                TransactionPlace::Slot(slot) => self.placement.slot = Some(slot),
                TransactionPlace::Nowhere => transaction.forget_body(),
            }
        }
        true
    }
}

/// Returns where a transaction can run, given the place of each request.
fn place_of(transaction: &Transaction, place: impl Fn(&Request<'_>) -> Place) -> TransactionPlace {
    let mut found = TransactionPlace::Any;
    for request in transaction.body().unwrap_or_default().iter().filter_map(|frame| Request::parse(frame)) {
        found = match (place(&request), found) {
            (Place::Home, _) => found,
            (Place::Slot(slot), TransactionPlace::Any) => TransactionPlace::Slot(slot),
            (Place::Slot(slot), TransactionPlace::Slot(known)) if known == slot => found,
            (Place::Slot(_) | Place::Several, _) => return TransactionPlace::Nowhere,
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::encode;

    fn place(requests: &[&[&str]]) -> TransactionPlace {
        let mut transaction = Transaction::default();
        for words in requests {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            let mut frame = Vec::new();
            encode(&words, &mut frame);
            transaction.keep(&frame);
        }
        place_of(&transaction, |request| Place::of(request, |_| None))
    }

    #[test]
    fn a_transaction_runs_at_the_node_of_all_its_keys() {
        assert_eq!(place(&[&["MULTI"]]), TransactionPlace::Any);
        assert_eq!(place(&[&["MULTI"], &["PING"]]), TransactionPlace::Any);
        let slot = TransactionPlace::Slot(Slot::of(b"a"));
        assert_eq!(place(&[&["MULTI"], &["PING"], &["INCR", "a"], &["GET", "{a}b"]]), slot);
        assert_eq!(place(&[&["MULTI"], &["INCR", "a"], &["INCR", "b"]]), TransactionPlace::Nowhere);
        assert_eq!(place(&[&["MULTI"], &["MGET", "a", "b"]]), TransactionPlace::Nowhere);
    }

    #[test]
    fn a_forgotten_body_is_not_sent_again() {
        let mut transaction = Transaction::default();
        transaction.keep(b"*1\r\n$5\r\nMULTI\r\n");
        assert!(transaction.body().is_some());
        transaction.forget_body();
        transaction.keep(b"*1\r\n$4\r\nPING\r\n");
        assert!(transaction.body().is_none());
    }
}
