//! Selects what `admin-commands = "read-only"` adds: commands that show the state of the server, do not change
//! it, and do not show what other users do. Pure.

use crate::resp::request::{self, Request};

/// Limit of the length of a CONFIG GET pattern, in bytes. No parameter has a longer name; a longer pattern
/// matches nothing.
const MAX_PATTERN: usize = 64;

/// The parameters of CONFIG GET that are shown: all of Valkey 8.0 to 9.1 and Redis 7.0 to 8.0, except passwords,
/// users, the hash seed, and the locations of keys and ACLs.
const PARAMETERS: &str = "\
    acl-pubsub-default acllog-max-len active-defrag-cycle-max active-defrag-cycle-min \
    active-defrag-cycle-us active-defrag-ignore-bytes active-defrag-max-scan-fields \
    active-defrag-threshold-lower active-defrag-threshold-upper active-expire-effort activedefrag \
    activerehashing always-show-logo aof-load-truncated aof-rewrite-cpulist aof_rewrite_cpulist \
    aof-rewrite-incremental-fsync aof-timestamp-enabled aof-use-rdb-preamble appenddirname \
    appendfilename appendfsync appendonly auto-aof-rewrite-min-size auto-aof-rewrite-percentage \
    availability-zone bgsave-cpulist bgsave_cpulist bind bind-source-addr bio-cpulist bio_cpulist busy-reply-threshold \
    client-output-buffer-limit client-query-buffer-limit cluster-allow-pubsubshard-when-down \
    cluster-allow-reads-when-down cluster-allow-replica-migration cluster-announce-bus-port \
    cluster-announce-client-ipv4 cluster-announce-client-ipv6 cluster-announce-client-port \
    cluster-announce-client-tls-port cluster-announce-hostname cluster-announce-human-nodename \
    cluster-announce-ip cluster-announce-port cluster-announce-tls-port cluster-blacklist-ttl \
    cluster-compatibility-sample-ratio cluster-config-file cluster-config-save-behavior \
    cluster-databases cluster-enabled cluster-link-sendbuf-limit cluster-manual-failover-timeout \
    cluster-migration-barrier cluster-node-timeout cluster-port cluster-preferred-endpoint-type \
    cluster-replica-no-failover cluster-replica-validity-factor cluster-require-full-coverage \
    cluster-slave-no-failover cluster-slave-validity-factor cluster-slot-migration-log-max-len \
    cluster-slot-stats-enabled commandlog-execution-slower-than commandlog-large-reply-max-len \
    commandlog-large-request-max-len commandlog-reply-larger-than commandlog-request-larger-than \
    commandlog-slow-execution-max-len crash-log-enabled crash-memcheck-enabled daemonize databases \
    dbfilename dir disable-thp dual-channel-replication-enabled dynamic-hz enable-debug-command \
    enable-module-command enable-protected-configs events-per-io-thread extended-redis-compatibility \
    hash-max-listpack-entries hash-max-listpack-value hash-max-ziplist-entries hash-max-ziplist-value \
    hide-user-data-from-log hll-sparse-max-bytes hz ignore-warnings import-mode io-threads \
    io-threads-do-reads jemalloc-bg-thread latency-monitor-threshold latency-tracking \
    latency-tracking-info-percentiles lazyfree-lazy-eviction lazyfree-lazy-expire \
    lazyfree-lazy-server-del lazyfree-lazy-user-del lazyfree-lazy-user-flush lfu-decay-time \
    lfu-log-factor list-compress-depth list-max-listpack-size list-max-ziplist-size locale-collate \
    log-format log-timestamp-format logfile loglevel lua-time-limit max-new-connections-per-cycle \
    max-new-tls-connections-per-cycle maxclients maxmemory maxmemory-clients \
    maxmemory-eviction-tenacity maxmemory-policy maxmemory-samples min-replicas-max-lag \
    min-replicas-to-write min-slaves-max-lag min-slaves-to-write mptcp no-appendfsync-on-rewrite \
    notify-keyspace-events oom-score-adj oom-score-adj-values pidfile port prefetch-batch-max-size \
    proc-title-template propagation-error-behavior protected-mode proto-max-bulk-len rdb-del-sync-files \
    rdb-save-incremental-fsync rdb-version-check rdbchecksum rdbcompression rdma-bind \
    rdma-completion-vector rdma-port rdma-rx-size repl-backlog-size repl-backlog-ttl \
    repl-disable-tcp-nodelay repl-diskless-load repl-diskless-sync repl-diskless-sync-delay \
    repl-diskless-sync-max-replicas repl-mptcp repl-ping-replica-period repl-ping-slave-period \
    repl-timeout replica-announce-ip replica-announce-port replica-announced \
    replica-full-sync-buffer-limit replica-ignore-disk-write-errors replica-ignore-maxmemory \
    replica-lazy-flush replica-priority replica-read-only replica-serve-stale-data replicaof \
    sanitize-dump-payload save server-cpulist server_cpulist set-max-intset-entries set-max-listpack-entries \
    set-max-listpack-value set-proc-title shutdown-on-sigint shutdown-on-sigterm shutdown-timeout \
    slave-announce-ip slave-announce-port slave-ignore-maxmemory slave-lazy-flush slave-priority \
    slave-read-only slave-serve-stale-data slaveof slot-migration-max-failover-repl-bytes \
    slowlog-log-slower-than slowlog-max-len socket-mark-id stop-writes-on-bgsave-error \
    stream-node-max-bytes stream-node-max-entries supervised syslog-enabled syslog-facility \
    syslog-ident tcp-backlog tcp-keepalive timeout tls-auth-clients tls-auto-reload-interval \
    tls-ciphers tls-ciphersuites tls-cluster tls-port tls-prefer-server-ciphers tls-protocols \
    tls-replication tls-session-cache-size tls-session-cache-timeout tls-session-caching \
    tracking-table-max-keys unixsocket unixsocketgroup unixsocketperm zset-max-listpack-entries \
    zset-max-listpack-value zset-max-ziplist-entries zset-max-ziplist-value";

/// Parameters that clients ask for on connect and that reveal nothing. A CONFIG GET of these alone reaches the
/// server even where administrative commands are denied. These are compared as names, not as patterns.
const HARMLESS: [&str; 10] = [
    "appendonly",
    "databases",
    "maxmemory",
    "maxmemory-policy",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "replica-read-only",
    "save",
    "slave-read-only",
    "timeout",
];

/// Returns true if a CONFIG GET names only parameters that anybody may see.
pub(super) fn is_harmless(request: &Request<'_>) -> bool {
    request
        .args()
        .skip(2)
        .all(|name| HARMLESS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())))
}

/// Returns the CONFIG GET to send in place of `request`, or `None` if it would name no parameter. The shown
/// parameters that match replace each pattern, so that the server never sends another.
pub(super) fn shown(request: &Request<'_>) -> Option<Vec<u8>> {
    let mut words: Vec<&[u8]> = vec![b"CONFIG", b"GET"];
    let mut left: Vec<&str> = PARAMETERS.split_ascii_whitespace().collect();
    for pattern in request.args().skip(2).filter(|pattern| pattern.len() <= MAX_PATTERN) {
        let glob = is_glob(pattern);
        left.retain(|name| {
            // The server answers a plain name in the client's own spelling.
            let shown = match glob {
                true => matches(pattern, name.as_bytes()).then_some(name.as_bytes()),
                false => pattern.eq_ignore_ascii_case(name.as_bytes()).then_some(pattern),
            };
            words.extend(shown);
            shown.is_none()
        });
    }
    if words.len() == 2 {
        return None;
    }
    let mut frame = Vec::new();
    request::encode(&words, &mut frame);
    Some(frame)
}

/// Returns true if the server takes an argument of CONFIG GET for a pattern: it looks for these bytes, up to the
/// first NUL.
fn is_glob(argument: &[u8]) -> bool {
    argument.iter().take_while(|byte| **byte != 0).any(|byte| matches!(byte, b'[' | b'*' | b'?'))
}

/// Returns true if a glob pattern matches a name, in any case, by the server's rules (util.c, stringmatchlen).
/// Takes time in proportion to the product of their lengths at most, because only the last `*` is tried again.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    // The index behind the last `*` in the pattern, and the index in the name up to which that `*` matches.
    let mut star: Option<(usize, usize)> = None;
    while place < name.len() {
        let one = name.get(place).copied().and_then(|byte| one(pattern.get(at..)?, byte));
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, place));
            at += 1;
        } else if let Some(used) = one {
            at += used;
            place += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            (at, place) = (after, taken + 1);
        } else {
            return false;
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// Returns how many bytes of the pattern match one byte of the name, or `None` if they do not match it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let same = |known: &u8| known.eq_ignore_ascii_case(&byte);
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => same(escaped).then_some(2),
        [b'[', class @ ..] => {
            let (found, used) = class_matches(class, byte.to_ascii_lowercase());
            found.then_some(1 + used)
        }
        [literal, ..] => same(literal).then_some(1),
        [] => None,
    }
}

/// Returns true if a class like `^a-cx]` matches a byte in lower case, and the length of the class in bytes. A
/// class without an end goes on to the end of the pattern.
fn class_matches(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        let rest = class.get(at..).unwrap_or_default();
        let (one, used) = match rest {
            [] => return (found != negated, at),
            // An escaped bracket does not end the class. The server compares an escaped byte case-sensitively.
            [b'\\', escaped, ..] => (*escaped == byte, 2),
            [b']', ..] => return (found != negated, at + 1),
            [low, b'-', high, ..] => {
                // The server orders the ends before it turns them into lower case.
                let (low, high) = (low.min(high), low.max(high));
                ((low.to_ascii_lowercase()..=high.to_ascii_lowercase()).contains(&byte), 3)
            }
            [literal, ..] => (literal.eq_ignore_ascii_case(&byte), 1),
        };
        found |= one;
        at += used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(patterns: &[&str]) -> Option<String> {
        let words: Vec<&[u8]> =
            ["CONFIG", "GET"].iter().chain(patterns).map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        request::encode(&words, &mut frame);
        let frame = shown(&Request::parse(&frame).unwrap())?;
        let args: Vec<String> = Request::parse(&frame)
            .unwrap()
            .args()
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        Some(args.join(" "))
    }

    #[test]
    fn patterns_become_the_parameters_that_may_be_seen() {
        assert_eq!(rewritten(&["maxclients"]).as_deref(), Some("CONFIG GET maxclients"));
        assert_eq!(rewritten(&["MaxMemory", "requirepass"]).as_deref(), Some("CONFIG GET MaxMemory"));
        assert_eq!(rewritten(&["maxmemor?", "MAXMEMORY"]).as_deref(), Some("CONFIG GET maxmemory"));
        assert_eq!(rewritten(&["maxm\\emory"]), None, "a name and no pattern");
        assert_eq!(
            rewritten(&["maxmemory-[p-s]*"]).as_deref(),
            Some("CONFIG GET maxmemory-policy maxmemory-samples")
        );
        for hidden in
            ["requirepass", "master*", "primaryauth", "*pass*", "hash-seed", "aclfile", "tls-key-file", ""]
        {
            assert_eq!(rewritten(&[hidden]), None, "{hidden}");
        }
        let all = rewritten(&["*"]).unwrap();
        for secret in
            ["pass", "masterauth", "primaryauth", "masteruser", "tls-key-file", "aclfile", "hash-seed"]
        {
            assert!(!all.contains(secret), "{secret}");
        }
        assert!(all.split(' ').count() > 150);
    }

    #[test]
    fn globs_are_the_servers() {
        for (pattern, name, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("a[^b]c", "abc", false),
            ("a[^b]c", "axc", true),
            ("a[a-c]c", "abc", true),
            ("A\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("**", "", true),
            ("", "a", false),
            ("a[", "a[", false),
            ("a[\\]]c", "a]c", true),
            ("a[\\]]c", "a\\]c", false),
            ("a[x\\]b]c", "abc", true),
            ("a[^\\]]c", "abc", true),
            ("a[^\\]]c", "a]c", false),
            ("a[b", "ab", true),
            ("a[^", "ab", true),
            ("a[a-]", "ab", false),
            ("a[\\", "a\\", true),
            ("a[\\B]", "ab", false),
            ("a[A-C]", "ab", true),
            ("a[a-Z]", "ab", false),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
