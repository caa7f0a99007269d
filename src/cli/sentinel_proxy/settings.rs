//! The settings of redis-sentinel-proxy, and their counterparts in respgate.

use crate::config::flags::{SENTINEL_PASSWORD, UPSTREAM_PASSWORD};

/// The meaning of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The address for clients.
    Listen,
    /// The addresses of the Sentinels, separated by commas.
    Sentinels,
    /// The name of the primary.
    Master,
    /// An option of respgate takes the same value.
    Option(&'static str),
    /// A password, which this environment variable of respgate takes.
    Secret(&'static str),
    /// A log with every step.
    Debug,
    /// Keys of respgate's configuration file; no option sets them.
    Key(&'static str),
    /// respgate needs no such setting, for this reason.
    Nothing(&'static str),
}

/// One setting of redis-sentinel-proxy.
pub(super) struct Setting {
    /// The flag without its dash; empty if only variables set it.
    pub flag: &'static str,
    /// The environment variables.
    pub variables: &'static [&'static str],
    /// True if the flag takes a value only behind `=`.
    pub is_switch: bool,
    /// The counterpart in respgate.
    pub meaning: Meaning,
}

const fn value(flag: &'static str, variables: &'static [&'static str], meaning: Meaning) -> Setting {
    Setting { flag, variables, is_switch: false, meaning }
}

const fn switch(flag: &'static str, variables: &'static [&'static str], meaning: Meaning) -> Setting {
    Setting { flag, variables, is_switch: true, meaning }
}

const REPLICAS: Meaning = Meaning::Nothing("respgate has no listener that only leads to replicas");
const EMULATOR: Meaning = Meaning::Nothing("respgate does not answer as a Sentinel");

/// The settings of these programs, which share a name and an ancestor: flant/redis-sentinel-proxy, and those of
/// enriclluelles, klamas1, patrickdk77, zauberhaus and zyno-io; and drycc-addons/valkey-sentinel-proxy.
#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    value("listen", &["LISTEN", "RSP_LISTEN"], Meaning::Listen),
    value("sentinel", &["SENTINEL", "RSP_SENTINEL"], Meaning::Sentinels),
    value("sentinel-addr", &[], Meaning::Sentinels),
    value("master", &["MASTER", "RSP_MASTER"], Meaning::Master),
    value("password", &["SENTINEL_PASSWORD", "PASSWORD"], Meaning::Secret(SENTINEL_PASSWORD)),
    value("sentinel-pass", &[], Meaning::Secret(SENTINEL_PASSWORD)),
    value("sentinel-auth", &["SENTINEL_AUTH"], Meaning::Secret(SENTINEL_PASSWORD)),
    value("username", &["SENTINEL_USERNAME", "USERNAME"], Meaning::Option("--sentinel-user")),
    value("sentinel-user", &[], Meaning::Option("--sentinel-user")),
    value("master-password", &["RSP_MASTER_PASSWORD", "REDIS_PASSWORD"], Meaning::Secret(UPSTREAM_PASSWORD)),
    value("auth", &["AUTH"], Meaning::Secret(UPSTREAM_PASSWORD)),
    value("master-username", &["RSP_MASTER_USERNAME"], Meaning::Option("--upstream-user")),
    value("resolve-retries", &["RSP_RESOLVE_RETRIES"], Meaning::Nothing("respgate does not end when it finds no primary; it asks again")),
    value("checkms", &["CHECKMS"], Meaning::Key("poll-interval")),
    switch("eventlistener", &["EVENTLISTENER"], Meaning::Nothing("respgate always subscribes to the Sentinels' events")),
    switch("majority", &["MAJORITY"], Meaning::Nothing("respgate always follows the majority of the Sentinels")),
    value("timeoutms", &["TIMEOUTMS"], Meaning::Key("connect-timeout and sentinel-timeout")),
    value("max-connections", &["RSP_MAX_CONNECTIONS"], Meaning::Option("--max-clients")),
    value("maxconns", &["MAXCONNS"], Meaning::Option("--max-clients")),
    value("idle-timeout", &["RSP_IDLE_TIMEOUT"], Meaning::Key("idle-timeout")),
    value("max-procs", &[], Meaning::Option("--workers")),
    switch("debug", &["DEBUG", "RSP_DEBUG"], Meaning::Debug),
    value("config", &[], Meaning::Nothing("respgate does not read its file; the keys there are named like the flags")),
    value("replica-listen", &["RSP_REPLICA_LISTEN"], REPLICAS),
    value("replica-fallback", &["RSP_REPLICA_FALLBACK"], REPLICAS),
    value("balancing", &[], REPLICAS),
    value("sentinel-listen", &["SENTINEL_LISTEN"], EMULATOR),
    value("announce-ip", &["ANNOUNCE_IP"], EMULATOR),
    value("announce-port", &["ANNOUNCE_PORT"], EMULATOR),
    switch("listen-tls", &["RSP_LISTEN_TLS"], Meaning::Nothing("--tls-cert and --tls-key turn TLS on")),
    value("listen-tls-cert-file", &["RSP_LISTEN_TLS_CERT_FILE"], Meaning::Option("--tls-cert")),
    value("listen-tls-key-file", &["RSP_LISTEN_TLS_KEY_FILE"], Meaning::Option("--tls-key")),
    value("listen-tls-client-ca-file", &["RSP_LISTEN_TLS_CLIENT_CA_FILE"], Meaning::Option("--tls-client-ca")),
    switch("master-tls", &["RSP_MASTER_TLS"], Meaning::Key("tls")),
    value("master-tls-ca-file", &["RSP_MASTER_TLS_CA_FILE"], Meaning::Key("tls-ca")),
    value("master-tls-cert-file", &["RSP_MASTER_TLS_CERT_FILE"], Meaning::Key("tls-cert")),
    value("master-tls-key-file", &["RSP_MASTER_TLS_KEY_FILE"], Meaning::Key("tls-key")),
    value("master-tls-server-name", &["RSP_MASTER_TLS_SERVER_NAME"], Meaning::Key("tls-server-name")),
    switch("master-tls-skip-verify", &["RSP_MASTER_TLS_SKIP_VERIFY"], Meaning::Key("tls-dangerously-skip-verification")),
    switch("master-tls-passthrough", &["RSP_MASTER_TLS_PASSTHROUGH"], Meaning::Nothing("the TLS of clients ends at respgate: --tls-cert and --tls-key")),
    switch("sentinel-tls", &["RSP_SENTINEL_TLS"], Meaning::Key("sentinel-tls")),
    value("sentinel-tls-ca-file", &["RSP_SENTINEL_TLS_CA_FILE"], Meaning::Key("sentinel-tls-ca")),
    value("sentinel-tls-cert-file", &["RSP_SENTINEL_TLS_CERT_FILE"], Meaning::Key("sentinel-tls-cert")),
    value("sentinel-tls-key-file", &["RSP_SENTINEL_TLS_KEY_FILE"], Meaning::Key("sentinel-tls-key")),
    value("sentinel-tls-server-name", &["RSP_SENTINEL_TLS_SERVER_NAME"], Meaning::Key("sentinel-tls-server-name")),
    switch("sentinel-tls-skip-verify", &["RSP_SENTINEL_TLS_SKIP_VERIFY"], Meaning::Key("sentinel-tls-dangerously-skip-verification")),
    switch("sentineltls", &["SENTINELTLS"], Meaning::Key("sentinel-tls")),
    value("sentineltlsca", &["SENTINELTLSCA"], Meaning::Key("sentinel-tls-ca")),
    value("sentineltlscert", &["SENTINELTLSCERT"], Meaning::Key("sentinel-tls-cert")),
    value("sentineltlskey", &["SENTINELTLSKEY"], Meaning::Key("sentinel-tls-key")),
    value("sentineltlsservername", &["SENTINELTLSSERVERNAME"], Meaning::Key("sentinel-tls-server-name")),
];
