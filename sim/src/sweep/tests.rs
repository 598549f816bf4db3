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

#[test]
fn what_is_left_is_the_time_for_the_seeds_or_the_time_that_there_is() {
    let secs = Duration::from_secs;
    let summary = Summary {
        seeds: 10,
        ..Summary::default()
    };
    assert_eq!(summary.left(40, None, secs(20)), Some(secs(60)));
    assert_eq!(summary.left(40, Some(secs(50)), secs(20)), Some(secs(30)));
    assert_eq!(Summary::default().left(40, None, secs(20)), None);
}

#[test]
fn a_sweep_that_seldom_knows_the_committed_log_is_blind() {
    let blind = |seeds, known| {
        let summary = Summary {
            seeds,
            sometimes: [(LOG_KNOWN.to_owned(), (known, known))].into(),
            ..Summary::default()
        };
        summary.blind()
    };
    assert_eq!(blind(1_000, 950), None);
    assert!(blind(1_000, 949).unwrap().contains("949 OF 1000"));
    assert_eq!(blind(5, 0), None, "of so few seeds it says nothing");
    assert!(blind(6, 0).is_some());
}

#[test]
fn excused_ends_are_summed_up() {
    let excused = |ends: &[(&str, u64)]| {
        let ends = ends.iter().map(|(why, count)| ((*why).to_owned(), *count));
        Outcome {
            excused: ends.collect(),
            ..Outcome::default()
        }
    };
    let mut summary = Summary::default();
    summary.add(excused(&[("damage: a", 2), ("disk_full: b", 1)]));
    summary.add(excused(&[("damage: a", 3)]));
    let sums = [
        ("damage: a".to_owned(), (5, 2)),
        ("disk_full: b".to_owned(), (1, 1)),
    ];
    assert_eq!(summary.excused, sums.into());
}
