//! Writes a list of clients as the body of an answer, a few clients at a time, so that the main thread goes on to accept
//! clients, to follow the primary and to answer probes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::admin::connections::Activity;
use crate::clients::listing::Listing;

/// Maximum number of lists that the admin listener and the control socket keep at the same time, until their readers
/// have them.
pub(in crate::admin) const LISTS: usize = 4;

/// The result of an action.
pub(super) enum ActionResult {
    /// Any result but a list of clients.
    Value(Value),
    /// A list of clients.
    Clients(CountedListing),
}

/// A list of clients, which counts as one of [`LISTS`].
pub(super) struct CountedListing {
    listing: Listing,
    _permit: OwnedSemaphorePermit,
}

impl CountedListing {
    pub(super) fn new(listing: Listing, permit: OwnedSemaphorePermit) -> Self {
        Self { listing, _permit: permit }
    }

    /// Returns the number of clients in the list.
    pub(super) fn clients(&self) -> usize {
        self.listing.clients()
    }

    /// Returns the list as the body of the answer to this action.
    pub(super) fn body(self, action: String, activity: Activity) -> ClientListBody {
        ClientListBody { action, list: self, written: Written::Nothing, yields: false, activity }
    }
}

/// A list of clients, as the body of an answer.
pub(in crate::admin) struct ClientListBody {
    action: String,
    list: CountedListing,
    written: Written,
    /// True if the task must let others run before the next part.
    yields: bool,
    activity: Activity,
}

/// How much of a list was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    Some,
    All,
}

impl ClientListBody {
    /// Returns the next part; `None` after the last.
    fn next_part(&mut self) -> Option<Bytes> {
        let mut text = match self.written {
            Written::All => return None,
            Written::Nothing => format!("{{\n  \"action\": \"{}\",\n  \"result\": [", self.action),
            Written::Some => String::new(),
        };
        let mut first = self.written == Written::Nothing;
        self.written = Written::Some;
        self.list.listing.step(|line| {
            let separator = if std::mem::take(&mut first) { "\n    " } else { ",\n    " };
            text.push_str(separator);
            text.push_str(&parsed(String::from_utf8_lossy(line).trim_end()).to_string());
        });
        if self.list.listing.is_empty() {
            text.push_str("\n  ]\n}\n");
            self.written = Written::All;
        }
        Some(text.into())
    }
}

impl Body for ClientListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // The connection asks for more only if the peer reads.
        self.activity.moved();
        if std::mem::replace(&mut self.yields, true) {
            self.yields = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.next_part().map(|part| Ok(Frame::data(part))))
    }
}

/// Returns a line of CLIENT LIST as an object. Integers become numbers.
pub(in crate::admin) fn parsed(line: &str) -> Value {
    let fields = line.split(' ').filter_map(|field| field.split_once('='));
    let value = |value: &str| value.parse::<i64>().map_or_else(|_| value.into(), Value::from);
    // A name may look like a number.
    const TEXTS: [&str; 7] = ["name", "user", "lib-name", "lib-ver", "tenant", "upstream", "listener"];
    let entry = |(key, text): (&str, &str)| {
        (key.to_owned(), if TEXTS.contains(&key) { text.into() } else { value(text) })
    };
    Value::Object(fields.map(entry).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::clients::listing::{LINES_PER_STEP, LineSource, Lines};

    async fn body(clients: u64) -> ClientListBody {
        let mut listing = Listing::default();
        for id in 1..=clients {
            let mut lines = Lines::new(LineSource::Worker(0));
            lines.push(id, |out| out.extend_from_slice(format!("id={id} name=\"a\" db=0\n").as_bytes()));
            listing.add(lines);
        }
        let permit = Arc::new(Semaphore::new(LISTS)).acquire_owned().await.expect("a permit");
        CountedListing::new(listing, permit).body("clients".into(), Activity::new())
    }

    #[tokio::test]
    async fn a_list_is_written_a_few_clients_at_a_time() {
        let mut body = body(1000).await;
        let (mut text, mut parts) = (String::new(), 0);
        while let Some(part) = body.next_part() {
            let part = String::from_utf8_lossy(&part).into_owned();
            assert!(part.matches("\"id\"").count() <= LINES_PER_STEP);
            text.push_str(&part);
            parts += 1;
        }
        assert_eq!(parts, 1000_usize.div_ceil(LINES_PER_STEP));
        let document: Value = serde_json::from_str(&text).expect("JSON");
        let ids: Vec<u64> = document["result"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|client| client["id"].as_u64())
            .collect();
        assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
        assert_eq!(
            (&document["action"], &document["result"][0]["name"]),
            (&json!("clients"), &json!("\"a\""))
        );
    }

    #[tokio::test]
    async fn an_empty_list_is_a_document() {
        let text = body(0).await.collect().await.expect("a body").to_bytes();
        let document: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(document, json!({ "action": "clients", "result": [] }));
    }

    #[test]
    fn lines_become_objects() {
        let client = parsed("id=7 addr=1.2.3.4:5 name=12 db=0 tenant=");
        assert_eq!(client, json!({"id": 7, "addr": "1.2.3.4:5", "name": "12", "db": 0, "tenant": ""}));
    }
}
