//! Shows one client as CLIENT LIST does.

use std::borrow::Cow;

use crate::resp::Resp;

/// What CLIENT LIST shows of one client. Figures that only a server has (fd, argv-mem and the like) are zero.
#[derive(Clone, Debug)]
pub struct ClientRow<'a> {
    /// The client's id.
    pub id: u64,
    /// The client's own address.
    pub addr: &'a str,
    /// The address that the client connected to.
    pub laddr: &'a str,
    /// The name by CLIENT SETNAME.
    pub name: &'a [u8],
    /// Time since the client connected, in seconds.
    pub age: u64,
    /// Time since the client last sent or received something, in seconds.
    pub idle: u64,
    /// The letters of the client's flags.
    pub flags: Cow<'a, str>,
    /// The selected database.
    pub db: u32,
    /// Number of subscribed channels, patterns and shard channels.
    pub subscriptions: [usize; 3],
    /// Number of commands in the open transaction; `None` without one.
    pub multi: Option<usize>,
    /// Number of watched keys.
    pub watch: usize,
    /// Bytes of requests that wait.
    pub qbuf: usize,
    /// Bytes of replies that wait.
    pub omem: usize,
    /// All bytes that respgate holds for the client.
    pub tot_mem: usize,
    /// The last command as the server spells it; `NULL` before the first.
    pub cmd: Cow<'a, str>,
    /// The client's user.
    pub user: &'a str,
    /// True if CLIENT TRACKING is on.
    pub tracking: bool,
    /// The protocol version.
    pub resp: Resp,
    /// The library name by CLIENT SETINFO.
    pub lib_name: &'a [u8],
    /// The library version by CLIENT SETINFO.
    pub lib_ver: &'a [u8],
    /// Bytes read from the client and written to it.
    pub net: [u64; 2],
}

impl ClientRow<'_> {
    /// Appends the client's line, without the line feed.
    pub fn write(&self, out: &mut Vec<u8>) {
        let [sub, psub, ssub] = self.subscriptions;
        out.extend_from_slice(
            format!("id={} addr={} laddr={} fd=0 name=", self.id, self.addr, self.laddr).as_bytes(),
        );
        out.extend_from_slice(self.name);
        let multi = self.multi.and_then(|queued| i64::try_from(queued).ok()).unwrap_or(-1);
        out.extend_from_slice(
            format!(
                " age={} idle={} flags={} db={} sub={sub} psub={psub} ssub={ssub} multi={multi} watch={} \
                 qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} \
                 events={} cmd={} user={} redir={} resp={} lib-name=",
                self.age,
                self.idle,
                self.flags,
                self.db,
                self.watch,
                self.qbuf,
                self.omem,
                self.tot_mem,
                if self.omem > 0 { "rw" } else { "r" },
                self.cmd,
                self.user,
                if self.tracking { 0 } else { -1 },
                match self.resp {
                    Resp::V2 => 2,
                    Resp::V3 => 3,
                },
            )
            .as_bytes(),
        );
        out.extend_from_slice(self.lib_name);
        out.extend_from_slice(b" lib-ver=");
        out.extend_from_slice(self.lib_ver);
        let [read, written] = self.net;
        out.extend_from_slice(format!(" tot-net-in={read} tot-net-out={written}").as_bytes());
    }
}

/// The kinds of clients that TYPE tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// Any other client.
    Normal,
    /// A replica.
    Replica,
    /// A client with subscriptions.
    Pubsub,
    /// The server's primary.
    Primary,
}

impl ClientKind {
    /// Returns the kind of a client with these flags.
    pub fn of(flags: &str) -> Self {
        let has = |letter| flags.contains(letter);
        match () {
            () if has('M') => Self::Primary,
            () if has('S') => Self::Replica,
            () if has('P') => Self::Pubsub,
            () => Self::Normal,
        }
    }
}

#[cfg(test)]
pub(super) fn sample() -> ClientRow<'static> {
    ClientRow {
        id: 7,
        addr: "127.0.0.1:4000",
        laddr: "127.0.0.1:6379",
        name: b"worker",
        age: 20,
        idle: 3,
        flags: "b".into(),
        db: 2,
        subscriptions: [1, 2, 3],
        multi: None,
        watch: 0,
        qbuf: 4,
        omem: 0,
        tot_mem: 500,
        cmd: "blpop".into(),
        user: "default",
        tracking: false,
        resp: Resp::V3,
        lib_name: b"redis-py",
        lib_ver: b"6",
        net: [10, 20],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_servers_fields_in_the_servers_order() {
        let mut line = Vec::new();
        sample().write(&mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "id=7 addr=127.0.0.1:4000 laddr=127.0.0.1:6379 fd=0 name=worker age=20 idle=3 flags=b db=2 sub=1 psub=2 \
             ssub=3 multi=-1 watch=0 qbuf=4 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
             tot-mem=500 events=r cmd=blpop user=default redir=-1 resp=3 lib-name=redis-py lib-ver=6 tot-net-in=10 \
             tot-net-out=20"
        );
    }

    #[test]
    fn the_kind_follows_from_the_flags() {
        for (flags, kind) in [
            ("N", ClientKind::Normal),
            ("O", ClientKind::Normal),
            ("P", ClientKind::Pubsub),
            ("S", ClientKind::Replica),
            ("M", ClientKind::Primary),
        ] {
            assert_eq!(ClientKind::of(flags), kind, "{flags}");
        }
    }
}
