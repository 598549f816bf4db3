//! The runbook, `docs/operations.md`, is what it says: every situation in it is carried out in a real shell, command by command, and each
//! command must print what the document shows and end as it says.
//!
//! Each situation has an empty directory, and the ports of the document are others here (`:7101` and `:8101` to `:7109` and `:8109`), so that
//! nothing else on the machine is in the way. `KVSVR_SITUATION=PART` runs the situations whose title has that part, and prints what each
//! command printed, to be taken over into the document. `KVSVR_TEST_KVCTL` is another kvctl than the one beside the node's.

mod compare;
mod document;
mod shell;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::{
    compare::compare,
    document::{Situation, Step},
    shell::Shell,
};
use crate::harness::{PATIENCE, Port, binary, kvctl, print_tail, report};

const DOCUMENT: &str = "docs/operations.md";
/// How often a situation is tried: on a busy machine an election, or a deadline that is missed, can change what a command prints. What the
/// document has wrong is wrong each time.
const TRIES: usize = 3;
/// How far the HTTP port is from the gRPC port.
const HTTP: u16 = 1000;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(DOCUMENT);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A directory with the two programs.
fn programs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    symlink(binary(), dir.path().join("kvsvr")).unwrap();
    symlink(kvctl(), dir.path().join("kvctl")).unwrap();
    dir
}

/// The ports that steps name, and those that they are here.
struct Ports {
    /// As the document and as the run has it, both with the colon before it.
    names: Vec<(String, String)>,
    _reserved: Vec<[Port; 2]>,
}

impl Ports {
    fn reserve(steps: &[Step]) -> Ports {
        let (mut names, mut reserved) = (Vec::new(), Vec::new());
        for grpc in 7101..=7109 {
            let known = [grpc, grpc + HTTP].map(|port| format!(":{port}"));
            let named = |step: &Step| known.iter().any(|port| step.command.contains(port));
            if steps.iter().any(named) {
                let pair = Port::reserve_pair(HTTP);
                let here = [0, 1].map(|i| format!(":{}", pair[i].number()));
                names.extend(known.into_iter().zip(here));
                reserved.push(pair);
            }
        }
        Ports {
            names,
            _reserved: reserved,
        }
    }

    fn to_here(&self, text: &str) -> String {
        let replace = |text: String, (theirs, here): &(String, String)| text.replace(theirs, here);
        self.names.iter().fold(text.to_owned(), replace)
    }

    fn to_document(&self, text: &str) -> String {
        let replace = |text: String, (theirs, here): &(String, String)| text.replace(here, theirs);
        self.names.iter().fold(text.to_owned(), replace)
    }
}

/// What became of a situation.
enum Ran {
    /// So many commands, all as the document says.
    Well(usize),
    /// Why it could not be tried.
    Not(&'static str),
}

/// How a document is run.
struct Runner {
    programs: PathBuf,
    patience: Duration,
    /// Prints what commands print.
    verbose: bool,
}

impl Runner {
    /// Carries a situation out, up to the first command that is wrong, or all if `verbose`. The error is for people.
    fn run(&self, situations: &[Situation], situation: &Situation) -> Result<Ran, String> {
        let steps = document::steps_of(situations, situation)?;
        let ports = Ports::reserve(&steps);
        let dir = tempfile::Builder::new()
            .prefix("kvsvr-runbook-")
            .tempdir()
            .unwrap();
        let Some(mut shell) = Shell::start(dir.path(), &self.programs, situation.mounts, self.patience)
        else {
            return Ok(Ran::Not("it mounts file systems: this user may not, root may"));
        };
        let mut wrong = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let told = steps.get(index + 1).is_some_and(|next| next.command == "echo $?");
            wrong.extend(self.step(&mut shell, &ports, step, told).err());
            // Somebody who writes the document wants to see the rest, too.
            if !wrong.is_empty() && !self.verbose {
                break;
            }
        }
        if !wrong.is_empty() {
            print_logs(dir.path());
            return Err(wrong.join("\n"));
        }
        Ok(Ran::Well(steps.len()))
    }

    /// One command. `told`: the next one shows its exit code; otherwise that must be 0.
    fn step(&self, shell: &mut Shell, ports: &Ports, step: &Step, told: bool) -> Result<(), String> {
        let outcome = shell.run(&ports.to_here(&step.command));
        let got: Vec<String> = outcome.lines.iter().map(|line| ports.to_document(line)).collect();
        if self.verbose {
            println!("$ {}\n{}", step.command, got.join("\n"));
        }
        let wrong = match (outcome.code, compare(&step.output, &got)) {
            (None, _) => format!("it did not end within {:?}, or it ended the shell", self.patience),
            (_, Err(at)) => match step.output.get(at) {
                Some(expected) => format!("line {}, expected: {expected}", step.output_line(at)),
                None => format!(
                    "it printed more than the document has, up to line {}",
                    step.output_line(at)
                ),
            },
            (Some(code), Ok(())) if code != 0 && !told => {
                format!(
                    "exit code {code}: a command ends with 0 unless `echo $?` comes next and shows another code"
                )
            }
            (Some(_), Ok(())) => return Ok(()),
        };
        let got = got
            .iter()
            .map(|line| format!("    | {line}\n"))
            .collect::<String>();
        Err(format!(
            "line {}: $ {}\n  {wrong}\n  got:\n{got}",
            step.line, step.command
        ))
    }
}

/// The ends of the nodes' logs, as files that are called so.
fn print_logs(dir: &Path) {
    let files = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut logs: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs.iter().for_each(|log| print_tail(log));
}

#[test]
fn every_situation_of_the_runbook_is_as_it_says() {
    let situations = document::parse(&document()).unwrap_or_else(|e| panic!("{DOCUMENT}: {e}"));
    let programs = programs();
    let only = std::env::var("KVSVR_SITUATION").ok();
    let runner = Runner {
        programs: programs.path().to_path_buf(),
        patience: PATIENCE * 2,
        verbose: only.is_some(),
    };
    let wanted = |situation: &&Situation| only.as_ref().is_none_or(|part| situation.title.contains(part));
    let (mut wrong, mut commands) = (Vec::new(), 0);
    for situation in situations.iter().filter(wanted) {
        for (line, reason) in &situation.not_run {
            report(
                "runbook",
                format!("line {line} ({}) is not run: {reason}", situation.title),
            );
        }
        if situation.steps.is_empty() {
            continue;
        }
        let started = Instant::now();
        let mut ran = runner.run(&situations, situation);
        for _ in 1..TRIES {
            if let Err(error) = &ran {
                report("runbook", format!("{} is tried again: {error}", situation.title));
                ran = runner.run(&situations, situation);
            }
        }
        match ran {
            Ok(Ran::Well(steps)) => {
                commands += steps;
                let took = started.elapsed().as_millis();
                report(
                    "runbook",
                    format!("{}: {steps} commands in {took} ms", situation.title),
                );
            }
            Ok(Ran::Not(reason)) => report("runbook", format!("{} is not run: {reason}", situation.title)),
            Err(error) => wrong.push(format!("{DOCUMENT}, situation {:?}, {error}", situation.title)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} situations are not as they say:\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(commands > 0, "nothing was run");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a document that needs no node: how many commands its last situation has, or what is wrong.
    fn run(text: &str, patience: Duration) -> Result<usize, String> {
        let situations = document::parse(text).unwrap();
        let runner = Runner {
            programs: PathBuf::from("/bin"),
            patience,
            verbose: false,
        };
        match runner.run(&situations, situations.last().unwrap())? {
            Ran::Well(commands) => Ok(commands),
            Ran::Not(reason) => Err(reason.to_owned()),
        }
    }

    #[track_caller]
    fn check(text: &str, result: Result<usize, &str>) {
        match (run(text, Duration::from_secs(60)), result) {
            (Ok(commands), Ok(expected)) => assert_eq!(commands, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn a_document_that_is_right_is_found_so() {
        check(
            "## A\n```console\n$ x=3\n$ echo a; (exit 2)\na\n$ echo $?\n2\n$ echo $x nodes\n3 nodes\n```\n",
            Ok(4),
        );
        check(
            "## A\n```console\n$ mkdir d\n```\n## B\nBegins with [A](#a).\n```console\n$ ls\nd\n```\n",
            Ok(2),
        );
        check(
            "## A\n```console\n$ echo 127.0.0.1:7101 127.0.0.1:8109\n127.0.0.1:7101 127.0.0.1:8109\n```\n",
            Ok(1),
        );
    }

    #[test]
    fn ports_are_others_than_in_the_document() {
        check(
            "## A\n```console\n$ echo :7101 | tr -d :\n7101\n```\n",
            Err("line 3: $ echo :7101 | tr -d :"),
        );
    }

    #[test]
    fn what_is_wrong_is_found_with_its_line() {
        let steps = "## A\n```console\n$ echo a; echo b\na\nc\n```\n";
        check(
            steps,
            Err("line 3: $ echo a; echo b\n  line 5, expected: c\n  got:\n    | a\n    | b\n"),
        );
        check(
            "## A\n```console\n$ echo a\n```\n",
            Err("line 3: $ echo a\n  it printed more than the document has"),
        );
        check(
            "## A\n```console\n$ echo\n\n$ false\n```\n",
            Err("line 5: $ false\n  exit code 1: "),
        );
        check(
            "## A\n```console\n$ false\n$ echo $?\n2\n```\n",
            Err("line 5, expected: 2"),
        );
        check(
            "## A\n```console\n$ kvctl-of-nobody\n```\n",
            Err("command not found"),
        );
    }

    #[test]
    fn a_command_that_does_not_end_is_told() {
        let error = run("## A\n```console\n$ sleep 600\n```\n", Duration::from_millis(200)).unwrap_err();
        assert!(
            error.contains("line 3: $ sleep 600\n  it did not end within 200ms"),
            "{error}"
        );
    }
}
