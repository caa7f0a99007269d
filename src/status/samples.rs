//! Parses Prometheus text as respgate writes it. Does no I/O.

use std::collections::BTreeSet;

/// The samples of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

impl Samples {
    /// Parses the text exposition format. Skips lines that it does not understand.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// Returns the sum of a metric's samples that have all these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        };
        self.0.iter().filter(fits).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// Returns the value of a label of the metric's first sample.
    pub(super) fn text(&self, name: &str, label: &str) -> Option<&str> {
        self.0.iter().find(|sample| sample.name == name)?.label(label)
    }

    /// Returns all values of a label.
    pub(super) fn values_of(&self, label: &str) -> BTreeSet<String> {
        self.0.iter().filter_map(|sample| sample.label(label).map(str::to_owned)).collect()
    }

    /// Returns the samples with this label, each with its metric's name and other labels:
    /// `name{lane="shared"}`.
    pub(super) fn of(&self, label: &str, value: &str) -> Vec<(String, f64)> {
        let with = self.0.iter().filter(|sample| sample.label(label) == Some(value));
        with.map(|sample| {
            let others: Vec<String> = sample
                .labels
                .iter()
                .filter(|(name, _)| name != label)
                .map(|(name, value)| format!("{name}={value:?}"))
                .collect();
            let name = &sample.name;
            (
                if others.is_empty() { name.clone() } else { format!("{name}{{{}}}", others.join(",")) },
                sample.value,
            )
        })
        .collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.trim().split(' ').next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Parses `a="b",c="d"} 1`: returns the labels and the text after the brace. In values, `\\`, `\"`
/// and `\n` are escaped.
fn labels(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a x\n# TYPE a counter\na{upstream=\"main\",lane=\"shared\"} 3\na{upstream=\"main\",lane=\"leased\"} 4\n\
                        a{upstream=\"o\\\"d,}d\\\\\"} 5\nb 1.5\nbroken{x=\"\nbroken\n";

    #[test]
    fn samples_are_summed_by_label() {
        let samples = Samples::parse(TEXT);
        assert_eq!(samples.sum("a", &[("upstream", "main")]), 7.0);
        assert_eq!(samples.sum("a", &[("upstream", "main"), ("lane", "leased")]), 4.0);
        assert_eq!(samples.sum("b", &[]), 1.5);
        assert_eq!(samples.sum("c", &[]), 0.0);
        assert_eq!(samples.values_of("upstream").into_iter().collect::<Vec<_>>(), ["main", "o\"d,}d\\"]);
        assert_eq!(
            samples.of("upstream", "main"),
            [("a{lane=\"shared\"}".to_owned(), 3.0), ("a{lane=\"leased\"}".to_owned(), 4.0)]
        );
        assert_eq!(samples.text("a", "lane"), Some("shared"));
    }
}
