//! Sends the parts of a command that concerns several shards, and answers the whole.

use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::divide::{begin_scan_anew, divide, mark, redivide, starts, unserved};
use super::gather::{Begun, Gather};
use super::split;
use super::spread::Spread;
use crate::command::{self, Found, Spec, Verb};
use crate::latency::{Class, CommandTimes};
use crate::resp::request::Request;
use crate::session::Session;
use crate::session::close::Close;
use crate::session::order::{CommandKind, LaneId};
use crate::session::route::RouteDecision;
use crate::session::step::{Pause, Step};
use crate::upstream::shards::Shards;
use crate::upstream::shared::lane::Admission;
use crate::upstream::shared::queue::IfLost;

/// How far the session came with the parts of a command.
enum Sent {
    /// All parts are sent, or the command has failed.
    All,
    /// Some parts wait for room, or for earlier replies.
    Some,
    /// Some parts wait for a primary, until then at most.
    Held(Instant),
    /// The session must end.
    Close(Close),
}

/// What becomes of the next part of a series.
enum Next {
    Sent,
    Full,
    Held(Instant),
}

impl Session {
    /// Handles a request that concerns several shards. Returns `None` for every other request: it goes where `route` says.
    pub(in crate::session) fn spread(
        &mut self,
        request: &Request<'_>,
        route: &RouteDecision,
    ) -> Option<Step> {
        let shards = self.ctx.upstream.shards()?.clone();
        let Some(Found::Spec(spec)) = command::find(request) else { return None };
        let spread = Spread::of(spec, self.ctx.upstream_config.cross_slot_writes)?;
        let if_lost = match route {
            RouteDecision::Shared(if_lost) | RouteDecision::Read(if_lost) | RouteDecision::Scan(if_lost) => {
                *if_lost
            }
            RouteDecision::Leased => self.if_lost(spec, request),
            _ => return None,
        };
        if !command::arity_ok(spec, request.argc()) {
            return None;
        }
        if let Spread::Keys { head, step, .. } = spread
            && (!(request.argc() as usize).saturating_sub(head).is_multiple_of(step)
                || !split::is_cross_slot(request, head, step))
        {
            return None;
        }
        if spread != Spread::Scan {
            return Some(self.begin(request, spec, spread, if_lost, &shards));
        }
        let anew = self.scan_cluster_anew(request);
        let sent = anew.as_deref().and_then(Request::parse);
        let step = self.begin(sent.as_ref().unwrap_or(request), spec, spread, if_lost, &shards);
        if !matches!(step, Step::Stay(_)) {
            self.note_cluster_scan(request);
        }
        Some(step)
    }

    /// Returns true if a request without keys concerns several shards.
    pub(in crate::session) fn is_for_shards(&self, request: &Request<'_>) -> bool {
        let Some(Found::Spec(spec)) = command::find(request) else { return false };
        let spread = Spread::of(spec, self.ctx.upstream_config.cross_slot_writes);
        matches!(spread, Some(Spread::Shards(_) | Spread::Scan)) && command::arity_ok(spec, request.argc())
    }

    fn begin(
        &mut self,
        request: &Request<'_>,
        spec: &Spec,
        spread: Spread,
        if_lost: IfLost,
        shards: &Rc<Shards>,
    ) -> Step {
        let (kind, place) = (CommandKind::of_slot(if_lost), LaneId::of_join(self.lanes.gathers.count));
        let full = self.output.awaited() >= self.output.replies.window(self.ctx.config.max_pipeline);
        if full || !self.follows_slots() || self.waits_for_former_lane() {
            return Step::Stay(Pause::Replies);
        }
        let Some(path) = self.output.reply_path(place, kind) else { return Step::Stay(Pause::Replies) };
        if !matches!(spread, Spread::Keys { .. })
            && let Some(step) = self.wait_for_slots(shards, request)
        {
            return step;
        }
        let (parts, whole) = match divide(request, spread, shards) {
            Ok(divided) => divided,
            Err(line) => {
                if !self.output.admits_unsent(CommandKind::Answer) {
                    return Step::Stay(Pause::Replies);
                }
                self.refuse(line);
                return Step::Done;
            }
        };
        self.note_scripts(spec, request);
        let begun = Begun {
            parts,
            whole,
            if_lost,
            mute: self.client.mutes(),
            resp: self.client.resp,
            arrival: self.measured.arrival,
            sent: if self.ctx.latency.is_active() { self.ctx.latency.now() } else { 0 },
        };
        let reply = self.output.replies_from(place, kind, path).clone();
        let gather = Gather::new(begun, shards, &reply, self.client.id);
        self.lanes.gathers.all.push(gather);
        self.lanes.gathers.count = self.lanes.gathers.count.wrapping_add(1);
        self.lanes.gathers.sending = true;
        self.ctx.upstream.counters.shared.inc();
        if self.lanes.reads.is_some() {
            self.note_sent_to_primary(request, if_lost);
        }
        self.send_parts().map_or(Step::Done, Step::Taken)
    }

    /// Returns what a request for all shards waits for while none is known.
    fn wait_for_slots(&mut self, shards: &Rc<Shards>, request: &Request<'_>) -> Option<Step> {
        let nowhere = unserved(shards)?;
        let at = self.shard_lane(nowhere)?;
        self.wait_for_shard(&at, request)
    }

    /// Returns true if earlier replies were large, so that they come from a connection that another has replaced.
    fn waits_for_former_lane(&self) -> bool {
        use crate::upstream::reply_sizes::Placement;
        let sizes = self.output.replies.sizes();
        if sizes.placement() == Placement::Shared {
            return false;
        }
        if self.output.awaited() > 0 {
            return true;
        }
        sizes.all_answered();
        false
    }

    /// Keeps the scripts that the servers know now, for new primaries.
    fn note_scripts(&self, spec: &Spec, request: &Request<'_>) {
        let scripts = &self.ctx.upstream.scripts;
        match spec.verb {
            Verb::ScriptLoad => scripts.remember(request.arg(2).unwrap_or_default()),
            _ if spec.name == "SCRIPT|FLUSH" => scripts.forget(),
            _ => {}
        }
    }

    /// Sends parts of the last command, as many as may be under way. Returns why no request behind it can be handled yet; `None` if
    /// all parts are sent, and none was redirected and waits for its reply.
    pub(in crate::session) fn send_parts(&mut self) -> Option<Pause> {
        if !self.lanes.gathers.sending {
            // No later command may overtake a part that was redirected.
            let redirected = self.lanes.gathers.all.iter().any(Gather::is_redirected);
            return redirected.then_some(Pause::Replies);
        }
        let mut gather = self.lanes.gathers.all.pop()?;
        let sent = self.send_parts_of(&mut gather);
        self.lanes.gathers.all.push(gather);
        self.lanes.gathers.sending = !matches!(sent, Sent::All);
        match sent {
            Sent::All => {
                self.finish_gathers();
                None
            }
            Sent::Some => Some(Pause::Parts(None)),
            Sent::Held(deadline) => Some(Pause::Parts(Some(deadline))),
            Sent::Close(close) => Some(Pause::Close(close)),
        }
    }

    fn send_parts_of(&mut self, gather: &mut Gather) -> Sent {
        let Some(shards) = self.ctx.upstream.present_or_former_shards().cloned() else { return Sent::All };
        if gather.version != shards.version() {
            // A part must not overtake what the session has sent to another connection before.
            if gather.awaits() || self.output.awaited() > 1 {
                return Sent::Some;
            }
            gather.version = shards.version();
            redivide(gather, &shards);
        }
        let mut held: Option<Instant> = None;
        let mut all = true;
        for place in 0..gather.series.len() {
            loop {
                match self.send_next(gather, place, &shards) {
                    Ok(None) => break,
                    Ok(Some(Next::Sent)) => {}
                    Ok(Some(Next::Full)) => {
                        all = false;
                        break;
                    }
                    Ok(Some(Next::Held(deadline))) => {
                        all = false;
                        held = Some(held.map_or(deadline, |known| known.min(deadline)));
                        break;
                    }
                    Err(sent) => return sent,
                }
            }
        }
        match held {
            _ if all => Sent::All,
            Some(deadline) => Sent::Held(deadline),
            None => Sent::Some,
        }
    }

    /// Sends the next part of a series. Returns `None` if there is none.
    fn send_next(
        &self,
        gather: &mut Gather,
        place: usize,
        shards: &Rc<Shards>,
    ) -> Result<Option<Next>, Sent> {
        let Some(series) = gather.series.get(place) else { return Ok(None) };
        let Some(index) = series.next() else { return Ok(None) };
        let Some(part) = gather.part(index).cloned() else { return Ok(None) };
        // A client whose earlier replies were small may begin with as many parts as with commands.
        let depth = self.ctx.config.max_pipeline;
        let (own, client) = (series.replies.window(depth), self.output.replies.window(depth));
        // No part may overtake a command that was redirected: see `upstream::replies`.
        if own == 0 || client == 0 || series.replies.due_in_all() >= own.max(client) {
            return Ok(Some(Next::Full));
        }
        let shard = shards.of(part.slot);
        let lane = match &series.lane {
            Some((known, lane)) if Rc::ptr_eq(known, &shard) => lane.clone(),
            _ => {
                let Some(key) = self.key() else { return Err(Sent::Close(Close::Left)) };
                shard.lane(&key)
            }
        };
        let idle = series.replies.due_in_all() == 0;
        let frame_len = part.end - part.start;
        if let Some(series) = gather.series.get_mut(place) {
            if let Some((_, former)) = series.lane.take_if(|(_, known)| !Rc::ptr_eq(known, &lane)) {
                former.leave(self.client.id);
            }
            series.lane = Some((shard.clone(), lane.clone()));
        }
        if !lane.is_open() {
            match shard.admission(&lane, self.asker(idle)) {
                Admission::Open => {}
                Admission::Full => return Ok(Some(Next::Full)),
                Admission::Held(_) if !self.hold.is_held() && shard.hold_full(frame_len) => {
                    gather.fail(shard.hold_overflow());
                    return Err(Sent::All);
                }
                Admission::Held(deadline) => return Ok(Some(Next::Held(deadline))),
                Admission::Expired(line) => {
                    self.ctx.upstream.counters.hold_expired.inc();
                    gather.fail(line);
                    return Err(Sent::All);
                }
                Admission::Refused(line) => {
                    gather.fail(line);
                    return Err(Sent::All);
                }
            }
        }
        begin_scan_anew(gather, &shard);
        let frame = gather.part(index).map(|part| gather.begun.parts.frame(part)).unwrap_or_default();
        if let Some(series) = gather.series.get(place) {
            lane.push(frame, &series.replies, gather.begun.if_lost, false, Default::default());
        }
        if let Some(series) = gather.series.get_mut(place) {
            series.note_sent();
        }
        Ok(Some(Next::Sent))
    }

    /// Answers the commands whose parts have all been answered.
    #[cold]
    pub(in crate::session) fn finish_gathers(&mut self) {
        let Some(shards) = self.ctx.upstream.present_or_former_shards().cloned() else { return };
        let mut gathers = std::mem::take(&mut self.lanes.gathers.all);
        let mut failed = false;
        gathers.retain_mut(|gather| {
            let over = gather.finish(|| starts(&shards), |slot| mark(&shards, slot));
            if over {
                self.note_joined(gather);
                failed |= gather.has_failed();
            }
            !over
        });
        self.lanes.gathers.sending &= gathers.last().is_some_and(|last| last.is_sending());
        self.lanes.gathers.all = gathers;
        if failed {
            self.close_if_dead();
        }
    }

    /// Notes the times of a command whose parts were all answered.
    fn note_joined(&self, gather: &Gather) {
        let begun = &gather.begun;
        if self.ctx.latency.is_active() && begun.arrival.is_noted() && !begun.mute {
            let replied = self.ctx.latency.now();
            let times =
                CommandTimes { arrival: begun.arrival, sent: begun.sent, replied, class: Class::Shared };
            self.ctx.upstream.latency.replied(self.output.replies.times(), times, 1);
        }
    }

    /// Has the session woken when replies to parts come, and answers what is complete.
    pub(in crate::session) fn poll_gathers(&mut self, cx: &Context<'_>) {
        self.lanes.gathers.all.iter().for_each(|gather| gather.watch(cx.waker()));
        self.finish_gathers();
    }

    /// Waits until more parts can be sent. Ready when the session must look again: the hold has expired, or the client has left.
    pub(in crate::session) fn poll_parts(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        let mut held = false;
        if let Some(gather) = self.lanes.gathers.all.last() {
            let share = self.tenancy.share();
            let window = self.output.replies.window(self.ctx.config.max_pipeline);
            for series in &gather.series {
                let (Some((shard, lane)), left) = (&series.lane, series.left()) else { continue };
                if left > 0 && !lane.is_open() {
                    held |= shard.in_hold();
                    lane.wait_turn(self.client.id, cx.waker(), share, left.min(window));
                }
            }
        }
        if let Some(deadline) = deadline
            && self.poll_hold_expired(cx, deadline).is_ready()
        {
            return Poll::Ready(());
        }
        if self.poll_client_left(cx).is_ready() && held {
            self.closing = Some(Close::Left);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Ends a command whose parts are not all sent, because the session ends and sends no more.
    pub(in crate::session) fn abandon_parts(&mut self) {
        if self.lanes.gathers.is_sending() {
            if let Some(gather) = self.lanes.gathers.all.last_mut() {
                gather.fail(ABANDONED.into());
            }
            self.lanes.gathers.sending = false;
            self.finish_gathers();
        }
    }
}

/// The error line for a command whose parts were not all sent before its session was ended.
const ABANDONED: &[u8] = b"-ERR respgate: the session ended before every part of this command was sent";
