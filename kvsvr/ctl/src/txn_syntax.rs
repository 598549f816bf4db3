//! The script language of `kvctl txn`: a page of lines that becomes one transaction.
//!
//! ```text
//! # Move a name, if nobody else has it.
//! if not exists(name/alice)
//! if value(user/7) == "old name"
//! then
//!   put name/alice "7" ttl 10m
//!   del "name/old name"
//!   append log/7 "renamed"
//! else
//!   get name/alice
//! ```
//!
//! - A line is a condition (`if`), a branch (`then`, `else`), an operation, or empty. All conditions must hold for `then` to run.
//!   Without conditions, `then` may be left out.
//! - `#` at the start of a word begins a comment.
//! - A key or value is a bare word, or a string in double quotes with the escapes of [`text`], or bytes as `x"00ff"`
//!   (hex) or `b64"AP8="` (base64). In conditions, bare words end at `( ) = ! < >`.
//!
//! Limits of the server are not checked here, and nothing is sent: this is a pure function of the script.

use std::{iter::Peekable, mem, time::Duration, vec};

use bytes::Bytes;
use kvsvr_client::{Compare, Op, PutOptions, RangeOptions, Txn, prefix_end};
use thiserror::Error;

use crate::text::{self, TextError};

/// What `kvctl txn --help` says about the language.
pub const HELP: &str = r#"SCRIPT
  One line each: conditions, then operations. If all conditions hold, the operations under `then`
  run, otherwise those under `else`. All of it happens atomically within the partition.

  if version(KEY) == N        also !=, <, >; a missing key has version 0
  if value(KEY) == VALUE      also !=, <, > (by bytes); a missing key has no value
  if create_rev(KEY) == N     revision that created the key; 0 = missing
  if mod_rev(KEY) == N        revision that changed it last; 0 = missing
  if exists(KEY)              or: if not exists(KEY)
  if COND and COND            the same as two lines
  then
    put KEY VALUE [ttl 10s] [lease ID]
    del KEY
    del-range START [END]     keys in [START, END); without END: to the end
    del-prefix PREFIX
    incr KEY [DELTA]          adds to the number at KEY, by default 1
    append PREFIX VALUE [ttl 10s]
    get KEY
    range START [END] [limit N] [reverse] [keys-only]
    prefix PREFIX [limit N] [reverse] [keys-only]
  else
    ...
  # a comment

  KEY and VALUE are bare words, "strings" with \n \t \xNN \" \\,
  x"00ff" (hex) or b64"AP8=" (base64).

  Example:
    printf 'if not exists(lock)\nput lock me ttl 30s\nelse\nget lock\n' | kvctl txn jobs"#;

/// Where a script is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SyntaxError {
    /// The message with the line of `script` it is about, and a mark under the place.
    pub fn with_source(&self, script: &str) -> String {
        let source = script.lines().nth(self.line - 1).unwrap_or_default();
        let indent: String = source
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        format!("{self}\n  {source}\n  {indent}^")
    }
}

/// The transaction that a script describes.
pub fn parse(script: &str) -> Result<Txn, SyntaxError> {
    let mut parser = Parser {
        txn: Txn::new(),
        branch: Branch::Start,
        operations: 0,
    };
    for (index, line) in script.lines().enumerate() {
        let failed = |error: TextError| SyntaxError {
            line: index + 1,
            column: error.at + 1,
            message: error.message,
        };
        let tokens = lex(line).map_err(failed)?;
        let mut line = Line {
            end: line.chars().count(),
            tokens: tokens.into_iter().peekable(),
        };
        parser.line(&mut line).map_err(failed)?;
    }
    if parser.operations == 0 {
        return Err(SyntaxError {
            line: script.lines().count().max(1),
            column: 1,
            message: "the script has no operation, such as: put KEY VALUE".into(),
        });
    }
    Ok(parser.txn)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Branch {
    Start,
    Then,
    Else,
}

struct Parser {
    txn: Txn,
    branch: Branch,
    operations: usize,
}

impl Parser {
    fn line(&mut self, line: &mut Line) -> Result<(), TextError> {
        let Some(first) = line.tokens.next() else {
            return Ok(());
        };
        let (at, word) = first.keyword()?;
        match word.as_str() {
            "if" => self.conditions(at, line)?,
            "then" => self.enter(at, Branch::Then)?,
            "else" => self.enter(at, Branch::Else)?,
            word => {
                let op = operation(at, word, line)?;
                self.operations += 1;
                let txn = mem::take(&mut self.txn);
                self.txn = if self.branch == Branch::Else {
                    txn.or_else(op)
                } else {
                    txn.then(op)
                };
                if self.branch == Branch::Start {
                    self.branch = Branch::Then;
                }
            }
        }
        line.done()
    }

    fn enter(&mut self, at: usize, branch: Branch) -> Result<(), TextError> {
        match (branch, self.branch) {
            (Branch::Then, Branch::Start) | (Branch::Else, Branch::Start | Branch::Then) => {
                self.branch = branch;
                Ok(())
            }
            (Branch::Then, Branch::Else) => error(at, "`then` must come before `else`"),
            (Branch::Then, _) => error(at, "`then` must come before the first operation, once"),
            _ => error(at, "there is one `else` already"),
        }
    }

    fn conditions(&mut self, at: usize, line: &mut Line) -> Result<(), TextError> {
        if self.branch != Branch::Start {
            return error(
                at,
                "conditions must come before `then`, `else` and the operations",
            );
        }
        loop {
            let condition = condition(line)?;
            self.txn = mem::take(&mut self.txn).when(condition);
            if !line.take_word("and") {
                return Ok(());
            }
        }
    }
}

fn condition(line: &mut Line) -> Result<Compare, TextError> {
    let negated = line.take_word("not");
    let (at, function) = line
        .expect("a condition such as exists(KEY) or version(KEY) == 0")?
        .keyword()?;
    if !["value", "version", "create_rev", "mod_rev", "exists"].contains(&function.as_str()) {
        return error(
            at,
            format!("unknown condition {function:?}: use value, version, create_rev, mod_rev or exists"),
        );
    }
    line.punctuation("(", "after the condition's name, as in exists(KEY)")?;
    let key = line.expect("a key")?.bytes()?;
    line.punctuation(")", "after the key")?;
    match (function.as_str(), negated) {
        ("exists", false) => return Ok(Compare::exists(key)),
        ("exists", true) => return Ok(Compare::absent(key)),
        (_, true) => return error(at, "`not` goes with exists(KEY) only; use != < > with the others"),
        _ => {}
    }
    let comparison = comparison(line)?;
    let operand = line.expect("what to compare with")?;
    if function == "value" {
        let (left, value) = (Compare::value(key), operand.bytes()?);
        return Ok(match comparison {
            Comparison::Equal => left.equals(value),
            Comparison::NotEqual => left.not_equals(value),
            Comparison::Less => left.less(value),
            Comparison::Greater => left.greater(value),
        });
    }
    let left = match function.as_str() {
        "version" => Compare::version(key),
        "create_rev" => Compare::create_rev(key),
        _ => Compare::mod_rev(key),
    };
    let number = operand.number("a version or revision: 0, 1, 2, ...")?;
    Ok(match comparison {
        Comparison::Equal => left.equals(number),
        Comparison::NotEqual => left.not_equals(number),
        Comparison::Less => left.less(number),
        Comparison::Greater => left.greater(number),
    })
}

#[derive(Clone, Copy)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    Greater,
}

fn comparison(line: &mut Line) -> Result<Comparison, TextError> {
    const EXPECTED: &str = "a comparison is ==, !=, < or >";
    let token = line.expect(EXPECTED)?;
    match token.kind {
        Kind::Punctuation("==" | "=") => Ok(Comparison::Equal),
        Kind::Punctuation("!=") => Ok(Comparison::NotEqual),
        Kind::Punctuation("<") => Ok(Comparison::Less),
        Kind::Punctuation(">") => Ok(Comparison::Greater),
        _ => error(token.at, EXPECTED),
    }
}

fn operation(at: usize, word: &str, line: &mut Line) -> Result<Op, TextError> {
    Ok(match word {
        "put" => put(line)?,
        "append" => append(line)?,
        "incr" => {
            let key = line.bytes("a key")?;
            let delta = match line.tokens.next() {
                Some(token) => token.number("a whole number")?,
                None => 1,
            };
            Op::increment(key, delta)
        }
        "get" => Op::get(line.bytes("a key")?),
        "del" => Op::delete(line.bytes("a key")?),
        "del-range" => {
            let start = line.bytes("the first key")?;
            let end = line
                .tokens
                .next()
                .map(Token::bytes)
                .transpose()?
                .unwrap_or_default();
            Op::delete_range(start, end)
        }
        "del-prefix" => {
            let start = line.bytes("a prefix")?;
            let end = prefix_end(&start);
            Op::delete_range(start, end)
        }
        "range" => {
            let start = line.bytes("the first key")?;
            let end = match line.tokens.next_if(|token| !token.is_range_option()) {
                Some(token) => token.bytes()?,
                None => Bytes::new(),
            };
            range(RangeOptions::between(start, end), line)?
        }
        "prefix" => range(RangeOptions::prefix(line.bytes("a prefix")?), line)?,
        other => {
            const KNOWN: &str = "put, del, del-range, del-prefix, incr, append, get, range or prefix";
            return error(at, format!("unknown operation {other:?}: use {KNOWN}"));
        }
    })
}

fn put(line: &mut Line) -> Result<Op, TextError> {
    let (key, value) = (line.bytes("a key")?, line.bytes("a value")?);
    let mut options = PutOptions::default();
    while let Some((at, option)) = line.option()? {
        match option.as_str() {
            "ttl" => options.ttl = Some(line.span()?),
            "lease" => options.lease = Some(line.expect("a lease's id")?.number("a lease's id")?),
            _ => return unknown_option(at, &option, "ttl, lease"),
        }
    }
    Ok(Op::put_with(key, value, options))
}

fn append(line: &mut Line) -> Result<Op, TextError> {
    let (prefix, value) = (line.bytes("a prefix")?, line.bytes("a value")?);
    let mut ttl = Duration::ZERO;
    while let Some((at, option)) = line.option()? {
        match option.as_str() {
            "ttl" => ttl = line.span()?,
            _ => return unknown_option(at, &option, "ttl"),
        }
    }
    Ok(Op::append_with_ttl(prefix, value, ttl))
}

fn range(mut range: RangeOptions, line: &mut Line) -> Result<Op, TextError> {
    while let Some((at, option)) = line.option()? {
        match option.as_str() {
            "limit" => range.limit = line.expect("a number of keys")?.number("a number of keys")?,
            "reverse" => range.reverse = true,
            "keys-only" => range.keys_only = true,
            _ => return unknown_option(at, &option, "limit, reverse, keys-only"),
        }
    }
    Ok(Op::range(&range))
}

fn unknown_option<T>(at: usize, option: &str, known: &str) -> Result<T, TextError> {
    error(
        at,
        format!("unknown option {option:?}, known here: {known}; quote values that contain spaces"),
    )
}

fn error<T>(at: usize, message: impl Into<String>) -> Result<T, TextError> {
    Err(TextError {
        at,
        message: message.into(),
    })
}

/// What is left of a line.
struct Line {
    end: usize,
    tokens: Peekable<vec::IntoIter<Token>>,
}

impl Line {
    fn expect(&mut self, what: &str) -> Result<Token, TextError> {
        match self.tokens.next() {
            Some(token) => Ok(token),
            None => error(self.end, format!("the line ends too early, expected {what}")),
        }
    }

    fn bytes(&mut self, what: &str) -> Result<Bytes, TextError> {
        self.expect(what)?.bytes()
    }

    fn span(&mut self) -> Result<Duration, TextError> {
        let token = self.expect("a time span, as in 10s")?;
        let at = token.at;
        let (_, word) = token.keyword()?;
        text::parse_span(&word).map_err(|e| TextError {
            at: at + e.at,
            message: e.message,
        })
    }

    fn option(&mut self) -> Result<Option<(usize, String)>, TextError> {
        self.tokens.next().map(Token::keyword).transpose()
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.tokens
            .next_if(|token| matches!(&token.kind, Kind::Word(w) if w == word))
            .is_some()
    }

    fn punctuation(&mut self, mark: &str, place: &str) -> Result<(), TextError> {
        let expected = format!("{mark} {place}");
        let token = self.expect(&expected)?;
        match token.kind {
            Kind::Punctuation(found) if found == mark => Ok(()),
            _ => error(token.at, format!("expected {expected}")),
        }
    }

    fn done(&mut self) -> Result<(), TextError> {
        match self.tokens.next() {
            None => Ok(()),
            Some(token) => error(
                token.at,
                "the line should end here; quote values that contain spaces",
            ),
        }
    }
}

struct Token {
    at: usize,
    kind: Kind,
}

enum Kind {
    Word(String),
    Str(Bytes),
    Punctuation(&'static str),
}

impl Token {
    /// True for the bare words that are options of a range; as a key they need quotes.
    fn is_range_option(&self) -> bool {
        matches!(&self.kind, Kind::Word(w) if ["limit", "reverse", "keys-only"].contains(&w.as_str()))
    }

    fn bytes(self) -> Result<Bytes, TextError> {
        match self.kind {
            Kind::Word(word) => Ok(word.into()),
            Kind::Str(bytes) => Ok(bytes),
            Kind::Punctuation(mark) => error(
                self.at,
                format!("expected a key or value, found {mark}; quote what contains it"),
            ),
        }
    }

    fn keyword(self) -> Result<(usize, String), TextError> {
        match self.kind {
            Kind::Word(word) => Ok((self.at, word)),
            _ => error(self.at, "expected a word here"),
        }
    }

    fn number<N: std::str::FromStr>(self, what: &str) -> Result<N, TextError> {
        match &self.kind {
            Kind::Word(word) => word.parse().map_err(|_| TextError {
                at: self.at,
                message: format!("{word:?} is not {what}"),
            }),
            _ => error(self.at, format!("expected {what}")),
        }
    }
}

/// The tokens of a line, with the character each begins at.
fn lex(line: &str) -> Result<Vec<Token>, TextError> {
    let condition = line.split_whitespace().next() == Some("if");
    let ends_word = |c: char| c.is_whitespace() || c == '"' || condition && "()=!<>".contains(c);
    let mut tokens = Vec::new();
    let mut chars = line.chars().enumerate().peekable();
    while let Some(&(at, c)) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '#' {
            break;
        } else if condition && "()=!<>".contains(c) {
            chars.next();
            let doubled = chars
                .next_if(|&(_, next)| next == '=' && (c == '=' || c == '!'))
                .is_some();
            tokens.push(Token {
                at,
                kind: Kind::Punctuation(mark(at, c, doubled)?),
            });
        } else {
            let mut word = String::new();
            while let Some((_, c)) = chars.next_if(|&(_, c)| !ends_word(c)) {
                word.push(c);
            }
            let kind = match chars.next_if(|&(_, c)| c == '"') {
                Some((quote, _)) => Kind::Str(string(at, &word, quote, &mut chars)?),
                None => Kind::Word(word),
            };
            tokens.push(Token { at, kind });
        }
    }
    Ok(tokens)
}

fn mark(at: usize, c: char, doubled: bool) -> Result<&'static str, TextError> {
    match (c, doubled) {
        ('(', _) => Ok("("),
        (')', _) => Ok(")"),
        ('=', true) => Ok("=="),
        ('=', false) => Ok("="),
        ('!', true) => Ok("!="),
        ('<', _) => Ok("<"),
        ('>', _) => Ok(">"),
        _ => error(at, "a lone ! means nothing here: use != or not exists(KEY)"),
    }
}

/// The string whose opening quote, at character `quote`, has just been read; `prefix` stood before it, from character `at` on.
fn string(
    at: usize,
    prefix: &str,
    quote: usize,
    chars: &mut impl Iterator<Item = (usize, char)>,
) -> Result<Bytes, TextError> {
    let parse_inner: fn(&str) -> Result<Bytes, TextError> = match prefix {
        "" => return quoted(quote, chars),
        "x" => text::parse_hex,
        "b64" => text::parse_base64,
        _ => {
            return error(
                at,
                r#"a string begins with a quote, or with x" (hex) or b64" (base64)"#,
            );
        }
    };
    let mut inner = String::new();
    for (_, c) in chars {
        if c == '"' {
            return parse_inner(&inner).map_err(|e| TextError {
                at: quote + 1 + e.at,
                message: e.message,
            });
        }
        inner.push(c);
    }
    error(quote, "the string has no closing quote in this line")
}

fn quoted(quote: usize, chars: &mut impl Iterator<Item = (usize, char)>) -> Result<Bytes, TextError> {
    let mut out = Vec::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok(out.into()),
            '\\' => out.push(text::parse_escape(at, chars)?),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    error(quote, "the string has no closing quote in this line")
}

#[cfg(test)]
#[path = "txn_syntax_tests.rs"]
mod tests;
