use super::*;

fn outcome(hash: u64, failures: &[&str]) -> Outcome {
    let failure = |by: &&str| Failure::new(by, "in words".into());
    Outcome {
        hash,
        failures: failures.iter().map(failure).collect(),
        ..Outcome::default()
    }
}

fn finders(first: Result<Outcome, NoOutcome>, second: Result<Outcome, NoOutcome>) -> Vec<String> {
    let outcome = compared(first, second);
    outcome
        .failures
        .into_iter()
        .map(|failure| failure.found_by)
        .collect()
}

#[test]
fn two_runs_must_be_equal_in_everything() {
    assert!(finders(Ok(outcome(1, &[])), Ok(outcome(1, &[]))).is_empty());
    assert_eq!(finders(Ok(outcome(1, &[])), Ok(outcome(2, &[]))), ["determinism"]);
    let mut other = outcome(1, &[]);
    other.operations[1] = 1;
    assert_eq!(finders(Ok(outcome(1, &[])), Ok(other)), ["determinism"]);
    let mut other = outcome(1, &[]);
    other.sometimes.insert("damaged".into(), 1);
    assert_eq!(finders(Ok(other), Ok(outcome(1, &[]))), ["determinism"]);
}

#[test]
fn what_fails_in_either_run_fails() {
    let equal = finders(Ok(outcome(1, &["bank"])), Ok(outcome(1, &["bank"])));
    assert_eq!(equal, ["bank"]);
    let first = finders(Ok(outcome(1, &["bank"])), Ok(outcome(1, &[])));
    assert_eq!(first, ["determinism", "bank"]);
    let second = finders(Ok(outcome(1, &[])), Ok(outcome(1, &["bank"])));
    assert_eq!(second, ["determinism", "bank"]);
}

#[test]
fn a_run_without_an_outcome_is_equal_to_none() {
    let late = || Err(NoOutcome::TooLong(Duration::from_secs(3)));
    assert_eq!(finders(late(), late()), ["determinism", "no_end"]);
    let died = Err(NoOutcome::Died("it panicked".into()));
    assert_eq!(finders(Ok(outcome(1, &[])), died), ["determinism", "process"]);
}
