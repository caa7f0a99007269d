//! `promtool`, which checks rules of Prometheus and tests them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::servers::spawn;

/// Says how to get Prometheus.
pub const REMEDY: &str = "run `tests/install` as root, or: apt-get install prometheus";

/// Runs `promtool` in a folder; returns what it printed, as an error if it failed.
pub fn run(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command, REMEDY).wait_with_output().expect("promtool's output");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}
