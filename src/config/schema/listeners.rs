//! The keys of `[listeners.NAME]`.

use super::super::address::ListenAddress;
use super::super::value::Mode;
use super::entry::Table;
use super::kinds::{Endpoint, Networks};
use super::limits::SessionKeys;
use super::part::Part;
use super::tls::ServerTlsKeys;
use crate::replica::Reads;
use crate::session::config::AdminCommands;

/// `[listeners.NAME]`.
pub const TABLE: Table = Table {
    path: "listeners.*",
    description: "A listener is an address at which clients connect. There may be any number. Without any, respgate listens on \
        127.0.0.1:6379.",
    entries: ListenerKeys::ENTRIES,
    example: "app",
    more: r#"[listeners.local]
address = "unix:/run/respgate/respgate.sock"
mode = "0700"
upstream = "cache"
tenant = "reports"
max-clients = 100
"#,
};

table! {
    /// One listener.
    ListenerKeys, ListenerDefaults {
        /// The address at which clients connect: an IP address and a port, or `unix:` and the path of a socket.
        ///
        /// `0.0.0.0` and `[::]` are all interfaces of the machine. respgate warns where other machines can connect and clients need
        /// neither `AUTH` nor a certificate.
        address: ListenAddress, "address", Live, default required, example "\"127.0.0.1:6379\"";
        /// The permissions of a unix socket, in octal. The default admits the user that respgate runs as.
        mode: Mode = Mode(0o700), "mode", Live, aside "for a unix socket";
        /// The upstream that runs the commands of these clients: the NAME of an `[upstreams.NAME]`.
        upstream: String, "upstream", Live, default "`main`, or the only upstream", example "\"main\"";
        /// The tenant that these clients belong to, unless a rule of higher rank decides: the NAME of a `[tenants.NAME]`.
        ///
        /// A tenant's certificates, users, networks and uids rank above this key. A client that no rule matches belongs to no tenant:
        /// no policy and no limits of a tenant apply.
        tenant: String, "tenant", Live, default "none", example "\"reports\"";
        /// The networks of load balancers that send a PROXY protocol header.
        ///
        /// respgate takes a client's address from the header. Every connection from these networks must begin with one, version 1 or 2,
        /// within 5 s; a connection without one is closed and logged. A listener on a unix socket cannot have this key.
        proxy_protocol: Networks, "proxy-protocol", Live, default "none", example "[\"10.0.0.0/8\"]";
        /// The address that clients of this listener can move to when respgate stops, such as that of a load balancer.
        ///
        /// It is for clients that ask for an endpoint with `CLIENT MAINT_NOTIFICATIONS ON MOVING-ENDPOINT-TYPE`, as redis-py and
        /// node-redis do by default: the `MOVING` notification names it. Without this key, only clients that ask for the type
        /// `none` get `MOVING`, and connect again to the address that they have.
        moving_endpoint: Endpoint, "moving-endpoint", Live, default "none", example "\"cache.example:6379\"";
        /// The nodes that answer the clients' reads.
        ///
        /// `"primary"` reads from the primary. `"prefer-replica"` reads from a replica that lags less than `max-lag`, and from the primary
        /// while there is none. `"replica"` lets reads wait instead, for `hold-timeout` at most. `"on-request"` reads from the primary until
        /// the client sends `READONLY`, then as `"prefer-replica"` until it sends `READWRITE`. Writes, transactions, scripts and blocking
        /// commands always go to the primary. See [replica-reads.md](replica-reads.md).
        reads: Reads = Reads::Primary, "reads", Live;
        /// Whether clients may run administrative commands, such as `CONFIG SET` and `SHUTDOWN`.
        ///
        /// `"deny"` refuses them. `"read-only"` allows those that only show something. `"allow"` allows all; the upstream
        /// connection that ran one is closed afterwards. `SYNC`, `PSYNC`, `REPLCONF` and `SCRIPT DEBUG` are refused in each case.
        ///
        /// Scripts can run some administrative commands all the same, unless the server's ACL forbids them: `respgate check` prints
        /// the ACL rules.
        admin_commands: AdminCommands, "admin-commands", Live,
            default "`\"read-only\"` on loopback and unix sockets if there are no tenants, else `\"deny\"`", example "\"deny\"";
    }
    groups {
        /// TLS towards clients.
        tls: ServerTlsKeys, prefix "";
        /// The limits that override `[limits]`.
        limits: SessionKeys, prefix "", home "limits";
    }
}
