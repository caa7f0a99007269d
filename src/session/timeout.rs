//! Handles a timeout that a session has exceeded.

use super::activity::Expiry;
use super::client::Replying;
use super::close::Close;
use super::{Session, refusal};
use crate::upstream::replies::Replies;

impl Session {
    /// Handles an expired timeout. Returns the reason to close, or `None` if the session goes on: after
    /// `command-timeout`, the client gets an error for each awaited reply and keeps its connection.
    pub(super) fn expire(&mut self, expiry: Expiry) -> Option<Close> {
        let registry = &self.ctx.registry;
        tracing::debug!(
            client = self.client.id,
            peer = self.client.peer,
            ?expiry,
            "a client reached a timeout"
        );
        match expiry {
            Expiry::SlowReader => Some(Close::Slow),
            Expiry::Killed => Some(Close::Killed),
            Expiry::Command if self.client.replying == Replying::On && !self.output.is_partial() => {
                self.note_left();
                self.measured.client_changed();
                let counters = &self.ctx.upstream.counters;
                let (buffers, account) = (self.ctx.buffers.clone(), self.account.clone());
                let replies = Replies::new(buffers, account, self.ctx.config.max_reply_buffer);
                let given_up = self.output.awaited();
                counters.command_timeouts.add(given_up.into());
                // The old replies drop what comes late. Their entries stay in the lanes' queues until the
                // replies arrive.
                self.output.give_up(replies, refusal::COMMAND_TIMEOUT);
                self.lanes.gathers.clear();
                self.activity.replace(self.output.replies.clone());
                if let Some(subscription) = &self.lanes.subscription {
                    subscription.redirect(&self.output.replies);
                }
                if let Some(channels) = &self.lanes.shard_channels {
                    channels.redirect(&self.output.replies);
                }
                self.activity.set_reply_due(registry.now.get(), false, true);
                None
            }
            Expiry::FirstCommand | Expiry::Idle | Expiry::Transaction | Expiry::Command => {
                Some(Close::Expired)
            }
        }
    }
}
