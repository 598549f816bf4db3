//! Results on standard output: tables for people, JSON for programs.
//!
//! One result is one table or one JSON value in one line; streams (`watch`, `range --all`) are one line for each item. Colours are
//! used only on a terminal and never when `NO_COLOR` is set. Messages and progress go to standard error, not here.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::text::{self, Encoding};

/// The form of results and errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and lines for people.
    #[default]
    Table,
    /// JSON, one value in each line.
    Json,
}

/// Where a command's results go.
pub struct Output {
    out: Box<dyn Write + Send>,
    /// Table or JSON.
    pub format: Format,
    /// How keys and values are shown.
    pub encoding: Encoding,
    color: bool,
    wrap: bool,
}

/// What a table's cell means, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

/// Spaces between columns.
const COLUMN_GAP: u16 = 2;

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Field {
    text: String,
    mood: Mood,
    right: bool,
}

impl Field {
    /// Text, to the left.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            mood: Mood::Plain,
            right: false,
        }
    }

    /// A number, to the right.
    pub fn number(number: impl ToString) -> Self {
        Self {
            text: number.to_string(),
            mood: Mood::Plain,
            right: true,
        }
    }

    /// With a meaning.
    pub fn mood(mut self, mood: Mood) -> Self {
        self.mood = mood;
        self
    }
}

/// True if `stream` is a terminal and the user did not ask for no colour.
pub fn wants_color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

impl Output {
    /// Standard output.
    pub fn stdout(format: Format, encoding: Encoding) -> Self {
        let stdout = io::stdout();
        let color = wants_color(&stdout);
        let wrap = stdout.is_terminal();
        Self {
            out: Box::new(io::BufWriter::new(stdout)),
            format,
            encoding,
            color,
            wrap,
        }
    }

    /// Any writer, without colours or wrapping.
    pub fn new(out: impl Write + Send + 'static, format: Format, encoding: Encoding) -> Self {
        Self {
            out: Box::new(out),
            format,
            encoding,
            color: false,
            wrap: false,
        }
    }

    /// True if results are JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line of text.
    pub fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", line.as_ref())
    }

    /// One JSON value in one line.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// Bytes as they are, nothing added.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// A line of text, or `value` as JSON.
    pub fn result(&mut self, line: impl AsRef<str>, value: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Table => self.line(line),
            Format::Json => self.json(value),
        }
    }

    /// A table; without a header if that is empty.
    pub fn table(&mut self, header: &[&str], rows: Vec<Vec<Field>>) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if self.wrap {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if !header.is_empty() {
            table.set_header(header.iter().map(|name| {
                let cell = Cell::new(name);
                if self.color {
                    cell.add_attribute(Attribute::Bold)
                } else {
                    cell
                }
            }));
        }
        for row in rows {
            table.add_row(row.into_iter().map(|field| self.cell(field)));
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, COLUMN_GAP));
        });
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn cell(&self, field: Field) -> Cell {
        let mut cell = Cell::new(field.text);
        if field.right {
            cell = cell.set_alignment(CellAlignment::Right);
        }
        match (self.color, field.mood) {
            (false, _) | (_, Mood::Plain) => cell,
            (_, Mood::Good) => cell.fg(Color::Green),
            (_, Mood::Warn) => cell.fg(Color::Yellow),
            (_, Mood::Bad) => cell.fg(Color::Red),
        }
    }

    /// A word with a meaning, coloured if colours are on.
    pub fn paint(&self, word: &str, mood: Mood) -> String {
        let code = match (self.color, mood) {
            (false, _) | (_, Mood::Plain) => return word.into(),
            (_, Mood::Good) => 32,
            (_, Mood::Warn) => 33,
            (_, Mood::Bad) => 31,
        };
        format!("\x1b[{code}m{word}\x1b[0m")
    }

    /// Hands what was written to the reader: between the items of a stream, and at the end.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A JSON object in which some fields are bytes. They are text if all of them are valid UTF-8, otherwise all are base64, and the field
/// `enc` says which: `utf8` or `base64` (or `hex`, where hex was asked for).
pub fn bytes_object(encoding: Encoding, bytes: &[(&str, &[u8])], rest: Value) -> Value {
    let utf8: Option<Vec<&str>> = bytes.iter().map(|(_, b)| std::str::from_utf8(b).ok()).collect();
    let mut object = Map::new();
    let mut put = |enc: &str, values: Vec<String>| {
        for ((name, _), value) in bytes.iter().zip(values) {
            object.insert((*name).to_owned(), value.into());
        }
        object.insert("enc".into(), enc.into());
    };
    match (encoding, utf8) {
        (Encoding::Text, Some(texts)) => put("utf8", texts.into_iter().map(str::to_owned).collect()),
        (Encoding::Hex, _) => put("hex", bytes.iter().map(|(_, b)| text::show_hex(b)).collect()),
        (Encoding::Text | Encoding::Base64, _) => {
            put(
                "base64",
                bytes.iter().map(|(_, b)| text::show_base64(b)).collect(),
            );
        }
    }
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    Value::Object(object)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    /// An output whose text a test can read.
    #[derive(Clone, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn output(&self, format: Format) -> Output {
            Output::new(self.clone(), format, Encoding::Text)
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn tables_are_plain_and_aligned() {
        let page = Page::default();
        let mut out = page.output(Format::Table);
        let row = |name: &str, n: u64| vec![Field::text(name).mood(Mood::Bad), Field::number(n)];
        out.table(&["NAME", "COUNT"], vec![row("a", 5), row("longer", 12345)])
            .unwrap();
        assert_eq!(page.text(), "NAME    COUNT\na           5\nlonger  12345\n");
        assert_eq!(out.paint("x", Mood::Bad), "x");
    }

    #[test]
    fn bytes_in_json_say_their_encoding() {
        let shown = |encoding, value: &[u8]| {
            bytes_object(
                encoding,
                &[("key", b"k"), ("value", value)],
                json!({"version": 1}),
            )
        };
        assert_eq!(
            shown(Encoding::Text, "ü\n".as_bytes()),
            json!({"key": "k", "value": "ü\n", "enc": "utf8", "version": 1})
        );
        assert_eq!(
            shown(Encoding::Text, b"\xff"),
            json!({"key": "aw==", "value": "/w==", "enc": "base64", "version": 1})
        );
        assert_eq!(
            shown(Encoding::Hex, b"\xff"),
            json!({"key": "6b", "value": "ff", "enc": "hex", "version": 1})
        );
    }
}
