//! Moves a session's connection state to a new connection after the old one was lost.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::expect::{Awaited, Effect, Expect};
use super::outbound::Outbound;
use super::pins::Transaction;
use super::placed::changes_shard_channels;
use super::placement::Placement;
use super::reconnect::ReconnectBackoff;
use super::settle::{AfterLoss, LostLease, refuse_first, settle};
use super::{Close, LeaseEnd, Leased};
use crate::resp::pubsub::Kind;
use crate::resp::request::{self, Request};
use crate::session::Session;

/// Number of names in one SUBSCRIBE that restores subscriptions.
const NAMES: usize = 512;

impl Leased {
    /// Continues on a new connection after the old one was lost: decides about each pending request, restores the
    /// state, and sends again what may be sent again. Returns `None` if nothing needs a connection of its own any
    /// more.
    ///
    /// # Errors
    /// Returns the reason to close if a reply was cut short, the state cannot be restored, or no primary was
    /// found.
    pub(super) async fn migrate(
        mut self,
        session: &mut Session,
        backoff: &mut ReconnectBackoff,
    ) -> Result<Option<Self>, Close> {
        let upstream = session.ctx.upstream.clone();
        if !self.placement.is_moving() && !self.front_refused {
            upstream.note_lease_lost(self.lease.generation());
        }
        if self.streaming.is_some() || self.pins.is_pinned_for_unknown() || self.pins.fieldsets {
            tracing::info!(client = session.client.id, pins = ?self.pins.reasons(), "respgate disconnects a client: it cannot move the state of the client's lost connection to another");
            return Err(Close::UpstreamLost);
        }
        let mut unblocked = self.lease.is_cut() && self.expected.gated && self.lease.abandon().await;
        if unblocked && !self.lease.input().is_empty() {
            // The reply came at the last moment: the client gets it, and the command is not sent again.
            self.handle_replies(session);
            unblocked = self.lease.input().is_empty();
            if let Some(LeaseEnd::Close(close)) = self.decided_end.take() {
                return Err(close);
            }
            if self.streaming.is_some() {
                return Err(Close::UpstreamLost);
            }
        }
        let Some(key) = session.key() else { return Err(Close::UpstreamLost) };
        // The connection is sound: the session leaves it before it sends a command that belongs to another node.
        let chosen = self.placement.is_moving() && self.expected.is_empty() && !self.pins.subscribed();
        let (mut pending, outbound) = (self.expected.take(), std::mem::take(&mut self.outbound));
        if !self.follow_layout(session, &mut pending) {
            tracing::info!(client = session.client.id, pins = ?self.pins.reasons(), "respgate disconnects a client: the state of its connection cannot be on one node of a cluster");
            return Err(Close::UpstreamLost);
        }
        let decisions = self.settle_pending(session, &mut pending, &outbound, unblocked);
        let resends = decisions.iter().any(|decision| matches!(decision, AfterLoss::Resend(_)));
        if !resends && !self.pins.any() && !self.for_session {
            // Nothing has to move: the next request is routed as usual.
            self.resume(pending, decisions, &upstream);
            self.pass_decided(session);
            return Ok(None);
        }
        let replies = session.output.replies.clone();
        let resent = decisions.iter().filter_map(|decision| match decision {
            AfterLoss::Resend(request) => Some(request.as_slice()),
            AfterLoss::Answer(_) | AfterLoss::Drop => None,
        });
        let mut resent = resent.filter_map(Request::parse);
        if upstream.is_cluster() && resent.clone().any(|request| changes_shard_channels(&request)) {
            tracing::info!(
                client = session.client.id,
                "respgate disconnects a client: its request for shard channels was under way when a cluster replaced the primary"
            );
            return Err(Close::UpstreamLost);
        }
        let target = self.next_target(session, &mut resent);
        // The shard of the lost connection may be gone.
        let moves = upstream.is_cluster() || self.placement.shard.is_some();
        let leasing = moves.then(|| session.leasing(&target, &key));
        let pause = match chosen {
            true => Ok(Duration::ZERO),
            false => {
                backoff.lost(self.since.elapsed(), session.ctx.upstream_config.hold_timeout, Instant::now())
            }
        };
        let reopened = {
            let lease = async {
                let pause = pause.map_err(|gone_on| {
                    upstream.counters.hold_expired.inc();
                    upstream.held_for(gone_on)
                })?;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                match leasing {
                    Some(leasing) => {
                        // The connection is of no use any more, and its room may be wanted.
                        drop(self.lease);
                        leasing.await
                    }
                    None => Ok((self.lease.reopen(&key, &replies).await?, None)),
                }
            };
            tokio::select! {
                lease = lease => lease,
                () = session.until_abandoned() => return Err(Close::Left),
            }
        };
        session.end_wait();
        let mut next = match reopened {
            Ok((lease, shard)) => {
                let mut next = Self::new(lease, self.for_session, session);
                next.placement = Placement::at(&target, shard, upstream.layout_version());
                next.placement.follow(&self.placement);
                next
            }
            Err(line) => {
                for (expect, _) in &pending {
                    if matches!(expect, Expect::Reply(_) | Expect::Confirmations { .. }) {
                        session.refuse(&line);
                    }
                }
                return Err(session.close_for_cut_replies());
            }
        };
        (next.used, next.client_left, next.pins) = (true, self.client_left, self.pins);
        next.begin(session);
        upstream.note_settled(0, 0, 1);
        next.restore(session);
        next.restore_transaction(&pending, &decisions);
        next.resume(pending, decisions, &upstream);
        next.pass_decided(session);
        Ok(Some(next))
    }

    /// Decides about each pending request, and counts in each how often it was sent.
    fn settle_pending(
        &self,
        session: &Session,
        pending: &mut VecDeque<(Expect, usize)>,
        outbound: &Outbound,
        unblocked: bool,
    ) -> Vec<AfterLoss> {
        let loss = LostLease {
            now: Instant::now(),
            resp: session.client.resp,
            blocked_pop: session.ctx.upstream_config.blocked_pop,
            unblocked,
        };
        let expects: Vec<&Expect> = pending.iter().map(|(expect, _)| expect).collect();
        let mut requests = outbound.requests(pending.iter().map(|(_, len)| *len));
        if self.front_refused {
            refuse_first(&expects, &mut requests);
        }
        let decisions = settle(&expects, &requests, &loss);
        for ((expect, _), (_, sent)) in pending.iter_mut().zip(&requests) {
            if let Expect::Reply(awaited) = expect {
                awaited.sends = awaited.sends.saturating_add(u8::from(*sent));
            }
        }
        decisions
    }

    /// Sends the requests that restore the connection's state. Their replies are not for the client.
    pub(super) fn restore(&mut self, session: &mut Session) {
        if self.pins.watching {
            self.pins.watching = false;
            self.pins.watch_broken = true;
        }
        if let Some(tracking) = self.pins.tracking.clone() {
            self.send_restoring(1, &tracking);
            // The client's cached keys may have changed while the connection was lost: invalidate all of them.
            session.output.replies.answer(|out| out.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n_\r\n"));
        }
        if self.pins.no_touch {
            self.send_restoring(1, &encoded(&[b"CLIENT", b"NO-TOUCH", b"ON"]));
        }
        if self.pins.import_source {
            self.send_restoring(1, &encoded(&[b"CLIENT", b"IMPORT-SOURCE", b"ON"]));
        }
        for kind in Kind::ALL {
            let names: Vec<Box<[u8]>> = self.pins.names(kind).iter().cloned().collect();
            for names in names.chunks(NAMES) {
                let mut args = vec![kind.begin()];
                args.extend(names.iter().map(AsRef::as_ref));
                self.send_restoring(names.len(), &encoded(&args));
            }
        }
        if self.pins.monitoring {
            self.send_restoring(1, &encoded(&[b"MONITOR"]));
        }
    }

    /// Sends MULTI and the queued commands whose replies the client has seen: those of the open transaction, or
    /// of the one whose EXEC is sent again.
    fn restore_transaction(&mut self, pending: &VecDeque<(Expect, usize)>, decisions: &[AfterLoss]) {
        let again =
            pending.iter().zip(decisions).find_map(|((expect, _), decision)| match (expect, decision) {
                (Expect::Reply(Awaited { effect: Effect::Exec(transaction), .. }), AfterLoss::Resend(_)) => {
                    Some(&**transaction)
                }
                _ => None,
            });
        let Some(transaction) = again.or(self.pins.transaction.as_ref()) else { return };
        let Some(body) = transaction.body() else {
            // The transaction is too large to have been kept: make EXEC say that it was discarded.
            if let Some(transaction) = &mut self.pins.transaction {
                transaction.poisoned = true;
            }
            self.ask_first(true);
            return self.send_restoring(1, &encoded(&[b"MULTI"]));
        };
        // The newest requests of the transaction are pending, and `resume` sends them again.
        let unseen = pending
            .iter()
            .take_while(|(expect, _)| {
                !matches!(expect, Expect::Reply(Awaited { effect: Effect::Exec(_), .. }))
            })
            .filter(|(expect, _)| match expect {
                Expect::Reply(awaited) => awaited.queued || matches!(awaited.effect, Effect::Multi),
                _ => false,
            })
            .count();
        let mut seen: Vec<Box<[u8]>> = body.iter().take(body.len().saturating_sub(unseen)).cloned().collect();
        if transaction.poisoned {
            // EXEC will not run it, and the server would refuse again what it has refused.
            seen.truncate(1);
        }
        for (index, request) in seen.into_iter().enumerate() {
            if index == 0 {
                self.ask_first(true);
            }
            self.send_restoring(1, &request);
        }
    }

    /// Begins a transaction for a client that has the reply to its MULTI already. `poisoned`: EXEC must not run it.
    pub(super) fn open_transaction(&mut self, poisoned: bool) {
        let multi = encoded(&[b"MULTI"]);
        let mut transaction = Transaction::default();
        transaction.poisoned = poisoned;
        transaction.keep(&multi);
        self.pins.transaction = Some(transaction);
        self.ask_first(true);
        self.send_restoring(1, &multi);
    }

    /// Sends a request that restores state and gets `replies` replies.
    pub(super) fn send_restoring(&mut self, replies: usize, request: &[u8]) {
        self.post_encoded(Expect::Restored(replies), request);
    }

    /// Sends again the requests that may be sent again. Queues every other reply in the order of the requests.
    fn resume(
        &mut self,
        pending: VecDeque<(Expect, usize)>,
        decisions: Vec<AfterLoss>,
        upstream: &crate::upstream::Upstream,
    ) {
        let (mut resent, mut unknown) = (0, 0);
        for ((mut expect, _), decision) in pending.into_iter().zip(decisions) {
            match decision {
                AfterLoss::Resend(request) => {
                    resent += 1;
                    // Send nothing behind a request that can block or changes subscriptions.
                    self.expected.gated |= match &mut expect {
                        Expect::Reply(awaited) => {
                            awaited.arrival = awaited.arrival.delayed_for_primary();
                            awaited.blocking = awaited.blocking.map(|_| Instant::now());
                            awaited.blocking.is_some()
                        }
                        Expect::Confirmations { .. } => true,
                        _ => false,
                    };
                    if matches!(&expect, Expect::Reply(_) | Expect::Confirmations { .. }) {
                        let begins = matches!(&expect, Expect::Reply(Awaited { effect: Effect::Multi, .. }));
                        self.ask_first(begins);
                    }
                    self.post_encoded(expect, &request);
                }
                AfterLoss::Answer(reply) => {
                    unknown += usize::from(reply.starts_with(b"-OUTCOMEUNKNOWN"));
                    let mute = matches!(&expect, Expect::Reply(awaited) if awaited.mute);
                    self.expected.push(Expect::Decided(if mute { Vec::new() } else { reply }), 0);
                }
                AfterLoss::Drop => {}
            }
        }
        upstream.note_settled(resent, unknown, 0);
    }
}

fn encoded(args: &[&[u8]]) -> Vec<u8> {
    let mut request = Vec::new();
    request::encode(args, &mut request);
    request
}
