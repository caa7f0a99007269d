//! The upgrade: a new process takes over the listening sockets, and the old one drains.
//!
//! The old process ([`successor`]) starts the new one with one end of a pair of unix sockets as its standard input. Over
//! this pair it passes the listening sockets (`SCM_RIGHTS`), so that both processes share one queue of connections and
//! none of it is lost. The new process ([`predecessor`]) says when it is ready. Only then does the old one stop accepting.
//!
//! ```text
//! old                              new
//!  │  {"socket": "main", …} + fd   │   once for each socket
//!  │ ────────────────────────────▶ │
//!  │  {"pid": 100}                 │
//!  │ ────────────────────────────▶ │
//!  │  {"waiting": "upstream …"}    │   as often as the reason changes
//!  │ ◀──────────────────────────── │
//!  │  {"ready": true}              │
//!  │ ◀──────────────────────────── │
//!  │  {"clients": …}               │   from now on the new process accepts; repeated during the drain
//!  │ ────────────────────────────▶ │
//!  │  {"closed": true}             │   the new process accepts no more clients on purpose: it drains, or hands over itself
//!  │ ◀──────────────────────────── │
//! ```
//!
//! The old process keeps the sockets open until its own drain begins. If the new one dies before it has said `closed`, the old
//! one accepts again.

pub mod predecessor;
pub mod requests;
pub mod successor;
mod wire;

/// The environment variable that says that standard input leads to the process to replace.
const VARIABLE: &str = "RESPGATE_UPGRADE";
