//! Where a partition lives.

use twox_hash::XxHash3_64;

/// Slots of the key space; a partition's slot never changes.
pub const SLOTS: u16 = 4096;
/// Bytes of a partition's name, at least one.
pub const MAX_PARTITION_NAME: usize = 256;

/// The slot of a partition: xxh3_64(region as 2 big-endian bytes, name) mod [`SLOTS`]. Names longer than
/// [`MAX_PARTITION_NAME`] are invalid; their excess is not hashed. Part of every format: it never changes.
pub fn slot(region: u16, name: &[u8]) -> u16 {
    let mut buffer = [0u8; 2 + MAX_PARTITION_NAME];
    let len = name.len().min(MAX_PARTITION_NAME);
    buffer[..2].copy_from_slice(&region.to_be_bytes());
    buffer[2..2 + len].copy_from_slice(&name[..len]);
    (XxHash3_64::oneshot(&buffer[..2 + len]) % u64::from(SLOTS)) as u16
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn slots_are_pinned() {
        // Computed once; a change here would move every partition.
        let got: Vec<u16> = [(0, "alice"), (0, "bob"), (1, "alice"), (65535, "x")]
            .into_iter()
            .map(|(region, name)| slot(region, name.as_bytes()))
            .collect();
        assert_eq!(got, PINNED);
    }

    const PINNED: [u16; 4] = [2353, 2712, 930, 1946];
}
