//! Tells from two nodes' `INFO` whether one continues the replication history of the other. Pure.

/// A node's place in its replication history, as its `INFO replication` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// `master_replid`: the history that the node writes.
    id: String,
    /// `master_repl_offset`: the length of the history, in bytes.
    offset: u64,
    /// `master_replid2`: the history that this one continues; zeros if there is none.
    continues: String,
    /// `second_repl_offset`: the first offset that is not part of the continued history.
    from: Option<u64>,
}

/// Why the target does not continue the history of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Break {
    /// The target has another history.
    #[error(
        "its data is not that of the present server: it was never its replica, or it was promoted from another history; make \
         it a replica, pause, promote it and switch, or state --data-copied"
    )]
    Unrelated,
    /// The source has bytes that the target lacks.
    #[error(
        "the present server has written {0} bytes of replication since the target was promoted, and they would be lost; make \
         it a replica again, pause, promote it and switch, or state --data-copied"
    )]
    Behind(u64),
}

impl History {
    /// Parses the replication section of INFO.
    pub(super) fn from_info(info: &str) -> Option<Self> {
        let field = |key: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            Some(value.trim_end().to_owned())
        };
        Some(Self {
            id: field("master_replid")?,
            offset: field("master_repl_offset")?.parse().ok()?,
            continues: field("master_replid2")?,
            from: field("second_repl_offset").and_then(|offset| offset.parse().ok()),
        })
    }

    /// Checks that this node, a primary, holds everything that `source` has written.
    ///
    /// # Errors
    /// Returns what is missing.
    pub(super) fn continues(&self, source: &Self) -> Result<(), Break> {
        if self.id == source.id {
            // The same node under another address: only one primary writes a history.
            return match source.offset.checked_sub(self.offset) {
                Some(missing) if missing > 0 => Err(Break::Behind(missing)),
                _ => Ok(()),
            };
        }
        let Some(from) = self.from.filter(|_| self.continues == source.id) else {
            return Err(Break::Unrelated);
        };
        match (source.offset + 1).checked_sub(from) {
            Some(missing) if missing > 0 => Err(Break::Behind(missing)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(id: &str, offset: u64, continues: &str, from: i64) -> History {
        let info = format!(
            "# Replication\r\nrole:master\r\nmaster_replid:{id}\r\nmaster_replid2:{continues}\r\n\
             master_repl_offset:{offset}\r\nsecond_repl_offset:{from}\r\n"
        );
        History::from_info(&info).expect("a history")
    }

    #[test]
    fn only_a_promoted_replica_that_has_everything_continues() {
        let source = history("aaa", 100, "000", -1);
        assert_eq!(history("bbb", 100, "aaa", 101).continues(&source), Ok(()));
        assert_eq!(history("bbb", 900, "aaa", 101).continues(&source), Ok(()), "it was written to since");
        assert_eq!(history("bbb", 90, "aaa", 91).continues(&source), Err(Break::Behind(10)));
        assert_eq!(history("bbb", 100, "ccc", 101).continues(&source), Err(Break::Unrelated));
        assert_eq!(history("bbb", 100, "000", -1).continues(&source), Err(Break::Unrelated));
        assert_eq!(history("aaa", 100, "000", -1).continues(&source), Ok(()), "the node itself");
        assert_eq!(history("aaa", 60, "000", -1).continues(&source), Err(Break::Behind(40)), "a replica");
    }

    #[test]
    fn an_incomplete_answer_is_no_history() {
        assert_eq!(History::from_info("role:master\r\n"), None);
    }
}
