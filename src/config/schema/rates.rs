//! The limits of a tenant, as keys of `[tenants.NAME]`.

use std::time::Duration;

use super::super::value::Bytes;
use crate::tenant::limits::config::OverLimit;

table! {
    /// The limits of a tenant.
    QuotaKeys, QuotaDefaults {
        /// The way in which a rate or `in-flight` limits a command: by a delay, or by an error.
        ///
        /// `"delay"` reads nothing more from the client until the command may run, for `max-delay` at most. `"reject"` answers with
        /// an error that says when to retry. The other limits always answer with an error.
        over_limit: OverLimit = OverLimit::Delay, "over-limit", Live;
        /// The longest delay. respgate rejects a command that would wait longer. At least `"1ms"`.
        max_delay: Duration = Duration::from_secs(5), "max-delay", Live;
        /// The number of respgates, 2 to 1000, that share the tenant's rates through a key on the server.
        ///
        /// It applies to `commands-per-second`, `bytes-in-per-second` and `bytes-out-per-second`, not to the rates of each client. All
        /// respgates need the same numbers. While the server cannot be asked, each keeps to its part of the rates.
        shared_by: usize, "shared-by", Live, unit "respgates", default "none; the rates are not shared", example "3";
        /// The upstream whose primary keeps the key of the shared rates.
        shared_upstream: String, "shared-upstream", Live, default "the only upstream", example "\"main\"";
        /// The number of clients that may be connected at once.
        ///
        /// A further client gets `-ERR max number of clients reached for tenant '…', …` and is disconnected. `AUTH` and the like get
        /// an error only.
        connections: usize, "connections", Live, unit "clients", default "no limit", example "500";
        /// The number of commands that may be sent to the server and unanswered at once. Blocking commands do not count.
        ///
        /// `over-limit` decides what happens to one more.
        in_flight: usize, "in-flight", Live, unit "commands", default "no limit", example "1000";
        /// The number of upstream connections that clients may have to themselves at once, for whatever reason.
        leased: usize, "leased", Live, unit "connections", default "no limit", example "100";
        /// The number of clients that may be in a blocking command at once.
        blocked: usize, "blocked", Live, unit "clients", default "no limit", example "50";
        /// The number of clients that may have subscriptions, or be in `MONITOR`, at once. Subscriptions by fan-in do not count.
        subscribed: usize, "subscribed", Live, unit "clients", default "no limit", example "50";
        /// The number of clients that may be between `MULTI` or `WATCH` and `EXEC` at once.
        transactions: usize, "transactions", Live, unit "clients", default "no limit", example "20";
        /// The size of one request. `max-request` of the listener applies besides.
        max_request: Bytes, "max-request", Live, default "no limit", example "\"1MiB\"";
        /// The size of the requests and replies that wait for all clients of the tenant.
        ///
        /// When it is reached, a client that holds more than 64 KiB is disconnected.
        max_buffered: Bytes, "max-buffered", Live, default "no limit", example "\"64MiB\"";
    }
    groups {
        /// Rates of all clients together.
        rates: RateKeys, prefix "";
        /// Rates of each client.
        client_rates: RateKeys, prefix "client-", about "Works like KEY, for each client of the tenant.";
    }
}

table! {
    /// Rates of a tenant, or of each of its clients.
    RateKeys, RateDefaults {
        /// The number of commands that the tenant's clients may run in a second, over all workers.
        ///
        /// `over-limit` decides what happens to further ones.
        commands: usize, "commands-per-second", Live, unit "commands a second", default "no limit", example "20000";
        /// The number of commands that may run at once after a pause.
        commands_burst: usize, "commands-burst", Live, unit "commands",
            default "a tenth of a second's worth of the rate", example "2000";
        /// The size of the requests that the tenant's clients may send in a second.
        ///
        /// `over-limit` decides what happens to further ones.
        bytes_in: Bytes, "bytes-in-per-second", Live, default "no limit", example "\"50MiB\"";
        /// The size of the requests that may come at once after a pause.
        ///
        /// A request may be larger: it passes, and the next one waits for it.
        bytes_in_burst: Bytes, "bytes-in-burst", Live, default "a tenth of a second's worth of the rate", example "\"5MiB\"";
        /// The size of the replies and messages that the tenant's clients may receive in a second.
        ///
        /// `over-limit` decides what happens to the next command. Messages of subscriptions are always delayed.
        bytes_out: Bytes, "bytes-out-per-second", Live, default "no limit", example "\"200MiB\"";
        /// The size of the replies and messages that may be sent at once after a pause.
        bytes_out_burst: Bytes, "bytes-out-burst", Live, default "a tenth of a second's worth of the rate", example "\"20MiB\"";
    }
}
