//! Measures where the time of commands goes.
//!
//! A session notes when it read a command ([`Arrival`]), and a connection when it wrote the command and when the reply came
//! ([`CommandTimes`]). [`UpstreamLatency`] adds the times to the histograms of one worker and one upstream. A command that
//! took long, or that a tap asks for, is also described ([`described`]) and put into the [`slow_log`] or the tap's [`ring`].
//!
//! All of it belongs to one worker: there is no lock and no atomic. The clock is read once for each poll, however many commands
//! share the poll. When a shared connection carries many commands, only some of them are counted (see `sampling`), but the slow
//! log sees all that are slow.

mod class_histograms;
pub mod config;
mod described;
pub mod entry;
mod histogram;
mod pending;
mod ring;
mod sampling;
mod slow_log;
pub mod tap;
mod times;
mod upstream;
mod worker;

pub use class_histograms::ClassSnapshot;
pub use histogram::Distribution;
pub use pending::PendingTimes;
pub use times::{Arrival, Class, CommandTimes, PARTS, Parts, Wait};
pub use upstream::{LatencySnapshot, UpstreamLatency};
pub use worker::WorkerLatency;
