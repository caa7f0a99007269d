//! TOML, URLs, flags and environment become one checked configuration, in two steps: as typed
//! (`typed`, filled by `file` and [`flags`]), then checked (`check`). Each step reports every fault it finds.

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

/// What respgate runs with: complete, and free of contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads, at least 1. The default is [`default_workers`], or fewer where an upstream's limits would
    /// leave a worker without a connection.
    pub workers: usize,
    /// Where health and metrics are served; `None` serves none.
    pub admin: Option<SocketAddr>,
    /// What is logged, and how.
    pub log: LogConfig,
    /// How long running commands may take to finish after SIGTERM; zero ends at once.
    pub drain_timeout: Duration,
    /// How often files that may change are looked at.
    pub reload_interval: Duration,
    /// Bytes of requests and replies that wait in respgate, all workers together.
    pub max_buffered: usize,
    /// At least one; names and addresses are unique.
    pub listeners: Vec<ListenerConfig>,
    /// Names are unique.
    pub tenants: Vec<TenantConfig>,
    /// respgate's own users; without any, the upstream knows them.
    pub users: Vec<UserConfig>,
    /// At least one; names are unique.
    pub upstreams: Vec<Upstream>,
    /// The keys of its file.
    pub written: Written,
}

impl Config {
    /// The tenants that the listeners name, in their order.
    pub fn listener_tenants(&self) -> Vec<Option<&str>> {
        self.listeners.iter().map(|listener| listener.tenant.as_deref()).collect()
    }
}

/// One upstream: its connections, and how its primary is found.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Bounds of the connections.
    pub config: UpstreamConfig,
    /// How the primary is found.
    pub discovery: DiscoveryConfig,
    /// What respgate itself authenticates with.
    pub account: Option<Account>,
    /// What the Sentinels themselves want, apart from that.
    pub sentinel_account: Option<Account>,
    /// TLS to data nodes; `None` speaks plain text.
    pub tls: Option<Loaded<ClientProfile, ClientSet>>,
    /// TLS to Sentinels; `None` speaks plain text.
    pub sentinel_tls: Option<Loaded<ClientProfile, ClientSet>>,
}

/// What is logged, and how. Logs go to stderr.
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

/// As many workers as threads can run at once: `available_parallelism` is the number of CPUs in the process's
/// affinity mask and, on Linux, no more than the CPU quota of its cgroup (v1 and v2), rounded down but at least 1
/// (observed with `taskset`, and with `strace` reading the quota). 1 if it cannot be told.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Reads the file that the flags name, lays environment and flags over it, and checks the whole. The report holds
/// warnings, and the faults if there is no configuration.
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

/// As [`load`], with the environment of the process. Files are read on another thread: one whose read gets stuck for
/// [`files::LIMIT`] is a fault.
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
        report.fault(&place, why);
        (None, report)
    })
}
