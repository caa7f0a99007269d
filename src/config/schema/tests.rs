//! Tests the schema against the reader: the reader reads each key and checks its type.

use std::fmt::Write;
use std::path::Path;

use super::super::file::parse;
use super::super::report::Report;
use super::{
    ClientTlsDefaults, QuotaDefaults, Reload, ServerTlsDefaults, TABLES, TenantDefaults, paragraphs, reload,
};
use crate::net::tls::Floor;
use crate::tenant::config::Pubsub;
use crate::tenant::limits::config::LimitsConfig;
use crate::tenant::policy::config::Scripts;
use crate::upstream::shared::fair::fair_queue::Priority;

#[test]
fn every_key_is_read_and_its_type_checked() {
    let mut text = String::new();
    let mut expected = Vec::new();
    for table in &TABLES {
        let header = table.path.replace('*', "x");
        if !header.is_empty() {
            let _ = writeln!(text, "[{header}]");
        }
        for key in table.keys() {
            let _ = writeln!(text, "{} = 1979-05-27", key.name);
            expected.push(format!("{header}.{}", key.name).trim_start_matches('.').to_owned());
        }
    }
    let mut report = Report::default();
    parse(Path::new("x.toml"), &text, &mut report).unwrap();
    report.sort();
    let keys: Vec<&str> = report.errors.iter().map(|error| error.place.key()).collect();
    assert_eq!(keys, expected);
    assert!(report.errors.iter().all(|error| error.text.contains("is not")), "{report}");
}

#[test]
fn every_key_is_described_in_sentences() {
    for table in &TABLES {
        for key in table.keys() {
            let paragraphs = key.paragraphs();
            assert!(!paragraphs.is_empty(), "{}: {}", table.path, key.name);
            for paragraph in paragraphs {
                assert!(paragraph.ends_with('.'), "{}: {}: {paragraph}", table.path, key.name);
            }
        }
    }
    assert_eq!(paragraphs("A\nb.\n\nC."), ["A b.", "C."]);
}

#[test]
fn a_table_takes_effect_at_once_if_each_of_its_keys_does() {
    for name in [
        "users.a",
        "users.a.upstream-password-env",
        "tenants.t.weight",
        "listeners.a",
        "listeners.a.tls-cert",
        "limits.max-args",
        "log.level",
        "upstreams.u.hold-timeout",
        "upstreams.u.url",
        "upstreams.u.tls-cert",
        "upstreams.u.nat.x",
    ] {
        assert_eq!(reload(name), Reload::Live, "{name}");
    }
    for name in ["workers", "log.format", "upstreams.u", "upstreams.u.pool"] {
        assert_eq!(reload(name), Reload::Restart, "{name}");
    }
}

/// Types of other modules have defaults of their own, which their tests use. `config::tests`
/// compares the defaults of sessions, upstreams and Sentinels.
#[test]
fn other_modules_have_the_same_defaults() {
    let limits = LimitsConfig::default();
    assert_eq!(
        (limits.over_limit, limits.max_delay),
        (QuotaDefaults::over_limit(), QuotaDefaults::max_delay())
    );
    assert_eq!(Floor::default(), ServerTlsDefaults::min_version());
    assert_eq!(Floor::default(), ClientTlsDefaults::min_version());
    assert_eq!(Priority::default(), TenantDefaults::priority());
    assert_eq!(
        (Pubsub::default(), Scripts::default()),
        (TenantDefaults::pubsub(), TenantDefaults::scripts())
    );
}
