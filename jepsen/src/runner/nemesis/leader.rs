//! Leaderships that are handed over.

use std::time::Duration;

use kvsvr_client::Certainty;
use tokio::time::Instant;

use super::{Fault, Install, Installed, Trouble};
use crate::report::Place;

/// Hands leaderships over, evenly in its time. One is enough: the others may be refused, by targets that are down or behind.
pub(super) fn transfer<'a>(fault: &Fault<'a>, moves: &[(u32, u64)]) -> Install<'a> {
    let left = fault.until.saturating_duration_since(Instant::now());
    let pause = left / (moves.len() as u32 + 1);
    let (mut moved, mut refused, mut unknown) = (Vec::new(), None, None);
    for (shard, node) in moves {
        let moving = fault.arsenal.admin.transfer_leader(*shard, Some(*node));
        match fault.arsenal.handle.block_on(moving) {
            Ok(leader) => moved.push(format!("{shard} to n{leader}")),
            Err(error) if error.certainty == Certainty::Definite => refused = Some(error),
            Err(error) => unknown = Some(error),
        }
        if !fault.pause(pause.max(Duration::from_millis(1))) {
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
