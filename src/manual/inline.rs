//! Translates the Markdown of the schema's descriptions: code, emphasis and links.

use clap_mangen::roff::{Inline, bold, roman};

/// Returns a paragraph in the form of a manual page: code and strong emphasis are bold, and a link is its text.
pub(super) fn inlines(markdown: &str) -> Vec<Inline> {
    let markdown = markdown.replace("**", "`");
    let parts = markdown.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts.map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(without_targets(part)) }).collect()
}

/// Replaces each link by its text.
fn without_targets(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, link)) = rest.split_once('[') {
        plain += before;
        match link.split_once("](").and_then(|(label, after)| Some((label, after.split_once(')')?.1))) {
            Some((label, after)) if !label.contains(']') => {
                plain += label;
                rest = after;
            }
            _ => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_their_texts() {
        for (markdown, text) in [
            ("See [control.md](control.md#who).", "See control.md."),
            ("a [b] c [d](e) f", "a [b] c d f"),
            ("an open [bracket", "an open [bracket"),
        ] {
            assert_eq!(without_targets(markdown), text);
        }
    }

    #[test]
    fn code_is_bold() {
        assert_eq!(
            inlines("Set `admin` to **one** address."),
            vec![roman("Set "), bold("admin"), roman(" to "), bold("one"), roman(" address."),]
        );
    }
}
