//! How the numbers of a history are spelt in the cluster: partitions, keys and values. Whoever reads a committed log needs it, too.
//!
//! A partition is `w` and its number. A key is a letter and its number in hexadecimal: `k` for what is one key (registers, elements,
//! counters, accounts, leased keys), `l` for a list, whose items follow it as appends make them, `o` for the outbox row of a send and `r`
//! for what remembers that it was received. A value is 8 bytes, big-endian: the form that increments know. Non-negative ones compare as
//! bytes as they do as numbers. An outbox row has [`OUTBOX_REST`] bytes more after them.

use bytes::Bytes;
use kvsvr_client::Partition;

pub use crate::history::MARKER;
use crate::history::{Change, Key, Revision};

/// Keys of sends have numbers from here on in a history.
const OUTBOX: u32 = 0x8000_0000;
const RECEIVED: u32 = 0xC000_0000;
/// Numbers of sends that are told apart.
const SENDS: u32 = 0x4000_0000;

/// Bytes of an outbox row after its number: two keys and an amount.
pub const OUTBOX_REST: usize = 24;

/// Names of consumers that are reset and deleted begin so.
const MOVED: &str = "moved";

/// Partitions from here on are no workload's.
pub const PARTITIONS_END: u32 = 1_000_000;

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

/// The number of a value; `None` if it is none, of exactly this form.
pub fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
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

impl Stored {
    /// The number of a value that is stored there; `None` if it has another form than workloads give it.
    pub fn number(self, value: &[u8]) -> Option<u64> {
        match self {
            Stored::Key(key) if (OUTBOX..RECEIVED).contains(&key) => {
                let (id, rest) = value.split_first_chunk()?;
                (rest.len() == OUTBOX_REST).then_some(u64::from_be_bytes(*id))
            }
            _ => number(value),
        }
    }
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

/// What is wrong with a change that is of no workload's form, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strange(pub String);

/// A change as the cluster shows it.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The new value; `None` = deleted or expired.
    pub value: Option<&'a [u8]>,
    /// See [`Change::revision`].
    pub revision: Revision,
    /// See [`Change::expired`].
    pub expired: bool,
    /// See [`Change::create_rev`].
    pub create_rev: Revision,
    /// See [`Change::version`].
    pub version: u64,
    /// See [`Change::lease`].
    pub lease: u64,
}

/// A change as histories have it; `None` if it is in a partition that is no workload's, or of a list's length.
///
/// # Errors
/// It is in a workload's partition, and no workload makes such ones.
pub fn change(of: &Partition, raw: Raw<'_>) -> Result<Option<Change>, Strange> {
    let Raw {
        key,
        value,
        revision,
        expired,
        create_rev,
        version,
        lease,
    } = raw;
    let Some(partition) = partition_number(of).filter(|number| *number < PARTITIONS_END) else {
        return Ok(None);
    };
    let strange = |what: String| {
        let key = key.escape_ascii();
        Strange(format!(
            "at revision {revision} key \"{key}\" of partition {partition} {what}"
        ))
    };
    let stored = stored(key).ok_or_else(|| strange("changes, which is no workload's".into()))?;
    let number = match (stored, value) {
        (Stored::Length(_), _) => return Ok(None),
        (_, None) => None,
        (_, Some(value)) => {
            let other = || strange(format!("becomes {:?}", value.escape_ascii().to_string()));
            Some(stored.number(value).ok_or_else(other)?)
        }
    };
    let (Stored::Key(key) | Stored::Item(key, _) | Stored::Length(key)) = stored;
    Ok(Some(Change {
        revision,
        key: Key { partition, key },
        value: number,
        expired,
        create_rev,
        version,
        lease,
    }))
}

/// The same of a watch without values: the new value is 0.
///
/// # Errors
/// As [`change`].
pub fn change_without_value(of: &Partition, raw: Raw<'_>) -> Result<Option<Change>, Strange> {
    let left = raw.value.map(|_| 0);
    let change = change(of, Raw { value: None, ..raw })?;
    Ok(change.map(|change| Change {
        value: left,
        ..change
    }))
}

/// The name of a consumer that its workload resets and deletes; no other one does.
pub fn moved(program: u32, number: u32, life: u32) -> String {
    format!("{MOVED}{program}.{number}.{life}")
}

/// Whether it is such a name.
pub fn is_moved(name: &[u8]) -> bool {
    name.starts_with(MOVED.as_bytes())
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

    fn raw<'a>(key: &'a [u8], value: Option<&'a [u8]>) -> Raw<'a> {
        Raw {
            key,
            value,
            revision: 7,
            expired: value.is_none(),
            create_rev: 5,
            version: 2,
            lease: 3,
        }
    }

    #[test]
    fn changes_are_as_histories_have_them() {
        let of = partition(4);
        let item = [&list(3)[..], &2u64.to_be_bytes()].concat();
        let appended = change(&of, raw(&item, Some(&value(9)))).unwrap().unwrap();
        let key = Key { partition: 4, key: 3 };
        assert_eq!(
            (appended.key, appended.value, appended.revision),
            (key, Some(9), 7)
        );
        assert_eq!((appended.create_rev, appended.version, appended.lease), (5, 2, 3));
        let bare = change_without_value(&of, raw(&super::key(3), Some(b"")))
            .unwrap()
            .unwrap();
        assert_eq!((bare.key, bare.value, bare.version), (key, Some(0), 2));
        assert!(is_moved(moved(1, 2, 3).as_bytes()) && !is_moved(b"consumer1.2"));
        assert_eq!(change(&of, raw(&list(3), Some(&value(2)))), Ok(None));
        let gone = change(&of, raw(&super::key(3), None)).unwrap().unwrap();
        assert_eq!((gone.key, gone.value, gone.expired), (key, None, true));
    }

    #[test]
    fn changes_that_no_workload_makes_are_strange() {
        let (key, long) = (super::key(3), [&value(2)[..], b"x"].concat());
        let row = [&value(5)[..], &[0; OUTBOX_REST]].concat();
        let of = |number, key: &[u8], value: &[u8]| change(&partition(number), raw(key, Some(value)));
        assert!(of(4, &key, &value(2)).unwrap().is_some());
        for (key, value) in [
            (&key[..], &long[..]),
            (&key, b"short"),
            (&key, &row),
            (b"other", &value(2)),
            (&outbox(5), &value(5)),
            (&received(5), &row),
        ] {
            assert!(of(4, key, value).is_err(), "{key:?} {value:?}");
            assert_eq!(of(PARTITIONS_END, key, value), Ok(None));
        }
        assert_eq!(of(4, &outbox(5), &row).unwrap().unwrap().value, Some(5));
    }

    #[test]
    fn values_compare_as_bytes() {
        assert!(value(255) < value(256) && value(0) < value(1));
        assert_eq!(number(&value(u64::MAX)), Some(u64::MAX));
        assert_eq!((number(b"short"), number(b"nine byte")), (None, None));
    }
}
