//! No file under `src/` imports, through others or directly, a file that imports it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::{self, SourceFile};

/// Modules that still have cycles. An entry without a cycle fails the test.
const KNOWN: &[&str] = &[];

/// The type that holds one client's session. Its methods stand in several files, which may import it.
const SESSION: [&str; 2] = ["session", "Session"];

/// The type in front of `src/upstream/`. The parts below it may not import it.
const FACADE: [&str; 2] = ["upstream", "Upstream"];

/// Maps a file to the files that it imports, each with the lines of the imports.
type Graph = BTreeMap<usize, BTreeMap<usize, Vec<String>>>;

#[test]
fn no_file_imports_itself_through_others() {
    let files: Vec<_> = source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let found = errors(&files);
    let unknown: Vec<&str> = found
        .iter()
        .filter(|(module, _)| !KNOWN.contains(&module.as_str()))
        .map(|(_, error)| error.as_str())
        .collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    for known in KNOWN {
        let cyclic = found.iter().any(|(module, _)| module == known);
        assert!(cyclic, "`{known}` has no cycle any more; remove it from KNOWN in tests/it/layers/cycles.rs");
    }
}

/// Returns what is wrong, each with the module in which it is wrong.
fn errors(files: &[SourceFile]) -> Vec<(String, String)> {
    let files: Vec<_> = files.iter().map(SourceFile::without_tests).collect();
    let mut errors: Vec<_> = cycles(&files).collect();
    for file in files.iter().filter(|file| file.module.len() > 1 && file.module[0] == FACADE[0]) {
        for import in
            file.imports().iter().filter(|import| import.target.starts_with(&FACADE.map(String::from)))
        {
            let (path, line) = (file.path.display(), import.line);
            let error = format!("{path}:{line}: a part of `upstream` imports the facade `Upstream`");
            errors.push((FACADE[0].to_owned(), error));
        }
    }
    errors
}

/// Returns the cycles, each with the name of its module.
fn cycles(files: &[SourceFile]) -> impl Iterator<Item = (String, String)> {
    let graph = graph(files);
    components(&graph).into_iter().map(move |component| {
        let names = component.iter().map(|file| files[*file].path.display().to_string());
        let mut text = format!("{} import each other:", names.collect::<Vec<_>>().join(", "));
        for (from, targets) in graph.iter().filter(|(from, _)| component.contains(from)) {
            for (_, lines) in targets.iter().filter(|(to, _)| component.contains(to)) {
                for line in lines {
                    text.push_str(&format!("\n    {}:{line}", files[*from].path.display()));
                }
            }
        }
        let module = component.first().and_then(|file| files[*file].module.first()).cloned();
        (module.unwrap_or_default(), text)
    })
}

fn graph(files: &[SourceFile]) -> Graph {
    let by_module: BTreeMap<&[String], usize> =
        files.iter().enumerate().map(|(at, file)| (&file.module[..], at)).collect();
    let mut graph = Graph::new();
    for (from, file) in files.iter().enumerate() {
        for import in file.imports() {
            if may_import_session(file, &import.target) {
                continue;
            }
            // The file of the innermost module on the path.
            let lengths = (1..=import.target.len()).rev();
            let to = lengths.into_iter().find_map(|length| by_module.get(&import.target[..length]));
            if let Some(to) = to.filter(|to| **to != from) {
                let line = format!("{}: {}", import.line, import.target.join("::"));
                graph.entry(from).or_default().entry(*to).or_default().push(line);
            }
        }
    }
    graph
}

/// Returns true if the path names `Session`, and the file is one of those that hold its methods.
fn may_import_session(file: &SourceFile, target: &[String]) -> bool {
    target == SESSION
        && file.module.first().is_some_and(|module| module == SESSION[0])
        && file.text.contains("impl Session {")
}

/// Returns the sets of files that reach each other.
fn components(graph: &Graph) -> Vec<BTreeSet<usize>> {
    let reached: BTreeMap<usize, BTreeSet<usize>> =
        graph.keys().map(|from| (*from, reachable(graph, *from))).collect();
    let mut components: Vec<BTreeSet<usize>> = Vec::new();
    for (from, others) in &reached {
        if !others.contains(from) || components.iter().any(|known| known.contains(from)) {
            continue;
        }
        let both = others.iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(from)));
        components.push(both.copied().collect());
    }
    components
}

/// Returns the files that `from` imports directly or through others.
fn reachable(graph: &Graph, from: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        let targets = graph.get(&file).into_iter().flat_map(BTreeMap::keys);
        next.extend(targets.copied().filter(|target| reached.insert(*target)));
    }
    reached
}

#[test]
fn a_cycle_is_named_with_its_files_and_lines() {
    let errors = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| SourceFile::new(Path::new(path), text)).collect();
        super::cycles::errors(&files)
    };
    let cycle = [
        ("net/mod.rs", "mod a;\nmod b;\nmod c;\npub use c::C;"),
        ("net/a.rs", "use super::b::B;"),
        ("net/b.rs", "\nfn f() { super::c::f() }"),
        ("net/c.rs", "use crate::net::a;"),
    ];
    assert_eq!(
        errors(&cycle),
        [(
            "net".to_owned(),
            "src/net/a.rs, src/net/b.rs, src/net/c.rs import each other:\n    src/net/a.rs:1: net::b::B\n    \
             src/net/b.rs:2: net::c::f\n    src/net/c.rs:1: net::a"
                .to_owned()
        )]
    );
    let through_the_facade =
        [("net/mod.rs", "mod a;\npub use a::A;"), ("net/a.rs", "use super::A as Other;")];
    assert_eq!(errors(&through_the_facade).len(), 1);
    let in_tests = [
        ("net/mod.rs", "mod a;\npub use a::A;"),
        ("net/a.rs", "struct A;\n#[cfg(test)]\nmod tests { use crate::net::*; }"),
        ("net/a/tests.rs", "use super::*;"),
    ];
    assert_eq!(errors(&in_tests), []);
}

#[test]
fn only_methods_of_a_session_may_import_it() {
    let errors = |text: &str| {
        let files = [
            ("session/mod.rs", "mod turn;\nuse turn::Turn;\npub struct Session;"),
            ("session/turn.rs", text),
        ];
        let files: Vec<_> = files.iter().map(|(path, text)| SourceFile::new(Path::new(path), text)).collect();
        super::cycles::errors(&files).len()
    };
    assert_eq!(errors("use super::Session;\nimpl Session { fn turn(&self) {} }"), 0);
    assert_eq!(errors("use super::Session;\nfn turn(session: &Session) {}"), 1);
    assert_eq!(errors("use super::{Close, Session};\nimpl Session { fn turn(&self) {} }"), 1);
}

#[test]
fn parts_of_upstream_may_not_import_the_facade() {
    let errors = |text: &str| {
        let file = SourceFile::new(Path::new("upstream/shared/lane.rs"), text);
        super::cycles::errors(&[file])
    };
    for import in ["use super::super::Upstream;", "fn f(upstream: &crate::upstream::Upstream) {}"] {
        let expected = "src/upstream/shared/lane.rs:1: a part of `upstream` imports the facade `Upstream`";
        assert_eq!(errors(import), [("upstream".to_owned(), expected.to_owned())]);
    }
    assert_eq!(errors("use crate::upstream::UpstreamPlan;"), []);
}
