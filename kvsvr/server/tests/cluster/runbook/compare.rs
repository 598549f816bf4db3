//! Compares what a command printed with what the document shows. Pure.
//!
//! What differs from run to run is made equal by few rules, the ones that the document's head names:
//!
//! - `…` in a line stands for anything, a line that is only `…` for any lines, also none;
//! - any run of spaces is one space, spaces at a line's end and empty lines at the end do not count;
//! - a time that ends in seconds or less (`250us`, `16.9ms`, `5 s`, `1m17s`) is equal to any other, so is a size (`0 B`, `52.3 GiB`), and so is a
//!   word of 16 or more hexadecimal digits.
//!
//! Everything else counts as it is: numbers without a unit, words, the order of lines.

/// Stands for anything.
const ANY: char = '…';
/// Shortest word of hexadecimal digits that is an id or a hash.
const HEX_DIGITS: usize = 16;
const SIZES: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
/// Longest first: `ms` before `m`.
const TIMES: [&str; 6] = ["ms", "us", "s", "m", "h", "d"];

/// Ok if they are the same; else the place in `expected` up to which they are, which is its length if too much was printed.
pub(crate) fn compare(expected: &[String], got: &[String]) -> Result<(), usize> {
    let (expected, got) = (without_blank_end(expected), without_blank_end(got));
    let wanted: Vec<String> = expected.iter().map(|line| normal(line)).collect();
    let lines: Vec<String> = got.iter().map(|line| normal(line)).collect();
    // After so many lines of `wanted`: how many lines of the output they may have taken, as one flag for each number.
    let mut taken = vec![false; lines.len() + 1];
    taken[0] = true;
    for (index, line) in wanted.iter().enumerate() {
        let mut next = vec![false; lines.len() + 1];
        if *line == ANY.to_string() {
            let first = taken.iter().position(|taken| *taken).unwrap_or(lines.len());
            next[first..].fill(true);
        } else {
            for at in (0..lines.len()).filter(|at| taken[*at]) {
                next[at + 1] = matches(line, &lines[at]);
            }
        }
        if !next.contains(&true) {
            return Err(index);
        }
        taken = next;
    }
    if taken[lines.len()] {
        Ok(())
    } else {
        Err(expected.len())
    }
}

fn without_blank_end(lines: &[String]) -> &[String] {
    let end = lines.iter().rposition(|line| !line.trim().is_empty());
    &lines[..end.map_or(0, |last| last + 1)]
}

/// True if a line is what the pattern says: its parts between `…`, in order, the first at the start, the last at the end.
fn matches(pattern: &str, line: &str) -> bool {
    let Some((first, rest)) = pattern.split_once(ANY) else {
        return pattern == line;
    };
    let Some(mut line) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split(ANY).collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match line.split_once(part) {
            Some((_, after)) => line = after,
            None => return false,
        }
    }
    line.ends_with(last)
}

/// A line with the same text for what may differ.
fn normal(line: &str) -> String {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut normal = String::new();
    let mut rest = line.as_str();
    while let Some(next) = rest.chars().next() {
        // A number or a word begins where none goes on.
        let begins = !normal.ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_');
        let found = begins.then(|| varying(rest)).flatten();
        let (text, length) = found.unwrap_or((&rest[..next.len_utf8()], next.len_utf8()));
        normal.push_str(text);
        rest = &rest[length..];
    }
    normal
}

/// What stands for the time, size or id that a text begins with, and how long that is in bytes.
fn varying(text: &str) -> Option<(&'static str, usize)> {
    let found = hex(text).map(|length| ("<id>", length));
    let found = found.or_else(|| size(text).map(|length| ("<size>", length)));
    found.or_else(|| time(text).map(|length| ("<time>", length)))
}

/// The length, if a word ends there.
fn whole(text: &str, length: usize) -> Option<usize> {
    let ends = !text[length..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
    ends.then_some(length)
}

fn hex(text: &str) -> Option<usize> {
    let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let length = text.find(|c| !is_digit(c)).unwrap_or(text.len());
    (length >= HEX_DIGITS).then(|| whole(text, length)).flatten()
}

/// The length of a number, which may have a fraction.
fn number(text: &str) -> Option<usize> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let length = digits(text);
    if length == 0 {
        return None;
    }
    let fraction = text[length..].strip_prefix('.').map_or(0, digits);
    Some(if fraction == 0 {
        length
    } else {
        length + 1 + fraction
    })
}

fn size(text: &str) -> Option<usize> {
    let length = number(text)?;
    let (length, unit) = unit(text, length, &SIZES)?;
    whole(text, length + unit.len())
}

/// Where the unit after a number begins, there may be a space before it, and the unit.
fn unit(text: &str, length: usize, units: &[&'static str]) -> Option<(usize, &'static str)> {
    let space = usize::from(text[length..].starts_with(' '));
    let rest = &text[length + space..];
    let fits = |unit: &&&str| rest.starts_with(**unit) && whole(rest, unit.len()).is_some();
    let unit = units.iter().find(fits)?;
    Some((length + space, unit))
}

fn time(text: &str) -> Option<usize> {
    // A whole one: "5 s".
    if let Some((length, unit)) = number(text).and_then(|length| unit(text, length, &TIMES)) {
        return unit.ends_with('s').then_some(length + unit.len());
    }
    // One of several parts: "1m17s".
    let (mut length, mut last) = (0, "");
    while let Some(digits) = number(&text[length..]) {
        let rest = &text[length + digits..];
        last = TIMES.iter().find(|unit| rest.starts_with(**unit))?;
        length += digits + last.len();
    }
    last.ends_with('s').then(|| whole(text, length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(expected: &str, got: &str, result: Result<(), usize>) {
        assert_eq!(
            compare(&lines(expected), &lines(got)),
            result,
            "{expected:?}, {got:?}"
        );
    }

    #[test]
    fn what_is_not_the_same_is_found_at_its_line() {
        check("a\nb", "a\nb", Ok(()));
        check("a\nb", "a\nc", Err(1));
        check("a\nb", "a", Err(1));
        check("a", "a\nb", Err(1));
        check("", "a", Err(0));
        check("a", "", Err(0));
        check("a\nb", "b\na", Err(0));
        check("a\n\nb\n\n", "a\n\nb", Ok(()));
        check("a\n\nb", "a\nb", Err(1));
    }

    #[test]
    fn the_sign_for_anything_is_bound_by_what_stands_around_it() {
        check("node … is up", "node 17 is up", Ok(()));
        check("node … is up", "node 17 is down", Err(0));
        check("node …", "a node 17", Err(0));
        check("…, … left", "1, 2, 3 left", Ok(()));
        check("a…a", "a", Err(0));
        check("a\n…\nb", "a\nb", Ok(()));
        check("a\n…\nb", "a\nx\ny\nb", Ok(()));
        check("a\n…\nb", "a\nx\ny", Err(2));
        check("…\nb\n…\nd", "b\nb\nc\nd", Ok(()));
        check("…\nb\n…\nd", "b\nd\ne", Err(4));
        check("…", "", Ok(()));
    }

    #[test]
    fn times_sizes_and_ids_are_equal_to_others() {
        for (a, b) in [
            ("done in 5.4s", "done in 812ms"),
            ("up 1m17s,", "up 3s,"),
            ("for 5 s: x", "for 31 s: x"),
            ("free 39.3 GiB (17.0 MiB)", "free 812 B (1.5 KiB)"),
            ("kvsvr (8b77bfbeb157b55c)", "kvsvr (ff39dc4159b0fb59)"),
            (
                "store 033cd819d49f4e8ffff6eb56abba1dc0",
                "store 0ae4722622caf2bb49a689d34dbbdacc",
            ),
            ("a    b  ", "a b"),
        ] {
            check(a, b, Ok(()));
        }
    }

    #[test]
    fn everything_else_counts() {
        for (a, b) in [
            ("3 of 3 nodes", "2 of 3 nodes"),
            ("step 6 of 25", "step 7 of 25"),
            ("3 shards", "4 shards"),
            ("10m", "30m"),
            ("1h01m", "2h01m"),
            ("5.4s", "39.3 GiB"),
            ("0.1.0", "0.2.0"),
            ("deadbeef", "deadbeee"),
            ("8b77bfbeb157b55c", "8b77bfbeb157b55cx"),
            ("n1s", "n2s"),
            ("127.0.0.1:7101", "127.0.0.1:7102"),
            ("5 sheep", "6 sheep"),
            ("ab", "a b"),
        ] {
            check(a, b, Err(0));
        }
    }
}
