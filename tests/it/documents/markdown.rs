//! Reads the documents: their anchors, links and fenced blocks.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One document.
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

/// A fenced block.
pub struct Block {
    /// The word behind the fence, such as `sh`; empty if there is none.
    pub language: String,
    pub text: String,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = root().join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { path, text }
    }

    /// README.md, the other documents beside it, and docs/*.md.
    pub fn all() -> Vec<Self> {
        let mut pages: Vec<_> =
            ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(Self::read).into();
        let mut names: Vec<_> = fs::read_dir(root().join("docs"))
            .expect("docs/")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| name.ends_with(".md"))
            .collect();
        names.sort();
        pages.extend(names.iter().map(|name| Self::read(&format!("docs/{name}"))));
        pages
    }

    /// The lines outside fenced blocks.
    fn prose(&self) -> Vec<&str> {
        let mut fenced = false;
        let outside = self.text.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        });
        outside.collect()
    }

    pub fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open) = (Vec::new(), None::<Block>);
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block { language: language.to_owned(), text: String::new() })
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text.extend([line, "\n"]),
                (None, None) => {}
            }
        }
        blocks
    }

    /// The texts of the headings of one level, `###` for example.
    pub fn headings(&self, marks: &str) -> Vec<&str> {
        self.prose().iter().filter_map(|line| line.strip_prefix(marks)?.strip_prefix(' ')).collect()
    }

    /// The part of the page from a heading to the next one of the same level.
    pub fn section(&self, heading: &str) -> Self {
        let marks = heading.split(' ').next().expect("marks");
        let start = self.text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}"));
        let rest = &self.text[start + 1..];
        let end = rest.find(&format!("\n{marks} ")).unwrap_or(rest.len());
        Self { path: self.path.clone(), text: rest[..end].to_owned() }
    }

    /// What a link to this page may have behind its `#`.
    pub fn anchors(&self) -> BTreeSet<String> {
        let (mut anchors, mut used) = (BTreeSet::new(), HashMap::<String, usize>::new());
        for line in self.prose() {
            let text = line.trim_start_matches('#');
            if text.len() < line.len() && text.starts_with(' ') {
                let slug = slug(text.trim());
                let times = used.entry(slug.clone()).or_default();
                anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
                *times += 1;
            }
            anchors.extend(
                line.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
            );
        }
        anchors
    }

    /// The targets of links, without those to other machines.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        let targets = prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
    }
}

/// The anchor that GitHub gives a heading: lower case, without punctuation, hyphens for spaces.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn a_heading_has_the_anchor_that_github_gives_it() {
    assert_eq!(slug("`--log-level` and others, too"), "--log-level-and-others-too");
    assert_eq!(
        slug("Reasons of `respgate_clients_closed_total`"),
        "reasons-of-respgate_clients_closed_total"
    );
}
