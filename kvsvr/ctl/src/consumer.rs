//! `kvctl consumer`: the durable cursors of those who follow a shard's change log.

use clap::{Args, Subcommand};
use kvsvr_client::proto::ConsumerInfo;
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{self, Failure},
    output::{Field, Mood},
    text::show_size,
};

/// `kvctl consumer`.
#[derive(Subcommand, Clone, Debug)]
pub enum ConsumerCommand {
    /// All consumers and how far behind they are
    List,
    /// One consumer
    Show(ConsumerArgs),
    /// Set a cursor by hand; the present owner is fenced off
    Reset(ResetArgs),
    /// Forget a consumer; its owner is fenced off
    Delete(ConsumerArgs),
}

/// Which consumer.
#[derive(Args, Clone, Debug)]
pub struct ConsumerArgs {
    /// The shard
    pub shard: u32,
    /// The consumer's name
    pub name: String,
}

/// `kvctl consumer reset`.
#[derive(Args, Clone, Debug)]
pub struct ResetArgs {
    /// Which
    #[command(flatten)]
    pub consumer: ConsumerArgs,
    /// Everything up to and including this revision counts as done
    pub revision: u64,
}

/// Runs a consumer command.
pub async fn consumer(context: &mut Context, command: &ConsumerCommand) -> Result<(), Failure> {
    match command {
        ConsumerCommand::List => {
            let consumers = context.client()?.consumers().await?;
            print(context, &consumers)
        }
        ConsumerCommand::Show(args) => {
            let info = find(context, args).await?;
            print(context, &[info])
        }
        ConsumerCommand::Reset(args) => reset(context, args).await,
        ConsumerCommand::Delete(args) => delete(context, args).await,
    }
}

async fn find(context: &mut Context, args: &ConsumerArgs) -> Result<ConsumerInfo, Failure> {
    let consumers = context.client()?.consumers().await?;
    let found = consumers
        .into_iter()
        .find(|c| c.shard == args.shard && c.name == args.name);
    found.ok_or_else(|| {
        let message = format!("shard {} has no consumer {:?}", args.shard, args.name);
        Failure::new(failure::NOT_FOUND, message).with_help("`kvctl consumer list` shows all")
    })
}

async fn reset(context: &mut Context, args: &ResetArgs) -> Result<(), Failure> {
    let ConsumerArgs { shard, name } = &args.consumer;
    let old = find(context, &args.consumer).await?;
    context.confirm(&format!(
        "move consumer {name:?} of shard {shard} from revision {} to {}",
        old.cursor, args.revision
    ))?;
    let (epoch, cursor) = context
        .client()?
        .consumer_reset(*shard, name, args.revision)
        .await?;
    context.print(
        format!(
            "consumer {name} of shard {shard} is at revision {cursor} (was {}), epoch {epoch}",
            old.cursor
        ),
        json!({ "shard": shard, "name": name, "cursor": cursor, "was": old.cursor, "epoch": epoch }),
    )
}

async fn delete(context: &mut Context, args: &ConsumerArgs) -> Result<(), Failure> {
    let ConsumerArgs { shard, name } = args;
    let old = find(context, args).await?;
    context.confirm(&format!(
        "delete consumer {name:?} of shard {shard}, which is at revision {}",
        old.cursor
    ))?;
    context.client()?.consumer_delete(*shard, name).await?;
    context.print(
        format!("consumer {name} of shard {shard} is deleted"),
        json!({ "shard": shard, "name": name, "was": old.cursor }),
    )
}

fn print(context: &mut Context, consumers: &[ConsumerInfo]) -> Result<(), Failure> {
    if context.out.is_json() {
        let consumers: Vec<Value> = consumers.iter().map(info_json).collect();
        return Ok(context.out.json(&json!({ "consumers": consumers }))?);
    }
    let rows = consumers
        .iter()
        .map(|c| {
            let state = if c.cut_off {
                Field::text("cut off: compaction has passed it; reset it").mood(Mood::Bad)
            } else {
                Field::text("live").mood(Mood::Good)
            };
            vec![
                Field::number(c.shard),
                Field::text(&c.name),
                Field::number(c.epoch),
                Field::number(c.cursor),
                Field::number(lag(c)),
                Field::text(show_size(c.lag_bytes)),
                state,
            ]
        })
        .collect();
    Ok(context.out.table(
        &["SHARD", "NAME", "EPOCH", "CURSOR", "LAG", "LAG BYTES", "STATE"],
        rows,
    )?)
}

fn lag(c: &ConsumerInfo) -> u64 {
    c.shard_revision.saturating_sub(c.cursor)
}

fn info_json(c: &ConsumerInfo) -> Value {
    json!({
        "shard": c.shard, "name": c.name, "epoch": c.epoch, "cursor": c.cursor, "shard_revision": c.shard_revision,
        "lag": lag(c), "lag_bytes": c.lag_bytes, "cut_off": c.cut_off,
    })
}
