//! Draws the view; made for 80 by 24 characters, and shows less where there are fewer.

use std::collections::VecDeque;
use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};

use super::super::streams::{Sort, Stream};
use super::super::text::{age, counted, number, shown, since, size};
use super::poll::Snapshot;
use super::view::{Grade, View};

/// Lines of dead letters, their title among them.
const LETTER_LINES: u16 = 4;

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, view: &View, now: Instant) {
    let letters = view.snapshot.as_ref().map_or(0, |snapshot| snapshot.letters.len());
    let letters = if letters == 0 { 0 } else { LETTER_LINES.min(letters as u16 + 1) };
    let [title, head, charts, ids, dead, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(3),
        Constraint::Min(2),
        Constraint::Length(letters),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_title(frame, title, view, now);
    if let Some(snapshot) = &view.snapshot {
        frame.render_widget(Paragraph::new(head_lines(view, snapshot)), head);
        draw_charts(frame, charts, view);
        draw_ids(frame, ids, snapshot, view.sort);
        draw_letters(frame, dead, snapshot);
    }
    let held = if view.held { "  HELD" } else { "" };
    let sort = if view.sort == Sort::Backlog { "oldest" } else { "backlog" };
    let text = format!(" q quit  s sort by {sort}  space hold{held}");
    frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)), keys);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, view: &View, now: Instant) {
    let (grade, verdict) = view.verdict(now);
    let color = match grade {
        Grade::Well => Color::Green,
        Grade::Warning => Color::Yellow,
        Grade::Bad => Color::Red,
    };
    let line = Line::from(vec![
        Span::from(format!(" {verdict} ")).fg(Color::Black).bg(color).bold(),
        Span::from(format!("  {}", shown(&view.node))),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

fn head_lines(view: &View, snapshot: &Snapshot) -> Vec<Line<'static>> {
    let status = &snapshot.status;
    let rate = |rate: f64| number(rate.round() as u64);
    let rates = view.rates;
    let (journal, sink) = (&status.journal, &status.sink);
    let oldest = if journal.reports == 0 { String::new() } else { format!(", oldest {}", age(journal.oldest_age_s)) };
    let reports = format!("{} of {}", counted(journal.reports, "report"), counted(journal.streams, "id"));
    let error = sink.last_error.as_deref().map_or(String::new(), |error| format!(": {}", shown(error)));
    let line = |name: &'static str, what: String| Line::from(vec![format!(" {name:<9}").bold(), what.into()]);
    vec![
        line(
            "node",
            format!(
                "{} {}, up {}, {}",
                status.node_id,
                shown(&status.version),
                age(status.uptime_s),
                counted(status.connections, "connection")
            ),
        ),
        line(
            "rates",
            format!(
                "{} accepted/s, {} drained/s, {} dead/s",
                rate(rates.accepted),
                rate(rates.drained),
                rate(rates.dead)
            ),
        ),
        line("backlog", format!("{reports}, {}{oldest}  {}", size(journal.bytes), view.outlook())),
        line("sink", format!("{} for {}{error}", shown(&sink.state), since(&sink.since))),
    ]
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(1).areas(area);
    for (area, name, history, color) in
        [(left, "accepted/s", &view.accepted, Color::Cyan), (right, "drained/s", &view.stored, Color::Green)]
    {
        let data = newest(history, area.width);
        let most = number(data.iter().copied().max().unwrap_or(0));
        let block = Block::new().borders(Borders::TOP).title(format!(" {name}, at most {most} "));
        frame.render_widget(Sparkline::default().block(block).data(data).style(Style::new().fg(color)), area);
    }
}

/// As many as there is room for.
fn newest(history: &VecDeque<u64>, width: u16) -> Vec<u64> {
    history.iter().skip(history.len().saturating_sub(usize::from(width))).copied().collect()
}

fn draw_ids(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, sort: Sort) {
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Fill(2),
    ];
    let title = format!(" ids by {} ", if sort == Sort::Oldest { "age of the oldest report" } else { "backlog" });
    let head = Row::new(["ID", "STATE", "  BACKLOG", "     SIZE", " OLDEST", "  NEXT", "LAST ERROR"]).bold();
    let table = Table::new(snapshot.streams.iter().map(row), widths).header(head);
    frame.render_widget(table.block(Block::new().borders(Borders::TOP).title(title)), area);
}

fn row(stream: &Stream) -> Row<'static> {
    let span = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), age);
    let row = Row::new([
        shown(&stream.id),
        shown(&stream.state),
        format!("{:>9}", number(stream.backlog)),
        format!("{:>9}", size(stream.bytes)),
        format!("{:>7}", span(stream.oldest_age_s)),
        format!("{:>6}", span(stream.next_attempt_s)),
        stream.error(),
    ]);
    if stream.last_error.is_some() && stream.state == "retrying" { row.fg(Color::Red) } else { row }
}

fn draw_letters(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let title = format!(" {}: forebay dead-letters ", counted(snapshot.status.audit.dead, "dead letter"));
    let letters = snapshot
        .letters
        .iter()
        .map(|letter| Row::new([shown(&letter.key), format!("{:>7}", since(&letter.dead_at)), shown(&letter.reason)]));
    let table = Table::new(letters, [Constraint::Fill(2), Constraint::Length(7), Constraint::Fill(4)]);
    frame.render_widget(table.block(Block::new().borders(Borders::TOP).title(title)), area);
}
