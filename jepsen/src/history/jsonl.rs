//! Histories as JSON lines: one [`Event`] a line, in order.
//!
//! Both directions are streams, so that a history need not fit into memory twice. Reading stops at the first line that is not an event (a
//! torn last line of a killed run, too): a history that is not whole proves nothing. Works on any reader and writer, opens no file.

use std::io::{self, BufRead, Write};

use super::Event;

/// Writes one event as one line.
///
/// # Errors
/// The writer's, or of the kind `InvalidData` if the event cannot be a line, which does not happen.
pub fn write_event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// Writes a history.
///
/// # Errors
/// As [`write_event`].
pub fn write(out: &mut impl Write, history: &[Event]) -> io::Result<()> {
    history.iter().try_for_each(|event| write_event(out, event))
}

/// The events of a reader, one at a time. Empty lines are left out.
///
/// # Errors
/// The reader's, or of the kind `InvalidData` with the line's number (from 1 on) if it is not an event.
pub fn events(reader: impl BufRead) -> impl Iterator<Item = io::Result<Event>> {
    let lines = reader.lines().enumerate();
    lines.filter_map(|(at, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(serde_json::from_str(&line).map_err(|e| bad_line(at + 1, &e))),
        Err(e) => Some(Err(e)),
    })
}

/// Reads a whole history.
///
/// # Errors
/// As [`events`].
pub fn read(reader: impl BufRead) -> io::Result<Vec<Event>> {
    events(reader).collect()
}

fn bad_line(line: usize, error: &serde_json::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("line {line} is not an event: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::samples;

    #[test]
    fn every_kind_of_event_comes_back() {
        let history = samples::one_of_each();
        let mut out = Vec::new();
        write(&mut out, &history).unwrap();
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), history.len());
        assert_eq!(read(&out[..]).unwrap(), history);
    }

    #[test]
    fn lines_are_these() {
        let mut out = Vec::new();
        write(&mut out, &samples::short()).unwrap();
        let golden = [
            r#"{"time":1,"process":3,"type":"invoke","call":{"f":"write","key":{"partition":0,"key":7},"value":5,"ttl_ms":0,"lease":0}}"#,
            r#"{"time":2,"process":3,"type":"ok","reply":{"is":"written","revision":11,"version":2}}"#,
            r#"{"time":3,"process":3,"type":"invoke","call":{"f":"read","key":{"partition":0,"key":7},"mode":{"at_least":11}}}"#,
            r#"{"time":4,"process":3,"type":"info","error":"TIMEOUT"}"#,
            r#"{"time":5,"process":4,"type":"seen","seen":"resumed"}"#,
        ];
        assert_eq!(
            String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(),
            golden
        );
    }

    #[test]
    fn a_torn_line_is_named() {
        let text = "\n{\"time\":4,\"process\":3,\"type\":\"info\",\"error\":\"TIMEOUT\"}\n{\"time\":4,\"pro";
        let error = read(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("line 3 is not an event"), "{error}");
    }
}
