//! Prints the findings as text for people. Pure.

use std::fmt::Write;

use super::finding::{BROKEN, Diagnosis, Finding, Level};
use super::words::count;

/// The greatest width of a line, in characters; a longer word can exceed it.
const WIDTH: usize = 100;

/// The width of the columns left of a finding's text: `  broken     connect    `.
const MARGIN: usize = 24;

/// The style of the output. The caller chooses colour only for a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Levels are green, yellow or red.
    Colour,
    /// Plain text.
    Plain,
}

impl Style {
    fn paint(self, level: Level, text: &str) -> String {
        let code = match level {
            Level::Ok => "32",
            Level::Warning => "33",
            Level::Broken => "1;31",
            Level::NotTried => "2",
        };
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// Returns the text: every section with its findings, and at the end all broken findings again, because the end stays
/// on the screen.
pub fn show(diagnosis: &Diagnosis, style: Style) -> String {
    let mut text = String::new();
    for section in &diagnosis.sections {
        let _ = writeln!(text, "{section}");
        for (finding, times) in folded(&section.findings) {
            show_finding(&mut text, finding, &times, style);
        }
        text.push('\n');
    }
    show_summary(&mut text, diagnosis, style);
    text
}

/// Merges consecutive steps that were not tried for the same reason into one line.
fn folded(findings: &[Finding]) -> Vec<(&Finding, String)> {
    let mut lines: Vec<(&Finding, String)> = Vec::new();
    for finding in findings {
        match lines.last_mut() {
            Some((last, steps))
                if finding.level == Level::NotTried
                    && last.level == Level::NotTried
                    && last.seen == finding.seen =>
            {
                steps.push_str(", ");
                steps.push_str(finding.step.word());
            }
            _ => lines.push((finding, finding.step.word().to_owned())),
        }
    }
    lines
}

fn show_finding(text: &mut String, finding: &Finding, steps: &str, style: Style) {
    let level = style.paint(finding.level, &format!("{:<9}", finding.level.word()));
    if finding.level == Level::NotTried {
        let mut words = wrapped(&format!("{steps}: {}", finding.seen), WIDTH - 13).into_iter();
        let _ = writeln!(text, "  {level}  {}", words.next().unwrap_or_default());
        for line in words {
            let _ = writeln!(text, "{:13}{line}", "");
        }
        return;
    }
    let mut lines = wrapped(&finding.seen, WIDTH - MARGIN).into_iter();
    let _ = writeln!(text, "  {level}  {steps:<9}  {}", lines.next().unwrap_or_default());
    let mut more: Vec<String> = lines.collect();
    more.extend(finding.details.iter().flat_map(|detail| hanging(detail, "- ")));
    more.extend(finding.remedy.iter().flat_map(|remedy| hanging(remedy, "-> ")));
    for line in more {
        let _ = writeln!(text, "{:MARGIN$}{line}", "");
    }
}

fn show_summary(text: &mut String, diagnosis: &Diagnosis, style: Style) {
    let (broken, warnings) = (diagnosis.count(Level::Broken), diagnosis.count(Level::Warning));
    for section in &diagnosis.sections {
        for finding in section.findings.iter().filter(|finding| finding.level == Level::Broken) {
            let level = style.paint(Level::Broken, "broken");
            let mut lines =
                wrapped(&format!("{section}, {}: {}", finding.step.word(), finding.seen), WIDTH - 8)
                    .into_iter();
            let _ = writeln!(text, "{level}  {}", lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(text, "{:8}{line}", "");
            }
        }
    }
    let things =
        |number: usize, noun: &str| if number == 0 { "nothing".to_owned() } else { count(number, noun) };
    let _ = match (broken, warnings) {
        (0, 0) => writeln!(text, "{}", style.paint(Level::Ok, "All is well.")),
        (0, _) => writeln!(
            text,
            "{}",
            style.paint(Level::Warning, &format!("Clients are served; {}.", count(warnings, "warning")))
        ),
        _ => writeln!(
            text,
            "{} broken, {}; exit code {BROKEN}. Begin with the first.",
            things(broken, "thing"),
            count(warnings, "warning")
        ),
    };
}

fn hanging(text: &str, mark: &str) -> Vec<String> {
    let lines = wrapped(text, WIDTH - MARGIN - mark.len());
    let indent = " ".repeat(mark.len());
    lines
        .iter()
        .enumerate()
        .map(|(number, line)| format!("{}{line}", if number == 0 { mark } else { &indent }))
        .collect()
}

/// Breaks the text at spaces. A word longer than `width` stays whole, so that it can be copied.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut();
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{Section, Step, Subject};

    fn diagnosis() -> Diagnosis {
        Diagnosis {
            sections: vec![Section {
                subject: Subject::Primary,
                name: "main".into(),
                address: "db:6379".into(),
                findings: vec![
                    Finding::ok(Step::Dns, "db is 10.0.0.5, looked up in 1.0 ms"),
                    Finding::broken(
                        Step::Connect,
                        "10.0.0.5:6379 refuses the connection: the machine is there, but nothing listens on that port",
                        "check that the server runs",
                    ),
                    Finding::not_tried(Step::Tls, "there is no connection"),
                    Finding::not_tried(Step::Login, "there is no connection"),
                ],
            }],
        }
    }

    #[test]
    fn plain_text_is_aligned_and_ends_with_what_is_broken() {
        let expected = "\
upstream main: primary db:6379
  ok         dns        db is 10.0.0.5, looked up in 1.0 ms
  broken     connect    10.0.0.5:6379 refuses the connection: the machine is there, but nothing
                        listens on that port
                        -> check that the server runs
  not tried  tls, login: there is no connection

broken  upstream main: primary db:6379, connect: 10.0.0.5:6379 refuses the connection: the machine
        is there, but nothing listens on that port
1 thing broken, 0 warnings; exit code 69. Begin with the first.
";
        assert_eq!(show(&diagnosis(), Style::Plain), expected);
    }

    #[test]
    fn colour_is_only_added() {
        let coloured = show(&diagnosis(), Style::Colour);
        assert!(coloured.contains("\x1b[1;31mbroken   \x1b[0m"));
        let mut plain = coloured;
        for code in ["\x1b[32m", "\x1b[33m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, show(&diagnosis(), Style::Plain));
    }

    #[test]
    fn a_summary_without_problems_is_short() {
        assert_eq!(show(&Diagnosis::default(), Style::Plain), "All is well.\n");
    }
}
