//! Writes the list of keys that need a restart into `docs/reload.md`.

use std::fmt::Write;

use respgate::config::schema::{Reload, TABLES};

/// The lines around the list.
const BEGIN: &str = "<!-- The keys that need a restart, written by `make config-docs` -->\n";
const END: &str = "<!-- The end of these keys -->\n";
/// The length of the longest line of the list.
const WIDTH: usize = 130;

/// Returns the page with the list of the schema.
pub fn render(page: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).expect("docs/reload.md has the line before the list");
    let (_, after) = rest.split_once(END).expect("docs/reload.md has the line behind the list");
    let mut text = format!("{before}{BEGIN}\n");
    for table in &TABLES {
        let keys = table.keys().into_iter().filter(|key| key.reload() == Reload::Restart);
        let keys: Vec<String> = keys.map(|key| format!("`{}`", key.name)).collect();
        if keys.is_empty() {
            continue;
        }
        let place = match table.path {
            "" => "at the top of the file".to_owned(),
            path => format!("in `[{}]`", path.replace('*', "NAME")),
        };
        wrap(&format!("- {place}: {}", keys.join(", ")), &mut text);
    }
    let _ = write!(text, "\n{END}{after}");
    text
}

/// Appends an item of a list, in lines of at most [`WIDTH`].
fn wrap(item: &str, text: &mut String) {
    let mut length = 0;
    for word in item.split(' ') {
        if length + 1 + word.len() > WIDTH {
            text.push_str("\n ");
            length = 1;
        }
        if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += word.len();
    }
    text.push('\n');
}
