//! The byte budget of the process (`max-buffered`): all workers share it, and each client's part of
//! it is counted.
//!
//! A worker counts in a plain number and takes from the shared count in chunks (`Budget::chunk`), so
//! that a command touches no atomic. A client's [`Account`] counts the allocated capacity of
//! everything that respgate keeps for the client. When the budget is spent, [`relief`] chooses the
//! clients that hold most, on all workers, and respgate disconnects them.

mod account;
mod relief;
mod share;

pub use account::{Account, Charge, Counted};
pub use relief::{Holding, relief, weightiest};
pub use share::{Budget, Share};
