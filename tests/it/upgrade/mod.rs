//! The end of the process, the service manager, and the upgrade to a new process.

mod shutdown;
mod systemd;
