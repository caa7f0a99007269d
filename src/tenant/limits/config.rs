//! What a user can limit. What is not set is not limited.

use std::time::Duration;

use super::rate::Rate;

/// What happens to a command that is over a rate or the number in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// The client is not read from until the command may pass. Nothing is dropped.
    Delay,
    /// The command is answered with an error; the connection lives.
    Reject,
}

/// Rates of a tenant or of each of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Commands.
    pub commands: Option<Rate>,
    /// Bytes of requests.
    pub bytes_in: Option<Rate>,
    /// Bytes of replies and messages.
    pub bytes_out: Option<Rate>,
}

/// Whom a tenant's rates are shared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Which upstream they are shared through.
    pub upstream: String,
    /// How many respgates share them, this one included: each keeps to its part while they cannot be shared.
    pub processes: u64,
}

/// Limits of one tenant, over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// What happens over a rate or the number in flight; other limits refuse at once.
    pub over_limit: OverLimit,
    /// The longest delay; a command that would have to wait longer is refused.
    pub max_delay: Duration,
    /// Of all its clients together.
    pub rates: Rates,
    /// Whom `rates` are shared with; `None`: each respgate has its own.
    pub sharing: Option<Sharing>,
    /// Of each client.
    pub client_rates: Rates,
    /// Clients connected at once.
    pub connections: Option<usize>,
    /// Commands sent and unanswered; a blocked client's is not counted.
    pub in_flight: Option<usize>,
    /// Upstream connections that its clients have to themselves.
    pub leased: Option<usize>,
    /// Clients in a blocking command.
    pub blocked: Option<usize>,
    /// Clients with a subscription, or in MONITOR.
    pub subscribed: Option<usize>,
    /// Clients between MULTI or WATCH and EXEC.
    pub transactions: Option<usize>,
    /// One request, in bytes.
    pub request: Option<usize>,
    /// Requests and replies that wait, of all its clients, in bytes.
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
