//! Asking the server for the commands that the static table lacks, once per primary and only when one is used.

use std::rc::Rc;

use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::open::Key;
use super::replies::Replies;
use super::turns::Share;
use crate::command::learned::Learned;
use crate::resp::Resp;
use crate::resp::control::Control;

impl Upstream {
    /// What the server says of commands that the static table lacks, once it has been asked.
    pub fn learned(&self) -> Option<Rc<Learned>> {
        self.learned.borrow().clone()
    }

    /// Asks the server for its commands, as `key`'s user; then [`Self::learned`] is set. Takes at most the connect
    /// timeout. A user who may not ask leaves nothing known. False: the server could not be asked.
    pub async fn learn(self: &Rc<Self>, key: &Key) -> bool {
        let deadline = Instant::now() + self.config.connect_timeout;
        if self.learning.replace(true) {
            let told = self.news.notified();
            if self.learned.borrow().is_none() {
                let _ = timeout_at(deadline, told).await;
            }
        } else {
            let generation = self.generation();
            let learned = timeout_at(deadline, self.ask_for_commands(key, deadline)).await;
            self.learning.set(false);
            if generation == self.generation()
                && let Ok(Some(learned)) = learned
            {
                *self.learned.borrow_mut() = Some(Rc::new(learned));
            }
            self.news.notify_waiters();
        }
        self.learned.borrow().is_some()
    }

    async fn ask_for_commands(self: &Rc<Self>, key: &Key, deadline: Instant) -> Option<Learned> {
        let key = Key { identity: key.identity.clone(), database: 0, resp: Resp::V2 };
        let nobody = Replies::new(self.buffers.clone(), 0);
        let mut lease = self.lease(&key, &nobody, Share::default()).await.ok()?;
        let mut control = Control::new(&mut lease.link.stream);
        let reply = control.call(&[b"COMMAND"], deadline).await.ok()?;
        drop(control);
        lease.give_back();
        Some(if reply.elements().is_some() { Learned::from_reply(&reply) } else { Learned::nothing() })
    }
}
