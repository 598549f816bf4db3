//! Transcripts: files with one JSON object a line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::Deserialize;

/// A line of a file.
#[derive(Deserialize)]
struct Line {
    conversation: String,
    seq: u64,
    from: String,
    text: String,
}

/// Something that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Speech {
    /// In the file.
    pub(super) line: usize,
    /// By who spoke first.
    pub(super) is_first: bool,
    pub(super) text: String,
}

/// Conversations of two, in the order in which they begin.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    pub(super) conversations: Vec<Vec<Speech>>,
    pub(super) lines: usize,
}

impl Transcript {
    /// From a file.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::parse(BufReader::new(file)).map_err(|error| format!("{shown}: {error}"))
    }

    fn parse(reader: impl BufRead) -> Result<Self, String> {
        let mut transcript = Self::default();
        let mut places: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
        for (number, line) in (1..).zip(reader.lines()) {
            let line = line.map_err(|error| format!("line {number}: {error}"))?;
            let line: Line =
                serde_json::from_str(&line).map_err(|error| format!("line {number}: {error}"))?;
            let new = transcript.conversations.len();
            let (place, speakers) = places
                .entry(line.conversation.clone())
                .or_insert((new, Vec::new()));
            if *place == new {
                transcript.conversations.push(Vec::new());
            }
            if !speakers.contains(&line.from) {
                speakers.push(line.from.clone());
            }
            if speakers.len() > 2 {
                return Err(format!(
                    "line {number}: {} has more than two speakers",
                    line.conversation
                ));
            }
            let conversation = &mut transcript.conversations[*place];
            if line.seq != conversation.len() as u64 + 1 {
                return Err(format!(
                    "line {number}: {} goes on with seq {}, not {}",
                    line.conversation,
                    line.seq,
                    conversation.len() + 1
                ));
            }
            conversation.push(Speech {
                line: number,
                is_first: speakers[0] == line.from,
                text: line.text,
            });
            transcript.lines += 1;
        }
        if transcript.lines == 0 {
            return Err("it is empty".to_owned());
        }
        Ok(transcript)
    }
}

#[cfg(test)]
mod tests {
    use super::Transcript;

    fn line(conversation: &str, seq: u64, from: &str) -> String {
        format!(r#"{{"conversation":"{conversation}","seq":{seq},"from":"{from}","text":"{from}{seq}"}}"#)
            + "\n"
    }

    #[test]
    fn conversations_are_told_apart() {
        let text = [
            line("x", 1, "a"),
            line("y", 1, "b"),
            line("x", 2, "b"),
            line("y", 2, "b"),
        ]
        .concat();
        let transcript = Transcript::parse(text.as_bytes()).unwrap();
        let said: Vec<Vec<(bool, &str)>> = transcript
            .conversations
            .iter()
            .map(|all| {
                all.iter()
                    .map(|speech| (speech.is_first, &speech.text[..]))
                    .collect()
            })
            .collect();
        assert_eq!(
            said,
            [
                vec![(true, "a1"), (false, "b2")],
                vec![(true, "b1"), (true, "b2")]
            ]
        );
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, told) in [
            (String::new(), "empty"),
            ("{".to_owned(), "line 1"),
            (
                line("x", 1, "a") + &line("x", 3, "a"),
                "line 2: x goes on with seq 3, not 2",
            ),
            (
                line("x", 1, "a") + &line("x", 2, "b") + &line("x", 3, "c"),
                "line 3",
            ),
        ] {
            let error = Transcript::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
