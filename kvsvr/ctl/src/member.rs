//! `kvctl member`, `drain` and `undrain`: which nodes there are, and what they are for.
//!
//! A change is an operation of the cluster: it goes on when this command is gone. The command only begins it and watches
//! ([`operation`]).

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use kvsvr_client::proto::{
    AddMember, ChangeMembersRequest, LabelMember, Member, MembersResponse, NodeInfo, NodeState,
    ReplaceMember, change_members_request::Change,
};
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{self, Failure},
    limits::OPERATION_REQUEST_TIMEOUT,
    operation,
    output::{Field, Mood},
    text::{parse_endpoint, show_span},
};

/// `kvctl member`.
#[derive(Subcommand, Clone, Debug)]
pub enum MemberCommand {
    /// The nodes, with what they are for
    List,
    /// Take a node into the cluster: one that runs (`kvsvr serve`) with an empty data directory
    Add(AddArgs),
    /// Take a node out for good: its data goes to the others first
    Remove(NodeArgs),
    /// Put a new node in the place of another one, which may be dead
    Replace(ReplaceArgs),
}

/// What all changes take.
#[derive(Args, Clone, Copy, Debug)]
pub struct ChangeArgs {
    /// Show the plan, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Begin it, and do not wait for its end
    #[arg(long)]
    pub no_wait: bool,
}

/// A node that is there.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// The node: its id, or HOST:PORT
    pub node: String,
    /// What all changes take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kvctl label`.
#[derive(Args, Clone, Debug)]
pub struct LabelArgs {
    /// The node: its id, or HOST:PORT
    pub node: String,
    /// NAME=VALUE sets a label, NAME- removes it; replicas of a shard are kept apart by `zone`, or else by `host`
    #[arg(required = true, value_name = "NAME=VALUE|NAME-")]
    pub labels: Vec<String>,
    /// What all changes take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kvctl member add`.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// The new node, as the others reach it
    #[arg(value_parser = parse_endpoint, value_name = "HOST:PORT")]
    pub address: String,
    /// What all changes take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kvctl member replace`.
#[derive(Args, Clone, Debug)]
pub struct ReplaceArgs {
    /// Who goes: its id, or HOST:PORT
    pub old: String,
    /// Who comes, as the others reach it; may be the old address, with an empty data directory
    #[arg(value_parser = parse_endpoint, value_name = "HOST:PORT")]
    pub new: String,
    /// What all changes take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Runs a member command.
pub async fn member(context: &mut Context, command: &MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List => list(context).await,
        MemberCommand::Add(args) => {
            let address = args.address.clone();
            change(context, Change::Add(AddMember { address }), args.change, None).await
        }
        MemberCommand::Remove(args) => {
            let node = find(context, &args.node).await?;
            let warning =
                format!("take node {node} out of the cluster for good; its data directory is of no use then");
            change(context, Change::Remove(node), args.change, Some(&warning)).await
        }
        MemberCommand::Replace(args) => {
            let old = find(context, &args.old).await?;
            let replace = ReplaceMember {
                old,
                address: args.new.clone(),
            };
            let warning = format!(
                "take node {old} out of the cluster for good and give its place to {}",
                args.new
            );
            change(context, Change::Replace(replace), args.change, Some(&warning)).await
        }
    }
}

/// Moves all data off a node.
pub async fn drain(context: &mut Context, args: &NodeArgs) -> Result<(), Failure> {
    let node = find(context, &args.node).await?;
    change(context, Change::Drain(node), args.change, None).await
}

/// Lets a node have data again.
pub async fn undrain(context: &mut Context, args: &NodeArgs) -> Result<(), Failure> {
    let node = find(context, &args.node).await?;
    change(context, Change::Undrain(node), args.change, None).await
}

/// Sets and removes labels of a node.
pub async fn label(context: &mut Context, args: &LabelArgs) -> Result<(), Failure> {
    let mut label = LabelMember::default();
    for typed in &args.labels {
        match (typed.split_once('='), typed.strip_suffix('-')) {
            (Some((name, value)), _) => {
                label.set.insert(name.to_owned(), value.to_owned());
            }
            (None, Some(name)) => label.unset.push(name.to_owned()),
            (None, None) => {
                return Err(Failure::invalid(format!(
                    "{typed:?} is no label: type NAME=VALUE to set one, NAME- to remove it"
                )));
            }
        }
    }
    label.node = find(context, &args.node).await?;
    change(context, Change::Label(label), args.change, None).await
}

/// Begins an operation, or shows its plan.
pub(crate) async fn change(
    context: &mut Context,
    change: Change,
    args: ChangeArgs,
    warning: Option<&str>,
) -> Result<(), Failure> {
    if let Some(warning) = warning.filter(|_| !args.dry_run) {
        context.confirm(warning)?;
    }
    let request = ChangeMembersRequest {
        change: Some(change),
        dry_run: args.dry_run,
        who: who(),
    };
    let timeout = context.request_timeout().max(OPERATION_REQUEST_TIMEOUT);
    let client = context.client()?.with_timeout(timeout);
    let answer = client.change_members(request).await?;
    if args.dry_run {
        return show_plan(context, &answer.plan);
    }
    let Some(operation) = answer.operation else {
        return Err(Failure::new(failure::INVALID, "the cluster named no operation"));
    };
    if args.no_wait {
        context.note(format!(
            "it goes on by itself: `kvctl ops show {}` tells how far it is",
            operation.id
        ));
        return operation::print(context, &operation, None);
    }
    operation::wait(context, operation.id, false).await
}

/// Who asks, for the record.
fn who() -> String {
    let name = |key| std::env::var(key).ok().filter(|value: &String| !value.is_empty());
    name("USER").or_else(|| name("LOGNAME")).unwrap_or_default()
}

fn show_plan(context: &mut Context, plan: &[String]) -> Result<(), Failure> {
    if context.out.is_json() {
        return Ok(context.out.json(&json!({ "dry_run": true, "plan": plan }))?);
    }
    for (number, step) in plan.iter().enumerate() {
        context.out.line(format!("{:>3}  {step}", number + 1))?;
    }
    context.note("nothing was changed");
    Ok(())
}

/// The id of a node, by id or address.
pub(crate) async fn find(context: &mut Context, typed: &str) -> Result<u64, Failure> {
    if let Ok(id) = typed.parse() {
        return Ok(id);
    }
    let members = context.client()?.members().await?;
    by_address(&members, typed)
}

fn by_address(members: &MembersResponse, typed: &str) -> Result<u64, Failure> {
    let infos = || members.members.iter().filter_map(|member| member.info.as_ref());
    let known = infos().filter(|info| info.state() != NodeState::NodeRemoved);
    let mut found = known.filter(|info| info.address == typed);
    match (found.next(), found.next()) {
        (Some(info), None) => Ok(info.id),
        (Some(_), Some(_)) => Err(Failure::new(
            failure::NOT_FOUND,
            format!("two nodes have the address {typed} now; name one by its id: `kvctl member list`"),
        )),
        (None, _) => Err(Failure::new(
            failure::NOT_FOUND,
            format!("there is no node {typed}; `kvctl member list` shows ids and addresses"),
        )),
    }
}

/// A state in words: `down` is a member that does not answer.
fn state(member: &Member) -> &'static str {
    let state = member.info.as_ref().map(kvsvr_client::proto::NodeInfo::state);
    match state.unwrap_or(NodeState::NodeUp) {
        NodeState::NodeRemoved => "removed",
        NodeState::NodeUp if member.silent_ms > 0 => "down",
        NodeState::NodeUp => "up",
        NodeState::NodeJoining => "joining",
        NodeState::NodeDraining => "draining",
        NodeState::NodeLost => "lost",
        NodeState::NodeLeaving => "leaving",
    }
}

async fn list(context: &mut Context) -> Result<(), Failure> {
    let members = context.client()?.members().await?;
    if context.out.is_json() {
        let members: Vec<Value> = members.members.iter().map(member_json).collect();
        return Ok(context.out.json(&json!({ "members": members }))?);
    }
    let rows = members.members.iter().map(row).collect();
    let header = [
        "NODE",
        "ADDRESS",
        "STATE",
        "REPLICAS",
        "SHOULD LEAD",
        "LABELS",
        "STORE",
    ];
    Ok(context.out.table(&header, rows)?)
}

fn member_json(member: &Member) -> Value {
    let info = member.info.clone().unwrap_or_default();
    json!({
        "id": info.id.to_string(), "address": info.address, "store_id": info.store_id, "state": state(member),
        "silent_ms": member.silent_ms, "replicas": member.replicas, "preferred": member.preferred,
        "evicted": info.evicted, "slow": info.slow, "labels": sorted(&info),
    })
}

fn sorted(info: &NodeInfo) -> BTreeMap<&str, &str> {
    let labels = info.labels.iter();
    labels
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn row(member: &Member) -> Vec<Field> {
    let info = member.info.clone().unwrap_or_default();
    let name = state(member);
    let text = match name {
        "up" | "removed" => name.to_owned(),
        _ if member.silent_ms > 0 => {
            format!(
                "{name}, silent for {}",
                show_span(Duration::from_millis(member.silent_ms))
            )
        }
        _ => name.to_owned(),
    };
    let labels: Vec<String> = sorted(&info)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let leads = match (info.evicted, info.slow) {
        (true, _) => "evicted".to_owned(),
        (_, true) => "slow disk".to_owned(),
        _ => member.preferred.to_string(),
    };
    let mood = match name {
        "up" => Mood::Good,
        "down" | "lost" => Mood::Bad,
        "removed" => Mood::Plain,
        _ => Mood::Warn,
    };
    vec![
        Field::number(info.id),
        Field::text(info.address),
        Field::text(text).mood(mood),
        Field::number(member.replicas),
        Field::number(leads),
        Field::text(labels.join(" ")),
        Field::text(info.store_id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, node_state: NodeState, silent_ms: u64) -> Member {
        Member {
            info: Some(NodeInfo {
                id,
                address: format!("n{}:1", id.min(3)),
                state: node_state.into(),
                ..NodeInfo::default()
            }),
            silent_ms,
            replicas: 4,
            preferred: 1,
        }
    }

    #[test]
    fn a_node_is_found_by_its_address() {
        let mut members = MembersResponse {
            members: vec![
                member(1, NodeState::NodeUp, 0),
                member(3, NodeState::NodeRemoved, 0),
                member(4, NodeState::NodeUp, 0),
            ],
            ..MembersResponse::default()
        };
        assert_eq!(by_address(&members, "n1:1").unwrap(), 1);
        assert_eq!(by_address(&members, "n3:1").unwrap(), 4);
        assert!(by_address(&members, "n9:1").is_err());
        members.members.push(member(5, NodeState::NodeLeaving, 0));
        assert!(
            by_address(&members, "n3:1")
                .unwrap_err()
                .message
                .contains("two nodes")
        );
    }

    #[test]
    fn members_have_states_and_text_ids() {
        assert_eq!(state(&member(1, NodeState::NodeUp, 0)), "up");
        assert_eq!(state(&member(1, NodeState::NodeUp, 4_000)), "down");
        assert_eq!(state(&member(1, NodeState::NodeDraining, 4_000)), "draining");
        let json = member_json(&member(2, NodeState::NodeJoining, 0));
        assert_eq!((&json["id"], &json["state"]), (&json!("2"), &json!("joining")));
        assert_eq!(row(&member(1, NodeState::NodeUp, 4_000)).len(), 7);
    }
}
