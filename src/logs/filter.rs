//! The least severe level that is logged, and its change while respgate runs.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;

/// The levels, from none to all.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Returns true if the text is a level, or a list of levels by module such as `info,respgate::discovery=debug`.
/// [`EnvFilter`] accepts more: to it, a mistyped level is the name of a module.
pub fn is_filter(text: &str) -> bool {
    let is_level = |word: &str| LEVELS.contains(&word);
    let is_module = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
        !name.is_empty() && name.bytes().all(allowed)
    };
    text.split(',').all(|part| match part.split_once('=') {
        Some((module, level)) => is_module(module) && is_level(level),
        None => is_level(part),
    })
}

/// Replaces the filter of the running log. Clones share one state.
#[derive(Clone)]
pub struct LogFilter {
    current: Arc<Mutex<String>>,
    replace: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl LogFilter {
    /// Creates the handle of a log that uses the filter `current`; `replace` gives it another one.
    pub fn new(
        current: String,
        replace: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { current: Arc::new(Mutex::new(current)), replace: Arc::new(replace) }
    }

    /// Logs by the filter `next` from now on. Returns the filter that applied before.
    ///
    /// # Errors
    /// Returns an error if `next` is not a filter, or if the log has ended. The log then stays as it was.
    pub fn set(&self, next: &str) -> Result<String, String> {
        let filter = EnvFilter::try_new(next).map_err(|error| error.to_string())?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.replace)(filter)?;
        Ok(std::mem::replace(&mut *current, next.to_owned()))
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.current).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_lists_of_modules_are_filters() {
        for text in ["info", "off", "info,hyper=debug,a::b-c_d=warn", "respgate=trace"] {
            assert!(is_filter(text), "{text}");
        }
        for text in
            ["", "verbose", "info,", "=info", "respgate=loud", "INFO", "[span]=info", "info,a[b]=warn"]
        {
            assert!(!is_filter(text), "{text}");
        }
    }

    #[test]
    fn a_wrong_filter_changes_nothing() {
        let replaced = Arc::new(Mutex::new(Vec::new()));
        let seen = replaced.clone();
        let log = LogFilter::new("info".into(), move |filter| {
            seen.lock().expect("a lock").push(filter.to_string());
            Ok(())
        });
        assert!(log.set("respgate=loud").is_err());
        assert_eq!(log.set("debug"), Ok("info".into()));
        assert_eq!(log.set("info,respgate=trace"), Ok("debug".into()));
        assert_eq!(*replaced.lock().expect("a lock"), ["debug", "respgate=trace,info"]);
    }
}
