//! Bytes as people type and read them: escapes, hex, base64, time spans.
//!
//! The text form is UTF-8 with the escapes `\n`, `\r`, `\t`, `\0`, `\\`, `\"` and `\xNN` (one byte). What is shown can be typed
//! back: [`parse_text`] undoes [`show_text`] for all bytes. Quoting for a shell is not done here.

use std::{fmt::Write as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use thiserror::Error;

use crate::limits::MAX_SPAN;

/// A key, value or time span that was typed and makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} (at character {})", .at + 1)]
pub struct TextError {
    /// Index of the offending character, from 0.
    pub at: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl TextError {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }
}

/// How keys and values are written on the command line and in results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Text with escapes.
    #[default]
    Text,
    /// Two hex digits for each byte.
    Hex,
    /// Base64 with padding (RFC 4648, section 4).
    Base64,
}

impl Encoding {
    /// The bytes that were typed.
    pub fn parse(self, typed: &str) -> Result<Bytes, TextError> {
        match self {
            Encoding::Text => parse_text(typed),
            Encoding::Hex => parse_hex(typed),
            Encoding::Base64 => parse_base64(typed),
        }
    }

    /// The bytes for people to read, in one line.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Text => show_text(bytes),
            Encoding::Hex => show_hex(bytes),
            Encoding::Base64 => STANDARD.encode(bytes),
        }
    }
}

/// Undoes [`show_text`]. Text without a backslash stands for itself.
pub fn parse_text(typed: &str) -> Result<Bytes, TextError> {
    if !typed.contains('\\') {
        return Ok(Bytes::copy_from_slice(typed.as_bytes()));
    }
    let mut out = Vec::with_capacity(typed.len());
    let mut chars = typed.chars().enumerate();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            out.push(parse_escape(at, &mut chars)?);
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out.into())
}

/// The byte of the escape whose backslash, at character `at`, has just been read.
pub(crate) fn parse_escape(
    at: usize,
    chars: &mut impl Iterator<Item = (usize, char)>,
) -> Result<u8, TextError> {
    match chars.next().map(|(_, c)| c) {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('"') => Ok(b'"'),
        Some('x') => {
            let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(16));
            match (digit(), digit()) {
                (Some(high), Some(low)) => Ok((high * 16 + low) as u8),
                _ => Err(TextError::new(at, r"\x needs two hex digits, as in \x0a")),
            }
        }
        Some(c) => Err(TextError::new(
            at,
            format!(r#"unknown escape \{c}: write \n \r \t \0 \\ \" or \xNN; a backslash itself is \\"#),
        )),
        None => Err(TextError::new(
            at,
            r"the text ends within an escape; a backslash itself is \\",
        )),
    }
}

/// The text form: printable characters as they are, everything else as escapes.
pub fn show_text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str(r"\n"),
                '\r' => out.push_str(r"\r"),
                '\t' => out.push_str(r"\t"),
                '\\' => out.push_str(r"\\"),
                c if is_plain(c) => out.push(c),
                c => push_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

/// True for characters that a terminal shows and that do not change how others are shown.
fn is_plain(c: char) -> bool {
    // Line and paragraph separators, zero-width and direction marks, byte order mark: invisible, so escaped.
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Two lower-case hex digits for each byte.
pub fn show_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Undoes [`show_hex`]; upper-case digits are accepted too.
pub fn parse_hex(typed: &str) -> Result<Bytes, TextError> {
    let mut out = Vec::with_capacity(typed.len() / 2);
    let mut high = None;
    for (at, c) in typed.chars().enumerate() {
        let digit =
            c.to_digit(16)
                .ok_or_else(|| TextError::new(at, format!("{c:?} is not a hex digit")))? as u8;
        high = match high {
            None => Some(digit),
            Some(high) => {
                out.push(high * 16 + digit);
                None
            }
        };
    }
    match high {
        None => Ok(out.into()),
        Some(_) => Err(TextError::new(
            typed.len(),
            "a hex digit is missing: each byte has two",
        )),
    }
}

/// Base64 with padding.
pub fn parse_base64(typed: &str) -> Result<Bytes, TextError> {
    match STANDARD.decode(typed) {
        Ok(bytes) => Ok(bytes.into()),
        Err(base64::DecodeError::InvalidByte(at, byte)) => Err(TextError::new(
            at,
            format!("{:?} is not a base64 character here", char::from(byte)),
        )),
        Err(error) => Err(TextError::new(0, format!("not base64: {error}"))),
    }
}

/// Base64 with padding.
pub fn show_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A time span: a number and a unit (`us`, `ms`, `s`, `m`, `h`, `d`), as in `500ms` or `1.5h`.
pub fn parse_span(typed: &str) -> Result<Duration, TextError> {
    let digits = typed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(typed.len());
    let (number, unit) = typed.split_at(digits);
    let seconds = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "" => {
            return Err(TextError::new(
                digits,
                "a time span needs a unit, as in 500ms, 10s, 5m, 1h, 2d",
            ));
        }
        other => {
            return Err(TextError::new(
                digits,
                format!("unknown unit {other:?}: use us, ms, s, m, h or d"),
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| TextError::new(0, "a time span begins with a number, as in 10s"))?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(span) if span <= MAX_SPAN => Ok(span),
        _ => Err(TextError::new(0, "the time span is longer than ten years")),
    }
}

/// A time span of at least a millisecond: what the server counts in. It takes zero for never.
pub fn parse_ttl(typed: &str) -> Result<Duration, TextError> {
    at_least_1ms(typed, "a TTL")
}

/// A deadline: as [`parse_ttl`].
pub fn parse_timeout(typed: &str) -> Result<Duration, TextError> {
    at_least_1ms(typed, "a timeout")
}

fn at_least_1ms(typed: &str, what: &str) -> Result<Duration, TextError> {
    match parse_span(typed)? {
        span if span.as_millis() > 0 => Ok(span),
        _ => Err(TextError::new(0, format!("{what} must be at least 1ms"))),
    }
}

/// A node's address as typed, without the spaces around it: HOST:PORT.
pub fn parse_endpoint(typed: &str) -> Result<String, String> {
    let address = typed.trim();
    let fits = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host_fits = match bare {
            Some(ipv6) => !ipv6.is_empty(),
            None => !host.is_empty() && !host.contains([':', '/', ' ']),
        };
        host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if fits {
        Ok(address.to_owned())
    } else {
        Err("HOST:PORT expected, as in 127.0.0.1:7101".into())
    }
}

/// A span for people: the largest unit that keeps it readable.
pub fn show_span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        0.0 => "0s".to_owned(),
        s if s < 1e-3 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.1}ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1}s"),
        s if s < 3600.0 => format!("{}m{:02}s", s as u64 / 60, s as u64 % 60),
        s if s < 86_400.0 => format!("{}h{:02}m", s as u64 / 3600, s as u64 % 3600 / 60),
        s => format!("{}d{:02}h", s as u64 / 86_400, s as u64 % 86_400 / 3600),
    }
}

/// A number of bytes for people, in powers of 1024.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// How often a second.
pub fn show_rate(rate: f64) -> String {
    // Slow ones are told from none.
    if rate > 0.0 && rate < 9.95 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

/// A shard in a sentence.
pub fn shard_name(shard: u32) -> String {
    match shard {
        0 => "the meta shard".to_owned(),
        shard => format!("shard {shard}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_can_be_typed_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for encoding in [Encoding::Text, Encoding::Hex, Encoding::Base64] {
                let shown = encoding.show(&bytes);
                prop_assert!(!shown.chars().any(char::is_control));
                prop_assert_eq!(encoding.parse(&shown).unwrap(), &bytes);
            }
        }

        #[test]
        fn text_that_is_shown_can_be_typed_back(text in any::<String>()) {
            prop_assert_eq!(parse_text(&show_text(text.as_bytes())).unwrap(), text.as_bytes());
        }

        #[test]
        fn any_typed_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = parse_text(&text);
            let _ = parse_hex(&text);
            let _ = parse_base64(&text);
            let _ = parse_span(&text);
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(
            parse_text(r#"a\n\t\r\0\\\"\xff\x0Az"#).unwrap(),
            &b"a\n\t\r\0\\\"\xff\x0az"[..]
        );
        assert_eq!(
            show_text("grüße\n\u{7f}\u{202e}".as_bytes()),
            r"grüße\n\x7f\xe2\x80\xae"
        );
        assert_eq!(show_text(b"a\xffb\x00"), r"a\xffb\x00");
        let error = parse_text(r"ab\q").unwrap_err();
        assert_eq!(error.at, 2);
        assert!(error.to_string().contains("at character 3"), "{error}");
        assert!(parse_text(r"\x1").is_err());
        assert!(parse_text("\\").is_err());
        assert!(parse_hex("abc").is_err());
        assert!(parse_hex("0g").is_err());
        assert!(parse_base64("a").is_err());
    }

    #[test]
    fn spans() {
        assert_eq!(parse_span("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_span("1.5h").unwrap(), Duration::from_secs(5400));
        assert_eq!(parse_span("0s").unwrap(), Duration::ZERO);
        for bad in ["10", "s", "10 weeks", "1.2.3s", "-1s", "999999999d", ""] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
        for short in ["0s", "1us", "999us"] {
            assert!(
                parse_ttl(short).is_err() && parse_timeout(short).is_err(),
                "{short}"
            );
        }
        assert_eq!(parse_ttl("1ms").unwrap(), Duration::from_millis(1));
        assert_eq!(show_span(Duration::ZERO), "0s");
        assert_eq!(show_span(Duration::from_micros(250)), "250us");
        assert_eq!(show_span(Duration::from_millis(1500)), "1.5s");
        assert_eq!(show_span(Duration::from_secs(3700)), "1h01m");
    }

    #[test]
    fn endpoints() {
        for good in ["127.0.0.1:7101", "db-1:7101", "[::1]:7101", " a:1 "] {
            assert_eq!(parse_endpoint(good).unwrap(), good.trim());
        }
        for bad in [
            "",
            "nonsense",
            "http://127.0.0.1:7101",
            ":7101",
            "a:",
            "a:0",
            "a:70000",
            "::1:7101",
        ] {
            assert!(parse_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(u64::MAX), "16384.0 PiB");
    }
}
