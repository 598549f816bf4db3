//! `kvctl verify`: whether all replicas of each shard hold the same, while the cluster serves.
//!
//! Each replica hashes the state that it has after one log entry, the same one for all: an entry a little ahead of the log, so that all can be
//! asked before they come by it. `--repair` makes those that are odd anew from the others ([`repair`]).

use std::collections::BTreeMap;

use clap::Args;
use futures::{
    future::{Either, join_all, select},
    pin_mut,
};
use kvsvr_client::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    context::Context,
    failure::{self, Failure},
    health::View,
    limits::{POLL, VERIFY_LEADS, WAIT_TIMEOUT},
    output::{Field, Mood},
    progress,
};

mod repair;

/// `kvctl verify`.
#[derive(Args, Clone, Copy, Debug)]
pub struct VerifyArgs {
    /// Only this shard; 0 is the meta shard
    pub shard: Option<u32>,
    /// Make each replica that differs from most anew, as a copy of the others, and compare again
    #[arg(long)]
    pub repair: bool,
}

/// What was found of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verified {
    shard: u32,
    /// The entry after which the states were compared.
    index: u64,
    /// Of each node with a replica: its state's hash, or why there is none.
    replicas: BTreeMap<u64, Result<u64, String>>,
}

/// How the replicas of a shard compare.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ruling {
    /// All are equal.
    Equal,
    /// Those that could be compared are; these could not.
    Incomplete(Vec<u64>),
    /// These hold something else than most.
    Odd(Vec<u64>),
    /// They differ, and none has a majority.
    Split,
}

impl Verified {
    fn ruling(&self) -> Ruling {
        let mut holders: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (node, hash) in &self.replicas {
            if let Ok(hash) = hash {
                holders.entry(*hash).or_default().push(*node);
            }
        }
        let silent = self.replicas.iter().filter(|(_, hash)| hash.is_err());
        let silent: Vec<u64> = silent.map(|(node, _)| *node).collect();
        if holders.len() > 1 {
            let most = holders.values().map(Vec::len).max().unwrap_or(0);
            if most * 2 <= self.replicas.len() {
                return Ruling::Split;
            }
            let odd = holders.into_values().filter(|nodes| nodes.len() < most);
            return Ruling::Odd(odd.flatten().collect());
        }
        match silent.is_empty() {
            true => Ruling::Equal,
            false => Ruling::Incomplete(silent),
        }
    }

    fn json(&self) -> Value {
        let replicas = self.replicas.iter().map(|(node, hash)| match hash {
            Ok(hash) => json!({ "node": node.to_string(), "hash": format!("{hash:016x}") }),
            Err(error) => json!({ "node": node.to_string(), "error": error }),
        });
        let (word, nodes) = match self.ruling() {
            Ruling::Equal => ("equal", Vec::new()),
            Ruling::Incomplete(nodes) => ("incomplete", nodes),
            Ruling::Odd(nodes) => ("odd", nodes),
            Ruling::Split => ("split", Vec::new()),
        };
        json!({
            "shard": self.shard, "index": self.index, "ruling": word,
            "nodes": nodes.iter().map(u64::to_string).collect::<Vec<_>>(), "replicas": replicas.collect::<Vec<_>>(),
        })
    }

    fn row(&self) -> Vec<Field> {
        let of = self.replicas.len();
        let list = |nodes: &[u64]| nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let (text, mood) = match self.ruling() {
            Ruling::Equal => (format!("{of} of {of} equal"), Mood::Good),
            Ruling::Incomplete(nodes) => (format!("no answer from node {}", list(&nodes)), Mood::Warn),
            Ruling::Odd(nodes) => (
                format!("node {} DIFFERS from the others", list(&nodes)),
                Mood::Bad,
            ),
            Ruling::Split => ("ALL DIFFER".to_owned(), Mood::Bad),
        };
        let first = self.replicas.values().find_map(|hash| hash.as_ref().ok());
        vec![
            Field::number(self.shard),
            Field::number(self.index),
            Field::text(first.map(|hash| format!("{hash:016x}")).unwrap_or_default()),
            Field::text(text).mood(mood),
        ]
    }
}

/// Compares the replicas of all shards, or of one.
pub async fn verify(context: &mut Context, args: &VerifyArgs) -> Result<(), Failure> {
    let view = View::fetch(context).await?;
    let shards: Vec<u32> = match args.shard {
        Some(shard) => vec![view.shard(shard)?.id],
        None => view.map.shards.iter().map(|shard| shard.id).collect(),
    };
    let timeout = context.wait_timeout(WAIT_TIMEOUT);
    let client = context.client()?.with_timeout(timeout);
    let bar = progress::bar(Some(shards.len() as u64), "comparing shards");
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    for shard in shards {
        let verified = one(context, &client, shard).await;
        bar.inc(1);
        match verified {
            Ok(verified) => found.push(verified),
            Err(error) => unseen.push(error),
        }
    }
    bar.finish_and_clear();
    show(context, &found)?;
    if args.repair {
        found = repair::repair(context, &client, found).await?;
    }
    verdict(&found, unseen)
}

fn show(context: &mut Context, found: &[Verified]) -> Result<(), Failure> {
    if context.out.is_json() {
        let shards: Vec<Value> = found.iter().map(Verified::json).collect();
        return Ok(context.out.json(&json!({ "shards": shards }))?);
    }
    let rows = found.iter().map(Verified::row).collect();
    let header = ["SHARD", "AT INDEX", "HASH", "REPLICAS"];
    Ok(context.out.table(&header, rows)?)
}

/// What differs is worse than what could not be looked at.
fn verdict(found: &[Verified], unseen: Vec<Failure>) -> Result<(), Failure> {
    let mut failures: Vec<Failure> = found.iter().filter_map(|verified| told(verified).err()).collect();
    failures.sort_by_key(|failure| failure.code != failure::DIVERGED);
    failures.extend(unseen);
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// A failure that says what to do, unless all is well.
fn told(verified: &Verified) -> Result<(), Failure> {
    let at = format!("shard {}", verified.shard);
    match verified.ruling() {
        Ruling::Equal => Ok(()),
        Ruling::Odd(nodes) => {
            let help = "the others have the right state: `kvctl verify --repair` makes that replica anew from them; it serves what it holds until then, so do it soon";
            let text = format!("the replica on node {nodes:?} holds something else than the others");
            Err(Failure::new(failure::DIVERGED, text)
                .at(at)
                .with_help(help.to_owned()))
        }
        Ruling::Split => {
            let text = "the replicas differ, and none is like most";
            let help = "--repair has nothing to go by: stop writing to it and find out which one is right, let that one lead (`kvctl leader transfer`), then make the others anew, one after \
                        the other: `kvctl shard reseed`";
            Err(Failure::new(failure::DIVERGED, text)
                .at(at)
                .with_help(help.to_owned()))
        }
        Ruling::Incomplete(nodes) => {
            let of = |node: &u64| verified.replicas[node].as_ref().err().cloned();
            let reasons: Vec<String> = nodes
                .iter()
                .filter_map(|node| Some(format!("node {node}: {}", of(node)?)))
                .collect();
            let help = "those that answer are equal, so nothing is repaired: bring the others back, or replace their nodes (`kvctl member replace`), and verify again";
            Err(Failure::new(failure::INCOMPLETE, reasons.join("; "))
                .at(at)
                .with_help(help))
        }
    }
}

async fn one(context: &mut Context, client: &Client, shard: u32) -> Result<Verified, Failure> {
    let mut last = None;
    for lead in VERIFY_LEADS {
        let view = View::fetch(context).await?;
        let info = view.shard(shard)?;
        let leader = view.leader(shard).and_then(|leader| view.replica(leader, shard));
        let leader =
            leader.ok_or_else(|| Failure::timed_out("it has no leader now").at(format!("shard {shard}")))?;
        let index = leader.last_index + lead;
        let hosts = info.replicas.iter().chain(&info.learners).copied();
        let asked = hosts.map(|node| {
            let address = view
                .nodes
                .iter()
                .find(|seen| seen.id == node)
                .map(|seen| seen.address.clone());
            async move {
                let Some(address) = address else {
                    return (node, index, Err("it is not in the map".to_owned()));
                };
                match client.state_hash_at(&address, shard, index).await {
                    Ok(answer) => (node, answer.applied_index, Ok(answer.hash)),
                    Err(error) => (node, index, Err(error.message)),
                }
            }
        });
        let asked = join_all(asked);
        let pushing = push_on(client, shard);
        pin_mut!(asked, pushing);
        let Either::Left((answers, _)) = select(asked, pushing).await;
        let passed = answers.iter().any(|(_, applied, _)| *applied != index);
        let verified = Verified {
            shard,
            index,
            replicas: answers.into_iter().map(|(node, _, hash)| (node, hash)).collect(),
        };
        if !passed {
            return Ok(verified);
        }
        last = Some(index);
    }
    Err(Failure::timed_out(format!(
        "its log goes on too quickly: the replicas were beyond entry {} before all could be asked",
        last.unwrap_or(0)
    ))
    .at(format!("shard {shard}")))
}

/// Has the log of a shard go on where nobody writes, by entries that change nothing. For ever.
async fn push_on(client: &Client, shard: u32) -> std::convert::Infallible {
    loop {
        sleep(POLL).await;
        // Where it cannot be written to, the replicas do not answer either.
        let _ = client.compact(Some(shard), u64::MAX, false).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(hashes: &[Option<u64>]) -> Verified {
        let replicas = hashes
            .iter()
            .zip(1..)
            .map(|(hash, node)| (node, hash.ok_or_else(|| "down".to_owned())));
        Verified {
            shard: 1,
            index: 7,
            replicas: replicas.collect(),
        }
    }

    #[test]
    fn who_is_odd_is_named() {
        let ruling = |hashes: &[Option<u64>]| verified(hashes).ruling();
        assert_eq!(ruling(&[Some(1), Some(1), Some(1)]), Ruling::Equal);
        assert_eq!(ruling(&[Some(1), Some(2), Some(1)]), Ruling::Odd(vec![2]));
        assert_eq!(ruling(&[Some(1), Some(2), Some(3)]), Ruling::Split);
        assert_eq!(ruling(&[Some(1), Some(2)]), Ruling::Split);
        assert_eq!(ruling(&[Some(1), Some(2), None]), Ruling::Split);
        assert_eq!(ruling(&[Some(1), None, Some(1)]), Ruling::Incomplete(vec![2]));
    }

    #[test]
    fn differences_are_failures() {
        assert!(told(&verified(&[Some(1), Some(1)])).is_ok());
        assert_eq!(
            told(&verified(&[Some(1), Some(1), Some(2)])).unwrap_err().code,
            failure::DIVERGED
        );
        let error = told(&verified(&[Some(1), Some(1), None])).unwrap_err();
        assert!(error.code == failure::INCOMPLETE && error.message.contains("node 3: down"));
        let json = verified(&[Some(10), Some(1), Some(1)]).json();
        assert_eq!((&json["ruling"], &json["nodes"]), (&json!("odd"), &json!(["1"])));
        assert_eq!(json["replicas"][0]["hash"], "000000000000000a");
    }
}
