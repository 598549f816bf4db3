//! Random data keys, for the tests that print times.

/// How many there are.
pub(crate) const KEYS: u64 = 100_000;

/// Xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The number of a key.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % KEYS
    }
}

/// A data key.
pub(crate) fn key(i: u64) -> Vec<u8> {
    let slot = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as u16;
    let name = format!("user{i:08}");
    let mut key = vec![0, 0, 0, 1];
    key.extend(slot.to_be_bytes());
    key.extend([0, 0, 0, name.len() as u8]);
    key.extend(name.as_bytes());
    key.extend(b"profile");
    key
}
