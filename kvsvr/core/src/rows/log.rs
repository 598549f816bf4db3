//! Rows of the change log.

use bytes::Bytes;

use super::{body, corrupt, start};
use crate::{
    engine::Cf,
    error::Corrupt,
    event::EventKind,
    types::{Partition, Revision, StampMs},
    wire::{Reader, put_bytes, put_varint},
};

/// The last revision in a stored change log row.
pub(crate) fn last_revision(stored: &[u8]) -> Option<Revision> {
    body(stored)?.varint()
}

/// One change in a [`LogRow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogItem {
    /// The shard's revision after it.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The key's partition.
    pub partition: Partition,
    /// The key.
    pub key: Bytes,
    /// Revision of the version before; 0 = there was none.
    pub previous: Revision,
}

/// The changes of one log entry, or of a part of it when that is long (see
/// [`LOG_ROW_BYTES`](crate::limits::LOG_ROW_BYTES)); always whole revisions:
/// `format, last revision, stamp, event_bytes, then for each change: kind (+ 0x80 if the partition is that of the change
/// before), revision - that of the change before, [region, name], key, previous`. Names and keys have varint lengths.
/// The values are found in data and hist by key and revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// The last revision.
    pub last: Revision,
    /// The stamp of the log entry.
    pub stamp: StampMs,
    /// Bytes of all events of the shard before this row.
    pub event_bytes: u64,
    /// The changes, in order.
    pub items: Vec<LogItem>,
}

const SAME_PARTITION: u8 = 0x80;

fn kind_number(kind: EventKind) -> u8 {
    match kind {
        EventKind::Put => 1,
        EventKind::Delete => 2,
        EventKind::Expire => 3,
    }
}

/// A [`LogRow`] in the making.
#[derive(Debug, Default)]
pub(crate) struct LogRowBuilder {
    first: Revision,
    last: Revision,
    event_bytes: u64,
    partition: Option<Partition>,
    body: Vec<u8>,
}

impl LogRowBuilder {
    /// Before pushes: how many bytes of events the shard had. Counts for the first push of a row.
    pub(crate) fn begin(&mut self, event_bytes: u64) {
        if self.body.is_empty() {
            self.event_bytes = event_bytes;
        }
    }

    pub(crate) fn push(
        &mut self,
        revision: Revision,
        kind: EventKind,
        partition: &Partition,
        key: &[u8],
        previous: Revision,
    ) {
        if self.body.is_empty() {
            self.first = revision;
            self.last = revision;
        }
        let same = self.partition.as_ref() == Some(partition);
        self.body
            .push(kind_number(kind) | if same { SAME_PARTITION } else { 0 });
        put_varint(&mut self.body, revision - self.last);
        if !same {
            put_varint(&mut self.body, u64::from(partition.region));
            put_bytes(&mut self.body, &partition.name);
            self.partition = Some(partition.clone());
        }
        put_bytes(&mut self.body, key);
        put_varint(&mut self.body, previous);
        self.last = revision;
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    /// The first revision and the stored form; `None` if nothing was pushed. Leaves the builder empty.
    pub(crate) fn finish(&mut self, stamp: StampMs) -> Option<(Revision, Bytes)> {
        if self.body.is_empty() {
            return None;
        }
        let mut out = start([self.last, stamp, self.event_bytes], self.body.len());
        out.extend_from_slice(&self.body);
        self.body.clear();
        self.partition = None;
        Some((self.first, out.into()))
    }
}

impl LogRow {
    /// The stored form and the first revision; `None` without items.
    pub fn encode(&self) -> Option<(Revision, Bytes)> {
        let mut builder = LogRowBuilder::default();
        builder.begin(self.event_bytes);
        for item in &self.items {
            builder.push(
                item.revision,
                item.kind,
                &item.partition,
                &item.key,
                item.previous,
            );
        }
        builder.finish(self.stamp)
    }

    /// Decodes the stored form. `first` is from the key.
    pub fn decode(key: &[u8], first: Revision, stored: &Bytes) -> Result<Self, Corrupt> {
        Self::read(first, stored).ok_or_else(|| corrupt(Cf::Log, key))
    }

    /// Last revision, stamp and event_bytes, without the items.
    pub(crate) fn read_head(stored: &[u8]) -> Option<(Revision, StampMs, u64)> {
        let mut reader = body(stored)?;
        Some((reader.varint()?, reader.varint()?, reader.varint()?))
    }

    fn read(first: Revision, stored: &Bytes) -> Option<Self> {
        let (last, stamp, event_bytes) = Self::read_head(stored)?;
        let mut reader = body(stored)?;
        for _ in 0..3 {
            reader.varint()?;
        }
        let mut items: Vec<LogItem> = Vec::new();
        while !reader.is_empty() {
            let item = read_item(&mut reader, stored, first, items.last())?;
            items.push(item);
        }
        (items.last()?.revision == last).then_some(Self {
            last,
            stamp,
            event_bytes,
            items,
        })
    }
}

fn read_item(
    reader: &mut Reader<'_>,
    stored: &Bytes,
    first: Revision,
    before: Option<&LogItem>,
) -> Option<LogItem> {
    let tag = reader.u8()?;
    let kind = match tag & !SAME_PARTITION {
        1 => EventKind::Put,
        2 => EventKind::Delete,
        3 => EventKind::Expire,
        _ => return None,
    };
    let revision = before
        .map_or(first, |item| item.revision)
        .checked_add(reader.varint()?)?;
    let partition = if tag & SAME_PARTITION != 0 {
        before?.partition.clone()
    } else {
        let region = u16::try_from(reader.varint()?).ok()?;
        Partition {
            region,
            name: stored.slice_ref(reader.bytes()?),
        }
    };
    let key = stored.slice_ref(reader.bytes()?);
    Some(LogItem {
        revision,
        kind,
        partition,
        key,
        previous: reader.varint()?,
    })
}
