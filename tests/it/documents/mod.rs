//! The documents are complete and true: metrics, flags, errors, log lines, links, configurations and commands.

mod alerts;
pub mod dashboard;
pub mod markdown;
pub mod promtool;
mod quick_starts;
mod release;
mod source;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use respgate::metrics::declared::{About, METRICS};

use crate::support::certificates::Certificates;
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};
use markdown::{Page, root};

fn assert_same(what: &str, documented: &BTreeSet<String>, actual: &BTreeSet<String>) {
    let missing: Vec<_> = actual.difference(documented).collect();
    let stale: Vec<_> = documented.difference(actual).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{what}\nnot documented: {missing:#?}\nnot in respgate: {stale:#?}"
    );
}

#[test]
fn every_link_leads_somewhere() {
    let pages = Page::all();
    let mut faults = Vec::new();
    let mut links = 0;
    for page in &pages {
        for link in page.links() {
            links += 1;
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let folder = page.path.parent().expect("a folder");
            let target = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            let target = target.canonicalize();
            let found = match (&target, anchor) {
                (Err(_), _) => false,
                (Ok(_), None) => true,
                (Ok(target), Some(anchor)) => {
                    let same = |other: &&Page| other.path.canonicalize().ok().as_ref() == Some(target);
                    pages.iter().find(same).is_some_and(|other| other.anchors().contains(anchor))
                }
            };
            if !found {
                faults.push(format!("{}: {link}", page.path.display()));
            }
        }
    }
    assert!(links > 100, "only {links} links");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_file_in_architecture_exists() {
    let text = Page::read("ARCHITECTURE.md").text;
    let named =
        text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs") || word.ends_with('/'));
    let named: Vec<_> = named.filter(|word| *word != "src/").collect();
    assert!(named.len() > 50, "only {} files", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !root().join("src").join(name).exists() && !root().join(name).exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_is_short() {
    let lines = Page::read("README.md").text.lines().count();
    assert!(lines <= 200, "README.md has {lines} lines; 200 is the most");
}

#[test]
fn metrics_are_documented_as_they_are_declared() {
    let labels = |about: &About| {
        // The page says of `upstream` once which metrics have it.
        let labels: Vec<_> = about.labels.iter().copied().filter(|label| *label != "upstream").collect();
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
    };
    let declared = METRICS.iter().map(|about| {
        let (name, kind) = (about.name, format!("{:?}", about.kind).to_lowercase());
        format!("| <a id=\"{name}\"></a>`{name}{}` | {kind} |", labels(about))
    });
    let deprecated = METRICS.iter().filter_map(|about| {
        let (former, name) = (about.former_name?, about.name);
        Some(format!("| <a id=\"{former}\"></a>`{former}` | [`{name}`](#{name}) |"))
    });
    let page = Page::read("docs/metrics-and-alerts.md");
    let of_metric = |line: &&str| {
        ["respgate_", "process_"].iter().any(|start| line.starts_with(&format!("| <a id=\"{start}")))
    };
    let rows = page.text.lines().filter(of_metric);
    let documented = rows.map(|row| {
        let cells: Vec<_> = row.splitn(4, '|').collect();
        format!("|{}|{}|", cells[1], cells[2])
    });
    assert_same("metrics", &documented.collect(), &declared.chain(deprecated).collect());
}

#[test]
fn metrics_are_named_where_they_are_declared_only() {
    let declared_in = Path::new("src/metrics/declared.rs");
    assert!(root().join(declared_in).exists());
    let is_name = |text: &str| {
        let name = text.split(|c: char| !c.is_ascii_lowercase() && c != '_').next();
        METRICS.iter().any(|about| name == Some(about.name) || name == about.former_name)
    };
    let elsewhere: Vec<_> = source::literals()
        .into_iter()
        .filter(|literal| Path::new(&literal.file) != declared_in && is_name(&literal.text))
        .map(|literal| format!("{}: {}", literal.file, literal.text))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

#[test]
fn metrics_of_a_running_respgate_are_declared() {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start_file(
        1,
        &format!(
            "[tenants.everybody]\ndefault = true\nread-only = true\nconnections = 10\nin-flight = 10\n\
             max-buffered = \"1MiB\"\n[upstreams.main]\naddress = \"{}\"\n",
            server.address()
        ),
    );
    let text = proxy.http("/metrics");
    let shown: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert!(shown.len() > 40, "{text}");
    let declared = METRICS.iter().flat_map(|about| [Some(about.name), about.former_name]);
    let declared: BTreeSet<_> = declared.flatten().map(str::to_owned).collect();
    let missing: Vec<_> = shown.difference(&declared).collect();
    assert!(missing.is_empty(), "not declared: {missing:?}");
    for about in METRICS.iter().filter(|about| shown.contains(about.name)) {
        assert!(text.contains(&format!("# HELP {} {}\n", about.name, about.help)), "{text}");
        if let Some(former) = about.former_name {
            let help = format!("# HELP {former} Deprecated: use {}.\n", about.name);
            assert!(text.contains(&help), "{help}{text}");
        }
    }
}

#[test]
fn a_deprecated_label_is_published_beside_the_new_one() {
    let server = Server::start(Flavor::Valkey);
    let file = format!("[upstreams.main]\naddress = \"{}\"\n", server.address());
    let proxy = Proxy::start_file(1, &file);
    let (new, old) = ("kind=\"configuration\"", "what=\"configuration\"");
    for metric in ["respgate_reload_failed", "respgate_reload_fault"] {
        let text = proxy.http("/metrics");
        let sample = text.lines().find(|line| line.starts_with(&format!("{metric}{{")));
        assert!(sample.is_some_and(|line| line.contains(new) && line.contains(old)), "{metric}: {text}");
    }
}

/// What `respgate … --help` prints.
fn help(subcommand: &[&str]) -> String {
    let output = Command::new(binary()).args(subcommand).arg("--help").output().expect("respgate");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The flags in a text.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words
        .filter(|word| word.strip_prefix("--").is_some_and(|name| name.len() > 1))
        .map(str::to_owned)
        .collect()
}

fn all_flags() -> BTreeSet<String> {
    let helps = [
        &[][..],
        &["check"],
        &["doctor"],
        &["status"],
        &["ctl"],
        &["ctl", "pause"],
        &["ctl", "switch"],
        &["upgrade"],
    ];
    let helps = helps.map(help);
    helps.iter().flat_map(|help| flags(help)).collect()
}

#[test]
fn every_flag_and_subcommand_is_documented() {
    let page = Page::read("docs/command-line.md");
    let (of_options, of_commands) = (page.section("## Options"), page.section("## Commands"));
    let documented = of_options.headings("###").into_iter().map(str::to_owned).collect();
    assert_same("flags", &documented, &all_flags());

    let help = help(&[]);
    let commands =
        help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("commands");
    let commands =
        commands.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    let documented = of_commands.headings("###").into_iter().map(str::to_owned).collect();
    assert_same("subcommands", &documented, &commands);
}

/// Texts in code font.
fn code(headings: Vec<&str>) -> BTreeSet<String> {
    headings
        .iter()
        .filter_map(|heading| Some(heading.strip_prefix('`')?.strip_suffix('`')?.to_owned()))
        .collect()
}

#[test]
fn every_error_text_is_documented() {
    let is_error = |text: &str| {
        ["-ERR respgate: ", "-OUTCOMEUNKNOWN ", "-ERR max number of clients", " (respgate: "]
            .iter()
            .any(|start| text.starts_with(start))
    };
    let errors = source::literals().into_iter().map(|literal| literal.text).filter(|text| is_error(text));
    // The server's own words follow such a text.
    let errors =
        errors.map(|text| if text.ends_with(' ') { text + "…" } else { text.trim_start().to_owned() });
    let page = Page::read("docs/troubleshooting.md").section("## Errors that clients see");
    assert_same("errors", &code(page.headings("###")), &errors.collect());
}

#[test]
fn every_warning_of_the_log_is_documented() {
    let documented = code(
        Page::read("docs/troubleshooting.md").section("## Warnings and errors in the log").headings("###"),
    );
    let literals = source::literals();
    let says_something = |text: &str| text.contains(' ') && text.chars().any(char::is_alphabetic);
    let logged: BTreeSet<_> = literals
        .iter()
        .filter(|it| it.logged && says_something(&it.text))
        .map(|it| it.text.clone())
        .collect();
    let missing: Vec<_> = logged.difference(&documented).collect();
    assert!(missing.is_empty(), "not documented: {missing:#?}");
    let all: BTreeSet<_> = literals.into_iter().map(|literal| literal.text).collect();
    let stale: Vec<_> = documented.difference(&all).collect();
    assert!(stale.is_empty(), "not in respgate: {stale:#?}");
}

#[test]
fn every_configuration_in_the_documents_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = Certificates::new();
    let inside = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(inside("valkey-password"), "secret\n").expect("a password");
    std::fs::write(inside("control-token"), "a token of 16 bytes\n").expect("a token");
    std::fs::write(inside("read-token"), "a token of 16 bytes\n").expect("a token");
    std::fs::copy(certificates.path("ca.pem"), inside("provider-ca.pem")).expect("authorities");
    std::fs::copy(certificates.path("server.crt"), inside("admin.crt")).expect("a certificate");
    std::fs::copy(certificates.path("server.key"), inside("admin.key")).expect("a key");
    let mut checked = 0;
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.language == "toml") {
            // A page may show a part of a file.
            if !block.text.contains("[upstreams.") || page.path.ends_with("docs/configuration.md") {
                continue;
            }
            let text =
                block.text.replace("/run/secrets/", &inside("")).replace("/etc/respgate/", &inside(""));
            let file = inside("respgate.toml");
            std::fs::write(&file, text).expect("the configuration");
            let output = Command::new(binary())
                .args(["check", "--config", &file])
                .env("APP_SHOP_PASSWORD", "secret")
                .output()
                .expect("respgate");
            assert!(
                output.status.success(),
                "{}:\n{}\n{}",
                page.path.display(),
                block.text,
                String::from_utf8_lossy(&output.stderr)
            );
            checked += 1;
        }
    }
    assert!(checked >= 6, "only {checked} configurations were found");
}

#[test]
fn commands_in_the_documents_have_known_flags() {
    let known = all_flags();
    let mut seen = 0;
    for page in Page::all() {
        let blocks = page.blocks();
        let lines = blocks.iter().filter(|block| block.language == "sh").flat_map(|block| block.text.lines());
        for line in lines.filter(|line| line.starts_with("respgate ")) {
            let command = line.split(" #").next().expect("a command");
            let unknown: Vec<_> = flags(command).difference(&known).cloned().collect();
            assert!(unknown.is_empty(), "{}: {line}: {unknown:?}", page.path.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "only {seen} commands were found in {}", root().display());
}
