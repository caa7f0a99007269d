//! Serves one fan-in connection: writes commands, and passes confirmations and messages on. respgate reads it however slow its
//! subscribers are. A slow subscriber's own limit bounds its messages, and no other subscriber waits for it.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::announce::Announcements;
use super::link::{FanIn, LinkOrder, shown};
use super::table::{Mismatch, Name};
use crate::net::budget::{Account, Charge};
use crate::net::buffers::Buffers;
use crate::net::byte_queue::ByteQueue;
use crate::net::write::poll_write_all;
use crate::resp::pubsub::{Kind, Published, published};
use crate::resp::reply::{ReplyKind, ReplyScanner, ScannedReply};
use crate::resp::server_error::ServerError;
use crate::topology::Generation;
use crate::upstream::connection::open::{Connection, Dialing};
use crate::upstream::connection::probe::probe_request;
use crate::upstream::connection::reauth::Refresh;

/// The size of the messages that may wait for sessions that have not been woken for them, in bytes: 16 KiB for each session, with
/// bounds for all. Without a limit, a burst for many subscribers would wait in memory for all of them, however fast they read.
const UNANNOUNCED_EACH: usize = 16 * 1024;
const UNANNOUNCED_MIN: usize = 1024 * 1024;
const UNANNOUNCED_MAX: usize = 16 * 1024 * 1024;
/// The size of the messages that are passed on before other tasks have their turn, in bytes: some 0.5 ms of work.
const BYTES_PER_TURN: usize = 1024 * 1024;
/// The number of frames that are read, and of messages that are passed to a session, before other tasks have their turn: some
/// 0.5 ms of work.
const STEPS_PER_TURN: usize = 1024;
/// The size of the commands that may wait to be written, in bytes.
const OUTBOUND: usize = 256 * 1024;
/// The size of the largest message that is passed on, in bytes. The subscribers of a larger one are disconnected.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// The number of reads before other tasks have their turn.
const READS: usize = 16;

/// The reason why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// A newer primary has taken over.
    Superseded,
    /// No session has used it for long.
    Unused,
    /// The node says that it is not the primary.
    NotPrimary,
    /// The server has not answered for too long.
    Silent,
    /// The server closed it.
    Lost,
    /// The server sent bytes that are not RESP, or a reply that belongs to no command.
    Framing(&'static str),
}

/// The pump of one connection. See the module.
pub(super) struct Pump {
    link: Connection,
    scanner: ReplyScanner,
    /// The commands that wait to be written.
    out: ByteQueue,
    /// The message at the front of the read buffer, if it has not reached all its subscribers yet.
    delivery: Option<Delivery>,
    /// True while the frame at the front of the read buffer is too large, and is dropped in pieces.
    dropping: bool,
    /// Charges the byte budget for the read buffer.
    charge: Charge,
    announcements: Announcements,
}

/// The work that is still allowed in one turn.
struct TurnBudget {
    /// The number of bytes that may be passed to sessions.
    bytes: usize,
    /// The number of frames that may be read, and of messages that may be passed to a session.
    steps: usize,
}

impl TurnBudget {
    /// Returns true if no work is left.
    fn is_over(&self) -> bool {
        self.bytes == 0 || self.steps == 0
    }

    /// Counts a frame of `bytes` bytes that is passed to `sessions` sessions.
    fn spend(&mut self, bytes: usize, sessions: usize) {
        self.bytes = self.bytes.saturating_sub(bytes.saturating_mul(sessions));
        self.steps = self.steps.saturating_sub(sessions);
    }

    /// Returns true if a frame of `bytes` bytes can be passed to `sessions` sessions in this turn.
    fn has_room_for(&self, bytes: usize, sessions: usize) -> bool {
        sessions <= self.steps && bytes.saturating_mul(sessions) <= self.bytes
    }
}

/// A message that is passed on over several turns.
struct Delivery {
    /// The size of the frame, in bytes.
    len: usize,
    kind: Kind,
    name: Name,
    /// The sessions that were subscribed when the message came.
    to: Vec<u64>,
    /// The number of these sessions that have got it.
    reached: usize,
}

impl Pump {
    pub(super) fn new(link: Connection, buffers: &Rc<Buffers>) -> Self {
        Self {
            link,
            scanner: ReplyScanner::default(),
            out: ByteQueue::default(),
            delivery: None,
            dropping: false,
            charge: Charge::new(&Account::new(buffers.share())),
            announcements: Announcements::default(),
        }
    }

    /// Serves the connection until it ends.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, fan: &Rc<FanIn>, dialing: &Dialing) -> Poll<LinkEnd> {
        fan.watch(cx.waker());
        self.announcements.wake_some();
        let polled = self.poll_link(cx, fan, dialing);
        fan.work_off();
        // This task then runs after the sessions that have just been woken.
        if polled.is_pending() && !self.announcements.is_empty() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn poll_link(&mut self, cx: &mut Context<'_>, fan: &FanIn, dialing: &Dialing) -> Poll<LinkEnd> {
        let sessions = fan.table.borrow().sessions();
        let unannounced = sessions.saturating_mul(UNANNOUNCED_EACH).clamp(UNANNOUNCED_MIN, UNANNOUNCED_MAX);
        let bytes = unannounced.saturating_sub(self.announcements.bytes()).min(BYTES_PER_TURN);
        // While the byte budget is spent, one step a turn, so that clients that do not read are disconnected first. The connection
        // does not stop: the bytes that it has read are part of the budget.
        let steps = if self.charge.is_budget_spent() { 1 } else { STEPS_PER_TURN };
        let mut turn = TurnBudget { bytes, steps };
        for _ in 0..READS {
            if let Some(order) = fan.order.take() {
                return Poll::Ready(match order {
                    LinkOrder::Cut => LinkEnd::Superseded,
                    LinkOrder::GiveUp => LinkEnd::Silent,
                    LinkOrder::Retire if fan.names() > 0 && !fan.is_closed() => continue,
                    LinkOrder::Retire => LinkEnd::Unused,
                });
            }
            match self.handle_frames(fan, dialing, &mut turn) {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => return Poll::Ready(end),
            }
            self.fill(fan, dialing);
            if self.poll_write(cx).is_err() {
                return Poll::Ready(LinkEnd::Lost);
            }
            match self.link.read.poll_fill(cx, &mut self.link.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(LinkEnd::Lost),
                Poll::Ready(Ok(_)) => fan.reads.set(fan.reads.get() + 1),
                Poll::Pending => {
                    // The server may be silent for hours, so the buffer is freed.
                    self.link.read.release();
                    self.charge.set(self.link.read.capacity());
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Appends the commands that are due to the output, unless a failover is under way.
    fn fill(&mut self, fan: &FanIn, dialing: &Dialing) {
        if dialing.hold.is_failing_over() || fan.auth.borrow().is_some() {
            return;
        }
        let mut table = fan.table.borrow_mut();
        if !table.is_reply_due()
            && let Some(auth) = fan.begin_refresh()
        {
            self.out.push_with(|out| auth.write(out));
            fan.auth.replace(Some(auth));
            return;
        }
        if fan.ping.take() && !table.is_reply_due() {
            let request = probe_request(&dialing.identities, &fan.identity);
            self.out.push_with(|out| table.ping(out, request));
        }
        table.set_probe(probe_request(&dialing.identities, &fan.identity));
        let mut more = true;
        while more && self.out.len() < OUTBOUND {
            self.out.push_with(|out| more = table.next(out));
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let written = poll_write_all(cx, &mut self.link.stream, &mut self.out);
        if self.out.is_empty() {
            drop(self.out.release());
        }
        match written {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Handles the frames in the read buffer, until the `turn` is over. Returns false if more are left.
    fn handle_frames(
        &mut self,
        fan: &FanIn,
        dialing: &Dialing,
        turn: &mut TurnBudget,
    ) -> Result<bool, LinkEnd> {
        let done = loop {
            if let Some(delivery) = self.delivery.take() {
                self.deliver(delivery, fan, dialing, turn);
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
                        take_frame(frame, kind, fan, dialing, self.link.generation, turn, announcements)?;
                    if self.delivery.is_none() {
                        self.link.read.consume(len);
                    }
                }
                ScannedReply::Incomplete => {
                    if read.len() > MAX_MESSAGE || self.dropping {
                        self.drop_piece(fan, dialing)?;
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
    fn deliver(&mut self, mut delivery: Delivery, fan: &FanIn, dialing: &Dialing, turn: &mut TurnBudget) {
        let table = fan.table.borrow();
        let frame = self.link.read.bytes().get(..delivery.len).unwrap_or_default();
        let members = table.members(delivery.kind, &delivery.name);
        while let Some(session) = delivery.to.get(delivery.reached).filter(|_| !turn.is_over()) {
            // A session that has left meanwhile gets nothing.
            if let Some(sink) = members.and_then(|members| members.get(session)) {
                sink.publish(frame);
                self.announcements.add(sink, frame.len());
                note_passed(fan, dialing, 1);
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

    /// Drops the piece that has come of a message that is too large, and disconnects its subscribers.
    fn drop_piece(&mut self, fan: &FanIn, dialing: &Dialing) -> Result<(), LinkEnd> {
        let read = self.link.read.bytes();
        if !std::mem::replace(&mut self.dropping, true) {
            let Published::Message(kind, Some(name)) = published(read) else {
                return Err(LinkEnd::Framing("it sent a reply that is too large"));
            };
            let table = fan.table.borrow();
            let members = table.members(kind, name).into_iter().flat_map(|members| members.values());
            let subscribers = members.map(|sink| sink.overflow()).count();
            tracing::warn!(
                upstream = dialing.config.name,
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

/// Counts messages that fan-in has passed to subscribers.
fn note_passed(fan: &FanIn, dialing: &Dialing, count: usize) {
    if !fan.is_private() {
        dialing.reports.counters.fanin_deliveries.add(count as u64);
    }
}

/// Handles one frame. Returns a message that cannot reach all its subscribers within the `turn`; the caller delivers it.
fn take_frame(
    frame: &[u8],
    kind: ReplyKind,
    fan: &FanIn,
    dialing: &Dialing,
    generation: Generation,
    turn: &mut TurnBudget,
    announcements: &mut Announcements,
) -> Result<Option<Delivery>, LinkEnd> {
    if kind != ReplyKind::Push
        && let Some(auth) = fan.auth.take()
    {
        if auth.answered(&dialing.config.name, &dialing.reports, frame).is_some() {
            fan.refresh.set(Refresh::Done);
        }
        return Ok(None);
    }
    let mut table = fan.table.borrow_mut();
    let handled = match kind {
        ReplyKind::Push => match published(frame) {
            Published::Message(kind, Some(name)) => {
                if !fan.is_private() {
                    dialing.reports.counters.fanin_messages.inc();
                }
                let Some(members) = table.members(kind, name) else { return Ok(None) };
                if !turn.has_room_for(frame.len(), members.len()) {
                    let to = members.keys().copied().collect();
                    return Ok(Some(Delivery { len: frame.len(), kind, name: name.into(), to, reached: 0 }));
                }
                turn.spend(frame.len(), members.len());
                for sink in members.values() {
                    sink.publish(frame);
                    announcements.add(sink, frame.len());
                }
                note_passed(fan, dialing, members.len());
                return Ok(None);
            }
            Published::Confirmation(confirmation) => {
                dialing.reports.succeeded(generation);
                table.confirm(&confirmation)
            }
            Published::Message(_, None) | Published::Other => Ok(()),
        },
        ReplyKind::Reply => table.replied(),
        ReplyKind::Error => {
            dialing.reports.note_error(frame, generation);
            let line = frame.strip_suffix(b"\r\n").filter(|line| line.starts_with(b"-"));
            let line = line.ok_or(LinkEnd::Framing("it sent an error in a form that was not expected"))?;
            if ServerError::of(line).is_not_primary() {
                return Err(LinkEnd::NotPrimary);
            }
            table.refused(line).map(|lost| {
                if lost > 0 {
                    let (upstream, error) = (&dialing.config.name, shown(line));
                    tracing::warn!(upstream, lost, %error, "respgate disconnects subscribers: the server refuses to restore a subscription; check the server's ACL");
                }
            })
        }
    };
    handled.map(|()| None).map_err(|Mismatch| LinkEnd::Framing("it sent a reply that nothing asked for"))
}
