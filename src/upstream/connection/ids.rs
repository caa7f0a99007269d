//! Knows the server's ids of the open connections.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

/// The server's ids of one worker's open connections to one upstream. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(in crate::upstream) struct ConnectionIds(Rc<RefCell<HashSet<u64>>>);

impl ConnectionIds {
    /// Adds the id of a connection that was opened; `None` if the server did not tell it.
    pub(in crate::upstream) fn add(&self, id: Option<u64>) -> ConnectionId {
        if let Some(id) = id {
            self.0.borrow_mut().insert(id);
        }
        ConnectionId { id, ids: self.clone() }
    }

    /// Returns all ids.
    pub(in crate::upstream) fn all(&self) -> Vec<u64> {
        self.0.borrow().iter().copied().collect()
    }
}

/// The server's id of an open connection. Dropping it removes the id from the open ones.
#[derive(Debug, Default)]
pub struct ConnectionId {
    id: Option<u64>,
    ids: ConnectionIds,
}

impl ConnectionId {
    /// Returns the id; `None` if the server did not tell it.
    pub fn get(&self) -> Option<u64> {
        self.id
    }
}

impl Drop for ConnectionId {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.ids.0.borrow_mut().remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_while_its_connection_is_open() {
        let ids = ConnectionIds::default();
        let open = ids.add(Some(4));
        let _unknown = ids.add(None);
        assert_eq!((ids.all(), open.get()), (vec![4], Some(4)));
        drop(open);
        assert!(ids.all().is_empty());
    }
}
