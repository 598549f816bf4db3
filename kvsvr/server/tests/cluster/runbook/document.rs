//! The runbook as data: its situations, each a list of commands with the output that the document shows.
//!
//! Only blocks marked `console` count. A line that begins with `$ ` is a command, lines that begin with `> ` right after it go on with it, the
//! rest is its output. A second-level heading begins a situation; `Begins with [TITLE](#...)` in its text names the one whose commands
//! come first. The document's head says the same to people.

/// One command and what it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The command's line in the document, from 1.
    pub(crate) line: usize,
    pub(crate) command: String,
    /// What the document shows: the line after the command's, and those that follow.
    pub(crate) output: Vec<String>,
}

/// A situation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Situation {
    pub(crate) title: String,
    /// The title of the one whose commands come first.
    pub(crate) begins_with: Option<String>,
    /// It mounts file systems.
    pub(crate) mounts: bool,
    pub(crate) steps: Vec<Step>,
    /// Blocks that are not run: line and reason.
    pub(crate) not_run: Vec<(usize, String)>,
}

impl Step {
    /// The lines of the document that hold its output.
    pub(crate) fn output_line(&self, index: usize) -> usize {
        self.line + self.command.lines().count() + index
    }
}

/// What the next line is part of.
enum Place {
    Text,
    /// A block of another kind.
    Other,
    /// A block of commands that are run, and one of those that are not.
    Console,
    NotRun,
}

/// Reads a document. An error names the line.
pub(crate) fn parse(text: &str) -> Result<Vec<Situation>, String> {
    let mut situations: Vec<Situation> = Vec::new();
    let mut place = Place::Text;
    // The reason that stands before the next block.
    let mut reason: Option<(usize, String)> = None;
    for (line, text) in text.lines().enumerate().map(|(i, text)| (i + 1, text)) {
        if let Some(kind) = text.strip_prefix("```") {
            place = match (place, kind) {
                (Place::Text, "console") => match (reason.take(), situations.last_mut()) {
                    (_, None) => return Err(format!("line {line}: commands before the first situation")),
                    (Some(reason), Some(situation)) => {
                        situation.not_run.push(reason);
                        Place::NotRun
                    }
                    (None, Some(_)) => Place::Console,
                },
                (Place::Text, _) => Place::Other,
                (_, "") => Place::Text,
                _ => return Err(format!("line {line}: a block begins in another one")),
            };
            if let (Place::Console, Some(situation)) = (&place, situations.last_mut()) {
                // Output before the block's first command belongs to nothing.
                situation.steps.push(Step {
                    line,
                    command: String::new(),
                    output: Vec::new(),
                });
            }
            continue;
        }
        match (&place, situations.last_mut()) {
            (Place::Text, last) => match (text.strip_prefix("## "), last) {
                (Some(title), _) => situations.push(Situation {
                    title: title.trim().into(),
                    ..Situation::default()
                }),
                (None, Some(situation)) => remark(situation, line, text, &mut reason)?,
                (None, None) => {}
            },
            (Place::Console, Some(situation)) => console(situation, line, text)?,
            _ => {}
        }
        if matches!(place, Place::Text)
            && !text.trim().is_empty()
            && !text.starts_with("<!--")
            && let Some((at, _)) = reason.take()
        {
            return Err(format!(
                "line {at}: `not run` must stand right before a block of commands"
            ));
        }
    }
    if !matches!(place, Place::Text) {
        return Err("the last block has no end".into());
    }
    if let Some((at, _)) = reason {
        return Err(format!("line {at}: no block comes after `not run`"));
    }
    for situation in &mut situations {
        situation.steps.retain(|step| !step.command.is_empty());
    }
    check(&situations)?;
    Ok(situations)
}

/// What the text of a situation says to the test.
fn remark(
    situation: &mut Situation,
    line: usize,
    text: &str,
    reason: &mut Option<(usize, String)>,
) -> Result<(), String> {
    if let Some((_, rest)) = text.split_once("Begins with [") {
        let (title, _) = rest.split_once("](#").ok_or_else(|| {
            format!("line {line}: `Begins with` must be followed by a link to a situation, on the same line")
        })?;
        situation.begins_with = Some(title.to_owned());
    }
    if let Some(comment) = text.strip_prefix("<!--") {
        let comment = comment.trim_end().trim_end_matches("-->").trim();
        match comment.split_once(':') {
            None if comment == "mounts" => situation.mounts = true,
            Some(("not run", why)) if !why.trim().is_empty() => *reason = Some((line, why.trim().to_owned())),
            _ => {
                return Err(format!(
                    "line {line}: <!-- {comment} --> is neither `not run: REASON` nor `mounts`"
                ));
            }
        }
    }
    Ok(())
}

fn console(situation: &mut Situation, line: usize, text: &str) -> Result<(), String> {
    if let Some(command) = text.strip_prefix("$ ") {
        situation.steps.push(Step {
            line,
            command: command.to_owned(),
            output: Vec::new(),
        });
        return Ok(());
    }
    match situation.steps.last_mut() {
        Some(step) if !step.command.is_empty() => {
            if let (Some(more), true) = (text.strip_prefix("> "), step.output.is_empty()) {
                step.command.push('\n');
                step.command.push_str(more);
            } else {
                step.output.push(text.to_owned());
            }
            Ok(())
        }
        _ => Err(format!("line {line}: output before the first command of a block")),
    }
}

/// Titles are unique, and what situations begin with leads to an end.
fn check(situations: &[Situation]) -> Result<(), String> {
    for (i, situation) in situations.iter().enumerate() {
        if situations[..i].iter().any(|other| other.title == situation.title) {
            return Err(format!("two situations have the title {:?}", situation.title));
        }
        steps_of(situations, situation)?;
    }
    Ok(())
}

/// All steps of a situation: first those of what it begins with.
pub(crate) fn steps_of(situations: &[Situation], situation: &Situation) -> Result<Vec<Step>, String> {
    let mut chain = vec![situation];
    while let Some(title) = &chain[chain.len() - 1].begins_with {
        let before = situations.iter().find(|other| other.title == *title);
        let before = before.ok_or_else(|| {
            format!(
                "{:?} begins with {title:?}, which is no situation",
                situation.title
            )
        })?;
        if chain.len() > situations.len() {
            return Err(format!("{:?} begins with itself", situation.title));
        }
        chain.push(before);
    }
    Ok(chain
        .iter()
        .rev()
        .flat_map(|situation| situation.steps.clone())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "# Title\n\n## One\nText.\n```console\n$ a\nx\n$ b <<'END'\n> c\n> END\n\ny\n```\n```\n$ no command\n```\n\
        ## Two\nBegins with [One](#one).\n<!-- not run: a reason -->\n```console\n$ d\n```\n<!-- mounts -->\n```console\n$ e\n```\n";

    #[test]
    fn commands_have_their_lines_and_output() {
        let situations = parse(SMALL).unwrap();
        let step = |line, command: &str, output: &[&str]| Step {
            line,
            command: command.into(),
            output: output.iter().map(|s| (*s).to_owned()).collect(),
        };
        let one = [step(6, "a", &["x"]), step(8, "b <<'END'\nc\nEND", &["", "y"])];
        assert_eq!(situations[0].steps, one);
        assert_eq!(one[1].output_line(1), 12);
        assert_eq!(situations[1].steps, [step(25, "e", &[])]);
        assert_eq!(situations[1].not_run, [(19, "a reason".to_owned())]);
        assert!(situations[1].mounts && !situations[0].mounts);
        let all = steps_of(&situations, &situations[1]).unwrap();
        assert_eq!(all, [one[0].clone(), one[1].clone(), step(25, "e", &[])]);
    }

    #[test]
    fn what_the_test_would_pass_over_in_silence_is_an_error() {
        for (text, part) in [
            (
                "```console\n$ a\n```",
                "line 1: commands before the first situation",
            ),
            (
                "## A\n```console\nx\n$ a\n```",
                "line 3: output before the first command",
            ),
            ("## A\n```console\n$ a\n", "no end"),
            (
                "## A\n<!-- not run -->\n```console\n$ a\n```",
                "line 2: <!-- not run --> is neither",
            ),
            (
                "## A\n<!-- not run: x -->\nText.\n```console\n$ a\n```",
                "line 2: `not run` must stand right before",
            ),
            ("## A\n<!-- not run: x -->\n", "line 2: no block comes after"),
            ("## A\nBegins with [B](#b).", "no situation"),
            ("## A\nBegins with [A](#a).", "begins with itself"),
            ("## A\nBegins with B.\n## A", "two situations"),
            (
                "## A\nBegins with [B.\n",
                "line 2: `Begins with` must be followed",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
