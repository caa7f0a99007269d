//! Compares option words as servers compare them.

/// Compares an option word as the server does: in any case, and as a C string, so that `NX\0zz` is
/// NX (observed on valkey 8.0).
pub fn is(arg: &[u8], option: &str) -> bool {
    let end = memchr::memchr(0, arg).unwrap_or(arg.len());
    arg.get(..end).is_some_and(|arg| arg.eq_ignore_ascii_case(option.as_bytes()))
}

/// Compares a word of a command that respgate itself answers, as [`is`] does. A word with a NUL is
/// not an option here, and respgate refuses it as such.
pub fn is_whole(arg: &[u8], option: &str) -> bool {
    !holds_nul(arg) && is(arg, option)
}

/// Returns true if a word holds a NUL, at which servers stop reading.
pub fn holds_nul(arg: &[u8]) -> bool {
    memchr::memchr(0, arg).is_some()
}
