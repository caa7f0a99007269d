//! Runs a program that prints a password.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The time limit of the program.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest output, in bytes.
const MAX_OUTPUT: usize = 64 * 1024;
/// The greatest number of characters of standard error that an error text quotes.
const MAX_STDERR: usize = 300;

/// Environment variables that the program does not get.
const WITHHELD: [&str; 2] = ["RESPGATE_UPSTREAM_PASSWORD", "RESPGATE_SENTINEL_PASSWORD"];

/// Runs `arguments` without a shell and returns the first line of the output. The program has 10 s. It gets the
/// environment without respgate's own passwords, no input, and a process group of its own, which is killed when the
/// time is up.
///
/// # Errors Returns the reason why there is no password. If the program failed, the text ends with the last line that
/// it wrote to standard error.
pub(super) async fn password(arguments: &[String]) -> Result<Secret, String> {
    let Some((program, rest)) = arguments.split_first() else { return Err("no program is named".into()) };
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    WITHHELD.iter().for_each(|name| {
        command.env_remove(name);
    });
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let group = Group(child.id());
    match timeout(RUN_TIMEOUT, output(program, &mut child)).await {
        Ok(result) => result,
        Err(_) => {
            drop(group);
            Err(format!("{program} did not end within {} s", RUN_TIMEOUT.as_secs()))
        }
    }
}

/// Kills the remaining processes of the program's process group when it is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn output(program: &str, child: &mut Child) -> Result<Secret, String> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, stderr_text) = tokio::join!(read(stdout), read(stderr));
    let status = child.wait().await.map_err(|error| format!("{program}: {error}"))?;
    if !status.success() {
        return Err(format!("{program} failed, {status}{}", last_line(&stderr_text)));
    }
    if out.len() > MAX_OUTPUT {
        return Err(format!("{program} printed more than 64KiB; it should print one password"));
    }
    let line = out.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(format!("{program} printed no password in its first line"));
    }
    Ok(Secret::new(line))
}

/// Reads to the end. Keeps at most `MAX_OUTPUT` bytes and one more, which shows that the output is too long.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> Zeroizing<Vec<u8>> {
    let mut kept = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
    let mut chunk = Zeroizing::new(vec![0; 4096]);
    let Some(mut stream) = stream else { return kept };
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        let room = (MAX_OUTPUT + 1).saturating_sub(kept.len());
        kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
    }
    kept
}

/// Returns the last line of standard error, without control characters, for an error text.
fn last_line(stderr_text: &[u8]) -> String {
    let text =
        String::from_utf8_lossy(stderr_text.get(..stderr_text.len().min(MAX_OUTPUT)).unwrap_or_default());
    let Some(line) = text.lines().map(str::trim).rfind(|line| !line.is_empty()) else { return String::new() };
    let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_STDERR).collect();
    format!(": {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let secret = password(&arguments).await?;
        Ok(String::from_utf8_lossy(secret.expose()).into_owned())
    }

    #[tokio::test]
    async fn the_first_line_is_the_password() {
        assert_eq!(run(&["printf", "a b \\nsecond"]).await.as_deref(), Ok("a b "));
        assert_eq!(run(&["printf", "ab\\r\\n"]).await.as_deref(), Ok("ab"));
        // No shell: nothing is expanded.
        assert_eq!(run(&["printf", "%s", "$HOME;x"]).await.as_deref(), Ok("$HOME;x"));
    }

    #[tokio::test]
    async fn errors_name_their_cause_and_contain_no_password() {
        let error =
            run(&["sh", "-c", "echo hunter2; echo one >&2; echo expired >&2; exit 3"]).await.unwrap_err();
        assert_eq!(error, "sh failed, exit status: 3: expired");
        assert!(run(&["true"]).await.unwrap_err().contains("no password"));
        assert!(run(&["/nonexistent/token"]).await.unwrap_err().contains("cannot run /nonexistent/token"));
        assert!(run(&["head", "-c", "100000", "/dev/zero"]).await.unwrap_err().contains("more than 64KiB"));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pids.display());
        let hung = async {
            let error = run(&["sh", "-c", &script]).await.unwrap_err();
            assert_eq!(error, "sh did not end within 10 s");
        };
        let started = async {
            while std::fs::read_to_string(&pids).unwrap_or_default().trim().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::pause();
            tokio::time::advance(RUN_TIMEOUT).await;
            tokio::time::resume();
        };
        tokio::join!(hung, started);
        let pid = std::fs::read_to_string(&pids).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
