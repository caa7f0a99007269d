//! One fan-in link: commands out, confirmations and messages in. It is read whatever its subscribers do: who does not keep
//! up is bounded by its own queue, and nobody else waits for it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::announce::Announcements;
use super::table::{Mismatch, Name};
use super::{FanIn, LinkOrder, Upstream, shown};
use crate::net::budget::{Account, Charge};
use crate::net::buffers::Buffers;
use crate::resp::pubsub::{Kind, Published, published};
use crate::resp::reply::{ReplyKind, ReplyScanner, ScannedReply};
use crate::topology::Generation;
use crate::upstream::connection::open::Connection;
use crate::upstream::connection::reauth::Refresh;
use crate::upstream::not_primary;

/// Bytes of messages that may wait for sessions that have not been woken for them: 16 KiB for each session, within bounds for
/// all. Otherwise a burst for many subscribers would wait in memory for all of them, however fast they read.
const UNANNOUNCED_EACH: usize = 16 * 1024;
const UNANNOUNCED_MIN: usize = 1024 * 1024;
const UNANNOUNCED_MAX: usize = 16 * 1024 * 1024;
/// Bytes of messages passed to sessions before other tasks have their turn: some 0.5 ms.
const BYTES_PER_TURN: usize = 1024 * 1024;
/// Frames read, and messages passed to one session each, before other tasks have their turn: some 0.5 ms.
const STEPS_PER_TURN: usize = 1024;
/// Bytes of commands that may wait to be written.
const OUTBOUND: usize = 256 * 1024;
/// A message larger than this is not kept until it is whole, in bytes; its subscribers are disconnected.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Reads before other tasks have their turn.
const READS: usize = 16;

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// Its primary has been superseded.
    Superseded,
    /// Nobody has needed it for long.
    Unused,
    /// The node says that it is not the primary.
    NotPrimary,
    /// The server has not answered for too long.
    Silent,
    /// The server closed it.
    Lost,
    /// What the server sent makes no sense.
    Framing(&'static str),
}

/// See the module.
pub(super) struct Pump {
    link: Connection,
    scanner: ReplyScanner,
    out: Vec<u8>,
    written: usize,
    /// The message at the front of what was read, which has not reached everybody yet.
    delivery: Option<Delivery>,
    /// The frame at the front of what was read is too large, and dropped in pieces.
    dropping: bool,
    /// What was read and is not whole.
    charge: Charge,
    announcements: Announcements,
}

/// What may still be done in one turn.
struct TurnBudget {
    /// Bytes that may be passed to sessions.
    bytes: usize,
    /// Frames, and sessions that one is passed to.
    steps: usize,
}

impl TurnBudget {
    fn is_over(&self) -> bool {
        self.bytes == 0 || self.steps == 0
    }

    /// A frame of `bytes` bytes is passed to `sessions` sessions.
    fn spend(&mut self, bytes: usize, sessions: usize) {
        self.bytes = self.bytes.saturating_sub(bytes.saturating_mul(sessions));
        self.steps = self.steps.saturating_sub(sessions);
    }

    /// Whether a frame of `bytes` bytes can be passed to `sessions` sessions in this turn.
    fn has_room_for(&self, bytes: usize, sessions: usize) -> bool {
        sessions <= self.steps && bytes.saturating_mul(sessions) <= self.bytes
    }
}

struct Delivery {
    len: usize,
    kind: Kind,
    name: Name,
    /// Who was subscribed when it came.
    to: Vec<u64>,
    reached: usize,
}

impl Pump {
    pub(super) fn new(link: Connection, buffers: &Rc<Buffers>) -> Self {
        Self {
            link,
            scanner: ReplyScanner::default(),
            out: Vec::new(),
            written: 0,
            delivery: None,
            dropping: false,
            charge: Charge::new(&Account::new(buffers.share())),
            announcements: Announcements::default(),
        }
    }

    /// Ready when the link has ended.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        fan: &Rc<FanIn>,
        upstream: &Upstream,
    ) -> Poll<LinkEnd> {
        fan.watch(cx.waker());
        self.announcements.wake_some();
        let polled = self.poll_link(cx, fan, upstream);
        fan.work_off();
        // Behind those that have just been woken.
        if polled.is_pending() && !self.announcements.is_empty() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn poll_link(&mut self, cx: &mut Context<'_>, fan: &FanIn, upstream: &Upstream) -> Poll<LinkEnd> {
        let sessions = fan.table.borrow().sessions();
        let unannounced = sessions.saturating_mul(UNANNOUNCED_EACH).clamp(UNANNOUNCED_MIN, UNANNOUNCED_MAX);
        let bytes = unannounced.saturating_sub(self.announcements.bytes()).min(BYTES_PER_TURN);
        // While the byte budget is spent, one session a turn: those who do not read go first, and a link never stands still,
        // since what it has read is part of the budget.
        let steps = if self.charge.is_budget_spent() { 1 } else { STEPS_PER_TURN };
        let mut turn = TurnBudget { bytes, steps };
        for _ in 0..READS {
            if let Some(order) = fan.order.take() {
                return Poll::Ready(match order {
                    LinkOrder::Cut => LinkEnd::Superseded,
                    LinkOrder::GiveUp => LinkEnd::Silent,
                    LinkOrder::Retire if fan.names() > 0 => continue,
                    LinkOrder::Retire => LinkEnd::Unused,
                });
            }
            match self.handle_frames(fan, upstream, &mut turn) {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => return Poll::Ready(end),
            }
            self.fill(fan, upstream);
            if self.poll_write(cx).is_err() {
                return Poll::Ready(LinkEnd::Lost);
            }
            match self.link.read.poll_fill(cx, &mut self.link.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(LinkEnd::Lost),
                Poll::Ready(Ok(_)) => fan.reads.set(fan.reads.get() + 1),
                Poll::Pending => {
                    // It may be silent for hours.
                    self.link.read.release();
                    self.charge.set(self.link.read.capacity());
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what is to be sent, unless a failover is under way.
    fn fill(&mut self, fan: &FanIn, upstream: &Upstream) {
        if upstream.holding() || fan.auth.borrow().is_some() {
            return;
        }
        let mut table = fan.table.borrow_mut();
        if !table.owed()
            && let Some(auth) = fan.begin_refresh()
        {
            auth.write(&mut self.out);
            fan.auth.replace(Some(auth));
            return;
        }
        if fan.ping.take() && !table.owed() {
            table.ping(&mut self.out, upstream.probe_request(&fan.identity));
        }
        while self.out.len() - self.written < OUTBOUND && table.next(&mut self.out) {}
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.link.stream).poll_write(cx, rest) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.written += count?,
            }
        }
        self.out = Vec::new();
        self.written = 0;
        match Pin::new(&mut self.link.stream).poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Handles what was read, until the `turn` is over. False: there is more.
    fn handle_frames(
        &mut self,
        fan: &FanIn,
        upstream: &Upstream,
        turn: &mut TurnBudget,
    ) -> Result<bool, LinkEnd> {
        let done = loop {
            if let Some(delivery) = self.delivery.take() {
                self.deliver(delivery, fan, upstream, turn);
            }
            if self.delivery.is_some() || turn.is_over() {
                break false;
            }
            let read = self.link.read.bytes();
            match self.scanner.scan(read) {
                ScannedReply::Complete { len, .. } if std::mem::take(&mut self.dropping) => {
                    self.link.read.consume(len);
                }
                ScannedReply::Complete { len, kind } => {
                    turn.steps = turn.steps.saturating_sub(1);
                    let frame = read.get(..len).unwrap_or_default();
                    let announcements = &mut self.announcements;
                    self.delivery =
                        take_frame(frame, kind, fan, upstream, self.link.generation, turn, announcements)?;
                    if self.delivery.is_none() {
                        self.link.read.consume(len);
                    }
                }
                ScannedReply::Incomplete => {
                    if read.len() > MAX_MESSAGE || self.dropping {
                        self.drop_piece(fan, upstream)?;
                    }
                    break true;
                }
                ScannedReply::Malformed(_) => return Err(LinkEnd::Framing("what it sent is not RESP")),
            }
        };
        self.charge.set(self.link.read.capacity());
        Ok(done)
    }

    /// Passes a message to its subscribers, until the `turn` is over.
    fn deliver(&mut self, mut delivery: Delivery, fan: &FanIn, upstream: &Upstream, turn: &mut TurnBudget) {
        let table = fan.table.borrow();
        let frame = self.link.read.bytes().get(..delivery.len).unwrap_or_default();
        let members = table.members(delivery.kind, &delivery.name);
        while let Some(seat) = delivery.to.get(delivery.reached).filter(|_| !turn.is_over()) {
            // A session that has left since gets nothing.
            if let Some(outlet) = members.and_then(|members| members.get(seat)) {
                outlet.publish(frame);
                self.announcements.add(outlet, frame.len());
                upstream.counters.fanin_deliveries.inc();
            }
            turn.spend(frame.len(), 1);
            delivery.reached += 1;
        }
        if delivery.reached == delivery.to.len() {
            self.link.read.consume(delivery.len);
        } else {
            self.delivery = Some(delivery);
        }
    }

    /// Drops what has come of a message that is too large. Nobody could take it.
    fn drop_piece(&mut self, fan: &FanIn, upstream: &Upstream) -> Result<(), LinkEnd> {
        let read = self.link.read.bytes();
        if !std::mem::replace(&mut self.dropping, true) {
            let Published::Message(kind, Some(name)) = published(read) else {
                return Err(LinkEnd::Framing("it sent a reply that is too large"));
            };
            let table = fan.table.borrow();
            let members = table.members(kind, name).into_iter().flat_map(|members| members.values());
            let subscribers = members.map(|outlet| outlet.overflow()).count();
            tracing::warn!(
                upstream = upstream.config.name,
                subscribers,
                "subscribers are disconnected: a message is larger than {MAX_MESSAGE} bytes, which fan-in does not carry"
            );
        }
        let part = self.scanner.scanned().min(read.len());
        self.scanner.rebase(part);
        self.link.read.consume(part);
        Ok(())
    }
}

/// Handles one frame. A message that cannot reach everybody within the `turn` is returned: it is to be delivered yet.
fn take_frame(
    frame: &[u8],
    kind: ReplyKind,
    fan: &FanIn,
    upstream: &Upstream,
    generation: Generation,
    turn: &mut TurnBudget,
    announcements: &mut Announcements,
) -> Result<Option<Delivery>, LinkEnd> {
    if kind != ReplyKind::Push
        && let Some(auth) = fan.auth.take()
    {
        if auth.answered(upstream, frame).is_some() {
            fan.refresh.set(Refresh::Done);
        }
        return Ok(None);
    }
    let mut table = fan.table.borrow_mut();
    let handled = match kind {
        ReplyKind::Push => match published(frame) {
            Published::Message(kind, Some(name)) => {
                upstream.counters.fanin_messages.inc();
                let Some(members) = table.members(kind, name) else { return Ok(None) };
                if !turn.has_room_for(frame.len(), members.len()) {
                    let to = members.keys().copied().collect();
                    return Ok(Some(Delivery { len: frame.len(), kind, name: name.into(), to, reached: 0 }));
                }
                turn.spend(frame.len(), members.len());
                for outlet in members.values() {
                    outlet.publish(frame);
                    announcements.add(outlet, frame.len());
                }
                upstream.counters.fanin_deliveries.add(members.len() as u64);
                return Ok(None);
            }
            Published::Confirmation(confirmation) => {
                upstream.succeeded(generation);
                table.confirm(&confirmation)
            }
            Published::Message(_, None) | Published::Other => Ok(()),
        },
        ReplyKind::Reply => table.replied(),
        ReplyKind::Error => {
            upstream.note_error(frame, generation);
            let line = frame.strip_suffix(b"\r\n").filter(|line| line.starts_with(b"-"));
            let line = line.ok_or(LinkEnd::Framing("it sent an error in a form that was not expected"))?;
            if line.strip_prefix(b"-").is_some_and(not_primary) {
                return Err(LinkEnd::NotPrimary);
            }
            table.refused(line).map(|lost| {
                if lost > 0 {
                    let (upstream, error) = (&upstream.config.name, shown(line));
                    tracing::warn!(upstream, lost, %error, "respgate disconnects subscribers: the server refuses to restore a subscription; check the server's ACL");
                }
            })
        }
    };
    handled.map(|()| None).map_err(|Mismatch| LinkEnd::Framing("it sent a reply that nothing asked for"))
}
