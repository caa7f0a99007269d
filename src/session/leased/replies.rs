//! Interprets the replies of a lease, and passes them on to the client.

use super::expect::{Awaited, Effect, Expect, echoes};
use super::pins::Transaction;
use super::{Close, LeaseEnd, Leased, Session};
use crate::resp::Resp;
use crate::resp::pubsub::{Confirmation, Published, published};
use crate::resp::reply::{ReplyKind, ScannedReply};
use crate::resp::server_error::ServerError;

/// Size in bytes above which a reply is passed on in pieces.
const STREAMED: usize = 256 * 1024;

/// The reply by which the server confirms that state has begun or ended.
const OK: &[u8] = b"+OK\r\n";

impl Leased {
    /// Handles the bytes that were read from the server.
    pub(super) fn handle_replies(&mut self, session: &mut Session) {
        let mut read = std::mem::replace(self.lease.input(), crate::net::read_buffer::ReadBuffer::new(0));
        let mut at = 0;
        while self.decided_end.is_none() {
            let rest = read.bytes().get(at..).unwrap_or_default();
            match self.scanner.scan(rest) {
                ScannedReply::Complete { len, kind } => {
                    self.handle_frame(session, rest.get(..len).unwrap_or_default(), kind);
                    at += len;
                }
                ScannedReply::Incomplete => {
                    let part = self.scanner.scanned().min(rest.len());
                    if rest.len() > STREAMED && part > 0 && self.may_stream_front() {
                        let message = rest.starts_with(b">")
                            || (self.mixes_messages(session)
                                && matches!(published(rest), Published::Message(..)));
                        let began = self.streaming.is_none();
                        let message = *self.streaming.get_or_insert(message);
                        if let Some(Expect::Newest(dollar)) = self.expected.front()
                            && began
                            && !message
                        {
                            self.keep_newest(*dollar, rest);
                        }
                        let mute = self.mutes_front();
                        if !mute {
                            session.output.replies.begin_pieces();
                        }
                        if !message {
                            self.read_selects(rest.get(..part).unwrap_or_default());
                        }
                        pass(session, rest.get(..part).unwrap_or_default(), mute);
                        self.scanner.rebase(part);
                        at += part;
                    } else if rest.len() > session.ctx.config.max_reply_buffer {
                        tracing::warn!(
                            client = session.client.id,
                            "respgate disconnects a client: the server sent more than max-reply-buffer where a short reply was due"
                        );
                        self.decided_end = Some(LeaseEnd::Close(Close::Slow));
                    }
                    break;
                }
                ScannedReply::Malformed(fault) => {
                    tracing::error!(client = session.client.id, error = %fault, "respgate closed a leased connection: the server violated the protocol");
                    self.decided_end = Some(LeaseEnd::Close(Close::UpstreamLost));
                }
            }
        }
        read.consume(at);
        *self.lease.input() = read;
    }

    /// Returns true if the next reply can be passed on before it is whole, because respgate need not read it.
    fn may_stream_front(&self) -> bool {
        match self.expected.front() {
            Some(Expect::Reply(_) | Expect::Newest(_)) | None => true,
            Some(_) => false,
        }
    }

    /// Returns true if the client does not get the next reply.
    fn mutes_front(&self) -> bool {
        self.streaming != Some(true)
            && matches!(
                self.expected.front(),
                Some(Expect::Newest(_) | Expect::Reply(Awaited { mute: true, .. }))
            )
    }

    /// Handles one whole frame, or the rest of one that was passed on in pieces.
    fn handle_frame(&mut self, session: &mut Session, frame: &[u8], kind: ReplyKind) {
        if kind == ReplyKind::Error {
            session.ctx.upstream.note_error(frame, self.lease.generation());
        } else if self.may_hide_refusal() && hides_refusal(frame) {
            session.ctx.upstream.suspect(self.lease.generation());
            self.untrusted = true;
        }
        if kind == ReplyKind::Error && ServerError::of(frame).is_not_primary() {
            self.untrusted = true;
        }
        if self.placement.shard.is_none() {
            session.ctx.upstream.succeeded(self.lease.generation());
        }
        if self.streaming.is_some() {
            let mute = self.mutes_front();
            pass(session, frame, mute);
            session.output.replies.end_pieces();
            if self.streaming.take() == Some(false) {
                self.read_selects(frame);
                self.note_front_times(session);
                if let Some(Expect::Reply(awaited)) = self.pop() {
                    session.announce_leased(awaited.if_lost);
                    // A reply that is passed on unread confirms nothing. EXEC's reply is an array, as it should
                    // be.
                    self.state_unknown |= !matches!(
                        awaited.effect,
                        Effect::None | Effect::Nested | Effect::Unknown | Effect::Wait | Effect::Exec(_)
                    );
                    if let Effect::Exec(transaction) = awaited.effect {
                        self.select_after(session, &transaction);
                    }
                }
            }
            return;
        }
        if kind == ReplyKind::Push || self.mixes_messages(session) {
            match published(frame) {
                Published::Message(..) => return pass(session, frame, false),
                Published::Confirmation(confirmation) => {
                    return self.handle_confirmation(session, frame, &confirmation);
                }
                Published::Other if kind == ReplyKind::Push => return pass(session, frame, false),
                Published::Other => {}
            }
        }
        if kind == ReplyKind::Error && (self.is_not_primary(frame) || self.is_redirected(session, frame)) {
            self.front_refused = true;
            self.decided_end = Some(LeaseEnd::Lost);
            return;
        }
        let too_often = self.redirected_too_often(session, frame);
        let frame = too_often.as_deref().unwrap_or(frame);
        if matches!(self.expected.front(), Some(Expect::Reply(_))) {
            self.placement.note_answered();
        }
        self.handle_answer(session, frame, kind);
        self.pass_decided(session);
    }

    /// Handles the reply to the front request.
    fn handle_answer(&mut self, session: &mut Session, frame: &[u8], kind: ReplyKind) {
        self.note_front_times(session);
        match self.pop() {
            Some(Expect::Reply(awaited)) => self.handle_reply(session, frame, kind, awaited),
            // A refused subscription gets a single reply, whatever the number of names.
            Some(Expect::Confirmations { mute, .. }) => {
                self.state_unknown |= kind != ReplyKind::Error;
                pass(session, frame, mute);
            }
            Some(Expect::Nonce(nonce)) if echoes(frame, &nonce) => {}
            Some(Expect::Nonce(_)) => {
                tracing::error!(
                    client = session.client.id,
                    user = session.client.user(),
                    "respgate closed a client and its upstream connection: after the reply of a script or a module came one that no command had asked for"
                );
                self.decided_end = Some(LeaseEnd::Close(Close::UpstreamLost));
            }
            Some(Expect::Newest(dollar)) => self.keep_newest(dollar, frame),
            Some(Expect::Publish) => self.publish_error = (kind == ReplyKind::Error).then(|| frame.to_vec()),
            Some(Expect::Discarded(reply)) => {
                self.state_unknown |= frame != OK;
                pass(session, &reply, false);
            }
            Some(Expect::Restored(_)) if kind == ReplyKind::Error => {
                tracing::warn!(
                    client = session.client.id,
                    error = %String::from_utf8_lossy(frame).trim_end(),
                    "respgate disconnects a client: it could not restore the client's state on the new primary"
                );
                self.decided_end = Some(LeaseEnd::Close(Close::UpstreamLost));
            }
            Some(Expect::Restored(_) | Expect::Alive) => {}
            Some(Expect::Name) => self.handle_name_reply(frame),
            Some(Expect::Auth(auth)) => self.lease.end_refresh(auth, frame),
            Some(Expect::Decided(_)) | None if self.pins.monitoring => pass(session, frame, false),
            Some(Expect::Decided(_)) | None => {
                tracing::error!(
                    client = session.client.id,
                    "the server sent a reply on a leased connection that no command had asked for"
                );
                self.decided_end = Some(LeaseEnd::Close(Close::UpstreamLost));
            }
        }
    }

    /// Takes the front expectation out, and drops its request, which need not be sent again.
    fn pop(&mut self) -> Option<Expect> {
        let (expect, len) = self.expected.pop()?;
        self.outbound.answered(len);
        Some(expect)
    }

    /// Passes on the replies that respgate decided without the server, up to the first that the server still
    /// owes.
    pub(super) fn pass_decided(&mut self, session: &Session) {
        while matches!(self.expected.front(), Some(Expect::Decided(_))) {
            if let Some(Expect::Decided(reply)) = self.pop() {
                pass(session, &reply, false);
            }
        }
    }

    /// Handles the confirmation that one name's subscription has begun or ended. The client has already seen the
    /// confirmations that a migration repeats. A confirmation that no request asked for proves nothing about the
    /// connection: a script can forge it (CVE-2025-67733), and the server would go on sending messages of a
    /// subscription that seems to have ended.
    fn handle_confirmation(&mut self, session: &mut Session, frame: &[u8], confirmation: &Confirmation<'_>) {
        let (done, seen) = match self.expected.front_mut() {
            Some(Expect::Confirmations { left, .. }) => {
                *left = left.saturating_sub(1);
                (*left == 0, false)
            }
            Some(Expect::Restored(left)) => {
                *left = left.saturating_sub(1);
                (*left == 0, true)
            }
            _ => {
                self.state_unknown = true;
                return pass(session, frame, false);
            }
        };
        if !seen {
            self.pins.confirm(confirmation);
            pass(session, frame, false);
        }
        if done {
            self.pop();
            self.pass_decided(session);
        }
    }

    /// Returns true if messages and confirmations look like replies. In RESP3 they are pushes, and a reply that
    /// looks like a message is a list that happens to begin with that word.
    fn mixes_messages(&self, session: &Session) -> bool {
        session.client.resp == Resp::V2 && (self.pins.subscribed() || self.awaits_confirmation())
    }

    fn awaits_confirmation(&self) -> bool {
        matches!(self.expected.front(), Some(Expect::Confirmations { .. } | Expect::Restored(_)))
    }

    /// Returns true if this error means that the server did not run the front request because it is not the
    /// primary (any more). A script can forge such an error.
    fn is_not_primary(&self, frame: &[u8]) -> bool {
        match self.expected.front() {
            Some(Expect::Reply(awaited)) if awaited.forgeable => false,
            // The server refuses a transaction whole, with EXECABORT and the reason; Valkey also with REDIRECT
            // alone. Errors of the commands in it stand inside an array, never here.
            Some(Expect::Reply(Awaited { effect: Effect::Exec(_), .. })) => {
                let reason = frame.strip_prefix(b"-EXECABORT Transaction discarded because of: ");
                ServerError::of(reason.unwrap_or(frame)).is_not_primary()
            }
            Some(Expect::Reply(_)) => ServerError::of(frame).is_not_primary(),
            _ => false,
        }
    }

    /// Returns true if a node of a cluster may judge the front request before it runs it, and may say so by an error.
    pub(super) fn awaits_judgement(&self) -> bool {
        matches!(
            self.expected.front(),
            Some(Expect::Reply(_) | Expect::Confirmations { .. } | Expect::Restored(_))
        )
    }

    /// Returns true if a script or a module can write the front reply.
    pub(super) fn is_front_forgeable(&self) -> bool {
        matches!(self.expected.front(), Some(Expect::Reply(awaited)) if awaited.forgeable)
    }

    /// Returns true if the next reply may contain errors of commands: a script's reply, or a transaction's.
    fn may_hide_refusal(&self) -> bool {
        match self.expected.front() {
            Some(Expect::Reply(awaited)) => awaited.forgeable || matches!(awaited.effect, Effect::Exec(_)),
            _ => false,
        }
    }

    /// Applies a reply's effect, and passes the reply on.
    fn handle_reply(&mut self, session: &mut Session, frame: &[u8], kind: ReplyKind, awaited: Awaited) {
        let failed = kind == ReplyKind::Error;
        let confirmed = frame == OK;
        let mute = awaited.mute;
        session.announce_leased(awaited.if_lost);
        // The server has refused a command, so EXEC runs nothing. Of a later transaction, no reply has come.
        let discards = match awaited.effect {
            Effect::Nested => ServerError::of(frame) != ServerError::NestedTransaction,
            _ => awaited.queued,
        };
        if failed && discards && !self.expected.ends_transaction() {
            self.poison_transaction();
        }
        match awaited.effect {
            // A module can write such an error itself.
            Effect::Unknown if failed && !awaited.forgeable && ServerError::of(frame).denies_command() => {
                self.pins.unpin_for_unknown();
            }
            Effect::None | Effect::Nested | Effect::Unknown => {}
            Effect::Multi if failed => {
                self.pins.transaction = None;
                self.state_unknown = true;
            }
            Effect::Multi | Effect::State | Effect::Discard => self.state_unknown |= !confirmed,
            Effect::Exec(mut transaction) => {
                self.state_unknown |= !ends_transaction(frame);
                transaction.selects.read(frame);
                self.select_after(session, &transaction);
            }
            Effect::Select(database) if confirmed => self.set_database(session, database),
            Effect::Tracking(request) if confirmed => self.pins.tracking = request,
            Effect::Pause(pause) if confirmed => session.note_pause(pause),
            Effect::Pause(_) => {}
            Effect::NoTouch(on) if confirmed => self.pins.no_touch = on,
            Effect::ImportSource(on) if confirmed => self.pins.import_source = on,
            // A failed HIMPORT PREPARE leaves the earlier fieldsets.
            Effect::Fieldsets(prepared) if !failed => self.pins.fieldsets = prepared,
            Effect::Fieldsets(_) => {}
            // An error changes nothing. Any other reply than OK leaves the state unknown.
            Effect::Select(_) | Effect::Tracking(_) | Effect::NoTouch(_) | Effect::ImportSource(_) => {
                self.state_unknown |= !failed;
            }
            Effect::Monitor => self.pins.monitoring = !failed,
            Effect::Wait => {
                if let Some(error) = self.publish_error.take() {
                    let mut line = b"-ERR respgate: cannot answer WAIT, because the user may not PUBLISH to __respgate:wait; allow that in the server's ACL; the server said: ".to_vec();
                    line.extend(error.iter().filter(|byte| !byte.is_ascii_control()));
                    line.extend_from_slice(b"\r\n");
                    return pass(session, &line, mute);
                }
            }
        }
        pass(session, frame, mute);
    }

    /// Reads a piece of the front reply, to find the selected database, if that reply is an EXEC's.
    fn read_selects(&mut self, piece: &[u8]) {
        if let Some(Expect::Reply(Awaited { effect: Effect::Exec(transaction), .. })) =
            self.expected.front_mut()
        {
            transaction.selects.read(piece);
        }
    }

    /// Applies the SELECTs of `transaction`, once the whole reply to its EXEC has been read.
    fn select_after(&mut self, session: &mut Session, transaction: &Transaction) {
        if let Some(database) = transaction.selects.selected() {
            self.set_database(session, database);
        }
    }

    fn set_database(&mut self, session: &mut Session, database: u32) {
        self.lease.set_database(database);
        session.client.select(database);
        session.update_view();
        session.leave_lane();
    }
}

/// Returns true if this reply to EXEC says that the transaction has ended: with its results, with a null because a
/// watched key changed, or discarded whole.
fn ends_transaction(frame: &[u8]) -> bool {
    frame.starts_with(b"*") || frame == b"_\r\n" || frame.starts_with(b"-EXECABORT")
}

/// Returns true if the reply contains a READONLY error. Data that looks like one does no harm: respgate probes the node,
/// at the usual rate of probes, and does not use the connection again.
fn hides_refusal(frame: &[u8]) -> bool {
    frame.starts_with(b"*") && memchr::memmem::find(frame, b"\r\n-READONLY ").is_some()
}

/// Appends a frame, or a piece of one, to the client's replies.
fn pass(session: &Session, frame: &[u8], mute: bool) {
    if !mute {
        session.output.replies.answer(|out| out.extend_from_slice(frame));
    }
}
