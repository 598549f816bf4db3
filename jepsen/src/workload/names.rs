//! How the numbers of a history are spelt in the cluster: partitions, keys and values. Whoever reads a committed log needs it, too.
//!
//! A partition is `w` and its number. A key is a letter and its number in hexadecimal: `k` for what is one key (registers, elements,
//! counters, accounts, leased keys), `l` for a list, whose items follow it as appends make them, `o` for the outbox row of a send and `r`
//! for what remembers that it was received. A value is 8 bytes, big-endian: the form that increments know. Non-negative ones compare as
//! bytes as they do as numbers. An outbox row has more after them.

use bytes::Bytes;
use kvsvr_client::Partition;

use crate::history::{Change, Key, Revision};

/// Keys of sends have numbers from here on in a history.
const OUTBOX: u32 = 0x8000_0000;
const RECEIVED: u32 = 0xC000_0000;
/// Numbers of sends that are told apart.
const SENDS: u32 = 0x4000_0000;

/// The key to which a workload writes last, so that whoever follows a partition or a shard knows the end.
pub const MARKER: u32 = 0x7fff_ffff;

/// The partition of a number.
pub fn partition(number: u32) -> Partition {
    Partition::local(format!("w{number}"))
}

/// The number of a partition; `None` if it is not of a workload.
pub fn partition_number(partition: &Partition) -> Option<u32> {
    let text = std::str::from_utf8(&partition.name).ok()?;
    let number = text.strip_prefix('w')?.parse().ok()?;
    (partition.region == 0 && self::partition(number) == *partition).then_some(number)
}

fn named(letter: char, number: u32) -> Bytes {
    format!("{letter}{number:08x}").into()
}

/// A key.
pub fn key(number: u32) -> Bytes {
    named('k', number)
}

/// A list: the prefix of its appends.
pub fn list(number: u32) -> Bytes {
    named('l', number)
}

/// The outbox row of a send.
pub fn outbox(id: u64) -> Bytes {
    named('o', id as u32 % SENDS)
}

/// What remembers that a send has arrived.
pub fn received(id: u64) -> Bytes {
    named('r', id as u32 % SENDS)
}

/// A value.
pub fn value(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// The number of a value; `None` if it is none.
pub fn number(value: &[u8]) -> Option<u64> {
    let (number, _) = value.split_first_chunk()?;
    Some(u64::from_be_bytes(*number))
}

/// What a stored key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A key of this number.
    Key(u32),
    /// The length of a list.
    Length(u32),
    /// An item of a list, and its place.
    Item(u32, u64),
}

/// What a stored key is; `None` if no workload makes it.
pub fn stored(key: &[u8]) -> Option<Stored> {
    let (name, rest) = key.split_at_checked(9)?;
    let (letter, digits) = std::str::from_utf8(name).ok()?.split_at_checked(1)?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    match (letter, rest.len()) {
        ("k", 0) => Some(Stored::Key(number)),
        ("o", 0) => Some(Stored::Key(OUTBOX | number)),
        ("r", 0) => Some(Stored::Key(RECEIVED | number)),
        ("l", 0) => Some(Stored::Length(number)),
        ("l", 8) => Some(Stored::Item(number, self::number(rest)?)),
        _ => None,
    }
}

/// A change as histories have it; `None` if no workload makes such ones, or it is of a list's length.
pub fn change(
    of: &Partition,
    key: &[u8],
    value: Option<&[u8]>,
    revision: Revision,
    expired: bool,
) -> Option<Change> {
    let partition = partition_number(of)?;
    let key = match stored(key)? {
        Stored::Key(key) | Stored::Item(key, _) => key,
        Stored::Length(_) => return None,
    };
    let value = match value {
        Some(value) => Some(number(value)?),
        None => None,
    };
    Some(Change {
        revision,
        key: Key { partition, key },
        value,
        expired,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_back() {
        assert_eq!(partition_number(&partition(17)), Some(17));
        for other in ["w017", "w", "x17", "w-1"] {
            assert_eq!(partition_number(&Partition::from(other)), None, "{other}");
        }
        assert_eq!(partition_number(&Partition::new(1, "w17")), None);
        assert_eq!(stored(&key(MARKER)), Some(Stored::Key(MARKER)));
        assert_eq!(stored(&outbox(5)), Some(Stored::Key(0x8000_0005)));
        assert_eq!(stored(&received(5)), Some(Stored::Key(0xC000_0005)));
        assert_eq!(stored(&list(3)), Some(Stored::Length(3)));
        let item = [&list(3)[..], &2u64.to_be_bytes()].concat();
        assert_eq!(stored(&item), Some(Stored::Item(3, 2)));
        for other in [
            &b"k"[..],
            b"k0000000x",
            b"k000000001",
            b"demo",
            "käääääää".as_bytes(),
        ] {
            assert_eq!(stored(other), None);
        }
    }

    #[test]
    fn changes_are_as_histories_have_them() {
        let of = partition(4);
        let item = [&list(3)[..], &2u64.to_be_bytes()].concat();
        let appended = change(&of, &item, Some(&value(9)), 7, false).unwrap();
        let key = Key { partition: 4, key: 3 };
        assert_eq!(
            (appended.key, appended.value, appended.revision),
            (key, Some(9), 7)
        );
        assert_eq!(change(&of, &list(3), Some(&value(2)), 7, false), None);
        let gone = change(&of, &super::key(3), None, 8, true).unwrap();
        assert_eq!((gone.key, gone.value, gone.expired), (key, None, true));
    }

    #[test]
    fn values_compare_as_bytes() {
        assert!(value(255) < value(256) && value(0) < value(1));
        assert_eq!(number(&value(u64::MAX)), Some(u64::MAX));
        assert_eq!(number(b"short"), None);
    }
}
