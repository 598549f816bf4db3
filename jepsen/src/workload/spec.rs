//! What runs, as data: drawn from a seed or written by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kvsvr_client::{Client, Result, proto};
use serde::{Deserialize, Serialize};

use super::{
    Load, bank, caller::ShardOf, consumer, counter, lease, names, place, place::Place, random::Random,
    register, session, set_list, variety, watch,
};
use crate::{check, history::Key};

/// How many of a hundred drawings have the program `variety`.
const VARIETY_PERCENT: u32 = 25;

/// One program with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "program", rename_all = "snake_case")]
pub enum Program {
    /// Registers.
    Register(register::Program),
    /// Sets and lists.
    SetList(set_list::Program),
    /// Counters.
    Counter(counter::Program),
    /// Accounts.
    Bank(bank::Program),
    /// Watches.
    Watch(watch::Program),
    /// Consumers.
    Consumer(consumer::Program),
    /// Reads of other modes.
    Session(session::Program),
    /// Keys with a TTL or a lease.
    Lease(lease::Program),
    /// Transactions, pages, and other calls that no other program makes.
    Variety(variety::Program),
}

impl Program {
    /// The names of all programs, as [`Program::by_name`] knows them and JSON has them.
    pub const NAMES: [&str; 9] = [
        "register", "set_list", "counter", "bank", "watch", "consumer", "session", "lease", "variety",
    ];

    /// A program with parameters that suit a small cluster. `None` if there is none of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "register" => Program::Register(register::Program::default()),
            "set_list" => Program::SetList(set_list::Program::default()),
            "counter" => Program::Counter(counter::Program::default()),
            "bank" => Program::Bank(bank::Program::default()),
            "watch" => Program::Watch(watch::Program::default()),
            "consumer" => Program::Consumer(consumer::Program::default()),
            "session" => Program::Session(session::Program::default()),
            "lease" => Program::Lease(lease::Program::default()),
            "variety" => Program::Variety(variety::Program::default()),
            _ => return None,
        })
    }

    /// Draws the parameters of a program. `None` if there is none of this name.
    pub fn draw(name: &str, random: &mut Random) -> Option<Self> {
        Some(match name {
            "register" => Program::Register(register::Program::draw(random)),
            "set_list" => Program::SetList(set_list::Program::draw(random)),
            "counter" => Program::Counter(counter::Program::draw(random)),
            "bank" => Program::Bank(bank::Program::draw(random)),
            "watch" => Program::Watch(watch::Program::draw(random)),
            "consumer" => Program::Consumer(consumer::Program::draw(random)),
            "session" => Program::Session(session::Program::draw(random)),
            "lease" => Program::Lease(lease::Program::draw(random)),
            "variety" => Program::Variety(variety::Program::draw(random)),
            _ => return None,
        })
    }

    fn pause_us(&mut self) -> &mut u64 {
        match self {
            Program::Register(program) => &mut program.pause_us,
            Program::SetList(program) => &mut program.pause_us,
            Program::Counter(program) => &mut program.pause_us,
            Program::Bank(program) => &mut program.pause_us,
            Program::Watch(program) => &mut program.pause_us,
            Program::Consumer(program) => &mut program.pause_us,
            Program::Session(program) => &mut program.pause_us,
            Program::Lease(program) => &mut program.pause_us,
            Program::Variety(program) => &mut program.pause_us,
        }
    }

    fn checks(&self) -> &'static [check::Workload] {
        match self {
            Program::Register(program) => program.checks(),
            Program::SetList(program) => program.checks(),
            Program::Counter(program) => program.checks(),
            Program::Bank(program) => program.checks(),
            Program::Watch(program) => program.checks(),
            Program::Consumer(program) => program.checks(),
            Program::Session(program) => program.checks(),
            Program::Lease(program) => program.checks(),
            Program::Variety(program) => program.checks(),
        }
    }

    pub(super) fn load(&self, place: Place) -> Box<dyn Load> {
        match self.clone() {
            Program::Register(program) => Box::new(register::Running::new(program, place)),
            Program::SetList(program) => Box::new(set_list::Running::new(program, place)),
            Program::Counter(program) => Box::new(counter::Running::new(program, place)),
            Program::Bank(program) => Box::new(bank::Running::new(program, place)),
            Program::Watch(program) => Box::new(watch::Running::new(program, place)),
            Program::Consumer(program) => Box::new(consumer::Running::new(program, place)),
            Program::Session(program) => Box::new(session::Running::new(program, place)),
            Program::Lease(program) => Box::new(lease::Running::new(program, place)),
            Program::Variety(program) => Box::new(variety::Running::new(program, place)),
        }
    }
}

/// Programs that run side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Each works in partitions of its own, by its place in this list.
    pub programs: Vec<Program>,
    /// Milliseconds that a call may take, all its tries together.
    pub timeout_ms: u64,
}

impl Spec {
    /// These programs, with parameters that suit a small cluster. `None` if one of the names is not known.
    pub fn named(names: &[&str]) -> Option<Self> {
        let programs = names.iter().map(|name| Program::by_name(name));
        Some(Self {
            programs: programs.collect::<Option<_>>()?,
            timeout_ms: 5_000,
        })
    }

    /// Draws one to four programs and their parameters, and to one of four such drawings `variety`.
    pub fn draw(random: &mut Random) -> Self {
        let [mut names @ .., variety] = Program::NAMES;
        let mut left = names.len() as u64;
        let count = random.range(1, 5);
        let mut programs: Vec<Program> = (0..count)
            .filter_map(|_| {
                let at = random.below(left) as usize;
                left -= 1;
                names.swap(at, left as usize);
                Program::draw(names[left as usize], random)
            })
            .collect();
        let timeout_ms = random.range(1_000, 8_000);
        // Drawn last: the rest of a plan is what it is without.
        if random.percent(VARIETY_PERCENT) {
            programs.extend(Program::draw(variety, random));
        }
        Self { programs, timeout_ms }
    }

    /// The same with pauses between operations that are so many times as long.
    pub fn slowed(mut self, times: f64) -> Self {
        for program in &mut self.programs {
            let pause = program.pause_us();
            *pause = (*pause as f64 * times) as u64;
        }
        self
    }

    /// What is to be checked.
    pub fn checks(&self) -> BTreeSet<check::Workload> {
        let all = self.programs.iter().flat_map(|program| program.checks());
        all.copied().collect()
    }

    /// What the accounts have at first.
    pub fn accounts(&self) -> BTreeMap<Key, u64> {
        let mut accounts = BTreeMap::new();
        for (program, index) in self.programs.iter().zip(0..) {
            if let Program::Bank(bank) = program {
                accounts.extend(bank.opening(place::partitions(index, bank.partitions)));
            }
        }
        accounts
    }
}

/// The shard of each partition of a workload, as the cluster's map is now.
///
/// # Errors
/// There is no map; see [`kvsvr_client::Error`].
pub async fn shards(client: &Client) -> Result<ShardOf> {
    let map = client.shard_map().await?;
    Ok(Arc::new(move |partition| {
        shard(&map, u32::from(names::partition(partition).slot()))
    }))
}

/// The shard of a slot; the meta shard's number, which has no slots, if there is none.
fn shard(map: &proto::ShardMap, slot: u32) -> u32 {
    let has_it =
        |shard: &&proto::ShardInfo| shard.id != 0 && (shard.first_slot..=shard.last_slot).contains(&slot);
    map.shards.iter().find(has_it).map_or(0, |shard| shard.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_can_be_named_drawn_and_kept() {
        for name in Program::NAMES {
            let named = Program::by_name(name).unwrap();
            let drawn = Program::draw(name, &mut Random::new(3, &[])).unwrap();
            for program in [named, drawn] {
                let json = serde_json::to_value(&program).unwrap();
                assert_eq!(json["program"], name);
                assert_eq!(serde_json::from_value::<Program>(json).unwrap(), program);
                assert!(!program.checks().is_empty());
            }
        }
        assert!(Program::by_name("other").is_none() && Spec::named(&["bank", "other"]).is_none());
    }

    #[test]
    fn a_spec_is_drawn_from_a_seed() {
        let draw = |seed| Spec::draw(&mut Random::new(seed, &[]));
        assert_eq!(draw(1), draw(1));
        let mut kinds = BTreeSet::new();
        for seed in 0..50 {
            let spec = draw(seed);
            assert!((1..=5).contains(&spec.programs.len()));
            kinds.extend(spec.checks());
        }
        assert_eq!(kinds.len(), 10);
    }

    #[test]
    fn sessions_are_checked_where_there_are_such_reads() {
        let mut spec = Spec::named(&["register", "set_list"]).unwrap();
        assert!(spec.checks().contains(&check::Workload::Session));
        for program in &mut spec.programs {
            match program {
                Program::Register(register) => register.mix[1] = 0,
                Program::SetList(set_list) => set_list.mix[4] = 0,
                _ => {}
            }
        }
        assert!(!spec.checks().contains(&check::Workload::Session));
    }

    #[test]
    fn pauses_can_be_longer() {
        let spec = Spec::named(&Program::NAMES).unwrap();
        let pauses =
            |mut spec: Spec| -> Vec<u64> { spec.programs.iter_mut().map(|p| *p.pause_us()).collect() };
        let twice: Vec<u64> = pauses(spec.clone()).iter().map(|pause| pause * 2).collect();
        assert_eq!(pauses(spec.slowed(2.0)), twice);
    }

    #[test]
    fn accounts_are_where_the_bank_works() {
        let spec = Spec::named(&["register", "bank"]).unwrap();
        let accounts = spec.accounts();
        assert_eq!(accounts.len(), 15);
        let first = Key {
            partition: 200,
            key: 0,
        };
        assert_eq!(accounts.first_key_value(), Some((&first, &100)));
    }

    #[test]
    fn shards_are_found_by_slot() {
        let info = |id, first_slot, last_slot| proto::ShardInfo {
            id,
            first_slot,
            last_slot,
            ..Default::default()
        };
        let map = proto::ShardMap {
            shards: vec![info(0, 0, 0), info(1, 0, 2047), info(2, 2048, 4095)],
            ..Default::default()
        };
        let found: Vec<u32> = [0, 2047, 2048, 4095].map(|slot| shard(&map, slot)).to_vec();
        assert_eq!(found, [1, 1, 2, 2]);
    }
}
