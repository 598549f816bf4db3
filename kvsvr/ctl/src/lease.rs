//! `kvctl lease`: grants, keeps and ends leases. A lease lives in the shard of a partition; keys of all partitions of that shard can be
//! attached to it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    context::Context,
    failure::Failure,
    text::{parse_span, show_span},
};

/// `kvctl lease`.
#[derive(Subcommand, Clone, Debug)]
pub enum LeaseCommand {
    /// Create a lease
    Grant(GrantArgs),
    /// Make a lease live for its whole time again, over and over until Ctrl-C
    KeepAlive(KeepAliveArgs),
    /// End a lease; its keys are deleted together
    Revoke(LeaseArgs),
}

/// `kvctl lease grant`.
#[derive(Args, Clone, Debug)]
pub struct GrantArgs {
    /// A partition of the shard
    pub partition: String,
    /// Time to live
    #[arg(value_parser = parse_span)]
    pub ttl: Duration,
    /// Choose the id [default: the server chooses]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub id: u64,
}

/// `kvctl lease keep-alive`.
#[derive(Args, Clone, Debug)]
pub struct KeepAliveArgs {
    /// Which
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Once, then stop
    #[arg(long)]
    pub once: bool,
}

/// Which lease.
#[derive(Args, Clone, Debug)]
pub struct LeaseArgs {
    /// A partition of the shard
    pub partition: String,
    /// The lease's id
    pub id: u64,
}

/// Keep-alives in the time of a lease: two may be lost.
const KEEP_ALIVES: u32 = 3;

/// Runs a lease command.
pub async fn lease(context: &mut Context, command: &LeaseCommand) -> Result<(), Failure> {
    match command {
        LeaseCommand::Grant(args) => grant(context, args).await,
        LeaseCommand::KeepAlive(args) => keep_alive(context, args).await,
        LeaseCommand::Revoke(args) => revoke(context, args).await,
    }
}

async fn grant(context: &mut Context, args: &GrantArgs) -> Result<(), Failure> {
    let partition = context.partition(&args.partition)?;
    let reply = context
        .client()?
        .lease_grant(&partition, args.id, args.ttl)
        .await?;
    context.print(
        format!(
            "lease {}, ends in {} unless kept alive",
            reply.id,
            show_span(reply.ttl)
        ),
        json!({ "id": reply.id, "ttl_ms": reply.ttl.as_millis() as u64 }),
    )
}

async fn keep_alive(context: &mut Context, args: &KeepAliveArgs) -> Result<(), Failure> {
    let partition = context.partition(&args.lease.partition)?;
    let client = context.client()?;
    loop {
        let reply = client.lease_keep_alive(&partition, args.lease.id).await?;
        context.print(
            format!(
                "lease {} ends in {} unless kept alive",
                args.lease.id,
                show_span(reply.ttl)
            ),
            json!({ "id": args.lease.id, "ttl_ms": reply.ttl.as_millis() as u64 }),
        )?;
        if args.once {
            return Ok(());
        }
        context.out.flush()?;
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = sleep(reply.ttl / KEEP_ALIVES) => {}
        }
    }
}

async fn revoke(context: &mut Context, args: &LeaseArgs) -> Result<(), Failure> {
    let partition = context.partition(&args.partition)?;
    let reply = context.client()?.lease_revoke(&partition, args.id).await?;
    context.print(
        format!(
            "lease {} ended, {} deleted",
            args.id,
            kvsvr_proto::count(reply.deleted, "key")
        ),
        json!({ "id": args.id, "deleted": reply.deleted }),
    )
}
