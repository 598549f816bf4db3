//! Who and what: users, groups, conversations, devices.
//!
//! An id is a number whose upper 16 bits are the region that it was made in, which is where its rows are at home. The conversation of two users is
//! named by both of them, so nobody has to create it. For people, JSON and tools ids are text: numbers as decimal digits, conversations as `d-7-9` (of users 7
//! and 9) and `g-12`.

use std::{fmt, str::FromStr};

use crate::limits::COUNTER_BITS;

/// What is wrong with an id in text form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is none: expected {expected}")]
pub struct BadId {
    what: &'static str,
    text: String,
    expected: &'static str,
}

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// From the region and the number within it, which counts from 1; `None` if it has more than [`COUNTER_BITS`] bits.
            pub fn new(region: u16, counter: u64) -> Option<Self> {
                let fits = counter > 0 && counter >> COUNTER_BITS == 0;
                fits.then_some(Self(u64::from(region) << COUNTER_BITS | counter))
            }

            /// Where it is at home.
            pub fn region(self) -> u16 {
                (self.0 >> COUNTER_BITS) as u16
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let number = canonical_number(text).ok_or_else(|| BadId {
                    what: $what,
                    text: shown(text),
                    expected: "a number greater than 0",
                })?;
                Ok(Self(number))
            }
        }
    };
}

numeric_id!(
    /// A user.
    UserId,
    "user id"
);
numeric_id!(
    /// A group.
    GroupId,
    "group id"
);

/// A device of a user: counted per user, from 1, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

/// A conversation: of two users, or of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConversationId {
    /// One to one: the user with the lower id, then the other one.
    Direct(UserId, UserId),
    /// A group's.
    Group(GroupId),
}

impl ConversationId {
    /// The conversation of two users, in whatever order; `None` for one with oneself.
    pub fn direct(a: UserId, b: UserId) -> Option<Self> {
        match a.cmp(&b) {
            std::cmp::Ordering::Less => Some(Self::Direct(a, b)),
            std::cmp::Ordering::Greater => Some(Self::Direct(b, a)),
            std::cmp::Ordering::Equal => None,
        }
    }

    /// Where its rows are at home: that of the lower id, or of the group.
    pub fn region(self) -> u16 {
        match self {
            Self::Direct(low, _) => low.region(),
            Self::Group(group) => group.region(),
        }
    }

    /// The other one of a conversation of two; `None` for groups and for who is neither.
    pub fn peer(self, of: UserId) -> Option<UserId> {
        match self {
            Self::Direct(low, high) if of == low => Some(high),
            Self::Direct(low, high) if of == high => Some(low),
            _ => None,
        }
    }

    /// Its bytes in keys: `d`, both ids; or `g` and the id; big-endian.
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Direct(low, high) => {
                [b"d".as_slice(), &low.0.to_be_bytes(), &high.0.to_be_bytes()].concat()
            }
            Self::Group(group) => [b"g".as_slice(), &group.0.to_be_bytes()].concat(),
        }
    }

    /// From its bytes; `None` if they are of nothing.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: &[u8]| Some(u64::from_be_bytes(at.try_into().ok()?));
        match bytes.split_first()? {
            (b'd', ids) if ids.len() == 16 => {
                let (low, high) = (UserId(number(&ids[..8])?), UserId(number(&ids[8..])?));
                (low < high && low.0 > 0).then_some(Self::Direct(low, high))
            }
            (b'g', id) => number(id).filter(|id| *id > 0).map(|id| Self::Group(GroupId(id))),
            _ => None,
        }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(low, high) => write!(f, "d-{low}-{high}"),
            Self::Group(group) => write!(f, "g-{group}"),
        }
    }
}

impl FromStr for ConversationId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        parse_conversation(text).ok_or_else(|| BadId {
            what: "conversation",
            text: shown(text),
            expected: "d-LOWER-HIGHER with two users' ids, or g-ID",
        })
    }
}

fn parse_conversation(text: &str) -> Option<ConversationId> {
    let mut parts = text.split('-');
    let kind = parts.next()?;
    let first = canonical_number(parts.next()?)?;
    let id = match (kind, parts.next()) {
        ("d", Some(second)) => {
            let second = canonical_number(second)?;
            (first < second).then_some(ConversationId::Direct(UserId(first), UserId(second)))?
        }
        ("g", None) => ConversationId::Group(GroupId(first)),
        _ => return None,
    };
    parts.next().is_none().then_some(id)
}

/// One text for one number: digits, no sign, no zero in front.
fn canonical_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    digits.then(|| text.parse().ok()).flatten()
}

/// What a message may repeat of somebody's input.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ConversationId, GroupId, UserId};

    #[test]
    fn formats_are_pinned() {
        let user = UserId::new(3, 7).unwrap();
        assert_eq!(user.0, 0x0003_0000_0000_0007);
        assert_eq!(user.region(), 3);
        let pair = ConversationId::direct(UserId(9), UserId(7)).unwrap();
        assert_eq!(pair.to_string(), "d-7-9");
        assert_eq!(pair.to_bytes(), b"d\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09");
        let group = ConversationId::Group(GroupId(12));
        assert_eq!(
            (group.to_string().as_str(), group.to_bytes().as_slice()),
            ("g-12", b"g\0\0\0\0\0\0\0\x0c".as_slice())
        );
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "d",
            "d-1",
            "d-2-1",
            "d-1-1",
            "d-01-2",
            "d-1-2-3",
            "g-",
            "g-0",
            "g-+1",
            "g-1-2",
            "x-1",
            "g-99999999999999999999",
            "g-1 ",
        ] {
            let error = text.parse::<ConversationId>().unwrap_err();
            assert!(error.to_string().contains("d-LOWER-HIGHER"), "{error}");
        }
        assert!("007".parse::<UserId>().is_err());
        assert_eq!(ConversationId::direct(UserId(5), UserId(5)), None);
        assert_eq!((UserId::new(0, 0), UserId::new(0, 1 << 48)), (None, None));
    }

    proptest! {
        #[test]
        fn ids_survive_text_and_bytes(a in 1u64.., b in 1u64..) {
            let mut ids = vec![ConversationId::Group(GroupId(a))];
            ids.extend(ConversationId::direct(UserId(a), UserId(b)));
            for id in ids {
                prop_assert_eq!(id.to_string().parse(), Ok(id));
                prop_assert_eq!(ConversationId::from_bytes(&id.to_bytes()), Some(id));
            }
        }

        #[test]
        fn bytes_of_nothing_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(id) = ConversationId::from_bytes(&bytes) {
                prop_assert_eq!(id.to_bytes(), bytes);
            }
        }
    }
}
