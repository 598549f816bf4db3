//! What text may be: names, titles, messages, passwords.
//!
//! User names are ASCII, so that no two look alike, and are reserved in lower case. Other text is any Unicode without control characters and without
//! the marks that turn the direction of what comes after; nothing in it is markup, and who shows it must escape it.

use crate::limits::{MAX_NAME, MAX_PASSWORD, MIN_NAME, MIN_PASSWORD};

/// Why a text is refused; for the user who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// A user name.
    #[error(
        "a user name has {MIN_NAME} to {MAX_NAME} letters a-z, digits, and . _ - between them, and begins with a letter"
    )]
    Name,
    /// A password.
    #[error("a password has {MIN_PASSWORD} to {MAX_PASSWORD} bytes")]
    Password,
    /// Nothing to see.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// More than is stored.
    #[error("{what} has {bytes} bytes; at most {most} are allowed")]
    Long {
        /// What.
        what: &'static str,
        /// Of the text.
        bytes: usize,
        /// Allowed.
        most: usize,
    },
    /// What does not show, or shows something else.
    #[error("{what} has a control character (U+{point:04X}) in it")]
    Control {
        /// What.
        what: &'static str,
        /// The code point.
        point: u32,
    },
}

/// The form in which a user name is reserved.
///
/// # Errors
/// [`BadText::Name`].
pub fn fold_name(name: &str) -> Result<String, BadText> {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let good = (MIN_NAME..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    if good {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(BadText::Name)
    }
}

/// Refuses passwords that are too short, and those that cost too much to look at.
///
/// # Errors
/// [`BadText::Password`].
pub fn check_password(password: &str) -> Result<(), BadText> {
    if (MIN_PASSWORD..=MAX_PASSWORD).contains(&password.len()) {
        Ok(())
    } else {
        Err(BadText::Password)
    }
}

/// One line for people: a display name, a title. White space around it is cut off.
///
/// # Errors
/// See [`BadText`].
pub fn line(what: &'static str, text: &str, most: usize) -> Result<String, BadText> {
    checked(what, text, most, false)
}

/// Text of several lines: a greeting. White space around it is cut off.
///
/// # Errors
/// See [`BadText`].
pub fn body(what: &'static str, text: &str, most: usize) -> Result<String, BadText> {
    checked(what, text, most, true)
}

/// A message: it is stored as it was written, the white space around it, too.
///
/// # Errors
/// See [`BadText`].
pub fn message(text: &str, most: usize) -> Result<(), BadText> {
    checked("a message", text, most, true).map(drop)
}

fn checked(what: &'static str, text: &str, most: usize, lines: bool) -> Result<String, BadText> {
    let bytes = text.len();
    if bytes > most {
        return Err(BadText::Long { what, bytes, most });
    }
    let text = text.trim();
    if !text.chars().any(|c| !c.is_whitespace() && !is_invisible(c)) {
        return Err(BadText::Empty(what));
    }
    let is_bad = |c: &char| (c.is_control() && !(lines && matches!(c, '\n' | '\t'))) || turns_direction(*c);
    match text.chars().find(is_bad) {
        Some(c) => Err(BadText::Control {
            what,
            point: c.into(),
        }),
        None => Ok(text.to_owned()),
    }
}

/// Embeddings, overrides and isolates (Unicode, UAX 9).
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Takes no room: joiners, marks of direction. Needed in emoji and some scripts, but no text by themselves.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::{BadText, body, check_password, fold_name, line, message};

    #[test]
    fn names() {
        assert_eq!(fold_name("Alice.B-2").unwrap(), "alice.b-2");
        for bad in [
            "",
            "al",
            "2alice",
            "alice.",
            "al ice",
            "älice",
            "a/../b",
            "alice\0",
            &"a".repeat(33),
        ] {
            assert_eq!(fold_name(bad), Err(BadText::Name), "{bad:?}");
        }
    }

    #[test]
    fn lines_and_bodies() {
        assert_eq!(
            line("a title", "  Über <b>alles</b> 👨‍👩‍👧 ", 64).unwrap(),
            "Über <b>alles</b> 👨‍👩‍👧"
        );
        assert_eq!(body("a message", "a\n\tb", 64).unwrap(), "a\n\tb");
        let control = |text: &str| matches!(line("a title", text, 64), Err(BadText::Control { .. }));
        assert!(control("a\nb") && control("a\u{1b}[31mb") && control("a\u{202e}b"));
        assert_eq!(line("a title", " \u{200b} ", 64), Err(BadText::Empty("a title")));
        assert_eq!(message(" as it is \n", 64), Ok(()));
        assert_eq!(message(" \n", 64), Err(BadText::Empty("a message")));
        let long = body("a message", "four", 3).unwrap_err();
        assert_eq!(long.to_string(), "a message has 4 bytes; at most 3 are allowed");
    }

    #[test]
    fn passwords() {
        assert!(check_password("correct horse").is_ok());
        assert_eq!(check_password("short").unwrap_err(), BadText::Password);
        assert_eq!(check_password(&"x".repeat(257)).unwrap_err(), BadText::Password);
    }
}
