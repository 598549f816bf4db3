//! Every stored row of the chat backend: in which partition it stands, and under which key.
//!
//! All integers are big-endian, so that keys sort by number. A partition's region is that of the id it is named by; ids of regions that are local to
//! one cluster have region 0.
//!
//! | partition | key | value |
//! |---|---|---|
//! | `u`, user u64 | `a` | [`Account`](chat_proto::v1::Account) |
//! | | `d`, device u32 | [`Device`](chat_proto::v1::Device) |
//! | | `n` | the number of the newest device: a counter |
//! | | `c`, client id 16 bytes | the group that was created by a request of this id, u64 |
//! | | `k`, other u64 | register of [`Intent`](chat_proto::v1::Intent): what the user wants of the other |
//! | | `q`, other u64 | the same: what the other wants of the user, as it was told |
//! | | `o`, other u64 | [`ContactOptions`](chat_proto::v1::ContactOptions) |
//! | | `h`, conversation | register of [`Head`](chat_proto::v1::Head): the newest that the user was told |
//! | | `r`, conversation | register of [`ReadMark`](chat_proto::v1::ReadMark) |
//! | | `s`, conversation | [`ConversationOptions`](chat_proto::v1::ConversationOptions) |
//! | | `f`, conversation, seq u64 | [`Favourite`](chat_proto::v1::Favourite) |
//! | | `t`, kind u8 | how many changes of the kind there were: the counter of an append |
//! | | `t`, kind u8, change u64 | what changed: nothing, the other u64, or the conversation |
//! | `d`, low u64, high u64; `g`, group u64 | `m` | [`Conversation`](chat_proto::v1::Conversation) |
//! | | `h` | [`ConversationHead`](chat_proto::v1::ConversationHead) |
//! | | `p`, user u64 | [`Member`](chat_proto::v1::Member) |
//! | | `w`, user u64 | one to one: register of [`Intent`](chat_proto::v1::Intent), what this side wants of the other; it decides who may send |
//! | | `l`, seq u64 | [`Message`](chat_proto::v1::Message) |
//! | | `x`, ordinal u64 | nothing: the message with this ordinal was recalled |
//! | | `i`, user u64, client id 16 bytes | [`Accepted`](chat_proto::v1::Accepted) |
//! | | `r`, user u64 | register of [`ReadMark`](chat_proto::v1::ReadMark): the receipt that others see |
//! | | `e`, user u64 | one to one: register of [`ReadMark`](chat_proto::v1::ReadMark), up to where a device of theirs has everything |
//! | `n`, folded name | `n` | [`Name`](chat_proto::v1::Name) |
//! | `w` | `w`, name | nothing: a delivery worker that is there |
//! | `i` | `u`, `g` | the last number given out to users, to groups: a counter |
//!
//! Rows `l`, `x` and `i` of a message live as long as its conversation's retention says.

use bytes::Bytes;

use crate::{
    ids::{ConversationId, DeviceId, UserId},
    limits::CLIENT_ID_BYTES,
    snapshot::Kind,
};

/// The first byte of a user's partition.
pub const USER: u8 = b'u';
/// The first byte of the partition of a conversation of two.
pub const DIRECT: u8 = b'd';
/// The first byte of a group's partition.
pub const GROUP: u8 = b'g';

/// A key of a byte and what follows.
fn key(kind: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key.into()
}

/// The name of a user's partition.
pub fn user_partition(user: UserId) -> Bytes {
    key(USER, &[&user.0.to_be_bytes()])
}

/// The name of a conversation's partition.
pub fn conversation_partition(conversation: ConversationId) -> Bytes {
    conversation.to_bytes().into()
}

/// The name of the partition that reserves a folded user name.
pub fn name_partition(folded: &str) -> Bytes {
    key(b'n', &[folded.as_bytes()])
}

/// The user whose partition has this name.
pub fn user_of_partition(name: &[u8]) -> Option<UserId> {
    let id = name.strip_prefix(&[USER])?;
    Some(UserId(u64::from_be_bytes(id.try_into().ok()?)))
}

/// Keys in a user's partition.
pub mod user {
    use super::{Bytes, CLIENT_ID_BYTES, ConversationId, DeviceId, Kind, UserId, key};

    /// The account.
    pub const ACCOUNT: &[u8] = b"a";
    /// What all devices' keys begin with.
    pub const DEVICES: &[u8] = b"d";
    /// What the keys of what the user wants of others begin with.
    pub const INTENTS: &[u8] = b"k";
    /// What the keys of what others want of the user begin with.
    pub const INTENTS_TOLD: &[u8] = b"q";
    /// What the keys of the newest that the user was told begin with.
    pub const HEADS: &[u8] = b"h";
    /// What the keys of messages that the user keeps begin with.
    pub const FAVOURITES: &[u8] = b"f";
    /// The number of the newest device.
    pub const DEVICE_COUNTER: &[u8] = b"n";

    /// A device.
    pub fn device(device: DeviceId) -> Bytes {
        key(b'd', &[&device.0.to_be_bytes()])
    }

    /// The group that a request of this id created.
    pub fn created(client_id: &[u8; CLIENT_ID_BYTES]) -> Bytes {
        key(b'c', &[client_id])
    }

    /// What the user wants of the other one.
    pub fn intent(other: UserId) -> Bytes {
        key(b'k', &[&other.0.to_be_bytes()])
    }

    /// What the other one wants of the user.
    pub fn intent_told(other: UserId) -> Bytes {
        key(b'q', &[&other.0.to_be_bytes()])
    }

    /// What only the user sees of a contact.
    pub fn contact_options(other: UserId) -> Bytes {
        key(b'o', &[&other.0.to_be_bytes()])
    }

    /// The newest that the user was told of a conversation.
    pub fn head(conversation: ConversationId) -> Bytes {
        key(b'h', &[&conversation.to_bytes()])
    }

    /// How far the user has read.
    pub fn read_mark(conversation: ConversationId) -> Bytes {
        key(b'r', &[&conversation.to_bytes()])
    }

    /// What the user set for the conversation.
    pub fn conversation_options(conversation: ConversationId) -> Bytes {
        key(b's', &[&conversation.to_bytes()])
    }

    /// A message that the user keeps.
    pub fn favourite(conversation: ConversationId, seq: u64) -> Bytes {
        key(b'f', &[&conversation.to_bytes(), &seq.to_be_bytes()])
    }

    /// The list of changes of a kind: what to append to, and where their number stands.
    pub fn changes(kind: Kind) -> Bytes {
        key(b't', &[&[kind as u8]])
    }

    /// One of them.
    pub fn change(kind: Kind, number: u64) -> Bytes {
        key(b't', &[&[kind as u8], &number.to_be_bytes()])
    }
}

/// Keys in a conversation's partition.
pub mod conversation {
    use super::{Bytes, CLIENT_ID_BYTES, UserId, key};

    /// The conversation.
    pub const META: &[u8] = b"m";
    /// Its newest message.
    pub const HEAD: &[u8] = b"h";
    /// What all members' keys begin with.
    pub const MEMBERS: &[u8] = b"p";
    /// What all messages' keys begin with.
    pub const MESSAGES: &[u8] = b"l";
    /// What the keys of what both sides want of each other begin with.
    pub const INTENTS: &[u8] = b"w";
    /// What the marks of recalled messages begin with.
    pub const RECALLED: &[u8] = b"x";
    /// What all receipts' keys begin with.
    pub const RECEIPTS: &[u8] = b"r";
    /// What the keys of what devices have begin with.
    pub const GOT: &[u8] = b"e";

    /// A member.
    pub fn member(user: UserId) -> Bytes {
        key(b'p', &[&user.0.to_be_bytes()])
    }

    /// What one side of a conversation of two wants of the other.
    pub fn intent(user: UserId) -> Bytes {
        key(b'w', &[&user.0.to_be_bytes()])
    }

    /// A message.
    pub fn message(seq: u64) -> Bytes {
        key(b'l', &[&seq.to_be_bytes()])
    }

    /// The mark that the message with this ordinal was recalled.
    pub fn recalled(ordinal: u64) -> Bytes {
        key(b'x', &[&ordinal.to_be_bytes()])
    }

    /// The client's id of a message that was taken.
    pub fn accepted(sender: UserId, client_id: &[u8; CLIENT_ID_BYTES]) -> Bytes {
        key(b'i', &[&sender.0.to_be_bytes(), client_id])
    }

    /// How far a member has read, for others.
    pub fn receipt(user: UserId) -> Bytes {
        key(b'r', &[&user.0.to_be_bytes()])
    }

    /// Up to where a device of one side has everything.
    pub fn got(user: UserId) -> Bytes {
        key(b'e', &[&user.0.to_be_bytes()])
    }
}

/// Keys of the delivery workers.
pub mod workers {
    use super::{Bytes, key};

    /// The name of the partition.
    pub const PARTITION: &[u8] = b"w";
    /// What all workers' keys begin with.
    pub const WORKERS: &[u8] = b"w";

    /// A worker.
    pub fn worker(name: &str) -> Bytes {
        key(b'w', &[name.as_bytes()])
    }
}

/// Rows of a user's partition that concern others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserRow {
    /// The account.
    Account,
    /// What the user wants of another one.
    Intent(UserId),
    /// How far the user has read.
    ReadMark(ConversationId),
    /// That something of a kind has changed.
    Change(Kind),
    /// Any other.
    Other,
}

/// Rows of a conversation's partition that concern others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConversationRow {
    /// The newest message.
    Head,
    /// The conversation.
    Meta,
    /// A message.
    Message,
    /// A member, or one who was.
    Member(UserId),
    /// How far somebody has read, or what a device of theirs has.
    Receipt(UserId),
    /// Any other.
    Other,
}

fn user_in(key: &[u8]) -> Option<UserId> {
    Some(UserId(u64::from_be_bytes(key.get(1..)?.try_into().ok()?)))
}

impl UserRow {
    /// What stands under a key.
    pub fn of(key: &[u8]) -> Self {
        let row = match key.first() {
            Some(b'a') if key == user::ACCOUNT => Some(Self::Account),
            Some(b'k') => user_in(key).map(Self::Intent),
            Some(b'r') => ConversationId::from_bytes(&key[1..]).map(Self::ReadMark),
            Some(b't') if key.len() == 10 => Kind::from_byte(key[1]).map(Self::Change),
            _ => None,
        };
        row.unwrap_or(Self::Other)
    }
}

impl ConversationRow {
    /// What stands under a key.
    pub fn of(key: &[u8]) -> Self {
        let row = match key.first() {
            Some(b'h') if key == conversation::HEAD => Some(Self::Head),
            Some(b'm') if key == conversation::META => Some(Self::Meta),
            Some(b'l') => Some(Self::Message),
            Some(b'p') => user_in(key).map(Self::Member),
            Some(b'r' | b'e') => user_in(key).map(Self::Receipt),
            _ => None,
        };
        row.unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ConversationRow, UserRow, conversation, conversation_partition, name_partition, user,
        user_of_partition, user_partition,
    };
    use crate::{
        ids::{ConversationId, DeviceId, GroupId, UserId},
        snapshot::Kind,
    };

    #[test]
    fn keys_are_pinned() {
        let group = ConversationId::Group(GroupId(5));
        let me = UserId(7);
        let got = [
            user_partition(me),
            conversation_partition(group),
            name_partition("alice"),
            user::device(DeviceId(2)),
            user::head(group),
            user::favourite(group, 3),
            user::change(Kind::Contacts, 9),
            conversation::message(1),
            conversation::accepted(me, &[0xab; 16]),
        ];
        let shown: Vec<String> = got.iter().map(|key| key.escape_ascii().to_string()).collect();
        let zeros = "\\x00".repeat(7);
        let expected = [
            format!("u{zeros}\\x07"),
            format!("g{zeros}\\x05"),
            "nalice".to_owned(),
            "d\\x00\\x00\\x00\\x02".to_owned(),
            format!("hg{zeros}\\x05"),
            format!("fg{zeros}\\x05{zeros}\\x03"),
            format!("t\\x02{zeros}\\t"),
            format!("l{zeros}\\x01"),
            format!("i{zeros}\\x07{}", "\\xab".repeat(16)),
        ];
        assert_eq!(shown, expected);
        assert_eq!(user_of_partition(&user_partition(me)), Some(me));
        assert_eq!(user_of_partition(b"u"), None);
    }

    #[test]
    fn rows_are_known_by_their_keys() {
        let (me, group) = (UserId(7), ConversationId::Group(GroupId(5)));
        assert_eq!(UserRow::of(user::ACCOUNT), UserRow::Account);
        assert_eq!(UserRow::of(&user::intent(me)), UserRow::Intent(me));
        assert_eq!(UserRow::of(&user::read_mark(group)), UserRow::ReadMark(group));
        assert_eq!(
            UserRow::of(&user::change(Kind::Contacts, 1)),
            UserRow::Change(Kind::Contacts)
        );
        let others = [
            user::intent_told(me),
            user::head(group),
            user::changes(Kind::Account),
        ];
        for key in others.iter().map(|key| &key[..]).chain([&b""[..], b"k", b"r1"]) {
            assert_eq!(UserRow::of(key), UserRow::Other);
        }
        assert_eq!(ConversationRow::of(conversation::HEAD), ConversationRow::Head);
        assert_eq!(ConversationRow::of(conversation::META), ConversationRow::Meta);
        assert_eq!(
            ConversationRow::of(&conversation::message(3)),
            ConversationRow::Message
        );
        assert_eq!(
            ConversationRow::of(&conversation::member(me)),
            ConversationRow::Member(me)
        );
        assert_eq!(
            ConversationRow::of(&conversation::receipt(me)),
            ConversationRow::Receipt(me)
        );
        assert_eq!(
            ConversationRow::of(&conversation::got(me)),
            ConversationRow::Receipt(me)
        );
        assert_eq!(
            ConversationRow::of(&conversation::intent(me)),
            ConversationRow::Other
        );
    }

    /// Changes of one kind are one range, and none of another kind is in it.
    #[test]
    fn changes_of_a_kind_are_together() {
        for kind in Kind::ALL {
            for other in Kind::ALL {
                let inside = user::change(other, u64::MAX).starts_with(&user::changes(kind));
                assert_eq!(inside, kind == other);
            }
        }
    }
}
