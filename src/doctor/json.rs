//! Prints the findings as one JSON document for machines. Pure. The keys and the words for levels, steps and subjects
//! are part of the public interface; the texts are not.

use serde_json::{Value, json};

use super::finding::{BROKEN, Diagnosis, Finding, Level, Section};
use crate::config::report::Report;

/// Returns the document of a check.
pub fn document(diagnosis: &Diagnosis, report: &Report) -> Value {
    let broken = diagnosis.broken();
    json!({
        "healthy": !broken,
        "exit_code": if broken { BROKEN } else { 0 },
        "broken": diagnosis.count(Level::Broken),
        "warnings": diagnosis.count(Level::Warning),
        "configuration": complaints(report),
        "sections": diagnosis.sections.iter().map(section).collect::<Vec<_>>(),
    })
}

/// Returns the document if the configuration has errors, so that no check ran.
pub fn misconfigured(report: &Report, exit_code: u8) -> Value {
    json!({
        "healthy": false,
        "exit_code": exit_code,
        "broken": report.errors.len(),
        "warnings": report.warnings.len(),
        "configuration": complaints(report),
        "sections": [],
    })
}

fn complaints(report: &Report) -> Vec<Value> {
    let of = |level: Level, findings: &[crate::config::report::Finding]| {
        let each = |it: &crate::config::report::Finding| json!({ "level": level.word(), "place": it.place.to_string(), "text": it.text });
        findings.iter().map(each).collect::<Vec<_>>()
    };
    [of(Level::Broken, &report.errors), of(Level::Warning, &report.warnings)].concat()
}

fn section(section: &Section) -> Value {
    json!({
        "subject": section.subject.word(),
        "name": section.name,
        "address": section.address,
        "level": section.level().word(),
        "findings": section.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "step": finding.step.word(),
        "level": finding.level.word(),
        "seen": finding.seen,
        "details": finding.details,
        "remedy": finding.remedy,
        "facts": finding.facts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{Step, Subject};

    #[test]
    fn the_document_says_all() {
        let findings = vec![
            Finding::ok(Step::Latency, "20 PINGs").fact("median_ms", 0.5),
            Finding::broken(Step::Role, "a replica", "point elsewhere").detail("more"),
        ];
        let section =
            Section { subject: Subject::Primary, name: "main".into(), address: "db:6379".into(), findings };
        let document = document(&Diagnosis { sections: vec![section] }, &Report::default());
        assert_eq!(document["healthy"], false);
        assert_eq!(document["exit_code"], 69);
        let section = &document["sections"][0];
        assert_eq!((&section["subject"], &section["level"]), (&json!("primary"), &json!("broken")));
        assert_eq!(section["findings"][0]["facts"]["median_ms"], 0.5);
        assert_eq!(
            section["findings"][1],
            json!({ "step": "role", "level": "broken", "seen": "a replica", "details": ["more"],
                    "remedy": "point elsewhere", "facts": {} })
        );
    }
}
