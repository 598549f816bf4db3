//! `kvctl verify --repair`: replicas that hold something else than most of their shard are made anew, one at a time.
//!
//! Each is an operation of the cluster ([`shard::reseed`]), so it goes on when this command is gone. The new copy comes from whoever leads the shard: if
//! several replicas are odd, one of the others is to lead. Nothing is done where none is like most, or where some could not be compared.

use kvsvr_client::Client;
use tokio::time::{Instant, sleep};

use super::{Ruling, Verified, one, show};
use crate::{
    context::Context,
    failure::Failure,
    health::View,
    leader::{self, LeaderCommand},
    limits::{POLL, WAIT_TIMEOUT},
    member::ChangeArgs,
    shard,
};

/// Makes the odd replicas anew. Returns how the shards compare now.
pub(super) async fn repair(
    context: &mut Context,
    client: &Client,
    found: Vec<Verified>,
) -> Result<Vec<Verified>, Failure> {
    let mut left = Vec::new();
    for verified in found {
        left.push(mend(context, client, verified).await?);
    }
    Ok(left)
}

/// One replica of the shard after the other, as long as one is odd; each may be tried twice, as an odd one may have come to lead meanwhile.
async fn mend(context: &mut Context, client: &Client, mut verified: Verified) -> Result<Verified, Failure> {
    let tries = 2 * verified.odd().len();
    for _ in 0..tries {
        let odd = verified.odd();
        let Some(node) = odd.first().copied() else { break };
        if odd.len() > 1 {
            let_another_lead(context, &verified, &odd).await?;
        }
        let change = ChangeArgs {
            dry_run: false,
            no_wait: false,
        };
        shard::reseed(context, verified.shard, node, change).await?;
        verified = again(context, client, &verified).await?;
        show(context, std::slice::from_ref(&verified))?;
    }
    Ok(verified)
}

impl Verified {
    fn odd(&self) -> Vec<u64> {
        match self.ruling() {
            Ruling::Odd(nodes) => nodes,
            Ruling::Equal | Ruling::Incomplete(_) | Ruling::Split => Vec::new(),
        }
    }

    /// A voter that answered, and is like most.
    fn good(&self, voters: &[u64], odd: &[u64]) -> Option<u64> {
        let is_good = |id: &&u64| !odd.contains(id) && matches!(self.replicas.get(id), Some(Ok(_)));
        voters.iter().find(is_good).copied()
    }
}

async fn let_another_lead(context: &mut Context, verified: &Verified, odd: &[u64]) -> Result<(), Failure> {
    let view = View::fetch(context).await?;
    let leads = view.leader(verified.shard);
    let to = verified.good(&view.shard(verified.shard)?.replicas, odd);
    if to.is_none() || leads.is_some_and(|leader| !odd.contains(&leader)) {
        return Ok(());
    }
    let transfer = leader::TransferArgs {
        shard: verified.shard,
        to,
        wait: true,
    };
    leader::leader(context, &LeaderCommand::Transfer(transfer)).await
}

/// Compares a shard again. Some nodes hear of the end of the operation a little later than others: until then they do not name or have the new replica.
async fn again(context: &mut Context, client: &Client, before: &Verified) -> Result<Verified, Failure> {
    let deadline = Instant::now() + context.wait_timeout(WAIT_TIMEOUT);
    loop {
        let found = one(context, client, before.shard).await;
        let is_whole = |found: &Verified| {
            found.replicas.len() >= before.replicas.len() && !matches!(found.ruling(), Ruling::Incomplete(_))
        };
        if found.as_ref().is_ok_and(is_whole) || Instant::now() + POLL >= deadline {
            return found;
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_odd_leads_nothing_that_is_copied() {
        let verified = Verified {
            shard: 1,
            index: 7,
            replicas: [
                (1, Ok(5)),
                (2, Err("down".into())),
                (3, Ok(9)),
                (4, Ok(5)),
                (5, Ok(5)),
            ]
            .into(),
        };
        assert_eq!(verified.odd(), [3]);
        assert_eq!(verified.good(&[3, 2, 4, 1], &[3]), Some(4));
        assert_eq!(verified.good(&[3, 2], &[3]), None);
    }
}
