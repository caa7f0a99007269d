//! The dashboard of `deploy/grafana` loads, and shows metrics that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use super::alerts::undeclared;
use super::markdown::root;
use super::promtool;

/// Reads the dashboard.
pub fn read() -> Value {
    let path = root().join("deploy/grafana/respgate.json");
    let text = std::fs::read_to_string(path).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

/// Returns the expressions of all panels, each with the panel's title, and with values in place of Grafana's variables.
pub fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title.to_owned(), target["expr"].as_str().expect("an expression")))
    });
    let filled = targets.map(|(title, expression)| {
        let expression = expression
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$upstream", ".*");
        (title, expression)
    });
    filled.collect()
}

#[test]
fn the_dashboard_has_its_rows_and_variables() {
    let dashboard = read();
    let panels = dashboard["panels"].as_array().expect("panels");
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<_> = rows.filter_map(|row| row["title"].as_str()).collect();
    let expected =
        ["Health", "Traffic", "Latency", "Clients and leases", "Failovers", "Tenants", "TLS", "Process"];
    assert_eq!(rows, expected);
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "instance", "upstream"]);

    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in panels {
        let [x, w] = ["x", "w"].map(|key| panel["gridPos"][key].as_u64().expect("a position"));
        assert!(x + w <= 24, "{}: a dashboard is 24 columns wide", panel["title"]);
    }
}

#[test]
fn its_expressions_parse() {
    let expressions = expressions(&read());
    assert!(expressions.len() > 60, "only {} expressions", expressions.len());
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, (_, expression)) in expressions.iter().enumerate() {
        assert!(!expression.contains(['$', '\'']), "{expression}");
        rules.push_str(&format!("      - record: panel:{number}\n        expr: '{expression}'\n"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("dashboard.yml"), rules).expect("the rules");
    let checked = promtool::run(folder.path(), &["check", "rules", "dashboard.yml"]);
    checked.unwrap_or_else(|text| panic!("{text}"));
}

#[test]
fn its_metrics_exist() {
    let dashboard = read();
    for (title, expression) in expressions(&dashboard) {
        let unknown = undeclared(&expression);
        assert!(unknown.is_empty(), "{title}: {unknown:?}");
    }
    // The queries of variables and annotations too.
    let all = dashboard.to_string();
    assert!(undeclared(&all).is_empty(), "{:?}", undeclared(&all));
}
