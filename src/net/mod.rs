//! Sockets: connecting, streams, buffers, the byte budget, and backoff.

pub mod backoff;
pub mod budget;
pub mod buffers;
pub mod byte_queue;
pub mod connect;
pub mod listening;
pub mod loopback;
pub mod proxy_protocol;
pub mod read_buffer;
pub mod source_rate;
pub mod stream;
pub mod tls;
pub mod unix_socket;
pub mod write;
