//! Connections that never leave the machine.

use std::net::SocketAddr;

use socket2::SockRef;

/// Sets the congestion control of a loopback connection to Reno, which costs less than BBR. A
/// loopback connection has no congestion, yet BBR paces every segment with a timer and updates its
/// model on every acknowledgement. Reno does neither, every kernel has it, and every user may
/// choose it. If the kernel refuses, the socket keeps its setting.
pub fn use_reno<'a>(socket: impl Into<SockRef<'a>>, peer: SocketAddr) {
    if peer.ip().to_canonical().is_loopback() {
        #[cfg(target_os = "linux")]
        if let Err(error) = socket.into().set_tcp_congestion(b"reno") {
            tracing::debug!(%error, "respgate could not set the congestion control of a loopback connection");
        }
    }
}
