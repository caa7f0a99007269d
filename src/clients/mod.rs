//! The clients of the whole process, as the commands CLIENT LIST, KILL and UNBLOCK see them: how one is shown, how they
//! are selected, and how the workers are asked for theirs.

pub mod arguments;
pub mod directory;
pub mod filter;
pub mod foreign;
pub mod listing;
pub mod row;
