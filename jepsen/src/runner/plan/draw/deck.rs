//! The deck of ways in which faults happen.

use std::collections::{BTreeMap, VecDeque};

use super::{Mode, Nemesis};
use crate::workload::Random;

/// The ways of some kinds, in the order in which they come.
pub(super) struct Deck {
    /// The next ones, and whether the schedule must have them.
    cards: VecDeque<(Mode, bool)>,
    /// The ways of each kind, the next one first.
    ways: BTreeMap<Nemesis, VecDeque<&'static str>>,
}

impl Deck {
    /// Every kind once, then the ways that are left: in each round one of each kind that has one. The schedule must have the kinds, or all.
    pub(super) fn new(modes: &[Mode], all: bool, random: &mut Random) -> Self {
        let mut by_kind: BTreeMap<Nemesis, Vec<&'static str>> = BTreeMap::new();
        for Mode { nemesis, way } in modes {
            by_kind.entry(*nemesis).or_default().push(way);
        }
        for ways in by_kind.values_mut() {
            shuffle(ways, random);
        }
        let mut cards = VecDeque::new();
        for round in 0.. {
            let of_kind = |(nemesis, ways): (&Nemesis, &Vec<&'static str>)| {
                ways.get(round).map(|way| Mode {
                    nemesis: *nemesis,
                    way,
                })
            };
            let mut modes: Vec<Mode> = by_kind.iter().filter_map(of_kind).collect();
            if modes.is_empty() {
                break;
            }
            shuffle(&mut modes, random);
            cards.extend(modes.into_iter().map(|mode| (mode, all || round == 0)));
        }
        let ways = by_kind.into_iter().map(|(nemesis, ways)| (nemesis, ways.into()));
        Self {
            cards,
            ways: ways.collect(),
        }
    }

    /// How many kinds it has.
    pub(super) fn kinds(&self) -> u64 {
        self.ways.len() as u64
    }

    /// How many cards must still come.
    pub(super) fn owed(&self) -> u64 {
        self.cards.iter().filter(|(_, owed)| *owed).count() as u64
    }

    /// The next card whose kind is not among these. `None` if there is no such kind.
    pub(super) fn deal(&mut self, but: &[Mode], random: &mut Random) -> Option<Mode> {
        let fits = |mode: &Mode| but.iter().all(|other| other.nemesis != mode.nemesis);
        if !self.cards.iter().any(|(mode, _)| fits(mode)) {
            self.refill(random);
        }
        let at = self.cards.iter().position(|(mode, _)| fits(mode))?;
        self.cards.remove(at).map(|(mode, _)| mode)
    }

    /// Every kind once more, in its next way.
    fn refill(&mut self, random: &mut Random) {
        let next = |(nemesis, ways): (&Nemesis, &mut VecDeque<&'static str>)| {
            ways.rotate_left(1);
            let way = ways.back().copied().unwrap_or_default();
            Mode {
                nemesis: *nemesis,
                way,
            }
        };
        let mut modes: Vec<Mode> = self.ways.iter_mut().map(next).collect();
        shuffle(&mut modes, random);
        self.cards.extend(modes.into_iter().map(|mode| (mode, false)));
    }
}

/// Puts cards in any order.
pub(super) fn shuffle<T>(cards: &mut [T], random: &mut Random) {
    for last in (1..cards.len()).rev() {
        cards.swap(last, random.below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::super::modes, *};

    #[test]
    fn every_kind_comes_first_then_every_way_then_all_kinds_again() {
        let mut random = Random::new(1, &[]);
        let all = modes(&Nemesis::ALL, 5);
        let mut deck = Deck::new(&all, true, &mut random);
        let kinds = Nemesis::ALL.len();
        assert_eq!((deck.kinds(), deck.owed()), (kinds as u64, all.len() as u64));
        let dealt: Vec<Mode> = (0..all.len() + kinds)
            .filter_map(|_| deck.deal(&[], &mut random))
            .collect();
        let kinds_of = |modes: &[Mode]| modes.iter().map(|mode| mode.nemesis).collect::<BTreeSet<_>>();
        assert_eq!(kinds_of(&dealt[..kinds]).len(), kinds);
        let ways: BTreeSet<Mode> = dealt[..all.len()].iter().copied().collect();
        assert_eq!(ways, all.into_iter().collect());
        assert_eq!(kinds_of(&dealt[dealt.len() - kinds..]).len(), kinds);
        assert_eq!(deck.owed(), 0);
    }

    #[test]
    fn what_does_not_fit_comes_later() {
        let mut random = Random::new(1, &[]);
        let all = modes(&[Nemesis::Kill, Nemesis::Power], 5);
        let mut deck = Deck::new(&all, false, &mut random);
        assert_eq!(deck.owed(), 2);
        let power = Mode {
            nemesis: Nemesis::Power,
            way: "",
        };
        let kills = [0, 1].map(|_| deck.deal(&[power], &mut random).unwrap());
        assert_eq!(kills.map(|mode| mode.nemesis), [Nemesis::Kill; 2]);
        assert_ne!(kills[0].way, kills[1].way);
        assert_eq!(deck.deal(&kills, &mut random), Some(power));
        assert_eq!(deck.deal(&[power, kills[0]], &mut random), None);
    }
}
