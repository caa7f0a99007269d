//! Writes the error lines of limits: which limit, whose, and when to try again.

use crate::resp::error_line::ErrorLine;

macro_rules! limits {
    ($($name:ident $key:literal $doc:literal,)*) => {
        /// A limit, by its key in the configuration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit {
            $(#[doc = $doc] $name,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: [Self; [$($key),*].len()] = [$(Self::$name),*];

            /// Its key in the configuration.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)*
                }
            }
        }
    };
}

limits! {
    Connections "connections" "Clients connected at once.",
    Commands "commands-per-second" "Commands of all clients.",
    BytesIn "bytes-in-per-second" "Bytes of requests of all clients.",
    BytesOut "bytes-out-per-second" "Bytes written to all clients.",
    ClientCommands "client-commands-per-second" "Commands of one client.",
    ClientBytesIn "client-bytes-in-per-second" "Bytes of requests of one client.",
    ClientBytesOut "client-bytes-out-per-second" "Bytes written to one client.",
    InFlight "in-flight" "Commands sent and unanswered.",
    Leased "leased" "Upstream connections that clients have to themselves.",
    Blocked "blocked" "Clients in a blocking command.",
    Subscribed "subscribed" "Clients with subscriptions, or in MONITOR.",
    Transactions "transactions" "Clients between MULTI or WATCH and EXEC.",
    Request "max-request" "Bytes of one request.",
    Buffered "max-buffered" "Bytes that wait for all clients.",
}

impl Limit {
    fn subject(self) -> &'static str {
        match self {
            Self::ClientCommands | Self::ClientBytesIn | Self::ClientBytesOut => "this client of tenant",
            _ => "tenant",
        }
    }
}

/// Returns the error line of a command over a rate. `wait` is in nanoseconds.
pub fn over_rate(tenant: &str, limit: Limit, per_second: u64, wait: u64) -> ErrorLine {
    let (subject, key) = (limit.subject(), limit.key());
    let wait = wait.div_ceil(1_000_000).max(1);
    format!("-ERR respgate: {subject} '{tenant}' is over its {key} limit of {per_second}; retry in {wait} ms")
        .into()
}

/// Returns the error line of a command or client that would exceed a number.
pub fn at_count(tenant: &str, limit: Limit, most: usize) -> ErrorLine {
    let key = limit.key();
    format!("-ERR respgate: tenant '{tenant}' is at its {key} limit of {most}; retry when some have ended")
        .into()
}

/// Returns the error line of a client that would exceed the number of connections. It begins with
/// the server's text, which clients recognise.
pub fn full(tenant: &str, most: usize) -> ErrorLine {
    format!("-ERR max number of clients reached for tenant '{tenant}', whose connections limit is {most}")
        .into()
}

/// Returns the error line of a request that is too large.
pub fn too_large(tenant: &str, bytes: usize, most: usize) -> ErrorLine {
    format!(
        "-ERR respgate: this request of {bytes} bytes is over the max-request limit of tenant '{tenant}', {most} bytes"
    )
    .into()
}

/// Returns the error line of a client that holds more than its share while its tenant is over
/// `max-buffered`.
pub fn over_buffer_share(tenant: &str, most: usize) -> ErrorLine {
    format!(
        "-ERR respgate: tenant '{tenant}' is over its max-buffered limit of {most} bytes, and this client holds more than its share"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_which_limit_whose_and_when() {
        assert_eq!(
            &*over_rate("shop", Limit::Commands, 100, 11_200_000),
            b"-ERR respgate: tenant 'shop' is over its commands-per-second limit of 100; retry in 12 ms"
        );
        assert_eq!(
            &*over_rate("shop", Limit::ClientBytesIn, 100, 1),
            b"-ERR respgate: this client of tenant 'shop' is over its client-bytes-in-per-second limit of 100; retry in 1 ms"
        );
        assert_eq!(
            &*at_count("shop", Limit::Blocked, 3),
            b"-ERR respgate: tenant 'shop' is at its blocked limit of 3; retry when some have ended"
        );
    }
}
