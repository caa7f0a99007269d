//! What a release says of itself is the same everywhere, and SECURITY.md names tests that exist.

use std::fs;

use super::markdown::{Page, root};

/// Returns what stands in a file between two texts, once for each place.
fn between(file: &str, before: &str, after: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let parts = text.split(before).skip(1).filter_map(|rest| Some(rest.split_once(after)?.0.to_owned()));
    let found: Vec<_> = parts.collect();
    assert!(!found.is_empty(), "{file} has no {before:?}");
    found
}

#[test]
fn versions_agree() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, before, after) in [
        ("deploy/helm/respgate/Chart.yaml", "\nversion: ", "\n"),
        ("deploy/helm/respgate/Chart.yaml", "\nappVersion: \"", "\""),
        ("deploy/compose.yaml", "image: respgate:", "\n"),
        ("deploy/Dockerfile", "-t registry.example/respgate:", " "),
        ("docs/kubernetes.md", "registry.example/respgate:", "\n"),
        ("docs/install.md", "-t registry.example/respgate:", "\n"),
    ] {
        for found in between(file, before, after) {
            assert_eq!(found.split(' ').next(), Some(version), "{file}: {before}");
        }
    }
    let changelog = Page::read("CHANGELOG.md");
    let newest = changelog.headings("##").into_iter().find(|heading| *heading != "[Unreleased]");
    let newest = newest.expect("a version in the changelog");
    assert!(newest.starts_with(&format!("[{version}] - 20")), "CHANGELOG.md: {newest}");
}

#[test]
fn the_oldest_compiler_is_the_same_everywhere() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    for (file, before, after) in [
        ("clippy.toml", "msrv = \"", "\""),
        ("README.md", "[Rust](https://rustup.rs) ", " or later"),
        ("CONTRIBUTING.md", "[Rust](https://rustup.rs) ", " or later"),
        ("deploy/Dockerfile", "library/rust:", "-slim"),
    ] {
        for found in between(file, before, after) {
            assert_eq!(found, oldest, "{file}");
        }
    }
}

/// Every claim of SECURITY.md names at least one test, and every test that it names exists.
#[test]
fn every_claim_about_security_has_its_tests() {
    let page = Page::read("SECURITY.md");
    let mut named = 0;
    for section in ["## What counts", "## What is yours to guard"] {
        let text = page.section(section).text;
        let claims: Vec<_> = text.split("\n- ").skip(1).collect();
        assert!(claims.len() >= 5, "{section}: {} claims", claims.len());
        for claim in claims {
            let claim = claim.split("\n\n").next().expect("a claim");
            let (_, tests) = claim.split_once("\n  Tests: ").unwrap_or_else(|| panic!("no tests: {claim}"));
            for test in tests.split('`').skip(1).step_by(2) {
                named += 1;
                let (file, name) =
                    test.split_once(": ").map_or((test, None), |(file, name)| (file, Some(name)));
                let source =
                    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
                let exists = name.is_none_or(|name| source.contains(&format!("fn {name}(")));
                assert!(exists, "SECURITY.md names {test}, which does not exist");
            }
        }
    }
    assert!(named > 30, "only {named} tests");
}
