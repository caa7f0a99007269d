//! Decides what happens to the requests of a lease whose connection is lost. Pure.
//!
//! Two rules decide most cases. A request that was not written whole cannot have run, so it is sent again. A
//! request that was written may have run, so it is sent again only if its retry class and the configuration allow
//! it; otherwise the client gets an error that says so.

use std::time::Duration;

use tokio::time::Instant;

use super::expect::{Awaited, Effect, Expect};
use crate::command::{self, Found, ReadOptions, Verb};
use crate::resp::Resp;
use crate::resp::request::{self, Request};
use crate::session::refusal;
use crate::upstream::config::BlockedPop;
use crate::upstream::shared::queue::{IfLost, MAX_SENDS, RequestOutcome};

/// Says what happens to one request after the loss of its connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AfterLoss {
    /// These bytes are sent again.
    Resend(Vec<u8>),
    /// The client gets this reply.
    Answer(Vec<u8>),
    /// Nothing: it was a request of respgate's own.
    Drop,
}

/// Describes the loss of a connection.
pub(super) struct LostLease {
    pub(super) now: Instant,
    pub(super) resp: Resp,
    pub(super) blocked_pop: BlockedPop,
    /// True if the server confirmed that it dropped the blocked client without running its command.
    pub(super) unblocked: bool,
}

/// Marks the first request as not sent, because the server refused it and so did not run it. If it was to be
/// queued in a transaction, the transaction does not run either, even if EXEC was already sent: the server
/// discards it whole.
pub(super) fn refuse_first(expects: &[&Expect], requests: &mut [(&[u8], bool)]) {
    let awaited = |expect: &&Expect| match expect {
        Expect::Reply(awaited) => Some((awaited.queued, matches!(awaited.effect, Effect::Exec(_)))),
        _ => None,
    };
    let restored = |expect: &&Expect| matches!(expect, Expect::Restored(_));
    // What restores a transaction is queued too.
    let mut discarded = expects
        .first()
        .is_some_and(|first| restored(first) || awaited(first).is_some_and(|(queued, _)| queued));
    for (index, (expect, (_, sent))) in expects.iter().zip(requests).enumerate() {
        let (queued, exec) = awaited(expect).unwrap_or_default();
        if index == 0 || (discarded && (queued || exec)) {
            *sent = false;
            // Only the requests of the same transaction follow: the first one that is not queued ends it.
        }
        discarded &= queued || restored(expect);
    }
}

/// Decides what happens to each request, in order. `requests` holds the bytes of each, and true if they were
/// written whole.
pub(super) fn settle(expects: &[&Expect], requests: &[(&[u8], bool)], loss: &LostLease) -> Vec<AfterLoss> {
    let mut decisions = Vec::with_capacity(expects.len());
    let mut previous_resent = true;
    for ((expect, (request, sent)), over) in
        expects.iter().zip(requests).zip(transactions_over(expects, requests))
    {
        let decision = match expect {
            Expect::Decided(reply) => AfterLoss::Answer(reply.clone()),
            Expect::Restored(_) | Expect::Alive | Expect::Name | Expect::Auth(_) => AfterLoss::Drop,
            Expect::Confirmations { left, .. } => AfterLoss::Resend(remaining_names(request, *left)),
            // The transaction that the DISCARD was for is gone with its connection.
            Expect::Discarded(reply) => AfterLoss::Answer(reply.clone()),
            // The ECHO belongs to the script before it: both are sent again, or neither.
            Expect::Nonce(_) if previous_resent => AfterLoss::Resend(request.to_vec()),
            Expect::Nonce(_) => AfterLoss::Drop,
            Expect::Newest(_) | Expect::Publish => AfterLoss::Resend(request.to_vec()),
            Expect::Reply(awaited) => reply(awaited, request, *sent, over, loss),
        };
        previous_resent = matches!(decision, AfterLoss::Resend(_));
        decisions.push(decision);
    }
    decisions
}

/// Returns, for each request, true if the transaction that it belongs to, or the next transaction, is over and is
/// not sent again.
fn transactions_over(expects: &[&Expect], requests: &[(&[u8], bool)]) -> Vec<bool> {
    let mut over: Vec<bool> = Vec::with_capacity(expects.len());
    let mut next = false;
    // Go from the last to the first: the EXEC decides about the requests before it, and the work stays linear.
    for (expect, (_, sent)) in expects.iter().zip(requests).rev() {
        match expect {
            Expect::Reply(Awaited { effect: Effect::Exec(transaction), .. }) => {
                next = *sent || transaction.watched || transaction.body().is_none();
            }
            Expect::Discarded(_) | Expect::Reply(Awaited { effect: Effect::Discard, .. }) => next = true,
            _ => {}
        }
        over.push(next);
    }
    over.reverse();
    over
}

/// Decides what happens to a request whose reply is for the client. `over` is described at [`transactions_over`].
fn reply(awaited: &Awaited, request: &[u8], sent: bool, over: bool, loss: &LostLease) -> AfterLoss {
    match &awaited.effect {
        // The client of a transaction that is not sent again gets the usual replies to MULTI and to the queued
        // commands. EXEC's reply then tells what happened.
        Effect::Multi if over => return AfterLoss::Answer(b"+OK\r\n".to_vec()),
        _ if awaited.queued && over => return AfterLoss::Answer(b"+QUEUED\r\n".to_vec()),
        // The transaction is gone with its connection.
        Effect::Discard => return AfterLoss::Answer(b"+OK\r\n".to_vec()),
        Effect::Exec(_) if sent => return AfterLoss::Answer(unknown()),
        // The watched keys may have changed while the connection was lost, so EXEC answers as if they had.
        Effect::Exec(transaction) if transaction.watched => return AfterLoss::Answer(null_array(loss.resp)),
        Effect::Exec(transaction) if transaction.body().is_none() => {
            return AfterLoss::Answer([refusal::EXEC_ABORTED, b"\r\n"].concat());
        }
        Effect::Multi
        | Effect::Nested
        | Effect::Exec(_)
        | Effect::State
        | Effect::Select(_)
        | Effect::Tracking(_)
        | Effect::NoTouch(_)
        | Effect::ImportSource(_)
        | Effect::Fieldsets(_)
        | Effect::Monitor
        | Effect::Wait => return AfterLoss::Resend(request.to_vec()),
        Effect::None | Effect::Unknown | Effect::Pause(_) => {}
    }
    // It cannot have run: the server only queued it, or never got it whole.
    if awaited.queued || !sent {
        return AfterLoss::Resend(request.to_vec());
    }
    let Some(since) = awaited.blocking else {
        return match awaited.if_lost.resends() && awaited.sends + 1 < MAX_SENDS {
            true => AfterLoss::Resend(request.to_vec()),
            false => AfterLoss::Answer(awaited.if_lost.outcome().reply()),
        };
    };
    // A blocked command waits only for the rest of its timeout on the new connection.
    let elapsed = loss.now.saturating_duration_since(since);
    let (again, endless) = with_remaining_timeout(request, elapsed);
    match awaited.if_lost {
        _ if loss.unblocked => AfterLoss::Resend(again),
        IfLost::Resend => AfterLoss::Resend(again),
        IfLost::ReportLost => AfterLoss::Answer(awaited.if_lost.outcome().reply()),
        // For a command that the table lacks, neither the timeout nor the reply at its end is known.
        _ if !is_listed(request) => AfterLoss::Answer(unknown()),
        _ if loss.blocked_pop == BlockedPop::Continues => AfterLoss::Resend(again),
        _ if endless => AfterLoss::Answer(unknown()),
        _ => AfterLoss::Answer(null_array(loss.resp)),
    }
}

/// Returns true if the command table has the command of a request.
fn is_listed(request: &[u8]) -> bool {
    Request::parse(request).is_some_and(|request| matches!(command::find(&request), Some(Found::Spec(_))))
}

/// Returns the reply of a blocking command that timed out, or of an EXEC whose watched keys have changed.
pub(super) fn null_array(resp: Resp) -> Vec<u8> {
    match resp {
        Resp::V2 => b"*-1\r\n".to_vec(),
        Resp::V3 => b"_\r\n".to_vec(),
    }
}

fn unknown() -> Vec<u8> {
    RequestOutcome::OutcomeUnknown.reply()
}

/// Returns a subscription request with only its last `left` names: the others are confirmed.
fn remaining_names(request: &[u8], left: usize) -> Vec<u8> {
    let Some(parsed) = Request::parse(request) else { return request.to_vec() };
    let names = parsed.argc() as usize - 1;
    if names == 0 {
        return request.to_vec();
    }
    let mut args = vec![parsed.name()];
    args.extend(parsed.args().skip(1 + names.saturating_sub(left)));
    let mut out = Vec::with_capacity(request.len());
    request::encode(&args, &mut out);
    out
}

/// Returns a blocking request with `elapsed` taken off its timeout, and true if it has no timeout. The timeout
/// never becomes zero, which would mean for ever.
fn with_remaining_timeout(request: &[u8], elapsed: Duration) -> (Vec<u8>, bool) {
    let unchanged = || (request.to_vec(), false);
    let Some(parsed) = Request::parse(request) else { return unchanged() };
    let Some(Found::Spec(spec)) = command::find(&parsed) else { return unchanged() };
    let args: Vec<&[u8]> = parsed.args().collect();
    let milliseconds = matches!(spec.verb, Verb::Xread | Verb::Xreadgroup);
    let index = match spec.verb {
        Verb::Xread | Verb::Xreadgroup => ReadOptions::of(&parsed).timeout,
        Verb::Blmpop | Verb::Bzmpop => Some(1),
        Verb::Blmovem => Some(5),
        _ => args.len().checked_sub(1),
    };
    let Some((index, timeout)) = index.and_then(|index| {
        let text = std::str::from_utf8(args.get(index)?).ok()?;
        Some((index, text.parse::<f64>().ok().filter(|timeout| timeout.is_finite())?))
    }) else {
        return unchanged();
    };
    if timeout <= 0.0 {
        return (request.to_vec(), true);
    }
    let text = if milliseconds {
        format!("{}", (timeout - elapsed.as_secs_f64() * 1000.0).max(1.0).ceil())
    } else {
        format!("{:.3}", (timeout - elapsed.as_secs_f64()).max(0.001))
    };
    let mut args = args;
    if let Some(arg) = args.get_mut(index) {
        *arg = text.as_bytes();
    }
    let mut out = Vec::with_capacity(request.len());
    request::encode(&args, &mut out);
    (out, false)
}

#[cfg(test)]
mod tests;
