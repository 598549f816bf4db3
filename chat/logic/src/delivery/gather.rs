//! What a batch of changes has that concerns others, the newest of each.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chat_core::{
    ConversationId, UserId,
    keys::{self, ConversationRow, UserRow},
    register,
    snapshot::Kind,
};
use chat_proto::v1::{Account, ConversationHead, Intent, Member, Message, ReadMark};
use kvsvr_client::{Event, EventKind};
use prost::Message as _;

/// What happened in a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Talk {
    pub(crate) head: Option<ConversationHead>,
    /// Stored, or stored anew.
    pub(crate) messages: Vec<Message>,
    /// Members or the title are others.
    pub(crate) is_changed: bool,
    /// Who is no member any more.
    pub(crate) gone: BTreeMap<UserId, Member>,
    /// Whose receipts, of a conversation of two.
    pub(crate) receipts: Vec<UserId>,
}

/// A batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gathered {
    pub(crate) talks: BTreeMap<ConversationId, Talk>,
    /// What the first wants of the second.
    pub(crate) intents: BTreeMap<(UserId, UserId), Intent>,
    pub(crate) read: BTreeMap<(UserId, ConversationId), ReadMark>,
    pub(crate) accounts: BTreeMap<UserId, Account>,
    /// For whom something of a kind has changed.
    pub(crate) changed: BTreeSet<(UserId, Kind)>,
}

impl Gathered {
    /// A row that cannot be read is left out: whoever reads it is told that it is damaged.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut gathered = Self::default();
        for event in events.iter().filter(|event| event.kind == EventKind::Put) {
            let (name, key, value) = (&event.partition.name, &event.kv.key, &event.kv.value);
            let taken = if let Some(user) = keys::user_of_partition(name) {
                gathered.user_row(user, key, value)
            } else if let Some(id) = ConversationId::from_bytes(name) {
                gathered.conversation_row(id, key, value)
            } else {
                Some(())
            };
            if taken.is_none() {
                tracing::error!(partition = %event.partition, key = %key.escape_ascii(), "a row that cannot be read is not told to anybody");
            }
        }
        gathered
    }

    fn user_row(&mut self, user: UserId, key: &[u8], value: &Bytes) -> Option<()> {
        match UserRow::of(key) {
            UserRow::Account => drop(self.accounts.insert(user, Account::decode(value.clone()).ok()?)),
            UserRow::Intent(other) => {
                let (_, intent) = register::decode(value).ok()?;
                self.intents.insert((user, other), intent);
            }
            UserRow::ReadMark(id) => {
                let (_, mark) = register::decode(value).ok()?;
                self.read.insert((user, id), mark);
            }
            UserRow::Change(kind) => drop(self.changed.insert((user, kind))),
            UserRow::Other => {}
        }
        Some(())
    }

    fn conversation_row(&mut self, id: ConversationId, key: &[u8], value: &Bytes) -> Option<()> {
        let row = ConversationRow::of(key);
        if let ConversationRow::Other = row {
            return Some(());
        }
        let talk = self.talks.entry(id).or_default();
        match row {
            ConversationRow::Head => talk.head = Some(ConversationHead::decode(value.clone()).ok()?),
            ConversationRow::Message => talk.messages.push(Message::decode(value.clone()).ok()?),
            ConversationRow::Meta => talk.is_changed = true,
            ConversationRow::Member(user) => {
                talk.is_changed = true;
                let member = Member::decode(value.clone()).ok()?;
                if member.left {
                    talk.gone.insert(user, member);
                } else {
                    talk.gone.remove(&user);
                }
            }
            ConversationRow::Receipt(user) => {
                if let ConversationId::Direct(..) = id {
                    talk.receipts.push(user);
                }
            }
            ConversationRow::Other => {}
        }
        Some(())
    }
}
