//! Holds the replies to a client, in the order of its commands, and the timeout of a client that does not take them.
//!
//! While one connection carries all commands under way, their replies come straight into [`Output::replies`]. Otherwise, replies
//! that may come too early are parked in segments behind it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use self::segments::{Segment, Sent, SpareSegments};
use super::order::{CommandKind, LaneId, UnderWay, may_overtake};
use super::timer::Timer;
use crate::net::budget::Account;
use crate::upstream::replies::{ClientState, Replies};

/// Number of segments of one client. A command that needs a further one waits for replies.
const MAX_SEGMENTS: usize = 64;

/// How the reply to a command comes behind those that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyPath {
    /// Straight behind them: one connection carries them all, or nothing is due.
    Straight,
    /// It is parked behind them.
    Parked,
}

/// Holds the output side of a session.
pub(super) struct Output {
    /// The replies that are written to the client.
    pub(super) replies: Rc<Replies>,
    /// The commands whose replies come straight there.
    sent: Sent,
    /// The replies that stand behind them, in order. Empty while one connection carries all commands under way.
    segments: VecDeque<Segment>,
    /// The kinds of all commands that were sent since there are segments.
    parked: UnderWay,
    /// True if replies are ready, and the session lets others join them before it writes.
    awaits_more: bool,
    /// The finished segments of all clients of the worker.
    spare: Rc<SpareSegments>,
    /// The account's count of moved bytes at the last check. An unchanged count means that the client makes no
    /// progress.
    last_moved: u64,
    /// The write timeout. It runs while the client takes no bytes.
    write_timer: Timer,
}

impl Output {
    /// Creates the output of a client that has just connected.
    pub(super) fn new(replies: Rc<Replies>, spare: Rc<SpareSegments>) -> Self {
        Self {
            replies,
            sent: Sent::default(),
            segments: VecDeque::new(),
            parked: UnderWay::default(),
            awaits_more: false,
            spare,
            last_moved: 0,
            write_timer: Timer::default(),
        }
    }

    /// Returns the number of replies that the client's requests await.
    #[inline]
    pub(super) fn awaited(&self) -> u32 {
        self.replies.due_in_all()
    }

    /// Returns the number of reply bytes that wait for the client, with those behind replies that are due.
    pub(super) fn waiting(&self) -> usize {
        self.replies.waiting()
    }

    /// Returns the number of reply bytes that can be written to the client now.
    pub(super) fn ready(&self) -> usize {
        self.replies.buffered()
    }

    /// Returns how the reply to a command of this kind would come, if the command were sent to `place` now; `None` if the command
    /// would overtake what it must not overtake, or if there is no room for its reply in the order.
    #[inline]
    pub(super) fn reply_path(&self, place: LaneId, kind: CommandKind) -> Option<ReplyPath> {
        if self.segments.is_empty() && (self.sent.place == place || self.replies.due() == 0) {
            return Some(ReplyPath::Straight);
        }
        self.admits_behind(place, kind).then_some(ReplyPath::Parked)
    }

    fn admits_behind(&self, place: LaneId, kind: CommandKind) -> bool {
        let (last, sent) = self.last();
        let joins = last.due() == 0 || sent.place == place;
        if !joins && self.segments.len() >= MAX_SEGMENTS {
            return false;
        }
        // Most commands may overtake whatever is under way, so that nobody has to look where it is.
        let mut sent = self.parked;
        sent.merge(self.sent.kinds);
        may_overtake(sent, kind) || may_overtake(self.under_way_elsewhere(place), kind)
    }

    /// Returns the kinds of the commands under way that `place` does not carry.
    fn under_way_elsewhere(&self, place: LaneId) -> UnderWay {
        let all = std::iter::once((&self.replies, self.sent))
            .chain(self.segments.iter().map(|segment| (&segment.replies, segment.sent)));
        let mut elsewhere = UnderWay::default();
        all.filter(|(replies, sent)| replies.due() > 0 && sent.place != place)
            .for_each(|(_, sent)| elsewhere.merge(sent.kinds));
        elsewhere
    }

    /// Returns true if a reply to a command that `place` carries is due.
    pub(super) fn awaits(&self, place: LaneId) -> bool {
        self.awaits_any(|known| known == place)
    }

    /// Returns true if a reply from any place of this kind is due.
    pub(super) fn awaits_any(&self, is_of_kind: impl Fn(LaneId) -> bool) -> bool {
        let segments = self.segments.iter().map(|segment| (&segment.replies, segment.sent));
        let mut all = std::iter::once((&self.replies, self.sent)).chain(segments);
        all.any(|(replies, sent)| replies.due() > 0 && is_of_kind(sent.place))
    }

    /// Returns true if a command that no shared connection carries may be handled now.
    pub(super) fn admits_unsent(&self, kind: CommandKind) -> bool {
        self.awaited() == 0 || self.admits_behind(LaneId::default(), kind)
    }

    /// Returns the replies to which `place` must deliver the reply to a command that is sent there now. [`Self::reply_path`] has said how.
    #[inline]
    pub(super) fn replies_from(&mut self, place: LaneId, kind: CommandKind, path: ReplyPath) -> &Rc<Replies> {
        if path == ReplyPath::Parked {
            return self.segment_for(place, kind);
        }
        if self.replies.due() == 0 {
            self.sent = Sent { place, kinds: UnderWay::default() };
        }
        self.sent.kinds.add(kind);
        &self.replies
    }

    /// Returns the last replies if those may be continued from `place`, and otherwise a new segment.
    #[cold]
    fn segment_for(&mut self, place: LaneId, kind: CommandKind) -> &Rc<Replies> {
        let (last, sent) = self.last();
        let (idle, joins) = (last.due() == 0, sent.place == place);
        if !idle && !joins {
            if self.segments.is_empty() {
                self.segments = self.spare.take_list();
            }
            let replies = self.spare.begin(&self.replies);
            self.segments.push_back(Segment { replies, sent: Sent::default() });
        }
        let (replies, sent) = match self.segments.back_mut() {
            Some(segment) => (&segment.replies, &mut segment.sent),
            None => (&self.replies, &mut self.sent),
        };
        if idle || !joins {
            *sent = Sent { place, kinds: UnderWay::default() };
        }
        sent.kinds.add(kind);
        self.parked.add(kind);
        replies
    }

    /// Adds a reply of respgate's own behind all replies that are due.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.segments.is_empty() && self.replies.due() == 0 {
            return self.replies.answer(write);
        }
        self.segment_for(LaneId::default(), CommandKind::Answer).answer(write);
    }

    fn last(&self) -> (&Rc<Replies>, Sent) {
        match self.segments.back() {
            Some(segment) => (&segment.replies, segment.sent),
            None => (&self.replies, self.sent),
        }
    }

    /// Passes on the segments before which no reply is due any more. Returns true if the session should look for more replies before it
    /// writes those that are ready: others are due from other connections, and may be there already.
    #[inline]
    pub(super) fn advance(&mut self) -> bool {
        !self.segments.is_empty() && self.replies.due() == 0 && self.advance_segments()
    }

    #[cold]
    fn advance_segments(&mut self) -> bool {
        // Nothing may follow a reply that was cut short.
        if self.replies.client_state() != ClientState::Open {
            return false;
        }
        while let Some(first) = self.segments.front() {
            first.replies.promote();
            if first.replies.due() > 0 {
                // Once before each write.
                self.awaits_more = !self.awaits_more && self.replies.buffered() > 0;
                return self.awaits_more;
            }
            if let Some(finished) = self.segments.pop_front() {
                self.spare.finish(finished);
            }
        }
        self.end_segments();
        false
    }

    /// Gives back the list of the segments, which is empty.
    fn end_segments(&mut self) {
        (self.parked, self.awaits_more) = (UnderWay::default(), false);
        self.spare.give_list(std::mem::take(&mut self.segments));
    }

    /// Returns true if any reply has come in part.
    pub(super) fn is_partial(&self) -> bool {
        self.replies.holds_partial() || self.segments.iter().any(|segment| segment.replies.holds_partial())
    }

    /// Goes on with `replies`: moves the bytes that wait there, with `error` in the place of each reply that is due. Late replies are
    /// dropped.
    pub(super) fn give_up(&mut self, replies: Rc<Replies>, error: &[u8]) {
        let all = std::iter::once(&self.replies).chain(self.segments.iter().map(|segment| &segment.replies));
        for given_up in all {
            given_up.give_up_to(&replies, error);
        }
        self.close();
        self.last_moved = 0;
        self.replies = replies;
    }

    /// Drops the replies, and those that still come.
    pub(super) fn close(&mut self) {
        self.replies.close();
        self.segments.drain(..).for_each(|segment| segment.replies.close());
        self.end_segments();
    }

    /// Ready when the client has neither taken nor sent a byte for `limit`. `blocked` is true if the client takes
    /// no bytes now.
    #[inline]
    pub(super) fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        blocked: bool,
        account: &Account,
        limit: Duration,
    ) -> Poll<()> {
        if blocked {
            return self.poll_blocked(cx, account.moved(), limit);
        }
        self.write_timer.stop();
        Poll::Pending
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>, moved: u64, limit: Duration) -> Poll<()> {
        if moved != self.last_moved {
            self.last_moved = moved;
            self.write_timer.stop();
        }
        self.write_timer.poll_after(cx, limit)
    }
}

pub(super) mod segments;

#[cfg(test)]
mod tests;
