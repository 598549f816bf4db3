//! Which change is begun next, of all that are possible: replicas off nodes that give them up, the right number of them, an even spread.

use std::collections::{BTreeMap, VecDeque};

use super::{
    reseed,
    state::{Change, NodeState, OpKind, OpState, ShardRow, View},
};
use crate::limits::MAX_REPLICA_MOVES;

/// Rows with a change begun, or with another order of preferred leaders. Empty when all is as it should be, or as many changes as allowed
/// are under way.
pub(super) fn begin(view: &View) -> Vec<ShardRow> {
    let mut view = view.clone();
    let mut begun = Vec::new();
    if let Some(row) = meta(&view) {
        begun.push(row);
    }
    // Evenness waits while a shard has a voter fewer than it is to have.
    let spread = !reseed::is_unfinished(&view);
    while view.data().filter(|row| row.change.is_some()).count() < MAX_REPLICA_MOVES {
        let wanted = vacate(&view)
            .or_else(|| resize(&view))
            .or_else(|| spread.then(|| part(&view)).flatten())
            .or_else(|| spread.then(|| balance(&view)).flatten());
        let Some(row) = wanted else { break };
        view.rows.insert(row.id, row.clone());
        begun.push(row);
    }
    if begun.is_empty() && spread && view.rows.values().all(|row| row.change.is_none()) {
        begun.extend(prefer(&view));
    }
    begun
}

fn idle(view: &View) -> impl Iterator<Item = &ShardRow> {
    view.data()
        .filter(|row| row.change.is_none() && row.learners.is_empty())
}

fn gives_up(view: &View, node: u64) -> bool {
    !matches!(view.state(node), NodeState::Up | NodeState::Joining)
}

/// The node of an operation that gets all that another one gives up.
fn successor(view: &View) -> Option<(u64, u64)> {
    match view.operation {
        Some(op) if op.state == OpState::Running => match op.kind {
            OpKind::Replace(old, new) => Some((old, new)),
            _ => None,
        },
        _ => None,
    }
}

/// The node that is to take a replica of this shard, in the place of `leaving`: apart from the others if that can be, then the least loaded.
fn target(view: &View, row: &ShardRow, leaving: Option<u64>) -> Option<u64> {
    let load = view.load();
    let free = load
        .into_iter()
        .filter(|(id, _)| view.may_receive(*id) && !row.hosts().any(|host| host == *id));
    free.min_by_key(|(id, count)| (neighbours(view, row, *id, leaving), *count, *id))
        .map(|(id, _)| id)
}

/// Replicas of the shard that would fail together with one on `node`, `leaving` aside.
fn neighbours(view: &View, row: &ShardRow, node: u64, leaving: Option<u64>) -> usize {
    let others = row.replicas.iter().copied().filter(|id| Some(*id) != leaving);
    view.neighbours(node, others)
}

/// A replica off a node that is to have none.
fn vacate(view: &View) -> Option<ShardRow> {
    idle(view).find_map(|row| {
        let leaving = row.replicas.iter().copied().find(|id| gives_up(view, *id))?;
        let to = match successor(view) {
            Some((old, new)) if old == leaving => {
                Some(new).filter(|new| view.may_receive(*new) && !row.hosts().any(|host| host == *new))
            }
            _ => target(view, row, Some(leaving)),
        };
        let add = Some(to?);
        let remove = Some(leaving);
        Some(row.begin(Change { add, remove }))
    })
}

/// As many replicas as wanted.
fn resize(view: &View) -> Option<ShardRow> {
    idle(view).find_map(|row| {
        let load = view.load();
        let n = row.replicas.len();
        if n < view.replication {
            let add = Some(reseed::home(view, row).or_else(|| target(view, row, None))?);
            return Some(row.begin(Change { add, remove: None }));
        }
        let fullest = |id: &&u64| load.get(*id).copied().unwrap_or(usize::MAX);
        let crowded = |id: &&u64| (neighbours(view, row, **id, None), fullest(id));
        let remove = row.replicas.iter().max_by_key(crowded).copied();
        (n > view.replication).then(|| row.begin(Change { add: None, remove }))
    })
}

/// One replica away from others that would fail together with it, if there is a node where that is better.
fn part(view: &View) -> Option<ShardRow> {
    idle(view).find_map(|row| {
        let crowd = |id: u64| neighbours(view, row, id, None);
        let load = view.load();
        let crowded = row.replicas.iter().copied().filter(|id| crowd(*id) > 0);
        let from = crowded.max_by_key(|id| (crowd(*id), load.get(id).copied().unwrap_or(0), *id))?;
        let to = target(view, row, Some(from))?;
        (neighbours(view, row, to, Some(from)) < crowd(from)).then(|| {
            row.begin(Change {
                add: Some(to),
                remove: Some(from),
            })
        })
    })
}

/// One replica from a node to one that has at least two fewer, the greatest difference first, and not nearer to others of its shard than before.
fn balance(view: &View) -> Option<ShardRow> {
    let load: Vec<(u64, usize)> = view
        .load()
        .into_iter()
        .filter(|(id, _)| view.may_receive(*id))
        .collect();
    let mut pairs: Vec<(usize, u64, u64)> = load
        .iter()
        .flat_map(|(from, most)| {
            load.iter()
                .map(move |(to, few)| (most.saturating_sub(*few), *from, *to))
        })
        .filter(|(difference, ..)| *difference > 1)
        .collect();
    pairs.sort_by_key(|(difference, from, to)| (std::cmp::Reverse(*difference), *from, *to));
    pairs.into_iter().find_map(|(_, from, to)| {
        let movable = idle(view).filter(|row| {
            row.replicas.contains(&from)
                && !row.hosts().any(|id| id == to)
                && neighbours(view, row, to, Some(from)) <= neighbours(view, row, from, None)
        });
        // Rather one that another node leads.
        let row = movable.min_by_key(|row| (row.replicas.first() == Some(&from), row.id))?;
        Some(row.begin(Change {
            add: Some(to),
            remove: Some(from),
        }))
    })
}

/// The meta shard's voters: on nodes that stay, 3 or 5.
fn meta(view: &View) -> Option<ShardRow> {
    let row = view.meta()?;
    if row.change.is_some() {
        return None;
    }
    let wanted = view.wanted_voters(row);
    let giving_up = row.replicas.iter().copied().filter(|id| gives_up(view, *id));
    // Who leaves for good comes first, and gives its vote to one that drains if there is nobody else.
    let leaving = giving_up.max_by_key(|id| (view.state(*id), *id));
    let for_good = leaving.is_none_or(|id| !matches!(view.state(id), NodeState::Draining | NodeState::Lost));
    let able = |id: &u64| {
        let state = view.state(*id);
        let node = view.nodes.get(id);
        node.is_some_and(super::Node::reachable)
            && (state == NodeState::Up || for_good && state == NodeState::Draining)
    };
    // A learner already: every node is.
    let joining = row.learners.iter().copied().filter(able);
    let joining = joining.min_by_key(|id| (view.state(*id), neighbours(view, row, *id, leaving), *id));
    let joining = reseed::home(view, row).or(joining);
    let n = row.replicas.len();
    let change = match (leaving, joining) {
        (Some(_), Some(_)) if n <= wanted => Change {
            add: joining,
            remove: leaving,
        },
        (_, Some(_)) if n < wanted => Change {
            add: joining,
            remove: None,
        },
        (_, _) if n > wanted => Change {
            add: None,
            remove: leaving.or_else(|| row.replicas.iter().copied().max_by_key(|id| last(view, *id))),
        },
        _ => return None,
    };
    Some(row.begin(change))
}

/// Of two voters too many the one that does not answer goes, else the newer.
fn last(view: &View, node: u64) -> (bool, u64) {
    (!view.nodes.get(&node).is_some_and(super::Node::reachable), node)
}

/// Other orders of replicas, so that nodes are preferred as leaders equally often: the preference moves along a shortest chain of shards
/// from a node with too many to one with too few, all at once, so that each time brings them closer.
fn prefer(view: &View) -> Vec<ShardRow> {
    let evicted = off_evicted(view);
    if !evicted.is_empty() {
        return evicted;
    }
    let able = view.in_state(NodeState::Up).filter(|n| view.may_lead(n.id));
    let mut leads: BTreeMap<u64, usize> = able.map(|n| (n.id, 0)).collect();
    for first in view.data().filter_map(|row| row.replicas.first()) {
        *leads.entry(*first).or_default() += 1;
    }
    let fullest = leads
        .iter()
        .max_by_key(|(id, count)| (**count, std::cmp::Reverse(**id)));
    let Some((from, most)) = fullest.map(|(id, count)| (*id, *count)) else {
        return Vec::new();
    };
    // Each node that is reached, and the shard and node before it.
    let mut reached: BTreeMap<u64, Option<(u64, u32)>> = BTreeMap::from([(from, None)]);
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if leads.get(&node).is_some_and(|count| count + 1 < most) {
            return chain(view, &reached, node);
        }
        for row in view.data().filter(|row| row.replicas.first() == Some(&node)) {
            for to in row.replicas.iter().skip(1).filter(|to| leads.contains_key(to)) {
                if !reached.contains_key(to) {
                    reached.insert(*to, Some((node, row.id)));
                    queue.push_back(*to);
                }
            }
        }
    }
    Vec::new()
}

/// Rows whose preferred leader is to lead nothing, with another one.
fn off_evicted(view: &View) -> Vec<ShardRow> {
    let mut leads: BTreeMap<u64, usize> = BTreeMap::new();
    for first in view.data().filter_map(|row| row.replicas.first()) {
        *leads.entry(*first).or_default() += 1;
    }
    let mut rows = Vec::new();
    let evicted = |row: &&ShardRow| row.replicas.first().is_some_and(|id| view.evicted(*id));
    for row in view.rows.values().filter(evicted) {
        let able = row.replicas.iter().copied().filter(|id| view.may_lead(*id));
        let count = |id: &u64| (leads.get(id).copied().unwrap_or(0), *id);
        let Some(to) = able.min_by_key(count) else {
            continue;
        };
        *leads.entry(to).or_default() += 1;
        let mut row = row.clone();
        row.replicas.sort_by_key(|id| (*id != to, view.evicted(*id)));
        rows.push(row);
    }
    rows
}

fn chain(view: &View, reached: &BTreeMap<u64, Option<(u64, u32)>>, end: u64) -> Vec<ShardRow> {
    let mut rows = Vec::new();
    let mut node = end;
    while let Some((before, shard)) = reached.get(&node).copied().flatten() {
        if let Some(row) = view.rows.get(&shard) {
            let mut row = row.clone();
            row.replicas.sort_by_key(|id| *id != node);
            rows.push(row);
        }
        node = before;
    }
    rows
}
