//! Clocks that are set wrong, or run too fast or too slow. They are right again at the end; a monotonic clock that has gained or lost keeps
//! that.

use std::io;

use super::{Fault, Install, Installed, at};
use crate::{os::shim::Shim, runner::cluster::Node};

/// Sets a node's wall clock.
pub(super) fn jump<'a>(fault: &Fault<'a>, node: u64, ms: i64) -> Install<'a> {
    let node = fault.running(node)?;
    fault.begins();
    shim(node)?.set_wall_offset_ms(ms)?;
    Ok(repaired_later(
        node,
        format!("wall clock of {} set by {ms} ms", node.host),
    ))
}

/// Lets all clocks of a node run at another rate.
pub(super) fn drift<'a>(fault: &Fault<'a>, node: u64, percent: f64) -> Install<'a> {
    let node = fault.running(node)?;
    fault.begins();
    shim(node)?.set_rate(percent / 100.0)?;
    Ok(repaired_later(
        node,
        format!("clocks of {} at {percent} % of their rate", node.host),
    ))
}

fn repaired_later(node: &Node, text: String) -> Installed<'_> {
    Installed {
        place: at(node),
        text,
        undo: Some(Box::new(move || {
            shim(node)?.repair_clocks()?;
            Ok(String::new())
        })),
    }
}

/// What lets a node fail.
///
/// # Errors
/// It has none.
pub(super) fn shim(node: &Node) -> io::Result<&Shim> {
    let shim = node.shim.as_ref();
    shim.ok_or_else(|| io::Error::other(format!("{} has no shim", node.host)))
}
