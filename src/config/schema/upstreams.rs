//! The keys of `[upstreams.NAME]`, but for credentials and TLS.

use std::time::Duration;

use super::super::url::UpstreamUrl;
use super::super::value::Bytes;
use super::credentials::Credentials;
use super::entry::Table;
use super::kinds::{AddressMap, NodeAddresses, SentinelAddresses};
use super::part::Part;
use super::tls::ClientTlsKeys;
use crate::discovery::config::SwitchRule;
use crate::topology::Address;
use crate::upstream::config::{
    BlockedPop, ClientAuth, CrossSlotWrites, Pool, ReadYourWrites, ReadsInHold, Reauth, RetryWrites,
};

/// `[upstreams.NAME]`.
pub const TABLE: Table = Table {
    path: "upstreams.*",
    description: "An upstream is a server, a primary that Sentinels know, or a cluster, to which respgate sends commands. There may be any \
        number, and there must be one. `url`, `address` and `sentinels` say where it is: give one of them.\n\n\
        Connection limits hold for the whole process; each worker has an equal share.",
    entries: UpstreamKeys::ENTRIES,
    example: "main",
    more: r##"[upstreams.cache]
address = "cache.example:6379"
password-env = "CACHE_PASSWORD"

[upstreams.queue]
url = "redis-sentinel://queue@s1.example,s2.example/3#queue"
password-env = "QUEUE_PASSWORD"
sentinel-password-env = "SENTINEL_PASSWORD"
"##,
};

table! {
    /// One upstream.
    UpstreamKeys, UpstreamDefaults {}
    groups {
        /// Where it is.
        discovery: DiscoveryKeys, prefix "";
        /// respgate's own user at its nodes.
        credentials: Credentials, prefix "";
        /// respgate's own user at the Sentinels.
        sentinel_credentials: Credentials, prefix "sentinel-", about "Works like KEY, for the Sentinels.",
            defaults { "username": "the Sentinels' default user" };
        /// TLS to the nodes.
        tls: ClientTlsKeys, prefix "";
        /// TLS to the Sentinels.
        sentinel_tls: ClientTlsKeys, prefix "sentinel-", about "Works like KEY, for connections to Sentinels.",
            defaults {
                "tls": "the value of `tls`, or what the scheme of `url` says",
                "tls-ca": "the authorities and revocation lists of the upstream, if no `sentinel-` key names any",
                "tls-system-roots": "that of the upstream, if no `sentinel-` key names authorities; else as for `tls-system-roots`",
                "tls-crl": "those of the upstream, if no `sentinel-` key names authorities; else none",
                "tls-cert": "the certificate and key of the upstream",
                "tls-key": "the certificate and key of the upstream",
                "tls-min-version": "the value of `tls-min-version`"
            };
        /// Its connections.
        connections: ConnectionKeys, prefix "";
        /// The treatment of commands in a failover.
        failover: FailoverKeys, prefix "";
        /// Reads from its replicas.
        reads: ReplicaKeys, prefix "";
        /// Commands for several shards of a cluster.
        cluster: ClusterKeys, prefix "";
    }
}

table! {
    /// The address of an upstream, and the way to find its primary.
    DiscoveryKeys, DiscoveryDefaults {
        /// The server, the Sentinels or the cluster as a URL, which may also hold user, password and database.
        ///
        /// `redis://[user:password@]host[:6379][/database]` is one server.
        /// `redis-sentinel://s1[:26379],s2,s3[/database]#primary-name` is a primary that Sentinels know. `unix:/path[?db=N]` is a unix
        /// socket. `redis-cluster://c1[:6379],c2` names nodes of a cluster. `rediss`, `rediss-sentinel` and `rediss-cluster` turn TLS on,
        /// and `valkey` in place of `redis` means the same. Write `/ # ? % @` in a password as `%2F %23 %3F %25 %40`.
        url: UpstreamUrl, "url", Live, default "none; one of `url`, `address` and `sentinels` is required",
            example "\"redis-sentinel://s1.example,s2.example,s3.example/0#mymaster\"", aside "instead of `sentinels`";
        /// The address of one server: `host:port`, or `unix:` and the path of a socket. Without a port, it is 6379.
        address: Address, "address", Live, default "none; one of `url`, `address` and `sentinels` is required",
            example "\"db.example:6379\"", aside "instead of `sentinels`";
        /// The addresses of Sentinels. respgate also asks the Sentinels that these know of.
        sentinels: SentinelAddresses, "sentinels", Live, default "none; one of `url`, `address` and `sentinels` is required",
            example "[\"s1.example:26379\", \"s2.example:26379\", \"[2001:db8::3]:26379\"]";
        /// The name of the primary at the Sentinels.
        primary_name: String, "primary-name", Live, default "none; required with `sentinels`", example "\"mymaster\"";
        /// The interval at which respgate asks the Sentinels when no event comes, or the nodes of a cluster. At least `"10ms"`.
        poll_interval: Duration = Duration::from_secs(1), "poll-interval", Live;
        /// The time that one Sentinel may take to answer. At least `"10ms"`.
        sentinel_timeout: Duration = Duration::from_millis(500), "sentinel-timeout", Live;
        /// The rule by which respgate follows the Sentinels to a new primary.
        ///
        /// `"majority"` follows when most Sentinels name it. `"leader"` follows as soon as the node says that it is a primary and the
        /// Sentinel that leads the failover has chosen it, up to a second earlier. If that Sentinel is cut off from the others, or
        /// lies, clients write for up to 5 s to a node that the majority does not follow, and these writes are lost.
        switch: SwitchRule = SwitchRule::Majority, "switch", Live;
        /// The addresses that respgate dials instead of those that Sentinels, or the nodes of a cluster, announce.
        nat: AddressMap, "nat", Live, default "none",
            example "{ \"10.0.0.5:6379\" = \"127.0.0.1:7001\", \"10.0.0.6:6379\" = \"127.0.0.1:7002\" }";
    }
}

table! {
    /// The connections of an upstream.
    ConnectionKeys, ConnectionDefaults {
        /// The number of the database that clients start in.
        database: u32 = 0, "database", Live;
        /// Whether clients must authenticate.
        ///
        /// With `"optional"`, a client without `AUTH` acts as the user of the upstream. With `"required"`, it gets
        /// `-NOAUTH Authentication required.`, and the upstream's user serves respgate's own checks only.
        client_auth: ClientAuth = ClientAuth::Optional, "client-auth", Restart;
        /// The sharing of upstream connections by clients.
        ///
        /// `"shared"` sends the commands of many clients over few connections. `"session"` gives each client a connection of its own.
        pool: Pool = Pool::Shared, "pool", Restart;
        /// The number of connections to this upstream, all workers together, at least 2.
        ///
        /// If only `max-leased` is set and too large for the default, the default is `max-leased` and 64 more.
        max_connections: usize = 1088, "max-connections", Live, unit "connections";
        /// The number of those connections that clients may have to themselves at once.
        ///
        /// It must be less than `max-connections`, unless `pool` is `"session"`. When all are in use, a command waits for its
        /// turn, for `lease-timeout` at most.
        max_leased: usize, "max-leased", Live, unit "connections",
            default "`max-connections` minus a quarter of it, but never minus more than 64: 1024", example "1024";
        /// The time that a command waits for a free lease.
        ///
        /// After it, the client gets `-ERR respgate: no upstream connection became free within … ms; …`.
        lease_timeout: Duration = Duration::from_secs(5), "lease-timeout", Live, formerly "lease-wait";
        /// The time after which an unused lease is closed. At least `"1ms"`.
        lease_idle_timeout: Duration = Duration::from_secs(60), "lease-idle-timeout", Live, formerly "lease-idle";
        /// The interval at which respgate pings a quiet connection and asks the address and the node whether they are still the
        /// primary. With a fixed address, respgate also looks up its name, and asks the node on a connection that stays open, every
        /// 500 ms at least. `"0s"` turns all of this off.
        ///
        /// A connection that a client holds, such as a subscriber's, is pinged a twentieth as often. A blocked connection and one in a
        /// transaction are not pinged.
        ping_interval: Duration = Duration::from_secs(3), "ping-interval", Live;
        /// Whether respgate asks the primary and its replicas once a second how far they have replicated.
        ///
        /// The status page and the metrics show it. It takes one connection to the primary and one to each replica that the Sentinels
        /// name. Without `admin` and `control-socket`, nobody is asked.
        replica_sampling: bool = true, "replica-sampling", Live;
        /// The age before which a connection is replaced by a new one. `"0s"` sets no limit; else at least `"1s"`.
        ///
        /// Clients do not notice. Connections that clients hold are not replaced.
        max_age: Duration = Duration::from_secs(3600), "max-age", Live;
        /// The treatment of open connections when respgate's user, password or certificates change.
        ///
        /// `"keep"` keeps them, since servers go on serving them. `"reconnect"` replaces them within 5 s; clients do not notice, and
        /// connections that sessions hold stay. `"refresh"` does the same, and authenticates those again that sessions hold.
        reauth: Reauth = Reauth::Keep, "reauth", Live;
        /// The time for name look-up, connect and greeting together. At least `"1ms"`.
        ///
        /// respgate tries again, for `hold-timeout` at most.
        connect_timeout: Duration = Duration::from_secs(2), "connect-timeout", Live;
        /// The time that a reply on a shared connection may take. `"0s"` sets no limit.
        ///
        /// After it, respgate gives up the connection. Reads get an error, writes get `-OUTCOMEUNKNOWN`. Blocking commands have no
        /// such limit.
        response_timeout: Duration = Duration::from_secs(60), "response-timeout", Live;
    }
}

table! {
    /// The treatment of commands while an upstream has no primary, or loses a connection.
    FailoverKeys, FailoverDefaults {
        /// The time that commands wait for a primary. `"0s"` lets them fail at once.
        ///
        /// After it, the client gets `-ERR respgate: no primary to send to for … s (upstream '…', hold-timeout): …`, with the reason.
        hold_timeout: Duration = Duration::from_secs(40), "hold-timeout", Live;
        /// The memory for commands that wait for a primary, all workers together. At least `"64KiB"`. Further commands fail at once.
        hold_buffer: Bytes = Bytes(64 << 20), "hold-buffer", Live;
        /// Whether respgate sends a read again if the connection was lost before the reply, three times in all.
        retry_reads: bool = true, "retry-reads", Live;
        /// The writes that respgate sends again if the connection was lost before the reply. Such a write may run twice.
        ///
        /// `"never"` answers each with `-OUTCOMEUNKNOWN`. `"same-reply"` sends `SET` and others again that leave the same data and give
        /// the same reply when they run twice. `"idempotent"` also sends those again whose second reply can differ, such as `SADD`
        /// and `DEL`. Commands such as `INCR`, `LPUSH`, `EXEC` and scripts are never sent twice.
        retry_writes: RetryWrites = RetryWrites::Never, "retry-writes", Live;
        /// The answer to a blocked pop whose connection broke before the server answered.
        ///
        /// `"timeout"` answers as if its time were up. `"continue"` sends it again for the time that is left. What the server popped
        /// just then is lost in both cases.
        blocked_pop: BlockedPop = BlockedPop::TimesOut, "blocked-pop", Live;
    }
}

table! {
    /// Reads from the replicas of an upstream, for clients whose `reads` is not `"primary"`.
    ReplicaKeys, ReplicaDefaults {
        /// The addresses of the replicas of a fixed upstream: `host:port`. respgate sends its password there.
        ///
        /// Sentinels and the nodes of a cluster name the replicas themselves, so an upstream with either has no such key.
        replicas: NodeAddresses, "replicas", Live, default "none",
            example "[\"replica1.example:6379\", \"replica2.example:6379\"]", aside "instead of `sentinels`";
        /// The greatest age of a write that a replica may lack and still serve reads. At least `"200ms"`.
        ///
        /// respgate measures it itself: it asks the primary and the replicas how far they are. Without fresh answers of both, no replica
        /// serves.
        max_lag: Duration = Duration::from_secs(1), "max-lag", Live;
        /// The number of bytes of the primary's history that a replica may lack and still serve reads.
        max_lag_bytes: Bytes = Bytes(16 << 20), "max-lag-bytes", Live;
        /// Whose earlier writes a read shows.
        ///
        /// With `"session"`, a client's reads show every write that was answered on the same connection before. They go to the primary
        /// until a replica has that write. With `"tenant"`, they also show every write that was answered to any client of the same tenant of this
        /// process before the read was sent; clients of the upstream that belong to no tenant count as one tenant. `"off"` lets a read miss
        /// them, for `max-lag` at most.
        read_your_writes: ReadYourWrites = ReadYourWrites::Session, "read-your-writes", Live;
        /// The treatment of reads while there is no primary, for clients whose reads come from replicas.
        ///
        /// With `"wait"`, they wait as all other commands. With `"replica"`, replicas that were within `max-lag` when the primary answered
        /// last go on answering them, for `hold-timeout` at most. Nobody can tell how old the data is then; see
        /// [replica-reads.md](replica-reads.md#reads-while-there-is-no-primary).
        reads_in_hold: ReadsInHold = ReadsInHold::Wait, "reads-in-hold", Live;
        /// The availability zone in which respgate runs. Replicas that name the same zone are preferred.
        ///
        /// Valkey 8.0 and later name the zone of their own setting `availability-zone`. Other servers name none.
        availability_zone: String, "availability-zone", Live, default "none", example "\"eu-central-1a\"";
    }
}

table! {
    /// Commands for several shards of a cluster.
    ClusterKeys, ClusterDefaults {
        /// The treatment of `MSET` in a cluster if its keys are in several slots.
        ///
        /// `"refuse"` answers with the error of a cluster's server, `-CROSSSLOT Keys in request don't hash to the same slot`. `"split"`
        /// sends each slot its part. This is not atomic: other clients may see some of the writes before others, and if one part fails,
        /// the others may have been done. See [cluster.md](cluster.md#commands-with-keys-in-several-slots).
        cross_slot_writes: CrossSlotWrites = CrossSlotWrites::Refuse, "cross-slot-writes", Live;
    }
}
