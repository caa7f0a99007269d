//! Which slots of a cluster a request concerns, and sessions whose keys are all in one.

use std::collections::BTreeSet;

use respgate::cluster::slot::Slot;
use respgate::command::keys::Keys;
use respgate::resp::request::Request as Parsed;

use crate::direct::spec;
use crate::session::{Request, Session, Step};
use crate::support::client::encode;
use crate::vocabulary::is_key;

/// The slots of a request's keys, or of its channels if it is about sharded ones; `None` if they cannot be found.
pub fn slots_of(request: &Request) -> Option<BTreeSet<Slot>> {
    let Some(spec) = spec(request) else { return Some(BTreeSet::new()) };
    if matches!(spec.name, "SSUBSCRIBE" | "SUNSUBSCRIBE") {
        return Some(request.iter().skip(1).map(|channel| Slot::of(channel)).collect());
    }
    if spec.name == "SPUBLISH" {
        return Some(request.get(1).map(|channel| Slot::of(channel)).into_iter().collect());
    }
    let frame = encode(request);
    let parsed = Parsed::parse(&frame)?;
    let mut slots = BTreeSet::new();
    let found = Keys::of(spec).all(&parsed, |key| {
        slots.insert(Slot::of(key));
        true
    });
    found.ok().map(|_| slots)
}

/// Returns true if a request has keys in several slots, or may have.
pub fn in_several(request: &Request) -> bool {
    slots_of(request).is_none_or(|slots| slots.len() > 1)
}

/// Gives the keys of a session a hash tag, so that they are in one slot.
pub fn gather(session: &mut Session, tag: &str) {
    let words = session.steps.iter_mut().flat_map(|step| match step {
        Step::Send { requests, .. } => requests.as_mut_slice(),
        Step::Bulk { request, .. } | Step::Hit { request, .. } => std::slice::from_mut(request),
        Step::Leave { .. } => &mut [],
    });
    for word in words.flat_map(|request| request.iter_mut().skip(1)).filter(|word| is_key(word)) {
        word.splice(..0, format!("{{{tag}}}").into_bytes());
    }
}
