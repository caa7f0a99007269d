//! The limits for one request.

/// The limits for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// The greatest length of the whole request, in bytes.
    pub max_request: usize,
    /// The greatest length of one argument, in bytes (the server's proto-max-bulk-len, by default 512 MiB).
    pub max_bulk: usize,
    /// The greatest number of arguments, including the name.
    pub max_args: u32,
    /// The greatest length of an inline command's line, in bytes.
    pub max_inline: usize,
    /// True if the client has not authenticated: the server's own lower limits and error texts apply then.
    pub unauthenticated: bool,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_request: 512 * 1024 * 1024,
            max_bulk: 512 * 1024 * 1024,
            max_args: 1024 * 1024,
            max_inline: 64 * 1024,
            unauthenticated: false,
        }
    }
}

impl RequestLimits {
    /// Returns the limits for a client that must authenticate first: the server's own (networking.c,
    /// processMultibulkBuffer), or these where they are lower.
    pub fn unauthenticated(&self) -> Self {
        Self {
            max_request: self.max_request.min(1024 * 1024),
            max_bulk: self.max_bulk.min(16384),
            max_args: self.max_args.min(10),
            max_inline: self.max_inline,
            unauthenticated: true,
        }
    }
}
