//! Leaderships that are handed over.

use std::time::Duration;

use kvsvr_client::Certainty;
use tokio::time::Instant;

use super::{Fault, Install, Installed, Trouble};
use crate::report::Place;

/// Least time between two hand-overs.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// Hands leaderships over, evenly in its time and at least as often as is planned; the list begins anew when it is at its end. A target that
/// is down or behind is refused, then the best one is asked for. One that was not there before is enough.
pub(super) fn transfer<'a>(fault: &Fault<'a>, moves: &[(u32, u64)]) -> Install<'a> {
    let left = fault.until.saturating_duration_since(Instant::now());
    let pause = left / (moves.len() as u32 + 1);
    fault.begins();
    let (mut moved, mut refused, mut unknown) = (Vec::new(), None, None);
    for (shard, node) in moves.iter().cycle() {
        let before = fault.arsenal.observer.leader(*shard);
        let wanted = Some(*node).filter(|node| Some(*node) != before);
        for to in [wanted, None].into_iter().skip(usize::from(wanted.is_none())) {
            let observer = &fault.arsenal.observer;
            let moving = fault
                .arsenal
                .admin
                .transfer_leader(*shard, to.map(|node| observer.member(node)));
            match fault
                .arsenal
                .handle
                .block_on(moving)
                .map(|leader| observer.node(leader))
            {
                Ok(Some(leader)) if Some(leader) != before => moved.push(format!("{shard} to n{leader}")),
                Ok(_) => {}
                Err(error) if error.certainty == Certainty::Definite => {
                    refused = Some(error);
                    continue;
                }
                Err(error) => unknown = Some(error),
            }
            break;
        }
        if !fault.pause(pause.max(LEAST_PAUSE)) {
            break;
        }
    }
    match (moved.is_empty(), unknown, refused) {
        (false, ..) => Ok(Installed {
            place: Place::All,
            text: format!("leaders move: shard {}", moved.join(", ")),
            undo: None,
        }),
        (true, Some(error), _) => Err(Trouble::Indeterminate(error.to_string())),
        (true, None, Some(error)) => Err(Trouble::Skipped(error.to_string())),
        (true, None, None) => Err(Trouble::Skipped("there was no time".into())),
    }
}
