//! What a benchmark does: which operation comes next, on which key. Pure and seeded: the same seed gives the same sequence for each
//! logical client, on both targets.
//!
//! The YCSB core workloads (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", 2010) are:
//! a 50 % reads, 50 % updates; b 95/5; c reads only; d 95 % reads of recent keys, 5 % inserts; e 95 % short scans, 5 % inserts;
//! f 50 % reads, 50 % read-modify-write.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::limits::BENCH_SCAN_MAX;

/// An operation of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Point read.
    Read,
    /// Put of a known key.
    Update,
    /// Put of a key that is new.
    Insert,
    /// Range from a key on.
    Scan,
    /// Read, then put of the same key.
    ReadModifyWrite,
}

impl OpKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [OpKind; 5] = [
        OpKind::Read,
        OpKind::Update,
        OpKind::Insert,
        OpKind::Scan,
        OpKind::ReadModifyWrite,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            OpKind::Read => "read",
            OpKind::Update => "update",
            OpKind::Insert => "insert",
            OpKind::Scan => "scan",
            OpKind::ReadModifyWrite => "read_modify_write",
        }
    }
}

/// Which keys are chosen how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    /// Each as often as any other.
    Uniform,
    /// The k-th most popular in proportion to 1 / k^theta.
    Zipfian(f64),
}

/// YCSB's default theta.
pub const ZIPFIAN_THETA: f64 = 0.99;

impl std::str::FromStr for Skew {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed.split_once('=') {
            None if typed == "uniform" => Ok(Skew::Uniform),
            None if typed == "zipfian" => Ok(Skew::Zipfian(ZIPFIAN_THETA)),
            Some(("zipfian", theta)) => match theta.parse() {
                Ok(theta) if theta > 0.0 && theta < 1.0 => Ok(Skew::Zipfian(theta)),
                _ => Err("theta must lie between 0 and 1, both excluded, as in zipfian=0.99".into()),
            },
            _ => Err("use uniform, zipfian or zipfian=THETA".into()),
        }
    }
}

impl std::fmt::Display for Skew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Skew::Uniform => f.write_str("uniform"),
            Skew::Zipfian(theta) => write!(f, "zipfian={theta}"),
        }
    }
}

/// Shares of the operations, in percent; the rest of 100 is inserts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Point reads.
    pub read: f64,
    /// Puts of known keys.
    pub update: f64,
    /// Scans.
    pub scan: f64,
    /// Reads with a put of the same key.
    pub read_modify_write: f64,
    /// Reads prefer the newest keys, whatever the skew says (ycsb-d).
    pub latest: bool,
}

impl Mix {
    const NOTHING: Mix = Mix {
        read: 0.0,
        update: 0.0,
        scan: 0.0,
        read_modify_write: 0.0,
        latest: false,
    };

    /// Reads in this share of 1, the rest updates.
    pub fn reads(share: f64) -> Mix {
        Mix {
            read: 100.0 * share,
            update: 100.0 - 100.0 * share,
            ..Mix::NOTHING
        }
    }

    /// The YCSB core workload of this letter, `a` to `f`.
    pub fn ycsb(letter: char) -> Option<Mix> {
        Some(match letter {
            'a' => Mix::reads(0.5),
            'b' => Mix::reads(0.95),
            'c' => Mix::reads(1.0),
            'd' => Mix {
                read: 95.0,
                latest: true,
                ..Mix::NOTHING
            },
            'e' => Mix {
                scan: 95.0,
                ..Mix::NOTHING
            },
            'f' => Mix {
                read: 50.0,
                read_modify_write: 50.0,
                ..Mix::NOTHING
            },
            _ => return None,
        })
    }

    fn pick(&self, percent: f64) -> OpKind {
        let mut bound = 0.0;
        for (share, kind) in [
            (self.read, OpKind::Read),
            (self.update, OpKind::Update),
            (self.scan, OpKind::Scan),
            (self.read_modify_write, OpKind::ReadModifyWrite),
        ] {
            bound += share;
            if percent < bound {
                return kind;
            }
        }
        OpKind::Insert
    }
}

/// Zipfian ranks in 0..n, by the method of Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994, as YCSB
/// does it. Rank 0 is the most popular.
#[derive(Clone, Debug)]
pub struct Zipfian {
    n: f64,
    alpha: f64,
    zeta_n: f64,
    eta: f64,
    second: f64,
}

impl Zipfian {
    /// Sums `n` terms once. `n` is at least 1, theta lies between 0 and 1.
    pub fn new(n: u64, theta: f64) -> Self {
        let n = n.max(1);
        let zeta = |n: u64| (1..=n).map(|k| (k as f64).powf(-theta)).sum::<f64>();
        let (zeta_n, zeta_2) = (zeta(n), zeta(2));
        let n = n as f64;
        let eta = (1.0 - (2.0 / n).powf(1.0 - theta)) / (1.0 - zeta_2 / zeta_n);
        Self {
            n,
            alpha: 1.0 / (1.0 - theta),
            zeta_n,
            eta,
            second: 1.0 + 0.5f64.powf(theta),
        }
    }

    /// The rank for a number drawn uniformly from [0, 1).
    pub fn rank(&self, u: f64) -> u64 {
        let uz = u * self.zeta_n;
        let rank = if uz < 1.0 {
            0.0
        } else if uz < self.second {
            1.0
        } else {
            self.n * (self.eta * u - self.eta + 1.0).powf(self.alpha)
        };
        rank.clamp(0.0, self.n - 1.0) as u64
    }
}

/// Spreads ranks over the keys, so that popular keys are not neighbours (YCSB's "scrambled" zipfian). The finalizer of SplitMix64.
fn scramble(rank: u64) -> u64 {
    let z = rank.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The part of a workload that all clients share.
#[derive(Debug)]
pub struct Workload {
    mix: Mix,
    zipfian: Option<Zipfian>,
    loaded: u64,
    inserted: AtomicU64,
    seed: u64,
}

impl Workload {
    /// Over the keys 0..`keys`, of which there is at least one.
    pub fn new(mix: Mix, skew: Skew, keys: u64, seed: u64) -> Arc<Self> {
        let theta = match skew {
            Skew::Zipfian(theta) => Some(theta),
            Skew::Uniform if mix.latest => Some(ZIPFIAN_THETA),
            Skew::Uniform => None,
        };
        Arc::new(Self {
            mix,
            zipfian: theta.map(|theta| Zipfian::new(keys, theta)),
            loaded: keys.max(1),
            inserted: AtomicU64::new(0),
            seed,
        })
    }

    /// The sequence of one logical client.
    pub fn chooser(self: &Arc<Self>, client: u64) -> Chooser {
        let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ scramble(client));
        Chooser {
            shared: self.clone(),
            rng,
        }
    }
}

/// Chooses the operations of one logical client.
#[derive(Debug)]
pub struct Chooser {
    shared: Arc<Workload>,
    rng: Xoshiro256PlusPlus,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub kind: OpKind,
    /// The key's number; those of inserts are new.
    pub key: u64,
    /// Keys of a scan.
    pub scan_keys: u32,
}

impl Chooser {
    /// The next operation.
    pub fn step(&mut self) -> Step {
        let kind = self.shared.mix.pick(self.rng.random::<f64>() * 100.0);
        let key = match kind {
            OpKind::Insert => self.shared.loaded + self.shared.inserted.fetch_add(1, Ordering::Relaxed),
            _ => self.key(),
        };
        let scan_keys = if kind == OpKind::Scan {
            self.rng.random_range(1..=BENCH_SCAN_MAX)
        } else {
            0
        };
        Step { kind, key, scan_keys }
    }

    /// The number of an existing key.
    pub fn key(&mut self) -> u64 {
        let shared = &self.shared;
        match &shared.zipfian {
            None => self.rng.random_range(0..shared.loaded),
            Some(zipfian) => {
                let rank = zipfian.rank(self.rng.random());
                if shared.mix.latest {
                    shared.loaded + shared.inserted.load(Ordering::Relaxed) - 1 - rank
                } else {
                    scramble(rank) % shared.loaded
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(mix: Mix, skew: Skew, keys: u64, seed: u64, client: u64, n: usize) -> Vec<Step> {
        let mut chooser = Workload::new(mix, skew, keys, seed).chooser(client);
        (0..n).map(|_| chooser.step()).collect()
    }

    #[test]
    fn a_seed_and_a_client_decide_the_sequence() {
        for mix in ['a', 'b', 'c', 'd', 'e', 'f'].map(|c| Mix::ycsb(c).unwrap()) {
            let run = |seed, client| steps(mix, Skew::Zipfian(0.99), 1000, seed, client, 200);
            assert_eq!(run(1, 1), run(1, 1));
            assert_ne!(run(1, 1), run(2, 1));
            assert_ne!(run(1, 1), run(1, 2));
        }
    }

    #[test]
    fn shares_are_as_asked() {
        let n = 20_000;
        let share = |mix: Mix, kind: OpKind| {
            let steps = steps(mix, Skew::Uniform, 100, 7, 0, n);
            steps.iter().filter(|s| s.kind == kind).count() as f64 / n as f64
        };
        for (letter, kind, expected) in [
            ('a', OpKind::Read, 0.5),
            ('a', OpKind::Update, 0.5),
            ('b', OpKind::Update, 0.05),
            ('c', OpKind::Read, 1.0),
            ('d', OpKind::Insert, 0.05),
            ('e', OpKind::Scan, 0.95),
            ('e', OpKind::Insert, 0.05),
            ('f', OpKind::ReadModifyWrite, 0.5),
        ] {
            let got = share(Mix::ycsb(letter).unwrap(), kind);
            assert!((got - expected).abs() < 0.02, "ycsb-{letter} {kind:?}: {got}");
        }
        assert!(share(Mix::reads(0.0), OpKind::Update) == 1.0);
        assert!(share(Mix::reads(1.0), OpKind::Read) == 1.0);
        assert_eq!(Mix::ycsb('g'), None);
    }

    #[test]
    fn zipfian_has_its_shape() {
        let (n, theta, draws) = (1000, 0.99, 200_000);
        let zipfian = Zipfian::new(n, theta);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut counts = vec![0u64; n as usize];
        for _ in 0..draws {
            counts[zipfian.rank(rng.random()) as usize] += 1;
        }
        let zeta: f64 = (1..=n).map(|k| (k as f64).powf(-theta)).sum();
        let expected = |rank: usize| draws as f64 * ((rank + 1) as f64).powf(-theta) / zeta;
        // Exact for the first two ranks by construction; the method approximates the others.
        for rank in [0, 1] {
            let ratio = counts[rank] as f64 / expected(rank);
            assert!((ratio - 1.0).abs() < 0.05, "rank {rank}: {ratio}");
        }
        for (from, to) in [(2, 10), (10, 100), (100, 1000)] {
            let ratio = counts[from..to].iter().sum::<u64>() as f64 / (from..to).map(expected).sum::<f64>();
            assert!((ratio - 1.0).abs() < 0.2, "ranks {from}..{to}: {ratio}");
        }
        assert_eq!(zipfian.rank(0.0), 0);
        assert!(zipfian.rank(1.0 - f64::EPSILON) < n);
        assert_eq!(Zipfian::new(1, 0.5).rank(0.999), 0);
    }

    #[test]
    fn uniform_reaches_all_keys_alike() {
        let mut counts = [0u32; 50];
        for step in steps(Mix::reads(1.0), Skew::Uniform, 50, 1, 0, 50_000) {
            counts[step.key as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (800..1200).contains(&c)), "{counts:?}");
    }

    #[test]
    fn popular_keys_are_spread() {
        let mut counts = vec![0u32; 1000];
        for step in steps(Mix::reads(1.0), Skew::Zipfian(0.99), 1000, 1, 0, 50_000) {
            counts[step.key as usize] += 1;
        }
        let mut order: Vec<usize> = (0..1000).collect();
        order.sort_by_key(|&k| std::cmp::Reverse(counts[k]));
        assert!(counts[order[0]] > 5_000, "{}", counts[order[0]]);
        assert!(
            order[..5].windows(2).any(|w| w[0].abs_diff(w[1]) > 10),
            "{:?}",
            &order[..5]
        );
    }

    #[test]
    fn inserts_are_new_and_latest_reads_follow_them() {
        let workload = Workload::new(Mix::ycsb('d').unwrap(), Skew::Uniform, 100, 1);
        let mut choosers = [workload.chooser(0), workload.chooser(1)];
        let mut next = 100;
        for i in 0..2_000 {
            let step = choosers[i % 2].step();
            match step.kind {
                OpKind::Insert => {
                    assert_eq!(step.key, next);
                    next += 1;
                }
                _ => assert!(step.key < next),
            }
        }
        assert!(next > 150);
        let recent = (0..1000).filter(|_| choosers[0].key() >= next - 10).count();
        assert!(recent > 400, "{recent}");
    }

    #[test]
    fn skews_are_parsed() {
        assert_eq!("uniform".parse(), Ok(Skew::Uniform));
        assert_eq!("zipfian".parse(), Ok(Skew::Zipfian(0.99)));
        assert_eq!("zipfian=0.5".parse(), Ok(Skew::Zipfian(0.5)));
        for bad in ["", "zipf", "zipfian=1", "zipfian=0", "zipfian=NaN", "uniform=1"] {
            assert!(bad.parse::<Skew>().is_err(), "{bad}");
        }
        assert_eq!(Skew::Zipfian(0.5).to_string(), "zipfian=0.5");
    }
}
