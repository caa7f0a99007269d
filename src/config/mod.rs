//! Turns the TOML file, URLs, flags and environment variables into one checked configuration.
//!
//! There are two steps: first the configuration as typed (`typed`, filled by `file` and [`flags`]),
//! then the checked one (`check`). Each step reports every error that it finds.

mod address;
pub mod changes;
mod check;
mod describe;
mod document;
mod file;
pub mod flags;
mod model;
pub mod report;
mod rule;
pub mod schema;
mod setting;
pub(crate) mod size;
pub mod switch;
#[cfg(test)]
mod tests;
mod tls;
mod typed;
mod url;
mod value;
mod written;

pub use describe::describe;
pub use model::{Config, ControlConfig, LogConfig, LogFormat, Upstream};
pub use value::Value;
pub use written::Written;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::files::{self, Failed};
use flags::Flags;
use report::{Place, Report};

/// Returns the default number of workers for the CPUs that the process may use. `available_parallelism` is the number
/// of CPUs in the process's affinity mask and, on Linux, no more than the CPU quota of its cgroup (v1 and v2), rounded
/// down but at least 1 (observed with `taskset`, and with `strace` reading the quota). It fails if the system does not
/// tell.
pub fn default_workers() -> usize {
    workers_for(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Returns the default number of workers for a number of CPUs. With two CPUs, which respgate shares with the clients or
/// the server, a second worker only takes time from them (`benches/workers`: less throughput, and a longer p99).
fn workers_for(cpus: usize) -> usize {
    if cpus <= 2 { 1 } else { cpus }
}

/// Reads the file that the flags name, applies environment variables and flags to it, and checks
/// the result. The report holds the warnings, and the errors if there is no configuration.
pub fn load(flags: &Flags, env: &dyn Fn(&str) -> Option<OsString>) -> (Option<Config>, Report) {
    let mut report = Report::default();
    let file = flags.config.as_ref().map(|path| file::read(path, &mut report));
    let readable = !matches!(file, Some(None));
    let mut typed = file.flatten().unwrap_or_default();
    flags.apply(&mut typed, env, &mut report);
    let config = match readable {
        true => check::check(typed, env, default_workers(), &mut report),
        false => None,
    };
    report.sort();
    (config, report)
}

/// Works as [`load`] does, with the environment of the process. It reads the files on another
/// thread: a read that is stuck for [`files::LIMIT`] is an error.
pub fn load_supervised(flags: &Flags) -> (Option<Config>, Report) {
    let typed = flags.clone();
    let loaded = files::supervised(files::LIMIT, move || load(&typed, &|name| std::env::var_os(name)));
    loaded.unwrap_or_else(|failed| {
        let (path, why) = match failed {
            Failed::Stuck(stuck) => (stuck.path.clone(), stuck.to_string()),
            Failed::Exhausted | Failed::NoThread => {
                (PathBuf::from("respgate"), "the system has no thread to read files with".into())
            }
        };
        let place = Place::File {
            path: path.display().to_string().into(),
            line: 0,
            column: None,
            key: String::new(),
        };
        let mut report = Report::default();
        report.error(&place, why);
        (None, report)
    })
}
