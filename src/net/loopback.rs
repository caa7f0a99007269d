//! Connections that never leave the machine.

use std::net::SocketAddr;

use socket2::SockRef;

/// Spares a loopback connection the work of congestion control. There is nothing to control, yet BBR paces every
/// segment with a timer and models the path on every acknowledgement; Reno, which every kernel has and every user may
/// choose, does neither. A kernel that refuses leaves things as they are.
pub fn spare<'a>(socket: impl Into<SockRef<'a>>, peer: SocketAddr) {
    if peer.ip().to_canonical().is_loopback() {
        #[cfg(target_os = "linux")]
        if let Err(error) = socket.into().set_tcp_congestion(b"reno") {
            tracing::debug!(%error, "congestion control of a loopback connection could not be chosen");
        }
    }
}
