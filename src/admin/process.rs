//! What the system says of this process: its start, processor time and memory.

use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::registry::MetricsRegistry;
use crate::files;
use crate::metrics::declared;

/// The figures of this process.
pub(super) struct ProcessFigures {
    started: SystemTime,
}

impl ProcessFigures {
    /// Notes the present time as the start of the process.
    pub(super) fn new() -> Self {
        Self { started: SystemTime::now() }
    }

    /// Publishes the metrics.
    pub(super) fn publish(&self, registry: &MetricsRegistry) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        registry.publish(&declared::PROCESS_START_TIME, [], started.as_secs());
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        registry.publish(&declared::PROCESS_CPU, [], u64::try_from(used).unwrap_or_default());
        if let Some(bytes) = resident_bytes() {
            registry.publish(&declared::PROCESS_RESIDENT_MEMORY, [], bytes);
        }
    }
}

/// Returns the resident memory; `None` where the system has no `/proc`.
fn resident_bytes() -> Option<u64> {
    let mut text = String::new();
    files::open(Path::new("/proc/self/statm")).ok()?.take(256).read_to_string(&mut text).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
