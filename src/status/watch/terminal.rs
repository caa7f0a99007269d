//! Shows the state on a terminal: reads keys, and leaves the terminal as it was.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};

use super::draw::{self, Screen};
use super::history::RateHistory;
use super::news::News;
use crate::admin_client::Endpoint;

/// Time between two looks at keys and news.
const STEP: Duration = Duration::from_millis(50);
/// Lines by which a page key scrolls.
const PAGE: u16 = 10;

/// Shows what comes until a key or a signal ends it. Restores the terminal in any case.
pub(super) fn run(news: &Receiver<News>, endpoint: &Endpoint) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, news, endpoint);
    ratatui::restore();
    ended
}

fn show(terminal: &mut DefaultTerminal, news: &Receiver<News>, endpoint: &Endpoint) -> io::Result<()> {
    let (mut newest, mut error) = (None, None);
    let mut history = RateHistory::default();
    let mut answered = Instant::now();
    let mut scroll = 0_u16;
    loop {
        match news.try_recv() {
            Ok(News::Asked(asked)) => match *asked {
                Ok(status) => {
                    history.add(&status);
                    (newest, error, answered) = (Some(status), None, Instant::now());
                }
                Err(why) => error = Some(why),
            },
            Ok(News::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {}
        }
        terminal.draw(|frame: &mut Frame<'_>| {
            let age = answered.elapsed();
            let screen =
                Screen { endpoint, status: newest.as_ref(), error: error.as_deref(), history: &history, age };
            scroll = draw::draw(frame, &screen, scroll);
        })?;
        if event::poll(STEP)? {
            // A new size is drawn in the next round, like everything else.
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match pressed(key) {
                    Key::End => return Ok(()),
                    Key::Scroll(lines) => scroll = scroll.saturating_add_signed(lines),
                    Key::Other => {}
                }
            }
        }
    }
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    End,
    /// Scroll down by so many lines; negative: up.
    Scroll(i16),
    Other,
}

fn pressed(key: KeyEvent) -> Key {
    let page = i16::try_from(PAGE).unwrap_or(i16::MAX);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Key::End,
        // The terminal sends no signal while keys are read one by one.
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::End,
        KeyCode::Down | KeyCode::Char('j') => Key::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Key::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Key::Scroll(page),
        KeyCode::PageUp => Key::Scroll(-page),
        KeyCode::Home => Key::Scroll(i16::MIN),
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_end_it() {
        let key = |code, modifiers| pressed(KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Key::End);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Key::End);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Key::Other);
        assert_eq!(key(KeyCode::Down, KeyModifiers::NONE), Key::Scroll(1));
    }
}
