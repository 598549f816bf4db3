//! `kvctl leader`: who leads each shard, and handing leadership over.

use clap::{Args, Subcommand};
use kvsvr_client::proto::change_members_request::Change;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    context::Context,
    failure::{self, Failure},
    health::View,
    limits::{POLL, WAIT_TIMEOUT},
    member,
    output::{Field, Mood},
};

/// `kvctl leader`.
#[derive(Subcommand, Clone, Debug)]
pub enum LeaderCommand {
    /// Hand a shard's leadership over
    Transfer(TransferArgs),
    /// Who leads each shard, and who should by preference
    Show,
    /// Let a node lead nothing until it is restored; its replicas stay
    Evict(member::NodeArgs),
    /// Let an evicted node lead again
    Restore(member::NodeArgs),
}

/// `kvctl leader transfer`.
#[derive(Args, Clone, Copy, Debug)]
pub struct TransferArgs {
    /// The shard; 0 is the meta shard
    pub shard: u32,
    /// To this node [default: the replica that is furthest]
    #[arg(long, value_name = "NODE")]
    pub to: Option<u64>,
    /// Wait until the other node leads, up to --timeout [default: 60s]
    #[arg(long)]
    pub wait: bool,
}

/// Runs a leader command.
pub async fn leader(context: &mut Context, command: &LeaderCommand) -> Result<(), Failure> {
    match command {
        LeaderCommand::Transfer(args) => transfer(context, args).await,
        LeaderCommand::Show => show(context).await,
        LeaderCommand::Evict(args) => {
            let node = member::find(context, &args.node).await?;
            member::change(context, Change::Evict(node), args.change, None).await
        }
        LeaderCommand::Restore(args) => {
            let node = member::find(context, &args.node).await?;
            member::change(context, Change::Restore(node), args.change, None).await
        }
    }
}

async fn show(context: &mut Context) -> Result<(), Failure> {
    let view = View::fetch(context).await?;
    let address = |id: Option<u64>| {
        view.nodes
            .iter()
            .find(|node| Some(node.id) == id)
            .map(|node| node.address.clone())
            .unwrap_or_default()
    };
    if context.out.is_json() {
        let shards: Vec<Value> = view
            .map
            .shards
            .iter()
            .map(|shard| {
                let leader = view.leader(shard.id);
                json!({
                    "shard": shard.id, "leader": leader, "address": address(leader),
                    "preferred": shard.replicas.first(), "replicas": shard.replicas,
                })
            })
            .collect();
        return Ok(context.out.json(&json!({ "leaders": shards }))?);
    }
    let rows = view
        .map
        .shards
        .iter()
        .map(|shard| {
            let leader = view.leader(shard.id);
            let preferred = shard.replicas.first().copied();
            let name = match leader {
                None => Field::text("none").mood(Mood::Bad),
                Some(_) if leader == preferred => Field::number(leader.unwrap_or(0)),
                Some(id) => Field::number(id).mood(Mood::Warn),
            };
            vec![
                Field::number(shard.id),
                name,
                Field::text(address(leader)),
                Field::number(preferred.map(|id| id.to_string()).unwrap_or_default()),
            ]
        })
        .collect();
    Ok(context
        .out
        .table(&["SHARD", "LEADER", "ADDRESS", "PREFERRED"], rows)?)
}

async fn transfer(context: &mut Context, args: &TransferArgs) -> Result<(), Failure> {
    let view = View::fetch(context).await?;
    let shard = view.shard(args.shard)?;
    let old = view.leader(shard.id);
    if let Some(to) = args.to {
        if !shard.replicas.contains(&to) {
            let message = format!(
                "node {to} has no replica of shard {}; nodes {:?} have",
                shard.id, shard.replicas
            );
            return Err(Failure::new(failure::NOT_FOUND, message));
        }
        if old == Some(to) {
            return report(context, shard.id, to, "leads already");
        }
        if view.replica(to, shard.id).is_none() {
            let message = format!("node {to} does not answer");
            return Err(Failure::refused(
                message,
                "choose a node that is up: `kvctl cluster status`",
            ));
        }
    }
    let new = context.client()?.transfer_leader(shard.id, args.to).await?;
    if !args.wait {
        return report(context, shard.id, new, "is asked to lead");
    }
    let timeout = context.wait_timeout(WAIT_TIMEOUT);
    let deadline = Instant::now() + timeout;
    loop {
        let view = View::fetch(context).await?;
        match view.leader(shard.id) {
            Some(leader) if arrived(args.to, old, leader) => {
                return report(context, shard.id, leader, "leads");
            }
            _ if Instant::now() + POLL >= deadline => {
                return Err(failure::waited_in_vain(
                    &format!("shard {} has no new leader", shard.id),
                    timeout,
                ));
            }
            _ => sleep(POLL).await,
        }
    }
}

/// True if `leader` is who should lead now: the wanted node, or else anybody but the old leader.
fn arrived(to: Option<u64>, old: Option<u64>, leader: u64) -> bool {
    match to {
        Some(to) => leader == to,
        None => old != Some(leader),
    }
}

fn report(context: &mut Context, shard: u32, leader: u64, what: &str) -> Result<(), Failure> {
    context.print(
        format!("shard {shard}: node {leader} {what}"),
        json!({ "shard": shard, "leader": leader }),
    )
}

#[cfg(test)]
mod tests {
    use super::arrived;

    #[test]
    fn a_transfer_is_over_when_the_right_node_leads() {
        assert!(arrived(Some(2), Some(1), 2));
        assert!(!arrived(Some(2), Some(1), 3));
        assert!(arrived(None, Some(1), 3));
        assert!(!arrived(None, Some(1), 1));
        assert!(arrived(None, None, 1));
    }
}
