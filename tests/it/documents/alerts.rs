//! The rules of `deploy/prometheus` pass their tests, and the documents explain each of them.

use std::collections::{BTreeMap, BTreeSet};

use respgate::metrics::declared::METRICS;

use super::assert_same;
use super::markdown::{Page, root};
use super::promtool;

/// A rule of `alerts.yml`.
struct Rule {
    name: String,
    /// The other lines of the rule.
    text: String,
}

impl Rule {
    fn all() -> Vec<Self> {
        let page = Page::read("deploy/prometheus/alerts.yml").text;
        let rules = page.split("      - alert: ").skip(1).map(|rule| {
            let (name, text) = rule.split_once('\n').expect("a rule of several lines");
            let text = text.split("  - name: ").next().expect("a text");
            Self { name: name.to_owned(), text: text.to_owned() }
        });
        let rules: Vec<_> = rules.collect();
        assert!(rules.len() > 30, "only {} rules", rules.len());
        rules
    }

    fn severity(&self) -> &str {
        let rest = self.text.split("labels: { severity: ").nth(1).expect("a severity");
        rest.split(' ').next().expect("a word")
    }
}

fn names() -> BTreeSet<String> {
    Rule::all().into_iter().map(|rule| rule.name).collect()
}

/// Returns the metrics that an expression names and respgate does not declare.
pub(super) fn undeclared(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("respgate_") || word.starts_with("process_"));
    ours.filter(|word| {
        let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| word.strip_suffix(part));
        let names: Vec<_> = parts.chain([*word]).collect();
        !METRICS.iter().any(|about| names.contains(&about.name))
    })
    .collect()
}

#[test]
fn rules_pass_their_tests() {
    let folder = root().join("deploy/prometheus");
    promtool::run(&folder, &["check", "rules", "alerts.yml"]).unwrap_or_else(|text| panic!("{text}"));
    promtool::run(&folder, &["test", "rules", "alerts_test.yml"]).unwrap_or_else(|text| panic!("{text}"));
}

#[test]
fn each_rule_has_a_test_that_it_fires_and_one_that_it_does_not() {
    let tests = Page::read("deploy/prometheus/alerts_test.yml").text;
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for line in tests.lines().filter(|line| line.contains("exp_samples")) {
        let name = line.split("alertname=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a name");
        let of = if line.contains("exp_samples: []") { &mut quiet } else { &mut fires };
        of.insert(name.to_owned());
    }
    assert_same("alerts that fire in a test", &fires, &names());
    assert_same("alerts that do not fire in a test", &quiet, &names());
}

#[test]
fn rules_use_metrics_that_exist() {
    for rule in Rule::all() {
        let unknown = undeclared(&rule.text);
        assert!(unknown.is_empty(), "{}: {unknown:?}", rule.name);
    }
}

#[test]
fn every_alert_is_documented() {
    let page = Page::read("docs/metrics-and-alerts.md").section("## Alerts");
    let rows = page.text.lines().filter(|line| line.starts_with("| [`Respgate"));
    let documented: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            (cells[1].to_owned(), cells[2].to_owned())
        })
        .collect();
    let link = |name: &str| format!("[`{name}`](runbook.md#{})", name.to_lowercase());
    let expected: BTreeMap<_, _> =
        Rule::all().iter().map(|rule| (link(&rule.name), rule.severity().to_owned())).collect();
    assert_eq!(documented, expected);
}

#[test]
fn the_runbook_has_a_section_for_each_alert() {
    let page = Page::read("docs/runbook.md");
    let headings = page.headings("###").into_iter().filter(|text| text.starts_with("Respgate"));
    assert_same("sections of the runbook", &headings.map(str::to_owned).collect(), &names());
    let anchors = page.anchors();
    for Rule { name, text } in Rule::all() {
        let anchor = name.to_lowercase();
        assert!(anchors.contains(&anchor), "{anchor}");
        let link = format!("runbook_url: \"docs/runbook.md#{anchor}\"");
        assert!(text.contains(&link), "{name}: {link}");
        let section = page.section(&format!("### {name}")).text;
        let section = section.split("\n## ").next().expect("a section");
        for part in ["**Meaning.**", "**Effect.**", "**Look at**", "**Do.**"] {
            assert!(section.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn the_runbook_names_metrics_that_exist() {
    for page in ["docs/runbook.md", "docs/incident.md"] {
        let text = Page::read(page).text;
        // A pattern such as `^respgate_tenant_` is the beginning of a name.
        let begins = |word: &str| METRICS.iter().any(|about| about.name.starts_with(word));
        let unknown: Vec<_> = undeclared(&text).into_iter().filter(|word| !begins(word)).collect();
        assert!(unknown.is_empty(), "{page}: {unknown:?}");
    }
}
