//! The end of the process, the service manager, and the upgrade to a new process.

mod activation;
mod failures;
mod handover;
mod load;
mod shutdown;
mod site;
mod systemd;
