//! Checks that hold for sizes in bytes.

use super::super::report::Report;
use super::super::setting::Setting;
use super::super::size;
use super::super::value::Bytes;

/// The smallest size that any limit may have. A smaller one would refuse what every client sends
/// when it connects.
pub(super) const LEAST_SIZE: Bytes = Bytes(1024);

/// Returns a size that must fit into another one: the typed size, or the default lowered to fit.
pub(super) fn within(
    inner: Setting<Bytes>,
    default: usize,
    (outer_name, outer): (&str, usize),
    report: &mut Report,
) -> usize {
    match inner {
        Setting::Given(Bytes(bytes), place) if bytes > outer => {
            report.error(
                &place,
                format!(
                    "{} is more than {outer_name}, which is {}; raise that or lower this",
                    size::show_bytes(bytes),
                    size::show_bytes(outer)
                ),
            );
            outer
        }
        Setting::Given(Bytes(bytes), _) => bytes,
        _ => default.min(outer),
    }
}
