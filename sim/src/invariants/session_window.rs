//! A session's outcomes stay remembered until its client says that it has them: over restarts, snapshots and changes of the leader. What
//! is forgotten earlier could be applied twice.
//!
//! States of a shard are compared by the index of the entry that they are after, on whatever replica they are. A session may be closed only
//! where a plan wants few of them, or short ones: others are neither idle for long nor too many. It must be the one that was unused for longest
//! then, and another one must have been opened if only their number is small.

use std::{collections::BTreeMap, sync::Arc};

use kvsvr_core::types::ShardId;

use super::{Applied, Invariant, Moment, Session};

/// The reason has it where a row was damaged on purpose.
const INJECTED: &str = "injected";

/// The newest state that was seen of each shard.
#[derive(Default)]
pub(super) struct SessionWindow(BTreeMap<ShardId, Arc<Applied>>);

impl Invariant for SessionWindow {
    fn name(&self) -> &'static str {
        "session_window"
    }

    fn sees(&self, moment: &Moment<'_>) -> bool {
        // One that remembers something now, or did: it may have forgotten it.
        let has_some = |state: &Applied| {
            let mut sessions = state.sessions.values();
            sessions.any(|session| !session.remembered.is_empty())
        };
        moment
            .replicas
            .iter()
            .any(|(replica, _)| match &replica.contents {
                Some(Ok(now)) => {
                    has_some(now) || self.0.get(&replica.shard).is_some_and(|newest| has_some(newest))
                }
                Some(Err(reason)) => !reason.contains(INJECTED),
                None => false,
            })
    }

    fn look(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        for (replica, _) in &moment.replicas {
            let Some(contents) = &replica.contents else {
                continue;
            };
            let place = format!("shard {}, node {}", replica.shard, replica.machine + 1);
            let now = match contents {
                Ok(now) => now,
                Err(reason) if reason.contains(INJECTED) => continue,
                Err(reason) => return Err(format!("{place}: its state cannot be read: {reason}")),
            };
            match self.0.get(&replica.shard) {
                Some(newest) if newest.index > now.index => {
                    compare(now, newest).map_err(|text| format!("{place} against a later state: {text}"))?;
                }
                Some(newest) => {
                    compare(newest, now).map_err(|text| format!("{place}: {text}"))?;
                    self.0.insert(replica.shard, now.clone());
                }
                None => {
                    self.0.insert(replica.shard, now.clone());
                }
            }
        }
        Ok(())
    }
}

fn compare(before: &Applied, after: &Applied) -> Result<(), String> {
    let at = format!("after entry {} and not after entry {}", before.index, after.index);
    for (id, session) in &before.sessions {
        let Some(later) = after.sessions.get(id) else {
            may_be_closed(*id, session, before, after)
                .map_err(|why| format!("session {id} is there {at}, {why}"))?;
            continue;
        };
        if later.acked_below < session.acked_below {
            return Err(format!(
                "session {id} has outcomes below {} {at}: {} there",
                session.acked_below, later.acked_below
            ));
        }
        let forgotten = session.remembered.range(later.acked_below..);
        if let Some(seq) = forgotten.clone().find(|seq| !later.remembered.contains(seq)) {
            return Err(format!(
                "the outcome of command {seq} of session {id} is remembered {at}"
            ));
        }
    }
    Ok(())
}

/// Whether a session may have been closed between two states.
fn may_be_closed(id: u64, session: &Session, before: &Applied, after: &Applied) -> Result<(), String> {
    let (most, idle) = kvsvr_core::limits::sessions::are_chosen();
    let newest = before.sessions.keys().next_back();
    let is_opened = after.sessions.keys().next_back() > newest;
    if !(idle || most && is_opened) {
        return Err("and there is no reason to close one".to_owned());
    }
    // Of those that were not used meanwhile, and stay, the one that was unused for longest.
    let unused = before.sessions.iter().filter(|(other, session)| {
        let later = after.sessions.get(*other);
        later.is_some_and(|later| later.last_used == session.last_used)
    });
    let oldest = unused.min_by_key(|(other, kept)| (kept.last_used, **other));
    match oldest.filter(|(other, kept)| (kept.last_used, **other) < (session.last_used, id)) {
        Some((other, _)) => Err(format!("and session {other}, which was unused for longer, stays")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, replica};

    #[test]
    fn a_state_that_cannot_be_read_is_told_unless_it_was_damaged() {
        let mut world = World::new(SessionWindow::default());
        let unread = |reason: &str| {
            let mut replica = replica(0, 1);
            replica.contents = Some(Err(reason.to_owned()));
            replica
        };
        world.holds(&[unread("injected checksum mismatch")]);
        world.breaks(
            &[unread("a row of a session that does not exist")],
            "cannot be read",
        );
    }

    #[test]
    fn only_what_the_client_has_is_forgotten() {
        let at = |machine, index, acked_below, remembered: &[u64]| {
            let session = Session {
                acked_below,
                remembered: remembered.iter().copied().collect(),
                ..Session::default()
            };
            let mut replica = replica(machine, 1);
            replica.contents = Some(Ok(Arc::new(Applied {
                index,
                sessions: [(7, session)].into(),
                ..Applied::default()
            })));
            replica
        };
        let mut world = World::new(SessionWindow::default());
        world.holds(&[at(0, 5, 1, &[1, 2]), at(1, 3, 1, &[1])]);
        world.holds(&[at(0, 6, 2, &[2, 3])]);
        // Another one is behind, and that is all.
        world.holds(&[at(1, 4, 1, &[1, 2])]);
        world.breaks(&[at(2, 6, 2, &[3])], "command 2 of session 7");
    }

    #[test]
    fn a_session_stays() {
        let mut with = replica(0, 1);
        with.contents = Some(Ok(Arc::new(Applied {
            index: 4,
            sessions: [(7, Session::default())].into(),
            ..Applied::default()
        })));
        let mut without = replica(1, 1);
        without.contents = Some(Ok(Arc::new(Applied {
            index: 5,
            ..Applied::default()
        })));
        let mut world = World::new(SessionWindow::default());
        world.holds(&[with]);
        world.breaks(&[without], "session 7");
    }

    /// The one test that chooses limits, for the whole process: tests run in processes of their own.
    #[test]
    fn the_one_that_was_unused_for_longest_is_closed() {
        let state = |index, sessions: &[(u64, u64)]| {
            let session = |(id, last_used): &(u64, u64)| {
                let session = Session {
                    last_used: *last_used,
                    ..Session::default()
                };
                (*id, session)
            };
            Applied {
                index,
                sessions: sessions.iter().map(session).collect(),
                ..Applied::default()
            }
        };
        let before = state(1, &[(1, 50), (2, 40), (3, 60)]);
        let closed = |after: &[(u64, u64)]| compare(&before, &state(2, after));
        kvsvr_core::limits::sessions::choose(3, 0);
        assert_eq!(closed(&[(1, 50), (3, 60), (4, 70)]), Ok(()));
        // The oldest has been used since.
        assert_eq!(closed(&[(2, 65), (3, 60), (4, 70)]), Ok(()));
        assert!(
            closed(&[(2, 40), (3, 60), (4, 70)])
                .unwrap_err()
                .contains("session 2, which")
        );
        assert!(closed(&[(1, 50), (3, 60)]).unwrap_err().contains("no reason"));
        kvsvr_core::limits::sessions::choose(0, 9);
        assert_eq!(closed(&[(1, 50), (3, 60)]), Ok(()));
        assert!(
            closed(&[(1, 50), (2, 40)])
                .unwrap_err()
                .contains("session 2, which")
        );
        kvsvr_core::limits::sessions::choose(0, 0);
    }

    #[test]
    fn it_sees_what_sessions_remember_or_remembered() {
        let with = |remembered: &[&[u64]]| {
            let sessions = remembered.iter().zip(1..).map(|(seqs, number)| {
                let session = Session {
                    remembered: seqs.iter().copied().collect(),
                    ..Session::default()
                };
                (number, session)
            });
            let mut replica = replica(0, 1);
            replica.contents = Some(Ok(Arc::new(Applied {
                sessions: sessions.collect(),
                ..Applied::default()
            })));
            replica
        };
        let mut world = World::new(SessionWindow::default());
        assert!(!world.sees(&[with(&[]), with(&[&[]]), replica(1, 1)]));
        assert!(world.sees(&[with(&[&[], &[3]])]));
        world.holds(&[with(&[&[3]])]);
        assert!(world.sees(&[with(&[])]), "they may have been forgotten");
        assert!(!world.sees(&[replica(0, 1)]));
    }
}
