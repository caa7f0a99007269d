//! The respgate binary: arguments, logs and exit codes.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use respgate::admin_client::{self, AdminClient, Endpoint};
use respgate::app;
use respgate::cli::{self, Ctl, Invocation, RunningRespgate};
use respgate::config::flags::Flags;
use respgate::config::report::Report;
use respgate::config::{self, Config, ControlConfig, LogConfig, LogFormat};
use respgate::ctl::{self, Outcome, Refusal};
use respgate::doctor::{self, Style};
use respgate::logs::{LogFilter, LogLimit};
use respgate::manual;
use respgate::rotation::source::ControlToken;
use respgate::status;
use respgate::tenant::users::hash;
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};
use zeroize::Zeroizing;

/// jemalloc returns freed memory to the system within a second, from all threads.
/// `.cargo/config.toml` sets that, and `benches/README.md` compares the allocators.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for wrong arguments or a wrong configuration: `EX_USAGE` of sysexits.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Run(flags)) => run(&flags),
        Ok(Invocation::Check(flags)) => check(&flags),
        Ok(Invocation::HashPassword) => hash_password(),
        Ok(Invocation::Doctor { flags, json }) => examine(&flags, json),
        Ok(Invocation::Status { at, json, watch }) => show_status(at, json, watch),
        Ok(Invocation::Ctl(ctl)) => control(ctl),
        Ok(Invocation::Man(page)) => show_manual(page.as_deref()),
        Ok(Invocation::Completions(shell)) => {
            print(&manual::completions(shell));
            ExitCode::SUCCESS
        }
        Ok(Invocation::Nothing) => {
            complain(cli::GUIDANCE);
            ExitCode::from(USAGE)
        }
        Ok(Invocation::OfSentinelProxy(text)) => {
            complain(&text);
            ExitCode::from(USAGE)
        }
        Err(error) => {
            // If the terminal is gone, nobody can read the error.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
        }
    }
}

fn show_manual(page: Option<&str>) -> ExitCode {
    let names = || manual::names().join("\n") + "\n";
    match page {
        None => print(&names()),
        Some(page) => match manual::page(page) {
            Some(text) => print(&text),
            None => {
                complain(&format!("there is no page {page:?}; the pages are:\n{}", names()));
                return ExitCode::from(USAGE);
            }
        },
    }
    ExitCode::SUCCESS
}

fn load(flags: &Flags) -> (Option<Config>, Report) {
    config::load_supervised(flags)
}

fn run(flags: &Flags) -> ExitCode {
    let (config, report) = load(flags);
    let Some(config) = config else {
        complain(&report.to_string());
        return ExitCode::from(USAGE);
    };
    let limit = LogLimit::default();
    let filter = log_to_stderr(&config.log, &limit);
    abort_on_panic();
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    app::run(config, flags, limit, filter)
}

fn check(flags: &Flags) -> ExitCode {
    let (config, report) = load(flags);
    complain(&report.to_string());
    match config {
        Some(config) => {
            report.advice.iter().for_each(|advice| complain(&format!("warning: {advice}\n")));
            print(&config::describe(&config));
            ExitCode::SUCCESS
        }
        None => ExitCode::from(USAGE),
    }
}

/// Reads a password from the first line of standard input, and prints its value for a
/// `password-hash` key.
fn hash_password() -> ExitCode {
    let mut line = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(hash::LONGEST_PASSWORD as u64).read_line(&mut line);
    let password = line.trim_end_matches(['\r', '\n']);
    let hashed = match read {
        Ok(_) if password.is_empty() => {
            Err("type the password, or pipe it in: nothing came on standard input".into())
        }
        Ok(_) => hash::hash(password.as_bytes()),
        Err(error) => Err(error.to_string()),
    };
    match hashed {
        Ok(hash) => {
            let _ = writeln!(io::stdout(), "{hash}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            complain(&format!("respgate hash-password: {why}\n"));
            ExitCode::from(USAGE)
        }
    }
}

fn examine(flags: &Flags, json: bool) -> ExitCode {
    let (config, report) = load(flags);
    if !json {
        complain(&report.to_string());
    }
    let Some(config) = config else {
        if json {
            print(&format!("{:#}\n", doctor::misconfigured(&report, USAGE)));
        }
        return ExitCode::from(USAGE);
    };
    let diagnosis = match doctor::run(&config) {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            complain(&format!("the doctor cannot start: {error}\n"));
            return ExitCode::from(app::OS_ERROR);
        }
    };
    if json {
        print(&format!("{:#}\n", doctor::document(&diagnosis, &report)));
    } else {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print(&doctor::show(&diagnosis, if colour { Style::Colour } else { Style::Plain }));
    }
    if diagnosis.broken() { ExitCode::from(doctor::BROKEN) } else { ExitCode::SUCCESS }
}

/// The usual address of an admin listener.
const USUAL_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9121);

fn show_status(at: RunningRespgate, json: bool, watch: Option<Duration>) -> ExitCode {
    let client = match reach(at, Right::Read) {
        Ok(client) => client,
        Err(code) => return code,
    };
    if let Some(pause) = watch {
        return match status::watch::watch(client, pause, json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("the terminal cannot be used: {error}\n"));
                ExitCode::from(app::OS_ERROR)
            }
        };
    }
    match status::look(&client) {
        Ok(status) => {
            print(&if json { format!("{:#}\n", status.document()) } else { status.screen() });
            if status.ready() { ExitCode::SUCCESS } else { ExitCode::from(doctor::BROKEN) }
        }
        Err(why) => {
            complain(&format!("{why}\n"));
            ExitCode::from(doctor::BROKEN)
        }
    }
}

/// What the caller wants to do with a running respgate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    Read,
    Control,
}

/// Returns the way to a running respgate.
///
/// # Errors
/// Returns the exit code, after it has said what is wrong.
fn reach(at: RunningRespgate, right: Right) -> Result<AdminClient, ExitCode> {
    let usage = |why: &str| {
        complain(&format!("{why}\n"));
        ExitCode::from(USAGE)
    };
    let (endpoint, kept) = match (at.socket, at.admin) {
        (Some(path), _) => (Endpoint::Socket(path), None),
        (None, Some(address)) => (Endpoint::Admin(address), None),
        (None, None) if at.config.is_none() && right == Right::Read => (Endpoint::Admin(USUAL_ADMIN), None),
        (None, None) => {
            let (config, report) = load(&Flags { config: at.config, settings: Vec::new() });
            let Some(config) = config else { return Err(usage(report.to_string().trim_end())) };
            let ControlConfig { socket, token, read_token, .. } = config.control;
            // The control socket needs no token, and respgate's own user may use it.
            match (socket, right, config.admin, token) {
                (Some(path), ..) => (Endpoint::Socket(path), None),
                (None, Right::Read, admin, _) => (Endpoint::Admin(admin.unwrap_or(USUAL_ADMIN)), read_token),
                (None, Right::Control, Some(address), Some(token)) => (Endpoint::Admin(address), Some(token)),
                _ => {
                    return Err(usage(
                        "the file has neither control-socket nor control-token-file, so this respgate cannot be controlled",
                    ));
                }
            }
        }
    };
    let token = match at.token_file.map(ControlToken::read).transpose() {
        Ok(read) => read.or(kept).map(|read| read.token),
        Err(why) => return Err(usage(&why)),
    };
    let tls = at.admin_ca.map(|ca| admin_client::admin_tls(ca, at.admin_server_name.as_deref())).transpose();
    let tls = tls.map_err(|why| usage(&format!("--admin-ca: {why}")))?;
    Ok(AdminClient { endpoint, token, tls })
}

/// Exit code if the caller may not do what was asked: `EX_NOPERM` of sysexits.
const NO_PERMISSION: u8 = 77;
/// Exit code if the action could not be done.
const FAILED: u8 = 1;

fn control(asked: Ctl) -> ExitCode {
    let Ctl { at, json, action } = asked;
    let client = match reach(at, Right::Control) {
        Ok(client) => client,
        Err(code) => return code,
    };
    let outcome = match &*action.name {
        "tap" => ctl::tap(&client, &action, json, |line| {
            io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()).is_ok()
        }),
        _ => ctl::perform(&client, &action),
    };
    match outcome {
        // The lines of a tap are printed already.
        Outcome::Done(Value::Null) => ExitCode::SUCCESS,
        Outcome::Done(document) => {
            print(&if json { format!("{document:#}\n") } else { ctl::lines(&document) });
            ExitCode::SUCCESS
        }
        Outcome::Refused(refusal, why) => {
            complain(&format!("respgate refuses: {why}\n"));
            ExitCode::from(match refusal {
                Refusal::Usage => USAGE,
                Refusal::Permission => NO_PERMISSION,
                Refusal::Failed => FAILED,
            })
        }
        Outcome::Unreachable(why) => {
            complain(&format!("{why}\n"));
            ExitCode::from(doctor::BROKEN)
        }
    }
}

/// Ends the process on every panic. A panic is an error in respgate. A process that lived on
/// without the task or thread that panicked would keep clients waiting for ever; a supervisor
/// starts an ended process again.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            thread = std::thread::current().name(),
            "respgate ends at once because of a bug; please report it: {panic}"
        );
        std::process::abort()
    }));
}

/// Writes logs to standard error. Every line passes `limit`, so that a peer cannot flood the log. Returns the handle that
/// changes the level.
fn log_to_stderr(log: &LogConfig, limit: &LogLimit) -> LogFilter {
    let human = match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&log.filter));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = if human {
        lines.with_ansi(colour).with_target(false).boxed()
    } else {
        // The innermost span names its upstream. A list of all spans would only repeat it.
        lines.json().flatten_event(true).with_span_list(false).boxed()
    };
    tracing_subscriber::registry().with(lines.and_then(filter)).with(limit.clone()).init();
    LogFilter::new(log.filter.clone(), move |filter| handle.reload(filter).map_err(|error| error.to_string()))
}

fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
