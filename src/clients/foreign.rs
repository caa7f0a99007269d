//! Reads the server's own CLIENT LIST, for the connections that are not respgate's.

use std::borrow::Cow;
use std::collections::HashSet;

use super::row::ClientRow;
use crate::resp::Resp;

/// The number that is added to the id of a connection to the server where respgate shows it, so that no two shown ids
/// are the same. Below 2^53, up to which JavaScript and Lua count exactly.
pub const FOREIGN: u64 = 8_000_000_000_000_000;

/// Limit of the length of a connection's line, in bytes. A longer line is left out.
const LONGEST_LINE: usize = 64 * 1024;

/// A line of the server's CLIENT LIST.
pub struct ForeignLine<'a> {
    /// What the filters look at. Its id is the shown one.
    pub row: ClientRow<'a>,
    /// The line behind the id.
    rest: &'a str,
}

impl<'a> ForeignLine<'a> {
    /// Reads a line. Returns `None` if it is no line of CLIENT LIST, or if it is about a connection that respgates
    /// opened: one whose id is in `own`, or one without a client's name. `own` has the ids of this respgate's
    /// connections.
    ///
    /// A respgate names a connection only while it serves a blocked or other leased client with a name. So the named
    /// connections of another respgate stand for that respgate's clients. A server before Redis 7.2 does not say which
    /// connections belong to a respgate, so all without a name are left out there, except those of replicas.
    pub fn read(line: &'a str, own: &HashSet<u64>) -> Option<Self> {
        if line.len() > LONGEST_LINE {
            return None;
        }
        let (id, rest) = line.strip_prefix("id=")?.split_once(' ')?;
        let id: u64 = id.parse().ok()?;
        let field =
            |name: &str| rest.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let (name, flags) = (field("name")?, field("flags")?);
        let unnamed = name.is_empty() && !flags.contains(['S', 'M']);
        if own.contains(&id) || unnamed && field("lib-name").is_none_or(|lib| lib == "respgate") {
            return None;
        }
        let row = ClientRow {
            id: FOREIGN.saturating_add(id),
            addr: field("addr")?,
            laddr: field("laddr").unwrap_or_default(),
            name: name.as_bytes(),
            age: number("age"),
            idle: number("idle"),
            flags: Cow::Borrowed(flags),
            db: u32::try_from(number("db")).unwrap_or_default(),
            subscriptions: [0; 3],
            multi: None,
            watch: 0,
            qbuf: 0,
            omem: 0,
            tot_mem: 0,
            cmd: Cow::Borrowed(field("cmd").unwrap_or_default()),
            user: field("user").unwrap_or_default(),
            tracking: false,
            resp: Resp::V2,
            lib_name: field("lib-name").unwrap_or_default().as_bytes(),
            lib_ver: field("lib-ver").unwrap_or_default().as_bytes(),
            net: [0; 2],
        };
        Some(Self { row, rest })
    }

    /// Appends the server's line with the shown id, without the line feed.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("id={} {}", self.row.id, self.rest).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64, name: &str, flags: &str, lib: &str) -> String {
        format!(
            "id={id} addr=127.0.0.1:5 laddr=127.0.0.1:6 fd=9 name={name} age=4 idle=2 flags={flags} db=1 cmd=get \
             user=default resp=2{lib}"
        )
    }

    fn shown(line: &str) -> Option<String> {
        let own = HashSet::from([3]);
        let mut out = Vec::new();
        ForeignLine::read(line, &own)?.write(&mut out);
        String::from_utf8(out).ok()
    }

    #[test]
    fn connections_that_respgates_opened_are_left_out() {
        let ours = " lib-name=respgate lib-ver=";
        let theirs = " lib-name= lib-ver=";
        assert!(shown(&line(4, "", "N", theirs)).is_some(), "a direct connection");
        assert!(shown(&line(4, "", "N", ours)).is_none(), "another respgate's own");
        assert!(shown(&line(4, "worker", "b", ours)).is_some(), "another respgate's client");
        assert!(shown(&line(3, "worker", "b", ours)).is_none(), "this respgate's client");
        assert!(shown(&line(4, "", "N", "")).is_none(), "redis 7.0 does not say whose it is");
        assert!(shown(&line(4, "", "S", "")).is_some(), "a replica");
        assert!(shown(&line(4, "worker", "N", "")).is_some());
        assert!(shown("nonsense").is_none());
    }

    #[test]
    fn the_shown_id_is_not_the_servers() {
        let text = shown(&line(4, "a", "N", "")).unwrap();
        assert!(text.starts_with("id=8000000000000004 addr=127.0.0.1:5 laddr=127.0.0.1:6 fd=9 name=a age=4"));
    }

    #[test]
    fn filters_see_the_servers_fields() {
        let line = line(4, "a", "b", "");
        let row = ForeignLine::read(&line, &HashSet::new()).unwrap().row;
        assert_eq!((row.age, row.idle, row.db, row.user, &*row.flags), (4, 2, 1, "default", "b"));
    }
}
