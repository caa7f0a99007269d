//! Asks the follower of a set of files to read them at once, and learns the result.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

/// Maximum number of prompts that wait for the follower.
const QUEUE: usize = 16;

/// The result of a prompted read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The set in use is the newest.
    Unchanged,
    /// A new set is in use from now on.
    Replaced,
    /// The newest set cannot be used, for this reason. What was used before stays.
    Refused(Arc<str>),
    /// The files could not be read in time. What was used before stays.
    Stuck,
    /// The files came through a pipe, which cannot be read again.
    Piped,
}

/// Prompts one follower. Clones prompt the same one.
#[derive(Clone, Debug)]
pub struct Prompter(mpsc::Sender<Prompt>);

/// Receives the prompts of one follower.
#[derive(Debug)]
pub struct Prompts(mpsc::Receiver<Prompt>);

/// One prompt, which waits for the result.
#[derive(Debug)]
pub(super) struct Prompt(oneshot::Sender<ReadOutcome>);

/// Creates both ends.
pub fn prompts() -> (Prompter, Prompts) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Prompter(sender), Prompts(receiver))
}

impl Prompter {
    /// Asks for a read and waits for its result. Returns `None` if nothing follows the files.
    pub async fn read_now(&self) -> Option<ReadOutcome> {
        let (result, read) = oneshot::channel();
        self.0.send(Prompt(result)).await.ok()?;
        read.await.ok()
    }
}

impl Prompts {
    /// Returns prompts that never come.
    pub(super) fn none() -> Self {
        prompts().1
    }

    /// Waits for the next prompt. Waits for ever if every [`Prompter`] is gone.
    pub(super) async fn next(&mut self) -> Prompt {
        match self.0.recv().await {
            Some(prompt) => prompt,
            None => pending().await,
        }
    }
}

impl Prompt {
    /// Tells the result to who waits for it.
    pub(super) fn answer(self, outcome: ReadOutcome) {
        let _ = self.0.send(outcome);
    }
}
