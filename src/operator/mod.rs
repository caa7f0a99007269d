//! What operators order for upstreams: pause, resume, reconnect, and switch to another address.
//!
//! A pause is the hold of a failover with another cause. `overlay` combines, without I/O, what discovery finds with what
//! operators order, and `follow` publishes the result to the workers. So the data path needs nothing of its own.
//! `target` is where an upstream is, as plain data; `switch` moves an upstream to another target; `check` asks the target
//! before and during the hold (`primaries` says which servers these are, `greeted` connects to them, and `users` has them accept who uses the upstream); `history` tells whether the target continues the data.

mod check;
mod follow;
mod greeted;
mod history;
mod operators;
mod overlay;
mod primaries;
mod switch;
mod target;
mod users;

pub use follow::{OperatorStatus, PauseStatus, SwitchStatus};
pub use operators::{Operators, Paused, Reconnected, Steered, steer};
pub use overlay::Pause;
pub use switch::{PreparedSwitch, Switched};
pub use target::{DataProof, SwitchRequest, Target, TargetContext, TargetParser};
