//! Loads whole configurations, from files, flags and environment variables.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::flags::{Flag, SENTINEL_PASSWORD, UPSTREAM_PASSWORD};
use super::report::Place;
use super::*;
use crate::discovery::config::{DiscoveryConfig, SentinelConfig};
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet};
use crate::net::tls::testing::Authority;
use crate::session::config::SessionConfig;
use crate::upstream::config::UpstreamConfig;

/// Creates a folder with a configuration and the files that it names. Only this user can read it.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

fn load_with(
    config: Option<&Path>,
    flags: &[(&'static str, &str)],
    env: &[(&str, &str)],
) -> (Option<Config>, Report) {
    let flag =
        |(name, text): &(&'static str, &str)| Flag { name, place: Place::Flag(name), text: (*text).into() };
    let flags = Flags { config: config.map(Into::into), settings: flags.iter().map(flag).collect() };
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    load(&flags, &|name| env.get(name).map(Into::into))
}

/// Loads a configuration that must have no error and no warning.
pub(super) fn loaded(toml: &str, flags: &[(&'static str, &str)], env: &[(&str, &str)]) -> Config {
    let folder = folder(&[("x.toml", toml), ("password", "from-file\n")]);
    let path = folder.path().join("x.toml");
    let (config, report) = load_with((!toml.is_empty()).then_some(&*path), flags, env);
    assert!(report.warnings.is_empty(), "{report}");
    config.unwrap_or_else(|| panic!("{report}"))
}

/// Loads a configuration that must have errors, and returns them.
fn errors(toml: &str, flags: &[(&'static str, &str)], env: &[(&str, &str)]) -> String {
    let folder = folder(&[("x.toml", toml)]);
    let path = folder.path().join("x.toml");
    let (config, report) = load_with((!toml.is_empty()).then_some(&*path), flags, env);
    assert!(config.is_none());
    report.to_string()
}

fn login(upstream: &Upstream) -> (Option<String>, String) {
    let credentials = upstream.account.clone().unwrap().credentials.unwrap();
    (credentials.username, String::from_utf8(credentials.password.expose().to_vec()).unwrap())
}

/// The reference configuration, with the files that it names.
pub(super) struct Reference(tempfile::TempDir);

impl Reference {
    pub(super) const TEXT: &str = include_str!("../../config/full.toml");

    pub(super) fn new() -> Self {
        let authority = Authority::new("ca");
        let (leaf, list) = (authority.issue(&["db.example"]), authority.revoke(&[]));
        let mut files = vec![("password", "a"), ("sentinel-password", "b")];
        files.extend(
            ["respgate-control-token", "respgate-read-token"].map(|name| (name, "a token of 16 bytes")),
        );
        files.extend(["ca.pem", "clients.pem", "sentinel-ca.pem"].map(|name| (name, authority.pem())));
        files.extend(["revoked.pem", "sentinel-revoked.pem"].map(|name| (name, &*list)));
        files.extend(
            ["tls.crt", "client.crt", "watcher.crt", "admin.crt"].map(|name| (name, &*leaf.chain_pem)),
        );
        files
            .extend(["tls.key", "client.key", "watcher.key", "admin.key"].map(|name| (name, &*leaf.key_pem)));
        Self(folder(&files))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Loads `text`, which may differ from the reference, as a configuration.
    pub(super) fn try_load(&self, text: &str) -> Result<Config, Report> {
        let path = self.path().join("full.toml");
        fs::write(&path, text).unwrap();
        let env = [("CACHE_PASSWORD", "c"), ("QUEUE_PASSWORD", "d"), ("SENTINEL_PASSWORD", "e")];
        let (config, report) = load_with(Some(&path), &[], &env);
        config.ok_or(report)
    }

    pub(super) fn load(&self, text: &str) -> Config {
        self.try_load(text).unwrap_or_else(|report| panic!("{report}"))
    }
}

#[test]
fn the_reference_holds_the_defaults() {
    let folder = Reference::new();
    let config = folder.load(Reference::TEXT);
    let minimal = loaded("[upstreams.main]\nurl = \"redis://db\"", &[], &[]);

    assert_eq!(format!("{:?}", config.listeners[0].session), format!("{:?}", SessionConfig::default()));
    assert_eq!(config.listeners[0].max_clients, minimal.listeners[0].max_clients);
    assert_eq!(config.drain_timeout, minimal.drain_timeout);
    assert_eq!(config.max_buffered, minimal.max_buffered);
    assert_eq!(config.log, minimal.log);
    assert_eq!(config.reload_interval, minimal.reload_interval);
    let mut connections = config.upstreams[0].config.clone();
    assert_eq!(connections.availability_zone.take().as_deref(), Some("eu-central-1a"), "it has no default");
    let connections = format!("{connections:?}");
    assert_eq!(connections, format!("{:?}", UpstreamConfig::new("main")));
    assert_eq!(connections, format!("{:?}", minimal.upstreams[0].config));
    let DiscoveryConfig::Sentinel(sentinel) = &config.upstreams[0].discovery else { panic!("not Sentinel") };
    let builtin = SentinelConfig::new(Vec::new(), "");
    assert_eq!((sentinel.poll_interval, sentinel.timeout), (builtin.poll_interval, builtin.timeout));
    assert_eq!((sentinel.seeds.len(), sentinel.nat.len()), (3, 2));
    let source = &config.upstreams[0].account.as_ref().unwrap().source;
    assert_eq!(source.files(), [folder.path().join("password")]);
    assert_eq!(login(&config.upstreams[2]), (Some("queue".into()), "d".into()));
}

#[test]
fn a_flag_wins_over_the_environment_and_both_over_the_file() {
    let toml = "drain-timeout = \"1s\"\n[listeners.a]\naddress = \"127.0.0.1:1\"\nmax-clients = 1\n\
                [upstreams.x]\nurl = \"redis://db\"\nusername = \"file\"\npassword-file = \"password\"";
    let config = loaded(toml, &[], &[]);
    assert_eq!(login(&config.upstreams[0]), (Some("file".into()), "from-file".into()));
    let config =
        loaded(toml, &[("max-clients", "2"), ("drain-timeout", "2s")], &[(UPSTREAM_PASSWORD, "from-env")]);
    assert_eq!((config.listeners[0].max_clients, config.drain_timeout), (2, Duration::from_secs(2)));
    assert_eq!(login(&config.upstreams[0]), (Some("file".into()), "from-env".into()));
    // A URL on the command line is a flag, and so is every part of it.
    let flags = [("upstream", "redis://flag:from-url@other/7")];
    let folder = folder(&[("x.toml", toml), ("password", "x")]);
    let (config, report) =
        load_with(Some(&folder.path().join("x.toml")), &flags, &[(UPSTREAM_PASSWORD, "from-env")]);
    let upstream = &config.unwrap().upstreams[0];
    assert_eq!(login(upstream), (Some("flag".into()), "from-url".into()));
    assert_eq!((upstream.config.database, &*upstream.config.name), (7, "x"));
    assert!(report.warnings[0].to_string().contains("read command lines"), "{report}");
}

#[test]
fn a_deprecated_key_works_with_a_warning_that_names_the_new_one() {
    let upstream = "[upstreams.main]\nurl = \"redis://db\"\n";
    let folder = folder(&[("x.toml", &format!("{upstream}lease-wait = \"7s\"\n"))]);
    let path = folder.path().join("x.toml");
    let (config, report) = load_with(Some(&path), &[], &[]);
    let config = config.unwrap_or_else(|| panic!("{report}"));
    assert_eq!(config.upstreams[0].config.lease_timeout, Duration::from_secs(7));
    let warnings: Vec<_> = report.warnings.iter().map(ToString::to_string).collect();
    let expected = "3: upstreams.main.lease-wait: is a deprecated name, which the next version refuses; write lease-timeout";
    assert_eq!(warnings, [format!("{}:{expected}", path.display())]);

    // The new name in its place changes nothing.
    let renamed = loaded(&format!("{upstream}lease-timeout = \"7s\"\n"), &[], &[]);
    assert_eq!(config.written.differences(&renamed.written), Vec::<String>::new());

    // A value is checked as under the new name.
    let wrong = errors(&format!("{upstream}lease-wait = 7\n"), &[], &[]);
    assert!(wrong.contains("x.toml:3: upstreams.main.lease-timeout: "), "{wrong}");

    let both = format!("{upstream}lease-timeout = \"7s\"\nlease-wait = \"7s\"\n");
    let both = errors(&both, &[], &[]);
    assert!(
        both.contains("x.toml:4: upstreams.main.lease-wait: is the deprecated name of lease-timeout"),
        "{both}"
    );
}

#[test]
fn an_empty_password_variable_is_unset() {
    let config = loaded("", &[("upstream", "redis://db")], &[(UPSTREAM_PASSWORD, "")]);
    assert!(config.upstreams[0].account.is_none());
}

#[test]
fn sentinels_have_credentials_of_their_own() {
    let flags = [("upstream", "redis-sentinel://s1#m"), ("sentinel-user", "watcher")];
    let config = loaded("", &flags, &[(UPSTREAM_PASSWORD, "data"), (SENTINEL_PASSWORD, "watch")]);
    let credentials = config.upstreams[0].sentinel_account.clone().unwrap().credentials.unwrap();
    assert_eq!(
        (credentials.username.as_deref(), credentials.password.expose()),
        (Some("watcher"), &b"watch"[..])
    );
    assert_eq!(login(&config.upstreams[0]), (None, "data".into()));
    // One environment may serve many configurations. Here the variable is unused, which is not an
    // error.
    let (config, report) = load_with(None, &[("upstream", "redis://db")], &[(SENTINEL_PASSWORD, "watch")]);
    assert!(config.is_some());
    assert!(report.warnings[0].to_string().starts_with("RESPGATE_SENTINEL_PASSWORD: "), "{report}");
}

#[test]
fn flags_add_listeners_and_move_the_usual_upstream() {
    let two = "[listeners.main]\naddress = \"127.0.0.1:1\"\n[upstreams.main]\nurl = \"redis://db\"\n\
               [upstreams.other]\nurl = \"redis://db\"";
    let config = loaded(two, &[("listen", "127.0.0.1:2"), ("upstream", "unix:/x")], &[]);
    let listeners: Vec<_> = config.listeners.iter().map(|one| (&*one.name, &*one.upstream)).collect();
    assert_eq!(listeners, [("main", "main"), ("main-2", "main")]);
    assert!(
        matches!(&config.upstreams[0].discovery, DiscoveryConfig::Fixed(address) if address.to_string() == "unix:/x")
    );
    // The file may leave the upstream's address to the flag.
    let config = loaded("[upstreams.x]\npool = \"session\"", &[("upstream", "redis://db")], &[]);
    assert_eq!((config.upstreams.len(), &*config.upstreams[0].config.name), (1, "x"));
    // If several upstreams exist and none is called main, no upstream is the default.
    let unclear = two.replace("upstreams.main", "upstreams.one");
    let text = errors(&unclear, &[("upstream", "redis://db"), ("upstream-user", "u")], &[]);
    assert!(
        text.contains("upstream: the file has several") && text.contains("upstream-user: the file has"),
        "{text}"
    );
}

#[test]
fn workers_fit_the_connections() {
    let with = |connections: usize, leased: usize, pool: &str| {
        format!(
            "[upstreams.main]\nurl = \"redis://db\"\npool = \"{pool}\"\nmax-connections = {connections}\n\
             max-leased = {leased}"
        )
    };
    assert_eq!(loaded(&with(2, 1, "shared"), &[], &[]).workers, 1);
    assert_eq!(loaded(&with(4, 2, "shared"), &[("workers", "2")], &[]).workers, 2);
    assert_eq!(loaded(&with(4, 4, "session"), &[("workers", "4")], &[]).workers, 4);
    assert!(errors(&with(4, 3, "shared"), &[("workers", "2")], &[]).contains("2 workers are too many"));
    assert_eq!(loaded(&with(1088, 1024, "shared"), &[], &[]).workers, default_workers().min(64));
}

#[test]
fn one_worker_serves_up_to_two_cpus() {
    assert_eq!([1, 2, 3, 64].map(workers_for), [1, 1, 3, 64]);
}

#[test]
fn one_typed_connection_limit_moves_the_other() {
    let limits = |key: &str| {
        let config = loaded(&format!("workers = 1\n[upstreams.main]\nurl = \"redis://db\"\n{key}"), &[], &[]);
        (config.upstreams[0].config.max_connections, config.upstreams[0].config.max_leased)
    };
    assert_eq!(limits(""), (1088, 1024));
    assert_eq!(limits("max-connections = 100"), (100, 75));
    assert_eq!(limits("max-connections = 2"), (2, 1));
    assert_eq!(limits("max-leased = 10"), (1088, 10));
    assert_eq!(limits("max-leased = 2000"), (2064, 2000));
}

#[test]
fn errors_in_flags_do_not_hide_those_in_the_file() {
    let text = errors("workers = 0", &[("upstream", "redis://db"), ("drain-timeout", "3")], &[]);
    assert!(
        text.contains("x.toml:1: workers: must be") && text.contains("drain-timeout: \"3\" is not"),
        "{text}"
    );
    let text = errors("workers = ", &[("upstream", "x")], &[]);
    assert_eq!(text.lines().count(), 2, "{text}");
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_typed_makes_a_parser_panic(text in ".{0,40}", port in "[0-9:.\\[\\]]{0,12}") {
        for text in [&text, &port, &format!("redis://{text}@{port}"), &format!("redis-sentinel://{text}{port}#{text}"),
            &format!("unix:{text}?{port}")]
        {
            let _ = (url::upstream(text), address::listen(text), address::address(text, 1));
            let _ = (size::bytes(text), size::duration(text));
            let mut report = Report::default();
            let _ = file::parse(Path::new("x.toml"), text, &mut report);
            let toml = format!("[upstreams.main]\nurl = {text:?}\n{text} = {port}");
            let _ = file::parse(Path::new("x.toml"), &toml, &mut report);
        }
    }
}

#[test]
fn tls_follows_the_scheme_and_the_sentinels_follow_the_data_nodes() {
    let authority = Authority::new("ca");
    let files = folder(&[("ca.pem", authority.pem()), ("other.pem", Authority::new("other").pem())]);
    let ca = files.path().join("ca.pem").display().to_string();
    let other = files.path().join("other.pem").display().to_string();
    let upstream = |toml: &str| loaded(toml, &[], &[]).upstreams.remove(0);
    let trusted = |loaded: &Option<Loaded<ClientProfile, ClientSet>>| {
        loaded.as_ref().map(|loaded| loaded.profile.trust.paths[0].display().to_string())
    };

    let plain = upstream("[upstreams.main]\nurl = \"redis://db\"");
    assert!(plain.tls.is_none() && plain.sentinel_tls.is_none());
    let both = upstream(&format!("[upstreams.main]\nurl = \"rediss-sentinel://s1#m\"\ntls-ca = {ca:?}"));
    assert_eq!((trusted(&both.tls), trusted(&both.sentinel_tls)), (Some(ca.clone()), Some(ca.clone())));
    let apart = upstream(&format!(
        "[upstreams.main]\nurl = \"valkeys-sentinel://s1#m\"\ntls-ca = {ca:?}\nsentinel-tls-ca = {other:?}"
    ));
    assert_eq!((trusted(&apart.tls), trusted(&apart.sentinel_tls)), (Some(ca.clone()), Some(other)));
    let data_only = upstream(&format!(
        "[upstreams.main]\nsentinels = [\"s1\"]\nprimary-name = \"m\"\ntls = true\ntls-ca = {ca:?}\nsentinel-tls = false"
    ));
    assert_eq!((trusted(&data_only.tls), trusted(&data_only.sentinel_tls)), (Some(ca.clone()), None));
    let flags =
        [("upstream", "rediss://db"), ("upstream-ca", &*ca), ("upstream-server-name", "other.example")];
    let flagged = loaded("", &flags, &[]).upstreams.remove(0).tls.unwrap();
    assert_eq!(flagged.profile.names.all.unwrap().to_str(), "other.example");
}

#[test]
fn the_flag_for_the_zone_is_for_every_upstream() {
    let file = "[listeners.a]\naddress = \"127.0.0.1:1\"\nupstream = \"x\"\n[upstreams.x]\nurl = \"redis://x\"\navailability-zone = \"a\"\n\
                [upstreams.y]\nurl = \"redis://y\"";
    let zones = |flags: &[(&'static str, &str)]| -> Vec<Option<String>> {
        loaded(file, flags, &[])
            .upstreams
            .into_iter()
            .map(|upstream| upstream.config.availability_zone)
            .collect()
    };
    assert_eq!(zones(&[]), [Some("a".to_owned()), None]);
    assert_eq!(zones(&[("availability-zone", "b")]), [Some("b".to_owned()), Some("b".to_owned())]);
}

#[test]
fn tls_errors_name_their_keys() {
    let authority = Authority::new("ca");
    let (leaf, other) = (authority.issue(&["a"]), authority.issue(&["b"]));
    let old = authority.issue_with(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let files = folder(&[
        ("chain.pem", &leaf.chain_pem),
        ("key.pem", &leaf.key_pem),
        ("other.pem", &other.key_pem),
        ("old.pem", &old.chain_pem),
        ("old-key.pem", &old.key_pem),
    ]);
    let at = |name: &str| files.path().join(name).display().to_string();
    let text = |listener: &str, upstream: &str| {
        errors(
            &format!(
                "[listeners.a]\naddress = \"127.0.0.1:1\"\n{listener}\n[upstreams.x]\nurl = \"redis://db\"\n{upstream}\n"
            ),
            &[],
            &[],
        )
    };
    let (chain, key) = (at("chain.pem"), at("key.pem"));
    for (listener, upstream, expected) in [
        (format!("tls-cert = {chain:?}"), "", "listeners.a.tls-key: is missing"),
        (format!("tls-cert = {chain:?}\ntls-key = {:?}", at("other.pem")), "", "listeners.a.tls-key: "),
        (format!("tls-cert = {:?}\ntls-key = {:?}", at("old.pem"), at("old-key.pem")), "", "expired"),
        (
            format!("tls-cert = {chain:?}\ntls-key = {key:?}\ntls-client-auth = \"required\""),
            "",
            "needs tls-client-ca",
        ),
        ("tls-min-version = \"1.3\"".into(), "", "speaks plain text"),
        (String::new(), "tls-ca = \"ca.pem\"", "upstreams.x.tls-ca: this connection is in plain text"),
        (String::new(), "tls = true\ntls-ca = \"/nonexistent.pem\"", "upstreams.x.tls-ca: cannot read"),
        (String::new(), "tls = true\ntls-min-version = \"1.1\"", "\"1.1\" is not \"1.2\" or \"1.3\""),
        (String::new(), "sentinel-tls-ca = \"ca.pem\"", "asks no Sentinels"),
    ] {
        let text = text(&listener, upstream);
        assert!(text.contains(expected), "{expected:?} in {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
