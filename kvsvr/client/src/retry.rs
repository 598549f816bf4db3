//! What to do after a failed try. Pure: a table from failure to step, and the memory of one call's tries.
//!
//! The rule that everything here serves: a write of which an earlier try may have taken effect is tried again only if the server
//! can tell that it is the same write (same session and sequence number, or a write that may be repeated), and if in the end no
//! try answered, the outcome is unknown.

use std::time::Duration;

use crate::{
    error::{Certainty, Code, Error},
    limits::{MAX_FAST_REDIRECTS, MAX_RETRY_PAUSE, RETRY_PAUSE},
};

/// What may happen if a request is carried out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read. Also the opening of a session: whether a try of it took effect does not matter to anyone.
    Read,
    /// A write that means the same twice.
    Harmless,
    /// A write with session and sequence number: the server carries it out once.
    Deduplicated,
    /// A write that must not be repeated after an unknown outcome.
    Forbidden,
}

/// Where the next try goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wherever the router says now.
    Route,
    /// To the leader that the node named.
    Leader {
        /// Its id.
        node: u64,
        /// Its address; empty = not said.
        address: String,
    },
    /// To another replica than this one.
    Other,
    /// Wherever a new shard map says.
    RefreshMap,
    /// As a new write of a new session.
    NewSession,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Try again.
    Retry {
        /// After this pause.
        after: Duration,
        /// There.
        next: Next,
    },
    /// Give up and return the error.
    Fail,
}

/// The tries of one call.
#[derive(Clone, Debug)]
pub(crate) struct Tries {
    repeat: Repeat,
    failed: u32,
    redirects: u32,
    maybe_applied: bool,
    /// Replicas that cannot serve this call.
    unfit: u32,
    /// What a node said last: it explains more than the silence of a try that the deadline cut short.
    said: Option<Error>,
    /// What the last try without an answer met.
    silence: Option<Error>,
}

impl Tries {
    /// None yet.
    pub(crate) fn new(repeat: Repeat) -> Self {
        Self {
            repeat,
            failed: 0,
            redirects: 0,
            maybe_applied: false,
            unfit: 0,
            said: None,
            silence: None,
        }
    }

    /// True if a try may have taken effect.
    #[cfg(test)]
    fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    /// True if the call may be tried again after an unknown outcome.
    pub(crate) fn may_repeat(&self) -> bool {
        self.repeat != Repeat::Forbidden
    }

    /// Tries that failed.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// Judges a failed try. `left` is the time to the deadline, `replicas` how many the shard has, `jitter` a random number in
    /// [0, 1).
    pub(crate) fn judge(&mut self, error: &Error, left: Duration, replicas: usize, jitter: f64) -> Step {
        self.failed += 1;
        let kind = if is_silence(error) {
            &mut self.silence
        } else {
            &mut self.said
        };
        *kind = Some(error.clone());
        if error.is_unknown() && self.repeat != Repeat::Read {
            self.maybe_applied = true;
            if self.repeat == Repeat::Forbidden {
                return Step::Fail;
            }
        }
        match self.step(error, replicas, jitter) {
            Step::Retry { after, .. } if after >= left => Step::Fail,
            step => step,
        }
    }

    fn step(&mut self, error: &Error, replicas: usize, jitter: f64) -> Step {
        let pause = pause(RETRY_PAUSE, MAX_RETRY_PAUSE, self.failed - 1, jitter);
        let retry = |next| Step::Retry { after: pause, next };
        match error.code {
            // The node is gone: another may answer at once. Once all have been asked, wait.
            Code::Unreachable | Code::Disconnected | Code::Timeout | Code::NotReady => {
                let after = if (self.failed as usize) < replicas {
                    Duration::ZERO
                } else {
                    pause
                };
                Step::Retry {
                    after,
                    next: Next::Other,
                }
            }
            Code::NotLeader => self.redirect(error, pause),
            // An election, or a leader without a valid lease: the same node may be able to in a moment.
            Code::NoLeader => retry(if self.failed % 2 == 1 {
                Next::Route
            } else {
                Next::Other
            }),
            Code::Overloaded => {
                let after = error.retry_after.unwrap_or(pause).mul_f64(1.0 + jitter / 4.0);
                Step::Retry {
                    after,
                    next: Next::Route,
                }
            }
            Code::WrongShard if self.maybe_applied && self.repeat == Repeat::Deduplicated => Step::Fail,
            Code::WrongShard => retry(Next::RefreshMap),
            // A sequence number is worth nothing without its session.
            Code::SessionExpired
                if self.repeat == Repeat::Deduplicated
                    && (!self.maybe_applied || crate::mutant!("session-renewed-blindly")) =>
            {
                Step::Retry {
                    after: Duration::ZERO,
                    next: Next::NewSession,
                }
            }
            // Another replica may be fresher, or intact.
            Code::TooStale | Code::Corrupt if self.repeat == Repeat::Read => {
                self.unfit += 1;
                if (self.unfit as usize) < replicas {
                    Step::Retry {
                        after: Duration::ZERO,
                        next: Next::Other,
                    }
                } else {
                    Step::Fail
                }
            }
            _ => Step::Fail,
        }
    }

    fn redirect(&mut self, error: &Error, pause: Duration) -> Step {
        let Some((node, address)) = error.leader.clone().filter(|(node, _)| *node != 0) else {
            return Step::Retry {
                after: pause,
                next: Next::Other,
            };
        };
        self.redirects += 1;
        let after = if self.redirects <= MAX_FAST_REDIRECTS {
            Duration::ZERO
        } else {
            pause
        };
        Step::Retry {
            after,
            next: Next::Leader { node, address },
        }
    }

    /// The state machine's refusal, as the error that the call ends with. Under a session it is the outcome of the first try that was
    /// looked at, so it is certain even after unknown tries.
    pub(crate) fn refusal(&self, error: Error) -> Error {
        if self.repeat == Repeat::Deduplicated {
            error
        } else {
            self.last_error(error)
        }
    }

    /// The error that the call ends with. Of a read nothing can have taken effect, so it is always definite. A write that ran out of
    /// tries after one that may have taken effect ends with `Timeout`, whatever the last node said: it is known what it is not.
    pub(crate) fn last_error(&self, error: Error) -> Error {
        let mut error = self.explained(error);
        if self.repeat == Repeat::Read || crate::mutant!("unknown-told-as-failed") {
            error.certainty = Certainty::Definite;
        }
        if !self.maybe_applied || crate::mutant!("unknown-told-as-failed") {
            return error;
        }
        if may_pass(&error) {
            error.message = format!("no answer in time: {}", error.message);
            error.code = Code::Timeout;
            // When to try again is of no use to a caller who must read first.
            error.retry_after = None;
        }
        error.after_unknown_try()
    }

    /// The error with what else is known: that the leader which a node names does not answer, or what a node said before all went
    /// silent.
    fn explained(&self, error: Error) -> Error {
        let silent = is_silence(&error);
        let (said, silence) = if silent {
            (self.said.as_ref(), Some(&error))
        } else {
            (Some(&error), self.silence.as_ref())
        };
        let Some(said) = said else { return error };
        let (code, message) = match silence {
            Some(silence) if said.code == Code::NotLeader => {
                let message = format!(
                    "the leader does not answer: {}; {}",
                    silence.message, said.message
                );
                (Code::NoLeader, message)
            }
            None if said.code == Code::NotLeader => {
                (Code::NoLeader, format!("no leader was found: {}", said.message))
            }
            Some(silence) if silent => {
                let message = format!("{}; the last try: {}", said.message, silence.message);
                (said.code, message)
            }
            _ => return error,
        };
        Error {
            code,
            message,
            ..said.clone()
        }
    }
}

/// Another try later may fare better: the call ended because it ran out of time.
fn may_pass(error: &Error) -> bool {
    matches!(
        error.code,
        Code::NotLeader | Code::NoLeader | Code::NotReady | Code::Unreachable | Code::Overloaded
    )
}

/// No node said anything.
fn is_silence(error: &Error) -> bool {
    matches!(error.code, Code::Timeout | Code::Disconnected | Code::Unreachable)
}

/// Doubles from `first` to `most`; the upper half of it is left to chance, so that clients do not come back in step.
pub(crate) fn pause(first: Duration, most: Duration, failures: u32, jitter: f64) -> Duration {
    let full = first.saturating_mul(1u32 << failures.min(16)).min(most);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_secs(5);

    fn error(code: Code) -> Error {
        let unknown = matches!(
            code,
            Code::Timeout | Code::Disconnected | Code::Internal | Code::ResultForgotten
        );
        if unknown {
            Error::unknown(code, "test")
        } else {
            Error::definite(code, "test")
        }
    }

    /// What a first failure with each code leads to, for each kind of request.
    #[test]
    fn table() {
        let mut lines = Vec::new();
        for code in Code::ALL {
            let mut words = vec![format!("{:<16}", code.name())];
            for repeat in [
                Repeat::Read,
                Repeat::Harmless,
                Repeat::Deduplicated,
                Repeat::Forbidden,
            ] {
                let mut tries = Tries::new(repeat);
                let step = match tries.judge(&error(*code), LEFT, 3, 0.0) {
                    Step::Fail => "fail".to_owned(),
                    Step::Retry { after, next } => {
                        format!("{}{next:?}", if after.is_zero() { "" } else { "pause+" })
                    }
                };
                words.push(format!(
                    "{step:<14}{}",
                    if tries.maybe_applied() { "?" } else { " " }
                ));
            }
            lines.push(words.join(" ").trim_end().to_owned());
        }
        let want = include_str!("retry_table.txt");
        assert_eq!(
            lines.join("\n"),
            want.trim_end(),
            "code, read, harmless, deduplicated, forbidden; ? = maybe applied"
        );
    }

    #[test]
    fn an_unknown_try_stays_unknown_whatever_comes_after_it() {
        let mut tries = Tries::new(Repeat::Deduplicated);
        assert!(matches!(
            tries.judge(&error(Code::Disconnected), LEFT, 3, 0.5),
            Step::Retry { .. }
        ));
        for code in [
            Code::NotLeader,
            Code::NoLeader,
            Code::Unreachable,
            Code::Overloaded,
        ] {
            assert!(
                matches!(tries.judge(&error(code), LEFT, 3, 0.5), Step::Retry { .. }),
                "{code}"
            );
        }
        for code in [Code::SessionExpired, Code::WrongShard, Code::Invalid] {
            assert_eq!(tries.judge(&error(code), LEFT, 3, 0.5), Step::Fail, "{code}");
            assert_eq!(tries.last_error(error(code)).certainty, Certainty::Unknown);
        }
    }

    #[test]
    fn no_retry_begins_after_the_deadline() {
        let mut tries = Tries::new(Repeat::Read);
        assert_eq!(
            tries.judge(&error(Code::NoLeader), Duration::from_millis(1), 3, 0.9),
            Step::Fail
        );
        let overloaded = Error {
            retry_after: Some(LEFT),
            ..error(Code::Overloaded)
        };
        assert_eq!(tries.judge(&overloaded, LEFT, 3, 0.0), Step::Fail);
    }

    #[test]
    fn redirects_are_followed_at_once_but_not_for_ever() {
        let mut tries = Tries::new(Repeat::Harmless);
        let hint = Error {
            leader: Some((3, "c:1".into())),
            ..error(Code::NotLeader)
        };
        let pauses: Vec<bool> = (0..5)
            .map(|_| match tries.judge(&hint, LEFT, 3, 0.0) {
                Step::Retry {
                    after,
                    next: Next::Leader { node: 3, .. },
                } => !after.is_zero(),
                step => panic!("{step:?}"),
            })
            .collect();
        assert_eq!(pauses, [false, false, false, true, true]);
    }

    #[test]
    fn a_read_asks_each_replica_for_fresh_data_once() {
        let mut tries = Tries::new(Repeat::Read);
        let steps: Vec<bool> = (0..3)
            .map(|_| tries.judge(&error(Code::TooStale), LEFT, 3, 0.0) == Step::Fail)
            .collect();
        assert_eq!(steps, [false, false, true]);
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let p = |failures, jitter| {
            pause(
                Duration::from_millis(4),
                Duration::from_millis(250),
                failures,
                jitter,
            )
        };
        assert_eq!(p(0, 0.0), Duration::from_millis(2));
        assert_eq!(p(0, 1.0), Duration::from_millis(4));
        assert_eq!(p(1, 1.0), Duration::from_millis(8));
        assert_eq!(p(40, 1.0), Duration::from_millis(250));
    }

    #[test]
    fn what_a_node_said_explains_more_than_silence() {
        let mut read = Tries::new(Repeat::Read);
        read.judge(&error(Code::NoLeader), LEFT, 3, 0.0);
        read.judge(&error(Code::Timeout), LEFT, 3, 0.0);
        let last = read.last_error(error(Code::Timeout));
        assert_eq!((last.code, last.is_unknown()), (Code::NoLeader, false), "{last}");
        // Of a write, a try without an answer may have taken effect all the same.
        let mut write = Tries::new(Repeat::Deduplicated);
        write.judge(&error(Code::NoLeader), LEFT, 3, 0.0);
        write.judge(&error(Code::Timeout), LEFT, 3, 0.0);
        let last = write.last_error(error(Code::Timeout));
        assert_eq!((last.code, last.is_unknown()), (Code::Timeout, true), "{last}");
        assert!(last.message.contains("; the last try: "), "{last}");
        // Nobody said anything.
        let mut silent = Tries::new(Repeat::Read);
        silent.judge(&error(Code::Timeout), LEFT, 3, 0.0);
        assert_eq!(silent.last_error(error(Code::Timeout)).code, Code::Timeout);
    }

    #[test]
    fn a_leader_that_does_not_answer_is_no_leader() {
        let named = Error {
            leader: Some((2, "b:1".into())),
            ..error(Code::NotLeader)
        };
        // The deadline falls after the silence or after the redirect, which is chance.
        for last in [Code::Unreachable, Code::NotLeader] {
            let mut tries = Tries::new(Repeat::Deduplicated);
            tries.judge(&named, LEFT, 3, 0.0);
            tries.judge(&error(Code::Unreachable), LEFT, 3, 0.0);
            let last = tries.last_error(if last == Code::NotLeader {
                named.clone()
            } else {
                error(last)
            });
            assert_eq!((last.code, last.is_unknown()), (Code::NoLeader, false), "{last}");
            assert!(last.message.contains("does not answer"), "{last}");
            assert!(!last.message.contains("may have taken effect"), "{last}");
            // The same after a try that was sent.
            tries.judge(&error(Code::Timeout), LEFT, 3, 0.0);
            let last = tries.last_error(named.clone());
            assert_eq!((last.code, last.is_unknown()), (Code::Timeout, true), "{last}");
            assert!(last.message.contains("read before you repeat"), "{last}");
        }
    }

    #[test]
    fn of_a_read_nothing_is_unknown() {
        let mut tries = Tries::new(Repeat::Read);
        tries.judge(&error(Code::Timeout), LEFT, 3, 0.0);
        let last = tries.last_error(error(Code::Timeout));
        assert_eq!((last.code, last.is_unknown()), (Code::Timeout, false));
    }
}
