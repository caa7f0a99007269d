//! What COMMAND of four server versions says, recorded, so that machines with two servers compare the table with all four.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use respgate::command::{RouteClass, TABLE};

use super::{Command, commands, differences, expect_categories, unexpected};
use crate::support::servers::Server;

/// Set, it makes the tests write what they compare: the records of the servers that run, and the figures of the page.
const WRITE: &str = "COMMAND_FACTS_WRITE";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file with the record of a version: `valkey 9.1.2` is in `valkey-9.1`.
fn file(version: &str) -> PathBuf {
    let (series, _) = version.rsplit_once('.').expect("a version with a patch level");
    root().join("tests/it/command_facts/servers").join(series.replace(' ', "-"))
}

/// One line a command: name, number of arguments, flags, categories.
fn write(known: &BTreeMap<String, Command>) -> String {
    let line = |(name, command): (&String, &Command)| {
        let [flags, categories] = [&command.flags, &command.categories]
            .map(|words| words.iter().map(String::as_str).collect::<Vec<_>>().join(","));
        format!("{name} {} flags:{flags} categories:{categories}\n", command.arity)
    };
    known.iter().map(line).collect()
}

fn read(text: &str) -> BTreeMap<String, Command> {
    let words = |field: &str, name: &str| {
        let list = field.strip_prefix(name).expect("the name of a list");
        list.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let command = |line: &str| {
        let mut fields = line.split(' ');
        let mut next = || fields.next().expect("four fields");
        let (name, arity) = (next().to_owned(), next().parse().expect("a number"));
        let command =
            Command { arity, flags: words(next(), "flags:"), categories: words(next(), "categories:") };
        (name, command)
    };
    text.lines().map(command).collect()
}

/// Every record, by the server's name and series: `valkey-9.1`.
fn records() -> BTreeMap<String, BTreeMap<String, Command>> {
    let folder = root().join("tests/it/command_facts/servers");
    let entries = fs::read_dir(folder).expect("the records").map(|entry| entry.expect("a record").path());
    let record = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, read(&fs::read_to_string(path).expect("a record")))
    };
    entries.map(record).collect()
}

#[test]
fn the_records_are_what_the_servers_say() {
    for server in Server::start_all_versions() {
        let (version, known) = (server.version(), commands(&server));
        let path = file(&version);
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, write(&known)).expect("the record is written");
        }
        // A series without a record is compared with the table like any other.
        if let Ok(text) = fs::read_to_string(&path) {
            assert_eq!(read(&text), known, "{version}; {WRITE}=1 writes it");
        }
    }
}

#[test]
fn the_table_says_what_every_record_says() {
    let records = records();
    assert!(records.len() >= 4, "{:?}", records.keys());
    let mut odd = Vec::new();
    for (version, known) in &records {
        expect_categories(version, known);
        let found = differences(known);
        println!("{version}: {} commands, {} differences", known.len(), found.len());
        found.iter().for_each(|line| println!("    {line}"));
        odd.extend(unexpected(version, &found));
    }
    assert!(odd.is_empty(), "{odd:#?}");
}

/// The figures of a server's commands, as a line of the page.
fn figures(version: &str, known: &BTreeMap<String, Command>) -> String {
    let routes: Vec<_> = known.keys().map(|name| TABLE.iter().find(|spec| spec.name == name)).collect();
    let count =
        |classes: &[RouteClass]| routes.iter().flatten().filter(|spec| classes.contains(&spec.route)).count();
    let learned = routes.iter().filter(|row| row.is_none()).count();
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {learned} |\n",
        version.replace('-', " "),
        known.len(),
        count(&[RouteClass::Virtual]),
        count(&[RouteClass::Shared, RouteClass::LeaseIfBlock]),
        count(&[RouteClass::Lease, RouteClass::Pin, RouteClass::SideConnection]),
        count(&[RouteClass::Admin]),
        count(&[RouteClass::LocalError]),
    )
}

#[test]
fn the_figures_of_the_page_are_true() {
    let mut table = String::from(
        "| server | commands | local | shared | leased | administrative | refused as by a server without clusters | learned |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    table.extend(records().iter().map(|(version, known)| figures(version, known)));
    let page = root().join("docs/commands-and-lanes.md");
    let text = fs::read_to_string(&page).expect("the page");
    let (begin, end) = ("<!-- figures -->\n", "<!-- end of figures -->\n");
    let (before, rest) = text.split_once(begin).expect("where the figures begin");
    let (written, after) = rest.split_once(end).expect("where the figures end");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&page, format!("{before}{begin}{table}{end}{after}")).expect("the page is written");
        return;
    }
    assert_eq!(written, table, "docs/commands-and-lanes.md is stale; {WRITE}=1 writes it");
}
