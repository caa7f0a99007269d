//! The keys of `[tenants.NAME]`, but for the limits.

use super::entry::Table;
use super::kinds::{CertificateNames, CommandRules, NamePrefixes, Networks, Prefixes, Uids, UserNames};
use super::part::Part;
use super::rates::QuotaKeys;
use crate::replica::Reads;
use crate::tenant::config::Pubsub;
use crate::tenant::policy::config::Scripts;
use crate::upstream::shared::fair::fair_queue::Priority;

/// `[tenants.NAME]`.
pub const TABLE: Table = Table {
    path: "tenants.*",
    description: "A tenant is a group of clients with a policy and limits of its own. There may be up to 1024.\n\n\
        A client belongs to the first tenant that matches, in this order of rules over all tenants: `certificates`, `users`, \
        `networks`, `uids`, `tenant` of a listener, `client-names`, `default`. A client that no rule matches belongs to no tenant: no \
        policy and no limits of a tenant apply.",
    entries: TenantKeys::ENTRIES,
    example: "reports",
    more: "",
};

table! {
    /// One tenant: who belongs to it, what they may do, and how they share.
    TenantKeys, TenantDefaults {
        /// The names in client certificates that belong to the tenant, such as `"CN:reports"`, `"DNS:reports.example"` or
        /// `"URI:spiffe://example/reports"`.
        certificates: CertificateNames, "certificates", Live, default "none",
            example "[\"CN:reports\", \"DNS:reports.example\", \"URI:spiffe://example/reports\"]";
        /// The users that the tenant's clients have authenticated as.
        users: UserNames, "users", Live, default "none", example "[\"reports\"]";
        /// The networks that the tenant's clients connect from. If several match a client, the narrowest decides.
        networks: Networks, "networks", Live, default "none", example "[\"10.1.0.0/16\", \"2001:db8::/32\"]";
        /// The numbers of the system's users that connect to a unix socket.
        uids: Uids, "uids", Live, default "none", example "[1000]";
        /// The prefixes of client names. A client matches if the name that it set with `CLIENT SETNAME` begins with one of them.
        /// If several match, the longest decides.
        ///
        /// Clients can set any name. Use this key for order, not for security.
        client_names: NamePrefixes, "client-names", Live, default "none", example "[\"reports-\"]";
        /// Whether clients that no other rule matches belong to this tenant. One tenant can be the default.
        is_default: bool = false, "default", Live;
        /// The rules about commands, in order: `+` allows and `-` denies a command, a `container|subcommand` or an `@category`.
        ///
        /// They work like those of the server's `ACL SETUSER`: at first nothing is allowed, and the last rule about a command
        /// decides. A command includes its subcommands. `AUTH`, `HELLO`, `QUIT` and `RESET` cannot be denied. Administrative
        /// commands need `admin-commands` of the listener besides.
        commands: CommandRules, "commands", Live, default "all commands are allowed", example "[\"+@all\", \"-@dangerous\"]";
        /// The prefixes of keys. Every key of every command must begin with one of them.
        ///
        /// `KEYS` and `SCAN` need a pattern that begins with one of them. Commands whose keys respgate cannot locate are refused.
        key_prefixes: Prefixes, "key-prefixes", Live, default "all keys are allowed", example "[\"app1:\"]";
        /// The prefixes of channels. Every channel must begin with one of them.
        ///
        /// A pattern must begin with one of them up to its first `*`, `?`, `[` or `\`. Keyspace notifications are channels: without
        /// this key they tell of all keys.
        channel_prefixes: Prefixes, "channel-prefixes", Live, default "all channels are allowed", example "[\"app1:\"]";
        /// Whether the tenant's clients may only run commands that change nothing.
        ///
        /// `true` refuses commands of `@write`, `EVAL`, `EVALSHA`, `FCALL` (their `_RO` forms are allowed), administrative commands, and
        /// `SCRIPT FLUSH`, `SCRIPT KILL` and `FUNCTION KILL`. `PUBLISH` is allowed.
        read_only: bool = false, "read-only", Live, example "true";
        /// Whether scripts may run where commands, keys or channels are restricted.
        ///
        /// `"deny"` refuses `EVAL`, `FCALL` and the like, since respgate cannot see what they do. `"declared-keys"` allows them like
        /// any command and checks the keys that they declare.
        scripts: Scripts = Scripts::Deny, "scripts", Live;
        /// The tenant's share, 1 to 1000, of a busy shared connection and of free leases, beside other tenants that wait.
        ///
        /// Within a tenant, clients have equal shares. The clients of no tenant are together one of weight 1.
        weight: usize = 1, "weight", Live, unit "shares";
        /// The rank of the tenant's clients where clients wait. It counts before the weight.
        ///
        /// `"high"` goes before `"normal"`, and `"normal"` before `"low"`. Every 16th turn goes to the lowest rank that waits.
        priority: Priority = Priority::Normal, "priority", Live;
        /// The connections that carry a subscriber's messages.
        ///
        /// `"dedicated"` gives each subscriber an upstream connection. `"fan-in"` lets the subscribers of one worker and one upstream
        /// user share a connection; the server counts them as one.
        pubsub: Pubsub = Pubsub::Dedicated, "pubsub", Live;
        /// The nodes that answer the reads of the tenant's clients, as `reads` of a listener.
        reads: Reads, "reads", Live, default "that of the client's listener", example "\"prefer-replica\"";
    }
    groups {
        /// The limits of the tenant.
        limits: QuotaKeys, prefix "";
    }
}
