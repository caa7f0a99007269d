//! `POST /control/tap`: streams the commands that match a filter, one JSON object on each line.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::{Body, Frame};
use hyper::header::HeaderValue;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep};

use super::connections::Activity;
use crate::drain::Draining;
use crate::latency::config::ShownArguments;
use crate::latency::tap::{MAX_TAPS, TapBatch, TapFilter};
use crate::worker::Worker;

/// The path of taps.
pub(super) const PATH: &str = "/control/tap";
/// The type of the answer.
pub(super) const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Number of batches that may wait for the reader, in each of two queues. Then the workers keep entries, and drop what exceeds
/// their rings.
const BATCHES: usize = 4;
/// Interval of lines without a command, which show that the tap runs.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a tap runs if the request does not say.
const USUAL_TIME: u64 = 60;
/// How long a tap may run, in seconds.
const LONGEST_TIME: u64 = 3600;

/// A tap that a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TapRequest {
    filter: TapFilter,
    time: Duration,
}

impl TapRequest {
    /// Parses the arguments: `body` is a JSON object, or empty.
    ///
    /// # Errors
    /// Returns what is wrong, and what to write.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let mut arguments: Map<String, Value> = match body {
            [] => Map::new(),
            _ => serde_json::from_slice(body)
                .map_err(|error| format!("the body is not a JSON object: {error}"))?,
        };
        let mut text = |name: &str| match arguments.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name} must be a string")),
        };
        let (tenant, client, user) = (text("tenant")?, text("client")?, text("user")?);
        let command = text("command")?.map(|name| name.to_ascii_uppercase().replace(' ', "|"));
        let key_prefix = text("key-prefix")?.map(String::into_bytes);
        let arguments_shown = match text("arguments")?.as_deref() {
            None | Some("redact") => ShownArguments::Redact,
            Some("show") => ShownArguments::Show,
            Some(other) => return Err(format!(r#"arguments: {other:?} is not "redact" or "show""#)),
        };
        let mut number = |name: &str, usual: u64, largest: u64| match arguments.remove(name) {
            None => Ok(usual),
            Some(value) => value
                .as_u64()
                .filter(|number| (1..=largest).contains(number))
                .ok_or_else(|| format!("{name} must be a whole number from 1 to {largest}")),
        };
        let sample = number("sample", 1, u32::MAX.into())?;
        let seconds = number("seconds", USUAL_TIME, LONGEST_TIME)?;
        if let Some(unknown) = arguments.keys().next() {
            return Err(format!("tap has no argument {unknown:?}"));
        }
        let sample = u32::try_from(sample).unwrap_or(u32::MAX);
        let filter =
            TapFilter { tenant, client, user, command, key_prefix, sample, arguments: arguments_shown };
        Ok(Self { filter, time: Duration::from_secs(seconds) })
    }
}

/// Begins taps, and limits their number.
pub(super) struct TapEndpoint {
    workers: Vec<Worker>,
    draining: Draining,
    running: Arc<AtomicUsize>,
}

/// Counts a running tap until it is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TapEndpoint {
    pub(super) fn new(workers: Vec<Worker>, draining: Draining) -> Self {
        Self { workers, draining, running: Arc::default() }
    }

    /// Begins a tap on all workers. Returns its lines, or `None` if too many taps run.
    pub(super) async fn begin(&self, request: TapRequest, activity: Activity) -> Option<TapLines> {
        let running = Running(self.running.clone());
        if self.running.fetch_add(1, Ordering::Relaxed) >= MAX_TAPS {
            return None;
        }
        let (batches, newest) = mpsc::channel(BATCHES);
        let filter = Arc::new(request.filter);
        for worker in &self.workers {
            worker.tap(filter.clone(), batches.clone()).await;
        }
        let (lines, read) = mpsc::channel(BATCHES);
        let mut draining = self.draining.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                () = pass_on(newest, lines.clone()) => "the reader left",
                () = sleep(request.time) => "its time is over",
                () = draining.wait() => "respgate drains",
            };
            // A reader that is late does not learn why the tap ended.
            let _ = lines.try_send(line(&json!({ "end": end })));
            tracing::info!(end, "a tap ended");
            drop(running);
        });
        Some(TapLines { lines: read, activity })
    }
}

/// Turns batches into lines until the reader leaves.
async fn pass_on(mut batches: mpsc::Receiver<TapBatch>, lines: mpsc::Sender<Bytes>) {
    let mut heartbeats = interval_at(Instant::now(), HEARTBEAT);
    loop {
        let text = tokio::select! {
            () = lines.closed() => return,
            _ = heartbeats.tick() => line(&json!({ "dropped": 0 })),
            batch = batches.recv() => match batch {
                Some(batch) => batch_lines(&batch),
                None => return,
            },
        };
        if lines.send(text).await.is_err() {
            return;
        }
    }
}

fn batch_lines(batch: &TapBatch) -> Bytes {
    let mut text = BytesMut::new();
    for entry in &batch.entries {
        text.put(line(&entry.json()));
    }
    if batch.dropped > 0 {
        text.put(line(&json!({ "dropped": batch.dropped })));
    }
    text.freeze()
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

/// The lines of a tap, as the body of an answer.
pub(super) struct TapLines {
    lines: mpsc::Receiver<Bytes>,
    activity: Activity,
}

impl Body for TapLines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // The connection asks for more only if the peer reads. A peer that does not read is disconnected like any other.
        self.activity.moved();
        self.lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_to_show() {
        let body = br#"{"tenant":"shop","command":"config set","key-prefix":"a:","sample":10,"seconds":5,"arguments":"show"}"#;
        let TapRequest { filter, time } = TapRequest::parse(body).expect("a tap");
        assert_eq!((filter.tenant.as_deref(), filter.client.as_deref()), (Some("shop"), None));
        assert_eq!(filter.command.as_deref(), Some("CONFIG|SET"));
        assert_eq!((filter.key_prefix.as_deref(), filter.sample), (Some(&b"a:"[..]), 10));
        assert_eq!((filter.arguments, time), (ShownArguments::Show, Duration::from_secs(5)));
        assert_eq!(TapRequest::parse(b"").map(|tap| tap.time), Ok(Duration::from_secs(60)));
    }

    #[test]
    fn wrong_requests_are_explained() {
        for (body, error) in [
            (r#"{"sample":0}"#, "sample must be a whole number from 1 to 4294967295"),
            (r#"{"seconds":3601}"#, "seconds must be a whole number from 1 to 3600"),
            (r#"{"user":7}"#, "user must be a string"),
            (r#"{"arguments":"all"}"#, r#"arguments: "all" is not "redact" or "show""#),
            (r#"{"key":"a"}"#, r#"tap has no argument "key""#),
        ] {
            assert_eq!(TapRequest::parse(body.as_bytes()).expect_err("an error"), error);
        }
        assert!(TapRequest::parse(b"[]").expect_err("an error").contains("not a JSON object"));
    }
}
