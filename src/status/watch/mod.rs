//! `respgate status --watch`: shows the state again and again, until the reader has seen enough.

mod draw;
mod history;
mod terminal;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::{Status, ask};
use crate::admin_client::Endpoint;

/// What the task that asks respgate sends to the one that shows it.
enum News {
    /// An answer, or why there is none.
    Asked(Box<Result<Status, String>>),
    /// A signal asks respgate status to end.
    Stop,
}

/// Shows the state every `pause`: drawn on a terminal, or as text, or as one line of JSON. Ends with `q`, Ctrl-C, a
/// signal, or when nobody reads any more.
///
/// # Errors
/// Returns an error if the terminal cannot be used.
pub fn watch(endpoint: Endpoint, pause: Duration, json: bool) -> io::Result<()> {
    let news = follow(endpoint.clone(), pause)?;
    if !json && io::stdout().is_terminal() && io::stdin().is_terminal() {
        return terminal::run(&news, &endpoint);
    }
    let mut output = io::stdout().lock();
    while let Ok(News::Asked(asked)) = news.recv() {
        let text = match *asked {
            Ok(status) if json => format!("{}\n", status.document()),
            Ok(status) => format!("{}\n", status.screen()),
            Err(why) if json => format!("{}\n", serde_json::json!({ "error": why })),
            Err(why) => format!("{why}\n\n"),
        };
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

/// Asks respgate every `pause` in a thread of its own. The thread ends when the receiver is dropped.
fn follow(endpoint: Endpoint, pause: Duration) -> io::Result<mpsc::Receiver<News>> {
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
                    ask(&endpoint).await
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
