//! A file of [`MemDisk`](super::MemDisk): what is cached, what is durable, and what a power failure makes of it.

use std::collections::{BTreeMap, BTreeSet};

use super::SECTOR;

/// A small generator of its own, so that runs do not depend on any library's version (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// What a running process sees, what is durable, and in which sectors they differ.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) cached: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) dirty: BTreeSet<usize>,
    /// The length changed since the last sync.
    pub(super) resized: bool,
    /// Bits that are flipped: byte and bit, and the file's path when it happened.
    pub(super) damaged: BTreeMap<(usize, u8), String>,
}

impl Content {
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if end > self.cached.len() {
            self.cached.resize(end, 0);
            self.resized = true;
        }
        self.cached[at..end].copy_from_slice(bytes);
        self.damaged.retain(|(byte, _), _| !(at..end).contains(byte));
        if !bytes.is_empty() {
            self.dirty.extend(at / SECTOR..=(end - 1) / SECTOR);
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.resized |= len != self.cached.len();
        let old = self.cached.len();
        self.cached.resize(len, 0);
        self.damaged.retain(|(byte, _), _| *byte < len);
        // What a cut removed reads as zero when the file grows again.
        if len > old && len > 0 {
            self.dirty.extend(old / SECTOR..=(len - 1) / SECTOR);
        }
    }

    /// Flips a bit that is on the platter too, or flips it back. False if the file is shorter.
    pub(super) fn flip_bit(&mut self, path: &str, at: usize, bit: u8) -> bool {
        if at >= self.cached.len() {
            return false;
        }
        self.cached[at] ^= 1 << bit;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= 1 << bit;
        }
        if self.damaged.remove(&(at, bit)).is_none() {
            self.damaged.insert((at, bit), path.to_owned());
        }
        true
    }

    pub(super) fn persist_sector(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cached.len()).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.cached[start..end]);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.cached.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.persist_sector(sector);
        }
        self.resized = false;
    }

    /// The content after a power failure.
    pub(super) fn crash(mut self, random: &mut Random) -> Self {
        if self.resized && random.below(2) == 0 {
            self.durable.resize(self.cached.len(), 0);
        }
        // None, all, or each by a coin.
        let fate = random.below(4);
        for sector in std::mem::take(&mut self.dirty) {
            if fate == 1 || (fate > 1 && random.below(2) == 0) {
                self.persist_sector(sector);
            }
        }
        let len = self.durable.len();
        self.damaged.retain(|(byte, _), _| *byte < len);
        Self {
            cached: self.durable.clone(),
            durable: self.durable,
            damaged: self.damaged,
            ..Self::default()
        }
    }
}
