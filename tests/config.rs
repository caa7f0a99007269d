//! The command line as users meet it: the binary, its output and its exit codes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed unwrap is the test's verdict")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs respgate in a folder, with no environment but what is given.
fn respgate(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_respgate"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A copy of a folder of this repository, whose files have known permissions: a checkout's depend on the umask.
fn copy(folder: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let to = copy.path().join(path.file_name().unwrap());
        fs::copy(&path, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
    }
    copy
}

/// The lines of a report but for those about scripts, which only the server's ACL answers.
fn without_advice(report: &str) -> Vec<&str> {
    report.lines().filter(|line| !line.contains("NOSCRIPT")).collect()
}

fn configurations(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn valid_files_say_what_would_run() {
    let folder = copy("tests/config/valid");
    for path in configurations(folder.path()) {
        let output = respgate(folder.path(), &["check", "--config", name(&path), "--workers", "1"], &[]);
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        let actual = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(actual, expected, "{}", path.display());
        assert_eq!(output.status.code(), Some(0), "{}", path.display());
        assert!(!actual.contains("hunter2"));
    }
}

#[test]
fn invalid_files_have_every_fault_reported() {
    let folder = copy("tests/config/invalid");
    for path in configurations(folder.path()) {
        let output = respgate(folder.path(), &["check", "--config", name(&path)], &[]);
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        assert_eq!(text(&output.stderr), expected, "{}", path.display());
        assert_eq!(output.status.code(), Some(64), "{}", path.display());
        assert!(output.stdout.is_empty(), "{}", path.display());
        assert!(!expected.contains("hunter2"));
        // Running it instead refuses in the same words.
        let output = respgate(folder.path(), &["--config", name(&path)], &[]);
        assert_eq!(
            (text(&output.stderr), output.status.code()),
            (&*expected, Some(64)),
            "{}",
            path.display()
        );
    }
}

/// A leg whose authorities cannot be read must not be left in plain text without a word.
#[test]
fn no_leg_loses_its_tls_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let none = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    for (name, settings) in [
        ("sentinels.toml", "url = \"redis-sentinel://s1#m\"\nsentinel-tls = true"),
        ("unverified.toml", "url = \"rediss-sentinel://s1#m\"\ntls-dangerously-skip-verification = true"),
    ] {
        let text = format!("[listeners.app]\naddress = \"127.0.0.1:1\"\n[upstreams.main]\n{settings}\n");
        fs::write(folder.path().join(name), text).unwrap();
        let output = respgate(folder.path(), &["check", "--config", name], &none);
        let said = self::text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("the system has no authorities"), "{said}");
    }
    let settings = "url = \"rediss://db\"\ntls-dangerously-skip-verification = true";
    let text = format!("[listeners.app]\naddress = \"127.0.0.1:1\"\n[upstreams.main]\n{settings}\n");
    fs::write(folder.path().join("shown.toml"), text).unwrap();
    let output = respgate(folder.path(), &["check", "--config", "shown.toml"], &none);
    assert!(
        self::text(&output.stdout).contains("upstream main: db:6379, TLS without verification, database 0")
    );
}

#[test]
fn examples_pass() {
    let folder = copy("config");
    let names =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // full.toml names files of an imaginary machine.
    let examples: Vec<_> = names.filter(|name| name.ends_with(".toml") && name != "full.toml").collect();
    assert!(examples.len() >= 5, "{examples:?}");
    for name in &examples {
        let password = [("RESPGATE_UPSTREAM_PASSWORD", "secret")];
        let output = respgate(folder.path(), &["check", "--config", name], &password);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        let warnings = without_advice(text(&output.stderr));
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
    }
}

#[test]
fn without_arguments_it_says_what_to_type() {
    let output = respgate(Path::new("/"), &[], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("respgate --upstream redis://"));
    let output = respgate(Path::new("/"), &["--listen", "127.0.0.1:0"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).starts_with("--upstream: is missing"), "{}", text(&output.stderr));
}

/// The example of docs/migration.md is what respgate prints.
#[test]
fn the_settings_of_redis_sentinel_proxy_are_translated() {
    let folder = tempfile::tempdir().unwrap();
    let page = include_str!("../docs/migration.md");
    let (_, example) = page.split_once("\n$ SENTINEL_PASSWORD=secret respgate ").unwrap();
    let (arguments, rest) = example.split_once('\n').unwrap();
    let (expected, _) = rest.split_once("```\n").unwrap();
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let output = respgate(folder.path(), &arguments, &[("SENTINEL_PASSWORD", "hunter2")]);
    assert_eq!((text(&output.stderr), output.status.code()), (expected, Some(64)));
    assert!(output.stdout.is_empty());
    // Variables alone, and next to respgate's own, which then count alone.
    let output = respgate(folder.path(), &[], &[("RSP_SENTINEL", "s1:26379"), ("RSP_MASTER", "shop")]);
    assert!(text(&output.stderr).contains("--upstream 'redis-sentinel://s1:26379#shop'"));
    assert_eq!(output.status.code(), Some(64));
    let output = respgate(
        folder.path(),
        &["check"],
        &[("RSP_SENTINEL", "s1:26379"), ("RESPGATE_UPSTREAM", "redis://own.example")],
    );
    assert!(text(&output.stdout).contains("own.example"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn help_and_version_are_no_faults_and_a_wrong_flag_is() {
    for argument in ["--help", "-h", "--version", "-V"] {
        let output = respgate(Path::new("/"), &[argument], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("respgate"));
    }
    let output = respgate(Path::new("/"), &["--upstraem", "redis://db"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("'--upstream'"), "{}", text(&output.stderr));
    let output = respgate(Path::new("/"), &["check", "--config", "/nonexistent.toml"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).starts_with("/nonexistent.toml: cannot read the file"));
}

#[test]
fn variables_stand_in_for_flags() {
    let env = [
        ("RESPGATE_UPSTREAM", "redis://app:hunter2@db"),
        ("RESPGATE_LISTEN", "127.0.0.1:1, 127.0.0.1:2"),
        ("RESPGATE_WORKERS", "3"),
        ("RESPGATE_ADMIN", ""),
    ];
    let output = respgate(Path::new("/"), &["check"], &env);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(stdout.lines().filter(|line| line.starts_with("listener ")).count(), 2, "{stdout}{stderr}");
    assert!(stdout.contains("3 workers, no admin") && stdout.contains("as user app"), "{stdout}");
    // The environment is the place for a password; the command line is not.
    assert_eq!(without_advice(stderr), [""; 0]);
    let output =
        respgate(Path::new("/"), &["check", "--upstream", "redis://app:hunter2@db", "--workers", "x"], &env);
    assert!(
        text(&output.stderr).contains("warning: --upstream: holds a password"),
        "{}",
        text(&output.stderr)
    );
    assert!(text(&output.stderr).contains("--workers: \"x\" is not"), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("hunter2"));
    let output =
        respgate(Path::new("/"), &["check"], &[("RESPGATE_UPSTREAM", "db"), ("RESPGATE_WORKERS", "0")]);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("RESPGATE_UPSTREAM: is not a URL"), "{stderr}");
    assert!(stderr.contains("RESPGATE_WORKERS: must be at least 1"), "{stderr}");
}

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
}

/// A read of a FIFO waits for its writer: every file that a configuration names must be refused instead.
#[test]
fn a_fifo_is_a_fault_wherever_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fifo(&folder.path().join("fifo"));
    let upstream = "[upstreams.main]\nurl = \"rediss://127.0.0.1:7000\"\n";
    let listener = "[listeners.main]\naddress = \"127.0.0.1:6379\"\n";
    for keys in [
        format!("{upstream}password-file = \"fifo\""),
        format!("{upstream}password-file = \"password\"\nusername-file = \"fifo\""),
        format!("{upstream}tls-ca = \"fifo\""),
        format!("{listener}tls-cert = \"fifo\"\ntls-key = \"fifo\"\n{upstream}"),
    ] {
        fs::write(folder.path().join("respgate.toml"), &keys).unwrap();
        fs::write(folder.path().join("password"), "secret").unwrap();
        for command in [&["check", "--config", "respgate.toml"][..], &["--config", "respgate.toml"]] {
            let output = respgate(folder.path(), command, &[]);
            assert_eq!(output.status.code(), Some(64), "{keys}");
            assert!(
                text(&output.stderr).contains("fifo: it is a FIFO, and must be a regular file"),
                "{keys}"
            );
        }
    }
    for command in [&["check", "--config", "fifo"][..], &["--config", "fifo"]] {
        let output = respgate(folder.path(), command, &[]);
        assert_eq!(output.status.code(), Some(64));
        assert!(text(&output.stderr).contains("it is a FIFO"), "{}", text(&output.stderr));
    }
}

/// As a shell's `<(...)` passes it, a pipe is read; one that nobody writes to is given up.
#[test]
fn a_pipe_by_its_descriptor_is_read_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let piped = |writer: &str| {
        let script = format!("{writer} | {} check --config /dev/stdin", env!("CARGO_BIN_EXE_respgate"));
        Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap()
    };
    let output = piped("printf '[upstreams.main]\\nurl = \"redis://127.0.0.1:7000\"\\n'");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut silent = Command::new(env!("CARGO_BIN_EXE_respgate"));
    silent.args(["check", "--config", "/dev/stdin"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut process = silent.spawn().unwrap();
    let _writer = process.stdin.take();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("reading /dev/stdin has not ended within 10 s"),
        "{}",
        text(&output.stderr)
    );
}
