//! The TOML file, as typed.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::address::{self, DEFAULT_PORT, DEFAULT_SENTINEL_PORT};
use super::document::{Section, Source};
use super::report::{Place, Report};
use super::rule;
use super::tls::{self, TypedClientTls, TypedServerTls};
use super::typed::{
    Setting, Typed, TypedLimits, TypedListener, TypedQuota, TypedRates, TypedTenant, TypedUpstream, TypedUser,
};
use super::written::Written;
use crate::files;
use crate::rotation::source::{NameSource, SecretSource, readable_by_all};
use crate::tenant::identity::CertificateRule;
use crate::tenant::policy::config as policy;

/// The longest configuration file.
const MAX_FILE: u64 = 1024 * 1024;

/// The tables of a file and the keys that each may have; `*` stands for a name of the user's choice.
const SCHEMA: [(&str, &[&str]); 7] = [
    ("", ROOT),
    ("log", LOG),
    ("limits", LIMITS),
    ("listeners.*", LISTENER),
    ("tenants.*", TENANT),
    ("users.*", USER),
    ("upstreams.*", UPSTREAM),
];

const ROOT: &[&str] = &[
    "workers",
    "admin",
    "drain-timeout",
    "reload-interval",
    "log",
    "limits",
    "listeners",
    "tenants",
    "users",
    "upstreams",
];

const LOG: &[&str] = &["format", "level"];

const LIMITS: &[&str] = &[
    "max-buffered",
    "max-clients",
    "connects-per-second",
    "connects-burst",
    "connects-exempt",
    "max-request",
    "max-bulk",
    "max-args",
    "max-inline",
    "max-reply-buffer",
    "max-pipeline",
    "write-timeout",
    "idle-timeout",
    "transaction-timeout",
    "first-command-timeout",
    "command-timeout",
    "slow-reader-soft",
    "slow-reader-soft-time",
    "keepalive",
];

const LISTENER: &[&str] = &[
    "address",
    "mode",
    "upstream",
    "tenant",
    "proxy-protocol",
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "tls-client-auth",
    "tls-crl",
    "tls-min-version",
    "tls-handshake-timeout",
    "admin-commands",
    "max-clients",
    "connects-per-second",
    "connects-burst",
    "connects-exempt",
    "max-request",
    "max-bulk",
    "max-args",
    "max-inline",
    "max-reply-buffer",
    "max-pipeline",
    "write-timeout",
    "idle-timeout",
    "transaction-timeout",
    "first-command-timeout",
    "command-timeout",
    "slow-reader-soft",
    "slow-reader-soft-time",
    "keepalive",
];

const TENANT: &[&str] = &[
    "certificates",
    "users",
    "networks",
    "uids",
    "client-names",
    "default",
    "commands",
    "key-prefixes",
    "channel-prefixes",
    "read-only",
    "scripts",
    "weight",
    "priority",
    "pubsub",
    "over-limit",
    "max-delay",
    "shared-by",
    "shared-upstream",
    "connections",
    "commands-per-second",
    "commands-burst",
    "bytes-in-per-second",
    "bytes-in-burst",
    "bytes-out-per-second",
    "bytes-out-burst",
    "client-commands-per-second",
    "client-commands-burst",
    "client-bytes-in-per-second",
    "client-bytes-in-burst",
    "client-bytes-out-per-second",
    "client-bytes-out-burst",
    "in-flight",
    "leased",
    "blocked",
    "subscribed",
    "transactions",
    "max-request",
    "max-buffered",
];

const USER: &[&str] = &[
    "password-hash",
    "tenant",
    "upstream-username",
    "upstream-username-file",
    "upstream-password-file",
    "upstream-password-env",
    "upstream-password-command",
    "upstream-password-refresh",
];

const UPSTREAM: &[&str] = &[
    "url",
    "address",
    "sentinels",
    "primary-name",
    "database",
    "username",
    "username-file",
    "password-file",
    "password-env",
    "password-command",
    "password-refresh",
    "reauth",
    "sentinel-username",
    "sentinel-username-file",
    "sentinel-password-file",
    "sentinel-password-env",
    "tls",
    "tls-ca",
    "tls-system-roots",
    "tls-crl",
    "tls-cert",
    "tls-key",
    "tls-server-name",
    "tls-server-names",
    "tls-min-version",
    "tls-dangerously-skip-verification",
    "sentinel-tls",
    "sentinel-tls-ca",
    "sentinel-tls-system-roots",
    "sentinel-tls-crl",
    "sentinel-tls-cert",
    "sentinel-tls-key",
    "sentinel-tls-server-name",
    "sentinel-tls-server-names",
    "sentinel-tls-min-version",
    "sentinel-tls-dangerously-skip-verification",
    "sentinel-password-command",
    "sentinel-password-refresh",
    "nat",
    "poll-interval",
    "sentinel-timeout",
    "switch",
    "client-auth",
    "pool",
    "max-connections",
    "max-leased",
    "lease-wait",
    "lease-idle",
    "ping-interval",
    "max-age",
    "connect-timeout",
    "response-timeout",
    "hold-timeout",
    "hold-buffer",
    "retry-reads",
    "retry-writes",
    "blocked-pop",
];

/// Reads a file; what is wrong with it goes to the report, and the rest is returned. `None` if nothing could be
/// made of it.
pub fn read(path: &Path, report: &mut Report) -> Option<Typed> {
    let whole =
        Place::File { path: path.display().to_string().into(), line: 0, column: None, key: String::new() };
    let (text, metadata) = match open(path) {
        Ok(content) => content,
        Err(why) => {
            report.fault(&whole, why);
            return None;
        }
    };
    let mut typed = parse(path, &text, report)?;
    typed.file = Some(whole);
    if readable_by_all(metadata.mode()) {
        for url in typed.upstreams.iter().map(|upstream| &upstream.url) {
            if let Setting::Given(url, place) = url
                && url.password.is_some()
            {
                report.warn(
                    place,
                    "holds a password, and every user of this machine can read the file; chmod 600 it",
                );
            }
        }
    }
    Some(typed)
}

fn open(path: &Path) -> Result<(String, Metadata), String> {
    let cannot = |error: std::io::Error| format!("cannot read the file: {error}");
    let file = files::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err("the file is longer than 1MiB; is it a configuration?".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text; is it a configuration?")?;
    Ok((text, metadata))
}

/// Takes a file's text apart. A file with faults of syntax is reported for those alone: what stands after one
/// cannot be told apart with certainty.
pub fn parse(path: &Path, text: &str, report: &mut Report) -> Option<Typed> {
    let source = Source { path: path.display().to_string().into(), text };
    let (document, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let span = fault.span().unwrap_or(text.len()..text.len());
        let rest = text.get(span.start..).unwrap_or_default();
        let message = match fault.message() {
            "duplicate key" => {
                format!("{} stands here a second time", text.get(span.clone()).unwrap_or("a key"))
            }
            message if message.starts_with("string values must be quoted") => {
                match rest.starts_with(['\n', '\r']) {
                    true => "a value is missing after the =".into(),
                    false => "this is no value; write texts in quotes".into(),
                }
            }
            message => message.to_owned(),
        };
        report.fault(&source.point(span.start), message);
    }
    if !faults.is_empty() {
        return None;
    }
    let root = Section::root(&source, document.get_ref(), ROOT);
    root.refuse_unknown_keys(&SCHEMA, report);
    let mut typed = Typed {
        written: Written::of(document.get_ref()),
        workers: root.read("workers", report),
        admin: root.read("admin", report),
        drain_timeout: root.read("drain-timeout", report),
        reload_interval: root.read("reload-interval", report),
        ..Typed::default()
    };
    if let Some(log) = root.section("log", LOG, report) {
        log.refuse_unknown_keys(&SCHEMA, report);
        typed.log_format = log.read("format", report);
        typed.log_level = log.read("level", report);
    }
    if let Some(section) = root.section("limits", LIMITS, report) {
        section.refuse_unknown_keys(&SCHEMA, report);
        typed.max_buffered = section.read("max-buffered", report);
        typed.limits = limits(&section, report);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, section) in root.sections("listeners", LISTENER, report) {
        section.refuse_unknown_keys(&SCHEMA, report);
        typed.listeners.push(listener(name, &section, folder, report));
    }
    for (name, section) in root.sections("tenants", TENANT, report) {
        section.refuse_unknown_keys(&SCHEMA, report);
        typed.tenants.push(tenant(name, &section, report));
    }
    for (name, section) in root.sections("users", USER, report) {
        section.refuse_unknown_keys(&SCHEMA, report);
        typed.users.push(user(name, &section, folder, report));
    }
    for (name, section) in root.sections("upstreams", UPSTREAM, report) {
        section.refuse_unknown_keys(&SCHEMA, report);
        typed.upstreams.push(upstream(name, &section, folder, report));
    }
    Some(typed)
}

fn limits(section: &Section<'_>, report: &mut Report) -> TypedLimits {
    TypedLimits {
        max_clients: section.read("max-clients", report),
        connects_per_second: section.read("connects-per-second", report),
        connects_burst: section.read("connects-burst", report),
        connects_exempt: section.read_any_list("connects-exempt", address::network, report),
        max_request: section.read("max-request", report),
        max_bulk: section.read("max-bulk", report),
        max_args: section.read("max-args", report),
        max_inline: section.read("max-inline", report),
        max_reply_buffer: section.read("max-reply-buffer", report),
        max_pipeline: section.read("max-pipeline", report),
        write_timeout: section.read("write-timeout", report),
        idle_timeout: section.read("idle-timeout", report),
        transaction_timeout: section.read("transaction-timeout", report),
        first_command_timeout: section.read("first-command-timeout", report),
        command_timeout: section.read("command-timeout", report),
        slow_reader_soft: section.read("slow-reader-soft", report),
        slow_reader_soft_time: section.read("slow-reader-soft-time", report),
        keepalive: section.read("keepalive", report),
        admin_commands: Setting::Absent,
    }
}

fn listener(name: String, section: &Section<'_>, folder: &Path, report: &mut Report) -> TypedListener {
    TypedListener {
        name,
        place: section.place().clone(),
        address: section.read("address", report),
        mode: section.read("mode", report),
        upstream: section.read("upstream", report),
        tenant: section.read("tenant", report),
        proxy_protocol: section.read_list("proxy-protocol", address::network, report),
        tls: TypedServerTls::read(section, folder, report),
        limits: TypedLimits {
            admin_commands: section.read("admin-commands", report),
            ..limits(section, report)
        },
    }
}

fn tenant(name: String, section: &Section<'_>, report: &mut Report) -> TypedTenant {
    TypedTenant {
        name,
        place: section.place().clone(),
        certificates: section.read_list("certificates", CertificateRule::parse, report),
        users: section.read_values("users", r#"users = ["app", "batch"]"#, report),
        networks: section.read_list("networks", address::network, report),
        uids: section.read_values("uids", "uids = [1000, 1001]", report),
        client_names: section.read_values("client-names", r#"client-names = ["app-"]"#, report),
        default: section.read("default", report),
        limits: quota(section, report),
        commands: section.read_list("commands", rule::rule, report),
        key_prefixes: section.read_list("key-prefixes", policy::prefix, report),
        channel_prefixes: section.read_list("channel-prefixes", policy::prefix, report),
        read_only: section.read("read-only", report),
        scripts: section.read("scripts", report),
        weight: section.read("weight", report),
        priority: section.read("priority", report),
        pubsub: section.read("pubsub", report),
    }
}

fn quota(section: &Section<'_>, report: &mut Report) -> TypedQuota {
    TypedQuota {
        over_limit: section.read("over-limit", report),
        max_delay: section.read("max-delay", report),
        shared_by: section.read("shared-by", report),
        shared_upstream: section.read("shared-upstream", report),
        rates: TypedRates {
            commands: section.read("commands-per-second", report),
            commands_burst: section.read("commands-burst", report),
            bytes_in: section.read("bytes-in-per-second", report),
            bytes_in_burst: section.read("bytes-in-burst", report),
            bytes_out: section.read("bytes-out-per-second", report),
            bytes_out_burst: section.read("bytes-out-burst", report),
        },
        client_rates: TypedRates {
            commands: section.read("client-commands-per-second", report),
            commands_burst: section.read("client-commands-burst", report),
            bytes_in: section.read("client-bytes-in-per-second", report),
            bytes_in_burst: section.read("client-bytes-in-burst", report),
            bytes_out: section.read("client-bytes-out-per-second", report),
            bytes_out_burst: section.read("client-bytes-out-burst", report),
        },
        connections: section.read("connections", report),
        in_flight: section.read("in-flight", report),
        leased: section.read("leased", report),
        blocked: section.read("blocked", report),
        subscribed: section.read("subscribed", report),
        transactions: section.read("transactions", report),
        max_request: section.read("max-request", report),
        max_buffered: section.read("max-buffered", report),
    }
}

fn user(name: String, section: &Section<'_>, folder: &Path, report: &mut Report) -> TypedUser {
    TypedUser {
        name,
        place: section.place().clone(),
        password: section.read("password-hash", report),
        tenant: section.read("tenant", report),
        upstream_username: username(section, ["upstream-username", "upstream-username-file"], folder, report),
        upstream_password: password(
            section,
            ["upstream-password-file", "upstream-password-env", "upstream-password-command"],
            folder,
            report,
        ),
        upstream_password_refresh: section.read("upstream-password-refresh", report),
    }
}

fn upstream(name: String, section: &Section<'_>, folder: &Path, report: &mut Report) -> TypedUpstream {
    let seed = |text: &str| address::tcp(text, DEFAULT_SENTINEL_PORT);
    let node = |text: &str| address::tcp(text, DEFAULT_PORT);
    TypedUpstream {
        name,
        place: section.place().clone(),
        url: section.read("url", report),
        address: section.read("address", report),
        sentinels: section.read_list("sentinels", seed, report),
        primary_name: section.read("primary-name", report),
        database: section.read("database", report),
        username: username(section, ["username", "username-file"], folder, report),
        password: password(section, ["password-file", "password-env", "password-command"], folder, report),
        password_refresh: section.read("password-refresh", report),
        reauth: section.read("reauth", report),
        sentinel_username: username(section, ["sentinel-username", "sentinel-username-file"], folder, report),
        sentinel_password: password(
            section,
            ["sentinel-password-file", "sentinel-password-env", "sentinel-password-command"],
            folder,
            report,
        ),
        tls: TypedClientTls::read(section, &tls::DATA, folder, report),
        sentinel_tls: TypedClientTls::read(section, &tls::SENTINEL, folder, report),
        nat: section.read_pairs("nat", node, node, report).map(HashMap::from_iter),
        sentinel_password_refresh: section.read("sentinel-password-refresh", report),
        poll_interval: section.read("poll-interval", report),
        sentinel_timeout: section.read("sentinel-timeout", report),
        switch: section.read("switch", report),
        client_auth: section.read("client-auth", report),
        pool: section.read("pool", report),
        max_connections: section.read("max-connections", report),
        max_leased: section.read("max-leased", report),
        lease_wait: section.read("lease-wait", report),
        lease_idle: section.read("lease-idle", report),
        ping_interval: section.read("ping-interval", report),
        max_age: section.read("max-age", report),
        connect_timeout: section.read("connect-timeout", report),
        response_timeout: section.read("response-timeout", report),
        hold_timeout: section.read("hold-timeout", report),
        hold_buffer: section.read("hold-buffer", report),
        retry_reads: section.read("retry-reads", report),
        retry_writes: section.read("retry-writes", report),
        blocked_pop: section.read("blocked-pop", report),
    }
}

/// A password's source: one of three keys. A relative path starts from the folder of the file, as does a program's if
/// it holds a slash; another program is looked for in PATH.
fn password(
    section: &Section<'_>,
    [file_key, env_key, command_key]: [&'static str; 3],
    folder: &Path,
    report: &mut Report,
) -> Setting<SecretSource> {
    let file = section.read::<PathBuf>(file_key, report).map(|path| SecretSource::File(folder.join(path)));
    let env = section.read::<String>(env_key, report).map(SecretSource::Env);
    let command = section.read_list(command_key, |word| Ok(word.to_owned()), report).map(|mut words| {
        if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
            *program = folder.join(&*program).to_string_lossy().into_owned();
        }
        SecretSource::Command(words)
    });
    only_one(only_one(file, env, file_key, report), command, &format!("{file_key} or {env_key}"), report)
}

/// A user's name: one of two keys.
fn username(
    section: &Section<'_>,
    [name_key, file_key]: [&'static str; 2],
    folder: &Path,
    report: &mut Report,
) -> Setting<NameSource> {
    let name = section.read::<String>(name_key, report).map(NameSource::Given);
    let file = section.read::<PathBuf>(file_key, report).map(|path| NameSource::File(folder.join(path)));
    only_one(name, file, name_key, report)
}

/// Of two keys that say the same thing, one; `first_key` is the name of the first.
fn only_one<T>(first: Setting<T>, second: Setting<T>, first_key: &str, report: &mut Report) -> Setting<T> {
    match (&first, second.place()) {
        (Setting::Given(..), Some(place)) => {
            let what = if first_key.contains("username") { "name" } else { "password" };
            report.fault(place, format!("{first_key} gives the {what} too; leave one out"));
            Setting::Faulty
        }
        (Setting::Absent, _) => second,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;

    use super::*;

    const FULL: &str = include_str!("../../config/full.toml");

    /// A file with every key of the schema, each with the value that `value` gives for its table and name.
    fn every_key(value: impl Fn(&str, &str) -> Option<String>) -> String {
        let mut text = String::new();
        for (table, keys) in SCHEMA {
            if !table.is_empty() {
                let _ = writeln!(text, "[{}]", table.replace('*', "x"));
            }
            for key in keys {
                if let Some(value) = value(table, key) {
                    let _ = writeln!(text, "{key} = {value}");
                }
            }
        }
        text
    }

    fn is_table(table: &str, key: &str) -> bool {
        table.is_empty() && SCHEMA.iter().any(|(other, _)| other.split('.').next() == Some(key))
    }

    #[test]
    fn every_key_is_read_and_its_type_checked() {
        let text = every_key(|table, key| (!is_table(table, key)).then(|| "1979-05-27".into()));
        let mut report = Report::default();
        parse(Path::new("x.toml"), &text, &mut report).unwrap();
        report.sort();
        let keys: Vec<&str> = report.faults.iter().map(|fault| fault.place.key()).collect();
        let expected: Vec<String> = SCHEMA
            .iter()
            .flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)))
            .filter(|(table, key)| !is_table(table, key))
            .map(|(table, key)| {
                format!("{}.{key}", table.replace('*', "x")).trim_start_matches('.').to_owned()
            })
            .collect();
        assert_eq!(keys, expected);
        assert!(report.faults.iter().all(|fault| fault.text.contains("is not")), "{report}");
    }

    #[test]
    fn the_reference_names_every_key() {
        // The alternatives to keys that are set stand in comments.
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        let mut table = String::new();
        for line in FULL.lines() {
            let line = line.trim_start_matches("# ");
            if let Some(header) = line.strip_prefix('[') {
                let header = header.split(']').next().unwrap();
                table = match header.split('.').collect::<Vec<_>>()[..] {
                    [kind @ ("listeners" | "tenants" | "users" | "upstreams"), _] => format!("{kind}.*"),
                    [kind, _, key] => {
                        seen.insert((format!("{kind}.*"), key.into()));
                        String::from("-")
                    }
                    _ => header.into(),
                };
                seen.insert((String::new(), header.split('.').next().unwrap().into()));
            } else if let Some((key, _)) = line.split_once(" = ") {
                seen.insert((table.clone(), key.into()));
            }
        }
        for (table, keys) in SCHEMA {
            for key in keys {
                assert!(
                    seen.contains(&(table.into(), (*key).into())),
                    "[{table}] {key} is not in config/full.toml"
                );
            }
        }
    }

    #[test]
    fn syntax_faults_are_all_reported() {
        let mut report = Report::default();
        let text = "workers =\n[log\nlevel = \"info\"\n[limits]\n\u{e9} = 1\nmax-args = 1\nmax-args = 2\n";
        assert!(parse(Path::new("x.toml"), text, &mut report).is_none());
        report.sort();
        let lines: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "x.toml:1:10: a value is missing after the =");
        assert!(lines[1].starts_with("x.toml:2:5: "), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "x.toml:7:1: max-args stands here a second time");
    }
}
