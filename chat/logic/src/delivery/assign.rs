//! Which worker has which shards: by rendezvous hashing (Thaler and Ravishankar 1998), so that a worker that comes or goes moves only its own share.

use twox_hash::XxHash3_64;

fn weight(worker: &str, shard: u32) -> u64 {
    XxHash3_64::oneshot_with_seed(shard.into(), worker.as_bytes())
}

/// The shards of one of these workers.
pub fn shards_of<'a>(
    worker: &'a str,
    workers: &'a [String],
    shards: &'a [u32],
) -> impl Iterator<Item = u32> + 'a {
    let owner = |shard: u32| workers.iter().max_by_key(|other| (weight(other, shard), *other));
    shards
        .iter()
        .copied()
        .filter(move |shard| owner(*shard).is_some_and(|owner| owner == worker))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::shards_of;

    #[test]
    fn each_shard_has_one_worker_and_few_move() {
        let shards: Vec<u32> = (0..64).collect();
        let workers: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let of =
            |worker: &str, workers: &[String]| shards_of(worker, workers, &shards).collect::<BTreeSet<_>>();
        let (a, b, c) = (of("a", &workers), of("b", &workers), of("c", &workers));
        assert_eq!(a.len() + b.len() + c.len(), 64);
        assert_eq!(a.iter().chain(&b).chain(&c).collect::<BTreeSet<_>>().len(), 64);
        assert!(
            [&a, &b, &c].iter().all(|shards| shards.len() > 8),
            "{a:?} {b:?} {c:?}"
        );
        let without_c = &workers[..2];
        assert!(of("a", without_c).is_superset(&a) && of("b", without_c).is_superset(&b));
        assert_eq!(of("c", without_c).len(), 0);
    }
}
