//! Sockets: dialling, streams, buffers, backoff.

pub mod backoff;
pub mod buffers;
pub mod connect;
pub mod loopback;
pub mod proxy_protocol;
pub mod read_buffer;
pub mod source_rate;
pub mod stream;
pub mod tls;
