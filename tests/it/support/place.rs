//! Where a process runs, and which address it listens on.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

/// A host: an address, and the network namespace that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: Ipv4Addr,
    /// A name of `ip netns`; none: this process's own.
    namespace: Option<&'static str>,
}

impl Place {
    /// The loopback address, in this process's own namespace.
    pub const LOOPBACK: Self = Self { host: Ipv4Addr::LOCALHOST, namespace: None };

    /// An address that a named namespace has.
    #[allow(dead_code, reason = "for the chaos run")]
    pub fn within(namespace: &'static str, host: Ipv4Addr) -> Self {
        Self { host, namespace: Some(namespace) }
    }

    /// A port of it.
    pub fn address(self, port: u16) -> SocketAddr {
        (self.host, port).into()
    }

    /// A program, to be run there.
    pub fn command(self, program: &str) -> Command {
        let Some(namespace) = self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
        command
    }
}
