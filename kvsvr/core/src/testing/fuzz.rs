//! Bodies of the fuzz targets in `kvsvr/core/fuzz`. Each takes any bytes, and panics if a decoder panics or accepts what it cannot
//! give back. The property tests at the end run them on random bytes and on damaged encodings, for builds without a fuzzer.

use bytes::Bytes;
use kvsvr_proto::v1 as pb;
use prost::Message;

use crate::{
    codec::{
        decode_batch, decode_command, decode_outcome, encode_batch, encode_command, encode_outcome,
        from_pb_range, from_pb_txn,
    },
    engine::{Cf, Engine},
    error::Failure,
    keys::{self, Key},
    machine::{Entry, Machine, Payload},
    mem::MemEngine,
    read::View,
    rows::{ConsumerRow, DataRow, Head, HistRow, LeaseRow, LogRow, SessionRow, WindowRow},
    types::{LogPosition, Partition, ShardId},
};

/// A command as a client or another node may send it.
pub fn command(data: &[u8]) {
    if let Ok(command) = decode_command(&Bytes::copy_from_slice(data)) {
        assert_eq!(decode_command(&encode_command(&command)), Ok(command));
    }
}

/// The payload of a log entry. There is one encoding of each.
pub fn batch(data: &[u8]) {
    let entry = Bytes::copy_from_slice(data);
    if let Ok(batch) = decode_batch(&entry) {
        assert_eq!(encode_batch(batch.stamp, &batch.commands), entry);
        batch.commands.iter().for_each(|bytes| command(bytes));
    }
}

/// An outcome as a session remembers it, and as a client gets it.
pub fn outcome(data: &[u8]) {
    if let Ok(outcome) = decode_outcome(&Bytes::copy_from_slice(data)) {
        assert_eq!(decode_outcome(&encode_outcome(&outcome)), Ok(outcome));
    }
}

/// A stored key; the first byte chooses the column family.
pub fn key(data: &[u8]) {
    let Some((choice, stored)) = data.split_first() else {
        return;
    };
    let cf = Cf::ALL[usize::from(*choice) % Cf::ALL.len()];
    if let Ok((shard, key)) = Key::decode(cf, stored) {
        let (again, encoded) = key.encode(shard);
        assert_eq!((again, &encoded[..]), (cf, stored), "{key:?}");
        let (start, end) = keys::shard_range(shard);
        assert!(stored >= &start[..] && (end.is_empty() || stored < &end[..]));
    }
    // What is not a key must not be taken apart into one either.
    let _ = (
        keys::split_data_key(&Bytes::copy_from_slice(stored)),
        keys::split_hist_key(stored),
    );
}

/// A stored value; the first byte chooses its kind.
pub fn row(data: &[u8]) {
    let Some((choice, stored)) = data.split_first() else {
        return;
    };
    let stored = Bytes::copy_from_slice(stored);
    match choice % 8 {
        0 => again(DataRow::decode(&stored), |row| DataRow::decode(&row.encode())),
        1 => again(HistRow::decode(b"", &stored), |row| {
            HistRow::decode(b"", &row.encode())
        }),
        2 => again(Head::decode(b"", &stored), |row| Head::decode(b"", &row.encode())),
        3 => again(LeaseRow::decode(b"", &stored), |row| {
            LeaseRow::decode(b"", &row.encode())
        }),
        4 => again(SessionRow::decode(b"", &stored), |row| {
            SessionRow::decode(b"", &row.encode())
        }),
        5 => again(ConsumerRow::decode(b"", &stored), |row| {
            ConsumerRow::decode(b"", &row.encode())
        }),
        6 => again(WindowRow::decode(b"", &stored), |row| {
            WindowRow::decode(b"", &row.encode())
        }),
        _ => log_row(&stored),
    }
    for cf in Cf::ALL {
        // Engines ask this of everything that they store.
        let _ = keys::is_garbage(cf, b"", &stored, 7);
    }
}

/// A row that decodes is the same after it was encoded again. (Its bytes may differ: numbers have longer forms.)
fn again<R: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    decoded: Result<R, E>,
    encode_and_decode: impl FnOnce(&R) -> Result<R, E>,
) {
    if let Ok(row) = decoded {
        assert_eq!(encode_and_decode(&row).expect("an encoded row decodes"), row);
    }
}

fn log_row(stored: &Bytes) {
    let first = 3;
    if let Ok(row) = LogRow::decode(b"", first, stored) {
        // The first item is at the first revision in everything that is written.
        let starts = row.items.first().is_some_and(|item| item.revision == first);
        if let Some((_, encoded)) = row.encode().filter(|_| starts) {
            assert_eq!(
                LogRow::decode(b"", first, &encoded).expect("an encoded row decodes"),
                row
            );
        }
    }
}

/// Any bytes as a command of a committed entry: they may be rejected, but the replica goes on.
pub fn machine(data: &[u8]) {
    let shard = ShardId(1);
    let (engine, mut machine) = small_state(shard);
    let commands = [Bytes::copy_from_slice(data)];
    let index = machine.applied().map_or(0, |position| position.index) + 1;
    let entry = Entry {
        position: LogPosition {
            index,
            term: 1,
            node: 1,
        },
        payload: Payload::Batch(encode_batch(5_000, &commands)),
    };
    let applied = machine
        .apply(&engine, &[entry])
        .expect("a command cannot corrupt the state");
    engine.write(applied.batch).expect("the engine works");
    Machine::load(shard, &engine).expect("what was written can be read");
}

/// Any bytes as a range, and as a transaction that only reads.
pub fn read(data: &[u8]) {
    let shard = ShardId(1);
    let (engine, _) = small_state(shard);
    let view = View::load(&engine, shard).expect("the engine is sound");
    let partition = Partition::local(&b"p"[..]);
    let sound = |failure: Failure| assert!(matches!(failure, Failure::Rejected(_)), "{failure:?}");
    if let Ok(range) = pb::Range::decode(data)
        && let Ok(range) = from_pb_range(range)
        && let Err(failure) = view.range(&partition, &range, 1_000)
    {
        sound(failure);
    }
    if let Ok(txn) = pb::Txn::decode(data)
        && let Ok(txn) = from_pb_txn(txn)
        && let Err(failure) = view.txn(&partition, &txn)
    {
        sound(failure);
    }
}

/// A shard with a few rows of each kind.
fn small_state(shard: ShardId) -> (MemEngine, Machine) {
    use crate::command::{Command, Op, SessionSeq};
    let engine = MemEngine::new();
    let mut machine = Machine::load(shard, &engine).expect("empty");
    let put = |key: &'static [u8], lease| Op::Put {
        key: key.into(),
        value: (&b"v"[..]).into(),
        ttl_ms: if lease == 0 { 500 } else { 0 },
        lease,
    };
    let ops = [
        (Op::SessionOpen, 0),
        (
            Op::LeaseGrant {
                id: 1,
                ttl_ms: 10_000,
            },
            0,
        ),
        (put(b"a", 1), 1),
        (put(b"b", 0), 2),
        (
            Op::ConsumerOpen {
                name: (&b"c"[..]).into(),
                start_revision: 0,
            },
            0,
        ),
        (put(b"a", 0), 3),
    ];
    let commands: Vec<Bytes> = ops
        .into_iter()
        .map(|(op, seq)| {
            let session = (seq > 0).then_some(SessionSeq {
                session: 1,
                seq,
                acked_below: 0,
            });
            encode_command(&Command {
                partition: Partition::local(&b"p"[..]),
                session,
                op,
            })
        })
        .collect();
    let entry = Entry {
        position: LogPosition {
            index: 1,
            term: 1,
            node: 1,
        },
        payload: Payload::Batch(encode_batch(1_000, &commands)),
    };
    let applied = machine.apply(&engine, &[entry]).expect("sound");
    engine.write(applied.batch).expect("the engine works");
    (engine, machine)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::testing::{any_command, any_log, cases};

    /// What a fuzzer does to an input: bytes change, go and come.
    fn damage(bytes: &[u8], changes: &[(Index, u8, u8)]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (at, kind, byte) in changes {
            let at = at.index(bytes.len() + 1);
            match kind % 4 {
                0 => bytes.insert(at, *byte),
                1 => bytes.truncate(at),
                _ if at == bytes.len() => bytes.push(*byte),
                2 => drop(bytes.remove(at)),
                _ => bytes[at] ^= byte,
            }
        }
        bytes
    }

    fn changes() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
        vec(any::<(Index, u8, u8)>(), 0..4)
    }

    proptest! {
        #![proptest_config(cases(512))]

        #[test]
        fn any_bytes(data in vec(any::<u8>(), 0..200)) {
            for body in [command, batch, outcome, key, row, machine, read] {
                body(&data);
            }
        }

        #[test]
        fn damaged_commands(valid in any_command(), changes in changes()) {
            let bytes = damage(&encode_command(&valid), &changes);
            command(&bytes);
            machine(&bytes);
        }

        #[test]
        fn damaged_reads(valid in any_command(), changes in changes()) {
            // The operation is a field of the command: its message begins after tag and length.
            let encoded = encode_command(&valid);
            let message = pb::Command::decode(encoded).expect("it was encoded");
            if let Some(pb::command::Op::Txn(txn)) = message.op {
                read(&damage(&txn.encode_to_vec(), &changes));
                for op in txn.then_ops {
                    if let Some(pb::txn_op::Op::Range(range)) = op.op {
                        read(&damage(&range.encode_to_vec(), &changes));
                    }
                }
            }
        }

        #[test]
        fn damaged_state(log in any_log(6), changes in changes(), pick: Index) {
            let engine = MemEngine::new();
            let (_, replies, _) = log.run(ShardId(1), &engine, &[1], |_, _| {});
            for reply in replies.iter().flatten() {
                outcome(&damage(&encode_outcome(reply), &changes));
            }
            for (number, cf) in Cf::ALL.into_iter().enumerate() {
                let rows = engine.rows(cf);
                if rows.is_empty() {
                    continue;
                }
                let (stored, value) = &rows[pick.index(rows.len())];
                key(&[&[number as u8], &damage(stored, &changes)[..]].concat());
                for kind in 0..8 {
                    row(&[&[kind], &damage(value, &changes)[..]].concat());
                }
            }
        }

        #[test]
        fn damaged_batches(log in any_log(3), changes in changes()) {
            for entry in log.committed() {
                if let Payload::Batch(bytes) = entry.payload {
                    batch(&damage(&bytes, &changes));
                }
            }
        }
    }

    /// A body that accepts nothing tests nothing.
    #[test]
    fn sound_input_is_accepted() {
        let (engine, machine) = small_state(ShardId(1));
        assert!(machine.revision() >= 3 && machine.sessions() == 1 && machine.leases() == 1);
        for (number, cf) in Cf::ALL.into_iter().enumerate() {
            for (stored, _) in engine.rows(cf) {
                assert!(Key::decode(cf, &stored).is_ok());
                key(&[&[number as u8], &stored[..]].concat());
            }
        }
    }
}
