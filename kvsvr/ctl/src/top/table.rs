//! Tables that fit: columns are left out by importance until the rest has room.

use std::cmp::Ordering;

use crate::output::Mood;

/// Spaces between columns.
const GAP: usize = 2;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub name: &'static str,
    /// Of those that do not fit, the ones with the greatest number go first. 0 stays.
    pub rank: u8,
    /// What usually fits, so that columns do not move with each digit.
    pub width: usize,
    /// Numbers stand to the right, and are sorted with the greatest first.
    pub number: bool,
}

/// What rows are sorted by.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// Not known: last.
    None,
    /// The greatest first.
    Most(f64),
    /// The least first.
    Least(f64),
    /// By the alphabet.
    Text(String),
}

impl Key {
    fn order(&self, other: &Key) -> Ordering {
        match (self, other) {
            (Key::None, Key::None) => Ordering::Equal,
            (Key::None, _) => Ordering::Greater,
            (_, Key::None) => Ordering::Less,
            (Key::Most(a), Key::Most(b)) => b.total_cmp(a),
            (Key::Least(a), Key::Least(b)) => a.total_cmp(b),
            (Key::Text(a), Key::Text(b)) => a.cmp(b),
            // A column has keys of one kind.
            _ => Ordering::Equal,
        }
    }
}

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// What it means.
    pub mood: Mood,
    /// Its place when rows are sorted by it.
    pub key: Key,
}

impl Cell {
    /// Text, sorted by the alphabet.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            key: Key::Text(text.clone()),
            text,
            mood: Mood::Plain,
        }
    }

    /// A number, sorted with the greatest first.
    pub fn number(text: impl ToString, number: f64) -> Self {
        Self {
            text: text.to_string(),
            mood: Mood::Plain,
            key: Key::Most(number),
        }
    }

    /// A number, sorted with the least first.
    pub fn least(text: impl ToString, number: f64) -> Self {
        Self {
            key: Key::Least(number),
            ..Self::number(text, number)
        }
    }

    /// What is not known.
    pub fn unknown() -> Self {
        Self {
            text: "-".to_owned(),
            mood: Mood::Plain,
            key: Key::None,
        }
    }

    /// With a meaning.
    pub fn mood(mut self, mood: Mood) -> Self {
        self.mood = mood;
        self
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its columns.
    pub columns: &'static [Column],
    /// A cell for each column.
    pub rows: Vec<Vec<Cell>>,
}

/// A part of a line.
pub type Piece = (String, Mood);

impl Table {
    /// Sorts the rows by a column, and those that are equal by the first.
    pub fn sort(&mut self, column: usize) {
        self.rows.sort_by(|a, b| {
            let by = |n: usize| match (a.get(n), b.get(n)) {
                (Some(a), Some(b)) => a.key.order(&b.key),
                _ => Ordering::Equal,
            };
            by(column).then_with(|| by(0))
        });
    }

    /// The columns that have room in a line of this width, and their widths.
    pub fn fit(&self, width: usize) -> Vec<(usize, usize)> {
        let wide = |(n, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(n));
            let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            (n, widest.max(column.width).max(column.name.chars().count()))
        };
        let mut shown: Vec<(usize, usize)> = self.columns.iter().enumerate().map(wide).collect();
        let needs = |shown: &[(usize, usize)]| shown.iter().map(|(_, w)| w + GAP).sum::<usize>();
        while needs(&shown) > width + GAP {
            let rank = |n: usize| self.columns.get(n).map_or(0, |column| column.rank);
            // Of equals, the one to the right.
            let least = shown.iter().enumerate().max_by_key(|(_, (n, _))| rank(*n));
            match least.map(|(place, (n, _))| (place, rank(*n))) {
                Some((place, 1..)) => _ = shown.remove(place),
                _ => break,
            }
        }
        shown
    }

    /// The heads of the columns that are shown, as one line, and where each stands in it.
    pub fn head(&self, shown: &[(usize, usize)]) -> Vec<String> {
        let head = |&(n, width): &(usize, usize)| {
            let column = self.columns.get(n)?;
            Some(pad(column.name, width, column.number))
        };
        shown.iter().filter_map(head).collect()
    }

    /// A row of the columns that are shown.
    pub fn row(&self, row: &[Cell], shown: &[(usize, usize)]) -> Vec<Piece> {
        let cell = |&(n, width): &(usize, usize)| {
            let (column, cell) = (self.columns.get(n)?, row.get(n)?);
            Some((pad(&cell.text, width, column.number), cell.mood))
        };
        shown.iter().filter_map(cell).collect()
    }
}

fn pad(text: &str, width: usize, right: bool) -> String {
    if right {
        format!("{text:>width$}")
    } else {
        format!("{text:<width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column {
            name: "ID",
            rank: 0,
            width: 2,
            number: true,
        },
        Column {
            name: "NAME",
            rank: 2,
            width: 6,
            number: false,
        },
        Column {
            name: "RATE",
            rank: 1,
            width: 5,
            number: true,
        },
        Column {
            name: "MORE",
            rank: 2,
            width: 4,
            number: false,
        },
    ];

    fn table() -> Table {
        let row = |id: u64, rate: Option<f64>| {
            vec![
                Cell::least(id, id as f64),
                Cell::text(format!("n{id}")),
                rate.map_or(Cell::unknown(), |rate| Cell::number(rate, rate)),
                Cell::text("same"),
            ]
        };
        Table {
            columns: COLUMNS,
            rows: vec![
                row(2, Some(5.0)),
                row(3, None),
                row(1, Some(70.0)),
                row(10, Some(5.0)),
            ],
        }
    }

    fn ids(table: &Table) -> Vec<&str> {
        table.rows.iter().map(|row| row[0].text.as_str()).collect()
    }

    #[test]
    fn columns_are_left_out_by_rank() {
        let names = |width| -> Vec<&str> {
            let shown = table().fit(width);
            shown.iter().map(|(n, _)| COLUMNS[*n].name).collect()
        };
        assert_eq!(names(23), ["ID", "NAME", "RATE", "MORE"]);
        assert_eq!(names(22), ["ID", "NAME", "RATE"]);
        assert_eq!(names(16), ["ID", "RATE"]);
        assert_eq!(names(8), ["ID"]);
        assert_eq!(names(1), ["ID"]);
    }

    #[test]
    fn rows_are_sorted_by_kind() {
        let mut table = table();
        table.sort(0);
        assert_eq!(ids(&table), ["1", "2", "3", "10"]);
        table.sort(2);
        assert_eq!(
            ids(&table),
            ["1", "2", "10", "3"],
            "the greatest first, what is not known last"
        );
        table.sort(1);
        assert_eq!(ids(&table), ["1", "10", "2", "3"]);
        table.sort(3);
        assert_eq!(ids(&table), ["1", "2", "3", "10"]);
    }
}
