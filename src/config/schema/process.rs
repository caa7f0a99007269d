//! The keys of the process: those above all tables, and `[log]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::model::LogFormat;
use super::super::value::LogLevel;
use super::entry::Table;
use super::kinds::File;
use super::part::Part;
use crate::latency::config::{Measure, ShownArguments};

/// The keys above all tables.
pub const TABLE: Table = Table {
    path: "",
    description: "These keys stand at the top of the file, before the first table.",
    entries: ProcessKeys::ENTRIES,
    example: "",
    more: "",
};

/// `[log]`.
pub const LOG: Table = Table {
    path: "log",
    description: "respgate writes its log to stderr.",
    entries: LogKeys::ENTRIES,
    example: "",
    more: "",
};

table! {
    /// The keys of the whole process.
    ProcessKeys, ProcessDefaults {
        /// The number of worker threads.
        ///
        /// A second worker pays off only where respgate has CPUs to itself: measure with `benches/workers` before you raise this on
        /// two CPUs. Each worker needs at least one connection to share and one to lease at each upstream. respgate lowers the default
        /// where `max-connections` and `max-leased` of an upstream allow fewer workers; a number that is set and too large is an
        /// error.
        workers: usize, "workers", Restart, unit "threads",
            default "1 if the process may use one or two CPUs (by affinity and cgroup quota), else the number of CPUs", example "4";
        /// The address that serves `/livez`, `/readyz`, `/metrics` and `/failovers` over HTTP.
        ///
        /// Without `read-token-file`, the endpoint asks nobody to authenticate. Keep it off public networks.
        admin: SocketAddr, "admin", Restart, default "none; nothing is served", example "\"127.0.0.1:9121\"";
        /// The path of the unix socket on which `respgate ctl` controls respgate.
        ///
        /// respgate creates it with mode 0600, so that only its own user and root can connect. The socket serves all that `admin`
        /// serves, and control. See [control.md](control.md).
        control_socket: File, "control-socket", Restart, default "none; respgate offers no control there",
            example "\"control.sock\"";
        /// The path of a file that holds the token for control through `admin`.
        ///
        /// Without this key, the admin listener offers no control. The token has at least 16 bytes; `openssl rand -hex 32` makes
        /// one. respgate uses a new content of the file within `reload-interval`. See [control.md](control.md).
        control_token_file: File, "control-token-file", Restart, default "none; the admin listener offers no control",
            example "\"respgate-control-token\"";
        /// The path of a file that holds the token for reading through `admin`.
        ///
        /// With this key, every page other than `/livez` and `/readyz` needs this token or that of control, as
        /// `Authorization: Bearer TOKEN`. The token of readers does not permit control. See [control.md](control.md#who-may-read).
        read_token_file: File, "read-token-file", Restart, default "none; everybody who reaches `admin` may read",
            example "\"respgate-read-token\"";
        /// The path of the certificate chain of `admin`, in PEM. With it, `admin` speaks TLS only.
        ///
        /// Needed for control from other machines. Probes must use HTTPS then. respgate uses a renewed certificate within
        /// `reload-interval`.
        admin_tls_cert: File, "admin-tls-cert", Restart, default "none; plain HTTP", example "\"admin.crt\"";
        /// The path of the private key of `admin-tls-cert`, in PEM.
        admin_tls_key: File, "admin-tls-key", Restart, default "none; plain HTTP", example "\"admin.key\"";
        /// The time that running commands have to finish after SIGTERM and `drain-delay`.
        ///
        /// respgate closes its listeners, lets running commands, blocked commands and open transactions finish, and
        /// disconnects idle and subscribed clients. Clients that are left after this time are disconnected. `"0s"` disconnects all
        /// clients at once.
        drain_timeout: Duration = Duration::from_secs(30), "drain-timeout", Restart;
        /// The time for which respgate still accepts clients after SIGTERM, before the drain begins.
        ///
        /// Meanwhile `/readyz` answers 503, so that load balancers and Kubernetes stop sending new clients. A second signal ends
        /// the delay. `respgate ctl drain` has no delay.
        drain_delay: Duration = Duration::ZERO, "drain-delay", Restart, example "\"5s\"";
        /// Whether `POST /shutdown` on `admin` ends respgate, without a token.
        ///
        /// It is for the sidecar of a Kubernetes Job: the main container calls it when it is done, because the pod runs on
        /// until every container has ended. Only requests from loopback are accepted, which every container of the pod can
        /// send. See [upgrade.md](upgrade.md#http-shutdown).
        shutdown_endpoint: bool = false, "shutdown-endpoint", Restart, example "true";
        /// Whether respgate tells systemd that it is ready only once every upstream has a verified primary.
        ///
        /// Without this, respgate is ready once it listens: commands of clients then wait for the primary.
        ready_needs_primary: bool = false, "ready-needs-primary", Restart, example "true";
        /// The time within which the new process of an upgrade must be ready.
        ///
        /// It is ready when it listens and every upstream has a verified primary. If it is not ready in time, respgate ends it
        /// and goes on as before. At least `"1s"`. See [upgrade.md](upgrade.md#upgrade).
        upgrade_timeout: Duration = Duration::from_secs(30), "upgrade-timeout", Restart;
        /// The time for which clients may stay connected to the old process after an upgrade.
        ///
        /// Then the old process drains: it disconnects idle and subscribed clients, and running commands have `drain-timeout` to
        /// finish.
        upgrade_drain_timeout: Duration = Duration::from_secs(600), "upgrade-drain-timeout", Restart;
        /// The interval at which respgate looks for changed files: passwords, certificates and the configuration file.
        ///
        /// At least `"100ms"`. SIGHUP makes respgate look at once.
        reload_interval: Duration = Duration::from_secs(1), "reload-interval", Restart;
        /// The times of commands that respgate measures.
        ///
        /// `"on"` counts the whole time of commands and its parts in histograms, by class of route, and keeps a log of slow
        /// commands. `"commands"` also counts the time of each command by its name, which costs more. `"off"` does none of this.
        /// See [latency.md](latency.md).
        latency: Measure = Measure::Off, "latency", Live;
        /// The time from which a command is slow.
        ///
        /// respgate keeps the newest slow commands, which `respgate ctl slow-log` shows. A command that may wait for other clients
        /// is slow only if it waited so long before respgate sent it. `"0s"` keeps every command.
        slow_log_threshold: Duration = Duration::from_millis(100), "slow-log-threshold", Live;
        /// The number of slow commands that respgate keeps.
        ///
        /// At most 10000. `0` keeps none.
        slow_log_length: usize = 128, "slow-log-length", Live, unit "commands";
        /// Whether the slow log shows keys and arguments.
        ///
        /// `"redact"` shows the length of the first key and the beginning of its hash, by which equal keys are recognised, and no
        /// argument. `"show"` shows the first key and 8 arguments, each cut to 64 bytes. The arguments of AUTH, HELLO, CONFIG SET,
        /// ACL SETUSER, MIGRATE and unknown commands are never shown.
        slow_log_arguments: ShownArguments = ShownArguments::Redact, "slow-log-arguments", Live;
    }
}

table! {
    /// The log.
    LogKeys, LogDefaults {
        /// The form of a log line.
        ///
        /// `"human"` writes one readable line. `"json"` writes one JSON object on each line. `"auto"` chooses `"human"` if stderr
        /// is a terminal, else `"json"`.
        format: LogFormat = LogFormat::Auto, "format", Restart;
        /// The least severe level that is logged, for all modules or by module.
        ///
        /// Write `"error"`, `"warn"`, `"info"`, `"debug"`, `"trace"` or `"off"`, or a list such as
        /// `"info,respgate::discovery=debug"`.
        level: LogLevel = LogLevel("info".into()), "level", Live;
    }
}
