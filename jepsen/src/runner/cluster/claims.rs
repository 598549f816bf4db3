//! Which fault has which node: two that hold processes are never on one node, and a majority is left.

use parking_lot::MutexGuard;

use super::{Cluster, Node, State};

/// What is known of a node when somebody wants one.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: u64,
    held: bool,
    runs: bool,
}

/// Where among these places the one is that a fault gets: the one that is wanted, else the first that runs and is free, unless no other
/// one will do. `None` if there is none, or as many are held as may be.
fn choose(places: &[Place], most: usize, wanted: u64, no_other: bool) -> Option<usize> {
    if places.iter().filter(|place| place.held).count() >= most {
        return None;
    }
    let is_free = |place: &Place| place.runs && !place.held;
    let found = places
        .iter()
        .position(|place| place.id == wanted && is_free(place));
    match no_other {
        true => found,
        false => found.or_else(|| places.iter().position(is_free)),
    }
}

impl Cluster {
    /// How many nodes may be held at a time so that a majority is left.
    fn minority(&self) -> usize {
        (self.nodes.len().saturating_sub(1) / 2).max(1)
    }

    /// Takes a node for a fault: the one that is wanted, or another that runs and that nobody has. `None` if there is none, or no majority
    /// would be left.
    pub fn claim(&self, fault: usize, wanted: u64) -> Option<&Node> {
        self.take(fault, wanted, false)
    }

    /// The same of this node and no other.
    pub fn claim_only(&self, fault: usize, wanted: u64) -> Option<&Node> {
        self.take(fault, wanted, true)
    }

    fn take(&self, fault: usize, wanted: u64, no_other: bool) -> Option<&Node> {
        let mut states: Vec<MutexGuard<'_, State>> = self.nodes.iter().map(Node::state).collect();
        let place = |(node, state): (&Node, &MutexGuard<'_, State>)| Place {
            id: node.id,
            held: state.holder.is_some(),
            runs: state.runs(),
        };
        let places: Vec<Place> = self.nodes.iter().zip(&states).map(place).collect();
        let at = choose(&places, self.minority(), wanted, no_other)?;
        states[at].holder = Some(fault);
        Some(&self.nodes[at])
    }

    /// Takes all nodes for a fault, if nobody has one of them.
    pub fn claim_all(&self, fault: usize) -> bool {
        let mut states: Vec<_> = self.nodes.iter().map(Node::state).collect();
        if states.iter().any(|state| state.holder.is_some()) {
            return false;
        }
        for state in &mut states {
            state.holder = Some(fault);
        }
        true
    }

    /// Gives the nodes back that a fault has. They are started again if they are down.
    pub fn release(&self, fault: usize) {
        for node in &self.nodes {
            let mut state = node.state();
            if state.holder == Some(fault) {
                state.holder = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_a_leader_gets_nobody_else() {
        let place = |id| Place {
            id,
            held: false,
            runs: true,
        };
        let mut places = [1, 2, 3, 4, 5].map(place);
        assert_eq!(choose(&places, 2, 3, true), Some(2));
        places[2].held = true;
        assert_eq!(choose(&places, 2, 3, false), Some(0), "another one will do");
        assert_eq!(choose(&places, 2, 3, true), None);
        assert_eq!(choose(&places, 2, 5, true), Some(4));
        places[4].runs = false;
        assert_eq!(choose(&places, 2, 5, true), None);
        places[0].held = true;
        assert_eq!(choose(&places, 2, 2, false), None, "no majority would be left");
        assert_eq!(choose(&places, 2, 2, true), None);
    }
}
