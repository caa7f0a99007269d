//! The keys of `[limits]`. All but `max-buffered` may stand in a listener, too.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::value::Bytes;
use super::entry::Table;
use super::kinds::NetworksOrNone;
use super::part::Part;

/// `[limits]`.
pub const TABLE: Table = Table {
    path: "limits",
    description: "These limits apply to the clients of every listener. Each key but `max-buffered` can also stand in \
        `[listeners.NAME]`, where it overrides the value for that listener.\n\n\
        Connection limits hold for the whole process; each worker has an equal share. respgate compares the timeouts once a \
        second, so a timeout ends up to two seconds late and never early.",
    entries: LimitKeys::ENTRIES,
    example: "",
    more: "",
};

/// An application opens far fewer connections in 1 s; a connection storm opens tens of thousands.
const CONNECTS_PER_SECOND: u32 = 1000;

table! {
    /// The limits of all clients of the process together, and of each listener.
    LimitKeys, LimitDefaults {
        /// The memory that all clients together may make respgate keep, for the whole process.
        ///
        /// When it is used up, respgate disconnects the clients that hold most, until an eighth is free.
        max_buffered: Bytes = Bytes(512 << 20), "max-buffered", Live;
    }
    groups {
        /// The limits of each listener.
        sessions: SessionKeys, prefix "";
    }
}

table! {
    /// The limits of one listener's clients.
    SessionKeys, SessionDefaults {
        /// The number of clients that may be connected to one listener at once.
        ///
        /// A further client gets `-ERR max number of clients reached` and is disconnected. respgate lowers the number where the
        /// limit of open files (`ulimit -n`) leaves room for fewer.
        max_clients: usize = 10_000, "max-clients", Live, unit "clients";
        /// The number of connections that one source may open in a second. `0` sets no limit.
        ///
        /// A source is an IPv4 address or an IPv6 /64. A connection above the limit waits for up to 1 s. If it would have to wait
        /// longer, it gets an error (nothing on a TLS port) and is closed. Unix sockets are exempt.
        connects_per_second: u32 = CONNECTS_PER_SECOND, "connects-per-second", Live, unit "connections a second";
        /// The number of connections that one source may open at once after a pause.
        connects_burst: u32, "connects-burst", Live, unit "connections",
            default "twice `connects-per-second`", example "2000";
        /// The networks whose connections `connects-per-second` does not count.
        ///
        /// By default loopback is exempt: the clients of a sidecar all come from there, and all connect at once after a restart. Add
        /// a network that hides many clients behind one address. An empty list exempts nobody.
        connects_exempt: NetworksOrNone = vec![
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        ], "connects-exempt", Live;
        /// The size of one request.
        ///
        /// The client gets `-ERR Protocol error: request larger than N bytes (respgate's max-request)` and is disconnected. The
        /// default is lowered to `max-buffered` if that is less.
        max_request: Bytes = Bytes(512 << 20), "max-request", Live;
        /// The size of one argument of a request.
        ///
        /// The client gets `-ERR Protocol error: invalid bulk length` and is disconnected. The default is lowered to `max-request` if
        /// that is less.
        max_bulk: Bytes = Bytes(512 << 20), "max-bulk", Live;
        /// The number of arguments of one request, at least 16.
        ///
        /// The client gets `-ERR Protocol error: invalid multibulk length` and is disconnected.
        max_args: u32 = 1_048_576, "max-args", Live, unit "arguments";
        /// The size of an inline command: a line that is not RESP.
        ///
        /// The client gets `-ERR Protocol error: too big inline request` and is disconnected.
        max_inline: Bytes = Bytes(64 << 10), "max-inline", Live;
        /// The size of the replies that may wait for one client. A client with more is disconnected.
        ///
        /// The default is lowered to `max-buffered` if that is less.
        max_reply_buffer: Bytes = Bytes(256 << 20), "max-reply-buffer", Live;
        /// The number of commands of one client that may be unanswered.
        ///
        /// respgate reads no further command from such a client until replies have arrived. On a shared connection the replies must
        /// also fit into 4 MiB, and 1024 is the most.
        max_pipeline: usize = 1024, "max-pipeline", Live, unit "commands";
        /// The time after which respgate disconnects a client that has replies waiting, takes no byte of them and sends nothing.
        write_timeout: Duration = Duration::from_secs(60), "write-timeout", Live;
        /// The time after which respgate disconnects a client that sends nothing and waits for nothing. `"0s"` sets no limit.
        ///
        /// Clients that are blocked, subscribed, monitoring or in a transaction are never idle.
        idle_timeout: Duration = Duration::ZERO, "idle-timeout", Live;
        /// The time from `MULTI` or `WATCH` to the end of the transaction. `"0s"` sets no limit.
        ///
        /// respgate disconnects the client and discards the transaction; the upstream connection becomes free.
        transaction_timeout: Duration = Duration::ZERO, "transaction-timeout", Live;
        /// The time from the connect to the first command. `"0s"` sets no limit.
        ///
        /// With `client-auth = "required"` it is the time to the first successful `AUTH`. respgate disconnects the client after it.
        first_command_timeout: Duration = Duration::ZERO, "first-command-timeout", Live;
        /// The time from sending a command to its reply. `"0s"` sets no limit.
        ///
        /// The client gets `-OUTCOMEUNKNOWN respgate: no reply came within command-timeout; …` and stays connected, unless its connection
        /// has state such as a transaction. respgate drops a reply that comes later. Blocking commands have no such limit.
        command_timeout: Duration = Duration::ZERO, "command-timeout", Live;
        /// The size of the replies that may wait for one client for `slow-reader-soft-time`. `0` sets no limit.
        ///
        /// respgate disconnects a client that has more waiting for that long. `max-reply-buffer` is the limit that applies at once.
        /// Without this limit, respgate reads no more messages for a subscriber that has 256 KiB waiting.
        slow_reader_soft: Bytes = Bytes(0), "slow-reader-soft", Live;
        /// The time for which more than `slow-reader-soft` may wait. At least `"1s"`.
        slow_reader_soft_time: Duration = Duration::from_secs(60), "slow-reader-soft-time", Live;
        /// The time after which TCP asks a silent client's machine whether it is still there. At least `"1s"`.
        ///
        /// respgate notices a machine that vanished after about this time.
        keepalive: Duration = Duration::from_secs(300), "keepalive", Live;
    }
}
