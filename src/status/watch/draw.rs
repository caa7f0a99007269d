//! Draws the state into a terminal's cells. Does no I/O.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};
use serde_json::Value;

use super::history::RateHistory;
use crate::admin_client::Endpoint;
use crate::status::screen::rows;
use crate::status::state::{Status, printable, text, total};
use crate::status::words::{self, number};

/// Height of the plot of an upstream, in lines.
const PLOT: u16 = 3;
/// The age of an answer from which it counts as old.
const OLD: Duration = Duration::from_secs(4);

/// What is drawn.
pub(super) struct Screen<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) status: Option<&'a Status>,
    /// Why the newest question got no answer.
    pub(super) error: Option<&'a str>,
    pub(super) history: &'a RateHistory,
    /// The age of the newest answer.
    pub(super) age: Duration,
}

/// A piece of the screen: some lines, or an upstream's plot.
enum Piece {
    Line(Line<'static>),
    Plot(String),
}

impl Piece {
    fn height(&self) -> u16 {
        match self {
            Self::Line(_) => 1,
            Self::Plot(_) => PLOT,
        }
    }
}

fn good() -> Style {
    Style::new().fg(Color::Green)
}

fn warn() -> Style {
    Style::new().fg(Color::Yellow)
}

fn bad() -> Style {
    Style::new().fg(Color::Red)
}

fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn strong() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Draws the screen, without its first `scroll` lines. Returns how far it is scrolled, which is less than `scroll` if
/// there are fewer lines.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen<'_>, scroll: u16) -> u16 {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(header(screen)), head);
    frame.render_widget(Paragraph::new(Line::styled("q quit   ↑↓ scroll", faint())), foot);
    let pieces = screen.status.map(pieces).unwrap_or_default();
    let height: u16 = pieces.iter().map(Piece::height).fold(0, u16::saturating_add);
    let scroll = scroll.min(height.saturating_sub(body.height));
    let (mut skipped, mut y) = (0, body.y);
    for piece in pieces {
        let height = piece.height();
        if skipped < scroll {
            skipped = skipped.saturating_add(height);
            continue;
        }
        let area = Rect { y, height, ..body }.intersection(body);
        y = y.saturating_add(height);
        if area.is_empty() {
            break;
        }
        match piece {
            Piece::Line(line) => frame.render_widget(Paragraph::new(line), area),
            Piece::Plot(upstream) => plot(frame, screen.history, &upstream, area),
        }
    }
    scroll
}

fn header(screen: &Screen<'_>) -> Line<'static> {
    let mut spans = Vec::new();
    match screen.status {
        None => spans.push(Span::raw(format!("respgate, admin {}: ", screen.endpoint))),
        Some(status) => {
            let process = &status.document()["process"];
            spans.push(Span::styled(format!("respgate {}", text(&process["version"])), strong()));
            spans.push(Span::raw(format!(", admin {}: ", screen.endpoint)));
            let (state, style) = match (status.ready(), process["draining"] == true) {
                (_, true) => ("draining", bad()),
                (true, _) => ("ready", good()),
                (false, _) => ("NOT READY", bad()),
            };
            spans.push(Span::styled(state, style));
            let uptime = total(&process["uptime_seconds"]);
            spans.push(Span::styled(format!(", up {} s", number(uptime)), faint()));
        }
    }
    match screen.error {
        Some(why) => spans.push(Span::styled(format!("  {}", printable(why)), bad())),
        None if screen.status.is_some() && screen.age > OLD => {
            spans.push(Span::styled(format!("  no answer for {} s", screen.age.as_secs()), bad()));
        }
        None => {}
    }
    Line::from(spans)
}

fn pieces(status: &Status) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for warning in status.list("warnings") {
        let style = match warning["severity"].as_str() {
            Some("critical") => bad(),
            Some("warning") => warn(),
            _ => Style::new(),
        };
        pieces.push(Piece::Line(Line::from(vec![
            Span::styled(format!("  {:<12} ", text(&warning["severity"])), style),
            Span::raw(format!("{}: {}", text(&warning["subject"]), text(&warning["text"]))),
        ])));
    }
    status.list("upstreams").iter().for_each(|upstream| add_upstream(&mut pieces, upstream));
    let tenants = status.list("tenants");
    if !tenants.is_empty() {
        pieces.push(Piece::Line(Line::default()));
        pieces.push(Piece::Line(Line::styled("tenants", strong())));
    }
    for tenant in tenants {
        pieces.push(row(&text(&tenant["name"]), words::tenant(tenant), Style::new()));
    }
    pieces
}

fn add_upstream(pieces: &mut Vec<Piece>, upstream: &Value) {
    let name = text(&upstream["name"]);
    let style = match upstream["state"].as_str() {
        Some("serving") => good(),
        Some("no-primary") => bad(),
        _ => warn(),
    };
    pieces.push(Piece::Line(Line::default()));
    pieces.push(Piece::Line(Line::from(vec![
        Span::styled(format!("upstream {name}: "), strong()),
        Span::styled(words::state(upstream), style),
    ])));
    pieces.push(Piece::Plot(name));
    for (name, line) in rows(upstream) {
        let troubles = ["under way for", "behind", "serves no reads"];
        let style = if troubles.iter().any(|words| line.contains(words)) { warn() } else { Style::new() };
        pieces.push(row(name, line, style));
    }
}

fn row(name: &str, line: String, style: Style) -> Piece {
    Piece::Line(Line::from(vec![Span::styled(format!("  {name:<12} "), faint()), Span::styled(line, style)]))
}

/// Plots the rate of commands, the newest at the right.
fn plot(frame: &mut Frame<'_>, history: &RateHistory, upstream: &str, area: Rect) {
    let [label, plot] = Layout::horizontal([Constraint::Length(15), Constraint::Min(0)]).areas(area);
    let mut rates = history.newest(upstream, usize::from(plot.width));
    let peak = rates.iter().copied().max().unwrap_or_default();
    rates.reverse();
    let words = vec![
        Line::styled("  commands/s", faint()),
        Line::styled(format!("  peak {}", number(peak as f64)), faint()),
    ];
    frame.render_widget(Paragraph::new(words), label);
    let bars = Sparkline::default().data(rates).direction(RenderDirection::RightToLeft).style(good());
    frame.render_widget(bars, plot);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::screen::tests::status;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(
        status: Option<&Status>,
        error: Option<&str>,
        (width, height): (u16, u16),
        scroll: u16,
    ) -> (String, u16) {
        let mut history = RateHistory::default();
        status.iter().for_each(|status| history.add(status));
        let endpoint = &Endpoint::Admin("127.0.0.1:9121".parse().unwrap());
        let screen = Screen { endpoint, status, error, history: &history, age: Duration::ZERO };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut scrolled = 0;
        terminal.draw(|frame| scrolled = draw(frame, &screen, scroll)).unwrap();
        (terminal.backend().to_string(), scrolled)
    }

    #[test]
    fn everything_is_on_the_screen() {
        let status = status(|document| {
            document["warnings"] =
                serde_json::json!([{ "severity": "warning", "subject": "listener tls", "text": "expires" }]);
        });
        let (text, _) = drawn(Some(&status), None, (90, 20), 0);
        for expected in [
            "respgate 1.2.3, admin 127.0.0.1:9121: ready, up 75 s",
            "warning      listener tls: expires",
            "upstream main: primary 10.0.0.5:6379 (generation 2)",
            "peak 2,000",
            "█",
            "leases       1 of 8 in use",
            "q quit",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn every_size_is_drawn_and_scrolling_ends() {
        let status = status(|_| {});
        for size in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            drawn(Some(&status), None, size, 0);
        }
        let (text, scrolled) = drawn(Some(&status), None, (80, 6), 1000);
        assert!(scrolled < 20 && text.contains("failovers    none"), "{text}");
    }

    #[test]
    fn an_error_is_shown_without_its_control_characters() {
        let (text, _) = drawn(None, Some("no respgate\u{1b}[2J answers"), (80, 3), 0);
        assert!(text.contains("no respgate\u{fffd}[2J answers"), "{text}");
    }
}
