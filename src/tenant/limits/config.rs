//! Configures the limits of a tenant. `None` sets no limit.

use std::time::Duration;

use super::rate::Rate;

/// Says what happens to a command that exceeds a rate or the number in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// respgate reads nothing from the client until the command may pass. Nothing is dropped.
    Delay,
    /// The command is answered with an error. The connection stays open.
    Reject,
}

/// Holds the rates of a tenant or of each of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Commands per second.
    pub commands: Option<Rate>,
    /// Bytes of requests per second.
    pub bytes_in: Option<Rate>,
    /// Bytes of replies and messages per second.
    pub bytes_out: Option<Rate>,
}

/// Says with whom a tenant's rates are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// The upstream through which the rates are shared.
    pub upstream: String,
    /// Number of respgates that share the rates, this one included. Each keeps to its part while the rates cannot
    /// be shared.
    pub processes: u64,
}

/// Configures the limits of one tenant, over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// What happens above a rate or the number in flight. Other limits refuse at once.
    pub over_limit: OverLimit,
    /// The longest delay. A command that would have to wait longer is refused.
    pub max_delay: Duration,
    /// The rates of all its clients together.
    pub rates: Rates,
    /// With whom `rates` are shared; `None` if each respgate has its own.
    pub sharing: Option<Sharing>,
    /// The rates of each client.
    pub client_rates: Rates,
    /// Limit of clients connected at once.
    pub connections: Option<usize>,
    /// Limit of commands sent and unanswered. A blocked client's command is not counted.
    pub in_flight: Option<usize>,
    /// Limit of upstream connections that its clients lease.
    pub leased: Option<usize>,
    /// Limit of clients in a blocking command.
    pub blocked: Option<usize>,
    /// Limit of clients with a subscription or in MONITOR.
    pub subscribed: Option<usize>,
    /// Limit of clients between MULTI or WATCH and EXEC.
    pub transactions: Option<usize>,
    /// Limit of one request, in bytes.
    pub request: Option<usize>,
    /// Limit of the requests and replies that wait, of all its clients, in bytes.
    pub buffered: Option<usize>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            over_limit: OverLimit::Delay,
            max_delay: Duration::from_secs(5),
            rates: Rates::default(),
            sharing: None,
            client_rates: Rates::default(),
            connections: None,
            in_flight: None,
            leased: None,
            blocked: None,
            subscribed: None,
            transactions: None,
            request: None,
            buffered: None,
        }
    }
}
