//! `respgate status --watch`: shows the state again and again, until the reader has seen enough.

#[cfg(feature = "terminal")]
mod draw;
#[cfg(feature = "terminal")]
mod history;
mod news;
#[cfg(feature = "terminal")]
mod terminal;

#[cfg(feature = "terminal")]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::time::Duration;

use self::news::{News, follow};
use crate::admin_client::AdminClient;

/// Shows the state every `pause`: drawn on a terminal, or as text, or as one line of JSON. Ends with `q`, Ctrl-C, a
/// signal, or when nobody reads any more.
///
/// # Errors
/// Returns an error if the terminal cannot be used.
pub fn watch(client: AdminClient, pause: Duration, json: bool) -> io::Result<()> {
    #[cfg(feature = "terminal")]
    let endpoint = client.endpoint.clone();
    let news = follow(client, pause)?;
    #[cfg(feature = "terminal")]
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
