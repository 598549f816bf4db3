//! `kvctl shard`: which shards there are, where their replicas are, and how far each is; and making a replica anew.

use clap::{Args, Subcommand};
use kvsvr_client::proto::{ReseedReplica, ShardInfo, change_members_request::Change};
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::Failure,
    health::View,
    member::{self, ChangeArgs},
    output::{Field, Mood},
};

/// `kvctl shard`.
#[derive(Subcommand, Clone, Debug)]
pub enum ShardCommand {
    /// All shards
    List,
    /// The replicas of one
    Show(ShowArgs),
    /// Destroy a replica, and copy it anew from the others
    Reseed(ReseedArgs),
}

/// `kvctl shard show`.
#[derive(Args, Clone, Copy, Debug)]
pub struct ShowArgs {
    /// The shard; 0 is the meta shard
    pub shard: u32,
}

/// `kvctl shard reseed`.
#[derive(Args, Clone, Debug)]
pub struct ReseedArgs {
    /// The shard; 0 is the meta shard
    pub shard: u32,
    /// The node whose replica it is: its id, or HOST:PORT
    pub node: String,
    /// What all changes take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Runs a shard command.
pub async fn shard(context: &mut Context, command: &ShardCommand) -> Result<(), Failure> {
    match command {
        ShardCommand::List => {
            let view = View::fetch(context).await?;
            list(context, &view)
        }
        ShardCommand::Show(args) => {
            let view = View::fetch(context).await?;
            show(context, &view, args.shard)
        }
        ShardCommand::Reseed(args) => {
            let node = member::find(context, &args.node).await?;
            reseed(context, args.shard, node, args.change).await
        }
    }
}

/// Has the replica of a shard on a node made anew from the others, or shows the plan.
pub(crate) async fn reseed(
    context: &mut Context,
    shard: u32,
    node: u64,
    change: ChangeArgs,
) -> Result<(), Failure> {
    let warning =
        format!("destroy the replica of shard {shard} on node {node} and copy it anew from the others");
    let replica = ReseedReplica { shard, node };
    member::change(context, Change::Reseed(replica), change, Some(&warning)).await
}

fn slots(shard: &ShardInfo) -> String {
    match shard.id {
        0 => "meta".to_owned(),
        _ => format!("{}-{}", shard.first_slot, shard.last_slot),
    }
}

/// What is being changed, in words.
fn change(shard: &ShardInfo) -> String {
    match shard.change.map(|change| (change.add, change.remove)) {
        Some((add, 0)) => format!("node {add} comes"),
        Some((0, remove)) => format!("node {remove} goes"),
        Some((add, remove)) => format!("node {remove} -> node {add}"),
        None => String::new(),
    }
}

fn texts(ids: &[u64]) -> Vec<String> {
    ids.iter().map(u64::to_string).collect()
}

fn row_json(view: &View, shard: &ShardInfo) -> Value {
    json!({
        "shard": shard.id, "first_slot": shard.first_slot, "last_slot": shard.last_slot,
        "leader": view.leader(shard.id).map(|id| id.to_string()), "replicas": texts(&shard.replicas),
        "learners": texts(&shard.learners), "changing": shard.change.is_some(),
    })
}

fn list(context: &mut Context, view: &View) -> Result<(), Failure> {
    if context.out.is_json() {
        let shards: Vec<Value> = view
            .map
            .shards
            .iter()
            .map(|shard| row_json(view, shard))
            .collect();
        return Ok(context.out.json(&json!({ "shards": shards }))?);
    }
    let rows = view.map.shards.iter().map(|shard| {
        let leader = match view.leader(shard.id) {
            Some(id) => Field::number(id),
            None => Field::text("none").mood(Mood::Bad),
        };
        vec![
            Field::number(shard.id),
            Field::text(slots(shard)),
            leader,
            Field::text(texts(&shard.replicas).join(",")),
            Field::text(texts(&shard.learners).join(",")),
            Field::text(change(shard)).mood(Mood::Warn),
        ]
    });
    let header = ["SHARD", "SLOTS", "LEADER", "VOTERS", "LEARNERS", "CHANGE"];
    let rows = rows.collect();
    Ok(context.out.table(&header, rows)?)
}

fn show(context: &mut Context, view: &View, id: u32) -> Result<(), Failure> {
    let shard = view.shard(id)?.clone();
    let committed = view
        .leader(id)
        .and_then(|leader| view.replica(leader, id))
        .map_or(0, |replica| replica.committed_index);
    let hosts = || shard.replicas.iter().chain(&shard.learners).copied();
    if context.out.is_json() {
        let replicas: Vec<Value> = hosts()
            .map(|node| match view.replica(node, id) {
                Some(replica) => json!({
                    "node": node.to_string(), "role": replica.role, "term": replica.term,
                    "last_index": replica.last_index, "committed_index": replica.committed_index,
                    "applied_index": replica.applied_index, "revision": replica.revision,
                    "lag_entries": committed.saturating_sub(replica.applied_index),
                }),
                None => json!({ "node": node.to_string(), "role": Value::Null }),
            })
            .collect();
        let mut value = row_json(view, &shard);
        value["of"] = json!(replicas);
        return Ok(context.out.json(&value)?);
    }
    context.out.line(format!("shard {id}, slots {}", slots(&shard)))?;
    if shard.change.is_some() {
        context
            .out
            .line(format!("is being changed: {}", change(&shard)))?;
    }
    let rows = hosts()
        .map(|node| match view.replica(node, id) {
            Some(replica) => {
                let lag = committed.saturating_sub(replica.applied_index);
                vec![
                    Field::number(node),
                    Field::text(replica.role.clone()),
                    Field::number(replica.term),
                    Field::number(replica.applied_index),
                    Field::number(replica.revision),
                    Field::number(lag),
                ]
            }
            None => vec![
                Field::number(node),
                Field::text("does not answer").mood(Mood::Bad),
            ],
        })
        .collect();
    let header = ["NODE", "ROLE", "TERM", "APPLIED", "REVISION", "LAG"];
    Ok(context.out.table(&header, rows)?)
}

#[cfg(test)]
mod tests {
    use kvsvr_client::proto::ReplicaChange;

    use super::*;

    #[test]
    fn a_change_is_told_in_words() {
        let changing = |add, remove| ShardInfo {
            change: Some(ReplicaChange { add, remove }),
            ..ShardInfo::default()
        };
        assert_eq!(change(&ShardInfo::default()), "");
        assert_eq!(change(&changing(4, 0)), "node 4 comes");
        assert_eq!(change(&changing(0, 2)), "node 2 goes");
        assert_eq!(change(&changing(4, 2)), "node 2 -> node 4");
    }
}
