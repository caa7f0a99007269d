//! Divides the requests that concern several shards, as the cluster's shards are now.

use std::rc::Rc;

use super::cursor::{self, Mark, ScanCursor};
use super::gather::{Gather, Whole};
use super::split::{self, MAX_KEYS, Parts};
use super::spread::{Joint, Spread};
use crate::cluster::slot::Slot;
use crate::resp::request::{self, Request};
use crate::session::refusal;
use crate::upstream::shards::{Shard, Shards};

/// The size limit of one part, in bytes. Others wait on the shared connection while a part is written.
const MAX_PART: usize = 16 * 1024 * 1024;

/// The error line for a command with too many keys.
const TOO_MANY_KEYS: &[u8] =
    b"-ERR respgate: this command has keys in several slots, and more than 100000 keys; send several commands";

/// The error line for a command one part of which is too large.
const PART_TOO_LARGE: &[u8] =
    b"-ERR respgate: a part of this command for one shard has more than 16 MiB; send several commands";

/// Returns the first slots of the shards that serve slots, in order. A slot that no shard serves has no keys.
pub(super) fn starts(shards: &Shards) -> Vec<Slot> {
    let serving = shards.serving();
    let served = || serving.iter().filter(|(_, shard)| shard.number().is_some());
    match served().next() {
        Some(_) => served().map(|(slot, _)| *slot).collect(),
        None => serving.iter().map(|(slot, _)| *slot).collect(),
    }
}

/// Returns the shard without a primary, if no other serves slots.
pub(super) fn unserved(shards: &Shards) -> Option<Rc<Shard>> {
    let mut serving = shards.serving();
    serving.pop().filter(|(_, last)| serving.is_empty() && last.number().is_none()).map(|(_, shard)| shard)
}

/// Returns the first slot of the shard that a SCAN asks whose cursor has `slot`; `None` for a SCAN that begins. If no shard serves the
/// slot any more, that is the next shard.
fn scan_start(shards: &Shards, slot: Option<Slot>) -> Slot {
    let serving = shards.serving();
    let served = || serving.iter().filter(|(_, shard)| shard.number().is_some()).map(|(start, _)| *start);
    let slot = slot.or_else(|| served().next()).unwrap_or_else(|| Slot::of(b""));
    let shard = shards.of(slot);
    if shard.number().is_some() {
        let found = serving.iter().find(|(_, other)| Rc::ptr_eq(other, &shard));
        return found.map_or(slot, |(start, _)| *start);
    }
    served().find(|start| *start > slot).or_else(|| served().next_back()).unwrap_or(slot)
}

/// Returns the mark of the process that serves `slot`.
pub(super) fn mark(shards: &Shards, slot: Slot) -> Mark {
    mark_of(&shards.of(slot))
}

fn mark_of(shard: &Shard) -> Mark {
    Mark::of(shard.node().as_ref())
}

/// Begins a SCAN's shard anew if `shard` is another process than the one that gave the cursor.
pub(super) fn begin_scan_anew(gather: &mut Gather, shard: &Shard) {
    let Whole::Scan { mark: asked } = gather.begun.whole else { return };
    let now = mark_of(shard);
    if !asked.may_be(now) {
        let frames = &mut gather.begun.parts;
        if let Some(anew) = Request::parse(&frames.frames).map(|request| with_cursor(&request, 0)) {
            frames.replace(anew);
        }
    }
    gather.begun.whole = Whole::Scan { mark: now };
}

/// Has a command for all shards go to those that serve slots now, unless a part of it was sent already.
pub(super) fn redivide(gather: &mut Gather, shards: &Shards) {
    if let Whole::Join(joint) = gather.begun.whole
        && gather.begun.parts.places.is_empty()
        && gather.is_unsent()
    {
        let starts = starts(shards);
        if let Joint::Any { .. } = joint {
            gather.begun.whole = Whole::Join(Joint::Any { from: fastrand::usize(0..starts.len().max(1)) });
        }
        gather.begun.parts = Parts::for_each(starts.into_iter(), &gather.begun.parts.frames);
        gather.place_parts(shards);
    }
}

/// Returns a SCAN with another cursor.
fn with_cursor(request: &Request<'_>, cursor: u64) -> Vec<u8> {
    let mut digits = itoa::Buffer::new();
    let mut args: Vec<&[u8]> = request.args().collect();
    if let Some(arg) = args.get_mut(1) {
        *arg = digits.format(cursor).as_bytes();
    }
    let mut frame = Vec::with_capacity(request.len() + 20);
    request::encode(&args, &mut frame);
    frame
}

/// Divides a request.
///
/// # Errors
/// Returns the error line for a request that cannot be divided.
pub(super) fn divide(
    request: &Request<'_>,
    spread: Spread,
    shards: &Shards,
) -> Result<(Parts, Whole), &'static [u8]> {
    let (parts, whole) = match spread {
        Spread::Keys { head, step, joint } => {
            if request.argc() as usize / step > MAX_KEYS {
                return Err(TOO_MANY_KEYS);
            }
            (split::by_slot(request, head, step), Whole::Join(joint))
        }
        Spread::Shards(joint) => {
            let parts = Parts::for_each(starts(shards).into_iter(), request.raw());
            let joint = match joint {
                Joint::Any { .. } => Joint::Any { from: fastrand::usize(0..parts.parts.len().max(1)) },
                joint => joint,
            };
            (parts, Whole::Join(joint))
        }
        Spread::Scan => {
            let number = cursor::parse(request.arg(1).unwrap_or_default()).ok_or(refusal::INVALID_CURSOR)?;
            let scan = ScanCursor::decode(number);
            let slot = scan_start(shards, scan.map(|scan| scan.slot));
            let process = mark(shards, slot);
            let cursor = scan.map_or(0, |scan| scan.for_process(process));
            (
                Parts::for_each(std::iter::once(slot), &with_cursor(request, cursor)),
                Whole::Scan { mark: process },
            )
        }
    };
    if parts.parts.iter().any(|part| part.end - part.start > MAX_PART) {
        return Err(PART_TOO_LARGE);
    }
    Ok((parts, whole))
}
