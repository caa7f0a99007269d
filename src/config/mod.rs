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
pub mod report;
mod rule;
pub mod schema;
mod size;
#[cfg(test)]
mod tests;
mod tls;
mod typed;
mod url;
mod value;
mod written;

pub use describe::describe;
pub use written::Written;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::discovery::config::DiscoveryConfig;
use crate::files::{self, Failed};
use crate::listener::ListenerConfig;
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet};
use crate::rotation::source::Account;
use crate::tenant::config::TenantConfig;
use crate::tenant::users::UserConfig;
use crate::upstream::config::UpstreamConfig;
use flags::Flags;
use report::{Place, Report};

/// The configuration that respgate runs with. It is complete and free of contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of worker threads, at least 1. The default is [`default_workers`], or less if an
    /// upstream's limits would leave a worker without a connection.
    pub workers: usize,
    /// Address that serves health and metrics; `None` serves none.
    pub admin: Option<SocketAddr>,
    /// What respgate logs, and in which form.
    pub log: LogConfig,
    /// Time that running commands may take to finish after SIGTERM; zero ends them at once.
    pub drain_timeout: Duration,
    /// Interval at which respgate checks files for changes.
    pub reload_interval: Duration,
    /// Bytes of requests and replies that may wait in respgate, all workers together.
    pub max_buffered: usize,
    /// The listeners, at least one. Their names and addresses are unique.
    pub listeners: Vec<ListenerConfig>,
    /// The tenants. Their names are unique.
    pub tenants: Vec<TenantConfig>,
    /// respgate's own users. If empty, clients authenticate to the upstream.
    pub users: Vec<UserConfig>,
    /// The upstreams, at least one. Their names are unique.
    pub upstreams: Vec<Upstream>,
    /// The keys of the configuration file.
    pub written: Written,
}

impl Config {
    /// Returns the tenants that the listeners name, in the order of the listeners.
    pub fn listener_tenants(&self) -> Vec<Option<&str>> {
        self.listeners.iter().map(|listener| listener.tenant.as_deref()).collect()
    }
}

/// One upstream: its connections, and how respgate finds its primary.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The settings of the connections.
    pub config: UpstreamConfig,
    /// The settings with which respgate finds the primary.
    pub discovery: DiscoveryConfig,
    /// respgate's own account at the nodes.
    pub account: Option<Account>,
    /// respgate's own account at the Sentinels, which is separate.
    pub sentinel_account: Option<Account>,
    /// TLS to data nodes; `None` speaks plain text.
    pub tls: Option<Loaded<ClientProfile, ClientSet>>,
    /// TLS to Sentinels; `None` speaks plain text.
    pub sentinel_tls: Option<Loaded<ClientProfile, ClientSet>>,
}

/// What respgate logs, and in which form. Logs go to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// A filter in `tracing`'s syntax: a level, or levels by module.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Human` if stderr is a terminal, else `Json`.
    Auto,
    /// One readable line.
    Human,
    /// One JSON object a line.
    Json,
}

/// Returns the number of threads that can run at once. `available_parallelism` is the number of
/// CPUs in the process's affinity mask and, on Linux, no more than the CPU quota of its cgroup (v1
/// and v2), rounded down but at least 1 (observed with `taskset`, and with `strace` reading the
/// quota). Returns 1 if the system does not tell.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
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
