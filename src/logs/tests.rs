use std::io;

use tracing::subscriber::with_default;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// Collects the lines that are written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs through a limit at `trace` and returns the lines.
fn logged(log: impl FnOnce()) -> (LogLimit, Vec<String>) {
    let (limit, written) = (LogLimit::default(), Written::default());
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_writer(move || writer.clone())
        .finish()
        .with(limit.clone());
    with_default(subscriber, log);
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    (limit, text.lines().map(str::to_owned).collect())
}

/// Checks that the number of lines is at most a burst and what the rate refills while `took`
/// passes.
fn assert_bounded(lines: &[String], text: &str, rate: Rate, took: Duration) {
    let count = lines.iter().filter(|line| line.contains(text)).count() as u64;
    let most = rate.burst + rate.per_second * (took.as_secs() + 1);
    assert!((rate.burst..=most).contains(&count), "{count} lines of {text}, at most {most} are right");
}

#[test]
fn every_callsite_is_bounded_at_every_level() {
    let started = Instant::now();
    let (limit, lines) = logged(|| {
        for number in 0..5000 {
            tracing::error!(number, "an error");
            tracing::warn!(number, "a warning");
            tracing::info!("news {number}");
            tracing::debug!(number, "a detail");
            tracing::trace!(number, "a trifle");
        }
        tracing::warn!("another cause");
    });
    let took = started.elapsed();
    for text in ["an error", "a warning", "news "] {
        assert_bounded(&lines, text, USUAL, took);
    }
    for text in ["a detail", "a trifle"] {
        assert_bounded(&lines, text, VERBOSE, took);
    }
    assert_eq!(lines.iter().filter(|line| line.contains("another cause")).count(), 1);
    let suppressed: u64 = limit.suppressed().values().sum();
    assert_eq!(suppressed + lines.len() as u64, 25_001, "every line is written or counted");
    assert!(limit.suppressed().contains_key(&("logs::tests", "ERROR")), "{:?}", limit.suppressed());
}

#[test]
fn suppressed_lines_are_reported_when_the_cause_stops_and_once_a_minute() {
    let (limit, _) = logged(|| (0..50).for_each(|number| tracing::info!("refused {number}")));
    let (now, suppressed) = (limit.0.now(), limit.suppressed().values().sum());
    let after = |seconds: u64| now + seconds * 1_000_000_000;
    assert_eq!(limit.0.summaries(now), [], "it goes on");
    let reported = limit.0.summaries(after(2));
    assert_eq!(reported.len(), 1);
    assert_eq!((reported[0].suppressed, reported[0].module), (suppressed, "logs::tests"));
    assert!(reported[0].example.starts_with("refused "), "{reported:?}");
    assert_eq!(limit.0.summaries(after(4)), [], "it has been told");
    let slot = limit.0.slots.iter().find(|slot| slot.callsite.get().is_some()).unwrap();
    slot.suppressed.fetch_add(7, Ordering::Relaxed);
    for (second, tells) in [(61, 0), (63, 1)] {
        slot.last.store(after(second), Ordering::Relaxed);
        assert_eq!(limit.0.summaries(after(second)).len(), tells, "after {second} s");
    }
}

#[test]
fn an_example_is_short() {
    let (limit, _) = logged(|| (0..50).for_each(|_| tracing::info!("{}", "x".repeat(10_000))));
    let reported = limit.0.summaries(limit.0.now() + 2_000_000_000);
    assert_eq!(reported[0].example.len(), EXAMPLE);
}
