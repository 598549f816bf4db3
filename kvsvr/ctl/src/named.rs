//! Reads at the node that the user named: for those who want to see what one replica has.
//!
//! A mode that any replica may answer with what it has goes to the node of `--endpoints`, if that is a single one. Whoever gives several leaves
//! the choice to the client library, and the address that is asked when none is given was not named.

use kvsvr_client::{CallOptions, Client, Partition, ReadFrom, ReadMode, proto::ShardInfo};

use crate::{context::Context, failure::Failure, text::shard_name};

/// The client for reads of a partition.
///
/// # Errors
/// The node that was named does not answer, or has no replica of the partition for a local read.
pub(crate) async fn reader(
    context: &mut Context,
    partition: &Partition,
    mode: ReadMode,
) -> Result<Client, Failure> {
    let client = context.client()?;
    let one = context.global.only_endpoint();
    let Some(address) = one.filter(|_| matches!(mode, ReadMode::Local | ReadMode::Bounded(_))) else {
        return Ok(client);
    };
    let map = client.shard_map().await?;
    let slot = u32::from(partition.slot());
    let has_slot = |shard: &&ShardInfo| shard.id != 0 && (shard.first_slot..=shard.last_slot).contains(&slot);
    let Some(shard) = map.shards.iter().find(has_slot) else {
        return Ok(client);
    };
    let status = client.status(&address).await?;
    if status.replicas.iter().any(|replica| replica.shard == shard.id) {
        return Ok(client.with_options(CallOptions {
            timeout: None,
            read_from: Some(ReadFrom::Node(status.node_id)),
        }));
    }
    match mode {
        ReadMode::Local => Err(no_replica(status.node_id, &address, shard)),
        // What is new enough is as good from another one.
        _ => Ok(client),
    }
}

fn no_replica(node: u64, address: &str, shard: &ShardInfo) -> Failure {
    let hosts: Vec<String> = shard.replicas.iter().map(u64::to_string).collect();
    let message = format!(
        "node {node} ({address}) has no replica of {}, which the partition belongs to; nodes {} have",
        shard_name(shard.id),
        hosts.join(", ")
    );
    Failure::invalid(message)
        .with_help("name one of them; with several endpoints the shard's leader is asked")
}
