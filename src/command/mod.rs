//! The command table: the route of each command, and whether it may be sent again.

pub mod administration;
pub mod category;
pub mod key_index;
pub mod key_specs;
pub mod keys;
pub mod learned;
mod lookup;
mod option_word;
mod options;
mod retry;
mod short_name;
mod spec;
mod table;

pub use lookup::{Found, arity_ok, find, lookup, lookup_subcommand, printable, trace_of};
pub use option_word::{is as option_is, is_whole as option_is_whole};
pub use options::{ReadOptions, Tracking, hides_option, may_block};
pub use retry::retry_of;
pub use spec::{Flags, Retry, RouteClass, Spec, Trace, Verb};
pub use table::TABLE;
