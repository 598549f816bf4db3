//! A picture laid out in lines of a width, and of a height if that is bounded.

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    picture::Picture,
    table::Piece,
    ui::{Seen, Ui},
};
use crate::output::Mood;

/// Between columns, and between the parts of the first line.
const GAP: &str = "  ";
/// Rows that the table keeps that is not chosen, and lines that problems keep, when there is little room.
const FEW: usize = 3;

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub struct Canvas {
    /// Columns.
    pub width: usize,
    /// Lines. `None`: as many as there are, and nothing about keys.
    pub height: Option<usize>,
    /// Colours are wanted.
    pub color: bool,
}

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its lines.
    pub lines: Vec<Line<'static>>,
    /// What keys can act on.
    pub seen: Seen,
}

impl Frame {
    /// Lays a picture out.
    pub fn new(mut picture: Picture, ui: &Ui, canvas: &Canvas) -> Self {
        let mut lines = vec![canvas.first_line(&picture.head)];
        if let Some(operation) = &picture.operation {
            lines.push(Line::from(cut(operation, canvas.width)));
        }
        let mut problems = match (&picture.tables, picture.problems.as_slice()) {
            (None, []) => Vec::new(),
            (_, problems) => canvas.problem_lines(problems),
        };
        let rows: [usize; 2] = picture
            .tables
            .as_ref()
            .map_or([0, 0], |tables| [tables[0].rows.len(), tables[1].rows.len()]);
        let mut room = rows;
        if let Some(height) = canvas.height {
            // For each table a blank line and a head; a blank line before the problems; the line about keys.
            let free = height.saturating_sub(lines.len() + 6);
            let most = free.saturating_sub(rows[0] + rows[1]).max(FEW.min(free));
            if problems.len() > most {
                let more = problems.len() - most.saturating_sub(1);
                problems.truncate(most.saturating_sub(1));
                problems.push(Line::from(format!("and {more} lines more")));
            }
            room = share(rows, free.saturating_sub(problems.len()), ui.chosen);
        }
        let mut seen = Seen::default();
        if let Some(tables) = &mut picture.tables {
            for (n, table) in tables.iter_mut().enumerate() {
                table.sort(ui.sort[n]);
                let shown = table.fit(canvas.width);
                let last_top = rows[n].saturating_sub(room[n]);
                let top = ui.top[n].min(last_top);
                lines.push(Line::default());
                let chosen = canvas.height.is_some() && ui.chosen == n;
                lines.push(head_line(&table.head(&shown), &shown, ui.sort[n], chosen));
                for row in table.rows.iter().skip(top).take(room[n]) {
                    lines.push(canvas.line(table.row(row, &shown)));
                }
                seen.columns[n] = shown.iter().map(|(column, _)| *column).collect();
                seen.last_top[n] = last_top;
            }
        }
        lines.push(Line::default());
        lines.extend(problems);
        if let Some(height) = canvas.height {
            let keys = keys_line(&picture, ui, rows, room);
            let last = height.saturating_sub(1);
            lines.truncate(last);
            lines.resize(last, Line::default());
            lines.push(Line::from(Span::styled(
                cut(&keys, canvas.width),
                Style::new().add_modifier(Modifier::DIM),
            )));
        }
        Self { lines, seen }
    }

    /// The lines without colours.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let line: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Rows of each table that are seen if there is room for so many: all, or else first of all those of the chosen one.
fn share(rows: [usize; 2], room: usize, chosen: usize) -> [usize; 2] {
    if rows[0] + rows[1] <= room {
        return rows;
    }
    let (one, other) = (rows[chosen], rows[1 - chosen]);
    let kept = one.min(room.saturating_sub(other.min(FEW)));
    let mut shares = [0; 2];
    shares[chosen] = kept;
    shares[1 - chosen] = other.min(room - kept);
    shares
}

fn head_line(names: &[String], shown: &[(usize, usize)], sort: usize, chosen: bool) -> Line<'static> {
    let mut spans = Vec::new();
    for (name, (column, _)) in names.iter().zip(shown) {
        let mut style = Style::new().add_modifier(Modifier::BOLD);
        if chosen {
            style = style.add_modifier(Modifier::REVERSED);
        }
        if !spans.is_empty() {
            spans.push(Span::styled(GAP, style));
        }
        if *column == sort {
            style = style.add_modifier(Modifier::UNDERLINED);
        }
        spans.push(Span::styled(name.clone(), style));
    }
    Line::from(spans)
}

/// What keys do, how the chosen table is sorted, and which rows are not seen.
fn keys_line(picture: &Picture, ui: &Ui, rows: [usize; 2], room: [usize; 2]) -> String {
    let n = ui.chosen;
    let name = ["nodes", "shards"][n];
    let mut text = "q quit  tab other table".to_owned();
    if let Some(column) = picture
        .tables
        .as_ref()
        .and_then(|tables| tables[n].columns.get(ui.sort[n]))
    {
        text.push_str(&format!("  s sort ({name} by {})", column.name));
    }
    if room[n] < rows[n] {
        let top = ui.top[n].min(rows[n] - room[n]);
        let last = top + room[n];
        text.push_str(&format!("  up/down {name} {}-{last} of {}", top + 1, rows[n]));
    }
    text
}

impl Canvas {
    /// The parts about the cluster that fit.
    fn first_line(&self, head: &[(u8, Piece)]) -> Line<'static> {
        let mut parts: Vec<&(u8, Piece)> = head.iter().collect();
        let needs = |parts: &[&(u8, Piece)]| {
            let texts = parts
                .iter()
                .map(|(_, (text, _))| text.chars().count() + GAP.len());
            texts.sum::<usize>()
        };
        while needs(&parts) > self.width + GAP.len() {
            let least = parts.iter().enumerate().max_by_key(|(_, (rank, _))| *rank);
            match least.map(|(place, (rank, _))| (place, *rank)) {
                Some((place, 1..)) => _ = parts.remove(place),
                _ => break,
            }
        }
        self.line(parts.into_iter().map(|(_, piece)| piece.clone()).collect())
    }

    fn line(&self, pieces: Vec<Piece>) -> Line<'static> {
        let mut spans = Vec::new();
        for piece in pieces {
            if !spans.is_empty() {
                spans.push(Span::raw(GAP));
            }
            spans.push(self.span(piece));
        }
        Line::from(spans)
    }

    fn span(&self, (text, mood): Piece) -> Span<'static> {
        let color = match (self.color, mood) {
            (false, _) | (_, Mood::Plain) => return Span::raw(text),
            (_, Mood::Good) => Color::Green,
            (_, Mood::Warn) => Color::Yellow,
            (_, Mood::Bad) => Color::Red,
        };
        Span::styled(text, Style::new().fg(color))
    }

    fn problem_lines(&self, problems: &[(Piece, String)]) -> Vec<Line<'static>> {
        if problems.is_empty() {
            return vec![Line::from(self.span(("all is well".to_owned(), Mood::Good)))];
        }
        let mut lines = Vec::new();
        for ((word, mood), text) in problems {
            let mut wrapped = wrap(&format!("{word}: {text}"), self.width).into_iter();
            let first = wrapped.next().unwrap_or_default();
            let rest = first.get(word.len()..).unwrap_or_default().to_owned();
            lines.push(Line::from(vec![
                self.span((word.clone(), *mood)),
                Span::raw(rest),
            ]));
            lines.extend(wrapped.map(Line::from));
        }
        lines
    }
}

/// Text in lines of a width, those after the first indented. Words that are longer are not divided.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let empty = line.trim().is_empty();
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, GAP.to_owned()));
        } else if !empty {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// The beginning of a text that does not fit.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(width.saturating_sub(3)).collect();
    kept.push_str("...");
    kept
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
