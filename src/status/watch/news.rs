//! Asks respgate again and again, and tells what it answers.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin_client::AdminClient;
use crate::status::{Status, ask};

/// What the task that asks respgate sends to the one that shows it.
pub(super) enum News {
    /// An answer, or why there is none.
    Asked(Box<Result<Status, String>>),
    /// A signal asks respgate status to end.
    Stop,
}

/// Asks respgate every `pause` in a thread of its own. The thread ends when the receiver is dropped.
pub(super) fn follow(client: AdminClient, pause: Duration) -> io::Result<mpsc::Receiver<News>> {
    // A reader that is slower than `pause` delays the next question.
    let (sender, news) = mpsc::sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("status".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
                signal(SignalKind::hangup()),
            ) else {
                return;
            };
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let asked = async {
                    ticks.tick().await;
                    ask(&client).await
                };
                let next = tokio::select! {
                    asked = asked => News::Asked(Box::new(asked)),
                    _ = interrupt.recv() => News::Stop,
                    _ = terminate.recv() => News::Stop,
                    _ = hangup.recv() => News::Stop,
                };
                if sender.send(next).is_err() {
                    return;
                }
            }
        });
    })?;
    Ok(news)
}
