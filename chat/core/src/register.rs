//! Rows that are told to others: a row and its version, which only grows.
//!
//! Who tells such a row, a delivery worker, may be late, may tell twice, and may go on for a moment after another one took over. So the row begins
//! with its version (u64, big-endian), and is put only where an older one stands: `value < new` is a compare that the store does inside the transaction, and it needs
//! no look before. Telling it again changes nothing.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes of the version.
const VERSION_BYTES: usize = 8;

/// What is wrong with a stored row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored row cannot be read: {0}")]
pub struct BadRow(pub String);

/// The row.
pub fn encode(version: u64, message: &impl Message) -> Bytes {
    let mut row = BytesMut::with_capacity(VERSION_BYTES + message.encoded_len());
    row.put_u64(version);
    row.put_slice(&message.encode_to_vec());
    row.freeze()
}

/// What every row of this version or a later one sorts at or after: `row < floor(version)` holds for older rows only.
pub fn floor(version: u64) -> Bytes {
    Bytes::copy_from_slice(&version.to_be_bytes())
}

/// Version and message of a row.
///
/// # Errors
/// [`BadRow`] if it is too short, or is no message of this kind.
pub fn decode<M: Message + Default>(row: &[u8]) -> Result<(u64, M), BadRow> {
    let (version, message) = row
        .split_first_chunk::<VERSION_BYTES>()
        .ok_or_else(|| BadRow(format!("{} bytes have no room for a version", row.len())))?;
    let message = M::decode(message).map_err(|e| BadRow(e.to_string()))?;
    Ok((u64::from_be_bytes(*version), message))
}

#[cfg(test)]
mod tests {
    use chat_proto::v1::ReadMark;
    use proptest::prelude::*;

    use super::{decode, encode, floor};

    proptest! {
        #[test]
        fn only_older_rows_are_below_the_floor(old in any::<u64>(), new in any::<u64>(), ordinal in any::<u64>()) {
            let row = encode(old, &ReadMark { seq: old, ordinal });
            prop_assert_eq!(row < floor(new), old < new);
            let (version, mark) = decode::<ReadMark>(&row).unwrap();
            prop_assert_eq!((version, mark), (old, ReadMark { seq: old, ordinal }));
        }
    }

    #[test]
    fn a_damaged_row_is_an_error() {
        assert!(decode::<ReadMark>(b"short").is_err());
        assert!(decode::<ReadMark>(b"\0\0\0\0\0\0\0\x01\xff").is_err());
    }
}
