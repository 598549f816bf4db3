//! For tests: secrets, and a conversation's partition in memory, which does what a plan does if its checks hold.

use std::collections::BTreeMap;

use bytes::Bytes;
use chat_proto::v1::{Accepted, Message};
use prost::Message as _;

use crate::{
    ids::{ConversationId, UserId},
    keys::conversation as keys,
    plan::Plan,
    register,
    room::{Room, Row, Taken},
    secrets::Secrets,
};

/// An old key, 1, and a new one, 2.
pub(crate) fn secrets(current: u8) -> Secrets {
    let all = [
        (1, b"an old secret key".to_vec()),
        (2, b"a new secret key".to_vec()),
    ];
    Secrets::new(current, all.into()).unwrap()
}

/// Rows and the revisions at which they were put.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    id: ConversationId,
    rows: BTreeMap<Bytes, (Bytes, u64)>,
    revision: u64,
}

impl Rows {
    pub(crate) fn new(id: ConversationId) -> Self {
        let rows = BTreeMap::new();
        Self {
            id,
            rows,
            revision: 0,
        }
    }

    /// False: a check does not hold, and nothing is stored.
    pub(crate) fn carry_out(&mut self, plan: &Plan) -> bool {
        let at = |key: &Bytes| self.rows.get(key).map_or(0, |(_, revision)| *revision);
        if !plan.checks.iter().all(|(key, revision)| at(key) == *revision) {
            return false;
        }
        self.revision += 1;
        for write in &plan.writes {
            let row = (write.row.clone(), self.revision);
            self.rows.insert(write.key.clone(), row);
        }
        true
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn put(&mut self, key: Bytes, row: Bytes) {
        self.revision += 1;
        self.rows.insert(key, (row, self.revision));
    }

    fn read<M: prost::Message + Default>(&self, key: &[u8]) -> Row<M> {
        self.rows
            .get(key)
            .map_or_else(Row::default, |(row, revision)| Row {
                row: M::decode(row.clone()).unwrap(),
                revision: *revision,
            })
    }

    fn with_prefix(&self, prefix: &'static [u8]) -> impl Iterator<Item = (&[u8], &(Bytes, u64))> {
        let rows = self.rows.iter().map(|(key, row)| (&key[..], row));
        rows.filter_map(move |(key, row)| Some((key.strip_prefix(prefix)?, row)))
    }

    pub(crate) fn room(&self) -> Room {
        let user = |id: &[u8]| UserId(u64::from_be_bytes(id.try_into().unwrap()));
        Room {
            id: self.id,
            meta: self.read(keys::META),
            head: self.read(keys::HEAD),
            members: self
                .with_prefix(keys::MEMBERS)
                .map(|(id, _)| (user(id), self.read(&keys::member(user(id)))))
                .collect(),
            intents: self
                .with_prefix(b"w")
                .map(|(id, (row, revision))| {
                    (
                        user(id),
                        Row {
                            row: register::decode(row).unwrap().1,
                            revision: *revision,
                        },
                    )
                })
                .collect(),
        }
    }

    pub(crate) fn message(&self, seq: u64) -> Row<Message> {
        self.read(&keys::message(seq))
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.with_prefix(keys::MESSAGES)
            .map(|(_, (row, _))| Message::decode(row.clone()).unwrap())
            .collect()
    }

    pub(crate) fn recalled(&self) -> usize {
        self.with_prefix(b"x").count()
    }

    pub(crate) fn taken(&self) -> Taken {
        let taken = self.with_prefix(b"i").map(|(id, (row, _))| {
            let (user, client_id) = id.split_at(8);
            let user = UserId(u64::from_be_bytes(user.try_into().unwrap()));
            (
                (user, client_id.try_into().unwrap()),
                Accepted::decode(row.clone()).unwrap(),
            )
        });
        taken.collect()
    }
}
