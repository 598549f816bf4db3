//! What a device has seen: the token that it gets with each answer to a sync, keeps without looking into it, and shows at the next one.
//!
//! As in WeChat's sync protocol, the server computes it: pairs of a kind of data and the newest change of that kind that this device was given. To show a
//! newer one says that what came with the one before has arrived, so nothing else is acknowledged. It is authenticated (HMAC-SHA256, RFC 2104, cut to 16
//! bytes) and bound to the user, the device and the account's epoch: nobody can make one up, or use somebody else's.
//!
//! `1, key id u8, user u64, device u32, epoch u64, (kind u8, change u64)*, code 16 bytes`, big-endian.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    ids::{DeviceId, UserId},
    limits::SNAPSHOT_MAC_BYTES,
};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + 1 + 8 + 4 + 8;
const PAIR_BYTES: usize = 1 + 8;

/// What can change for a user. Each kind has a list of changes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The account and its devices.
    Account = 1,
    /// Contacts.
    Contacts = 2,
    /// Conversations: new messages, members, read marks, options.
    Conversations = 3,
}

impl Kind {
    /// All, in the order in which a sync answers them.
    pub const ALL: [Kind; 3] = [Kind::Account, Kind::Contacts, Kind::Conversations];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a device has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose.
    pub user: UserId,
    /// Whose device.
    pub device: DeviceId,
    /// The account's epoch.
    pub epoch: u64,
    /// The newest change seen of each kind; of a kind that is not there: none.
    pub seen: BTreeMap<Kind, u64>,
}

/// Why a token is not taken. All of them mean: begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// Cut, of another format, or not ours.
    #[error("this is no snapshot of this server")]
    Forged,
    /// Of another user or device, or from before the password was changed.
    #[error("this snapshot is of another user, device or epoch")]
    Foreign,
}

/// The secret keys: the one that new tokens get, and those that are still taken.
#[derive(Clone)]
pub struct Keys {
    current: u8,
    all: BTreeMap<u8, Vec<u8>>,
}

impl Keys {
    /// `None` if the current one is not among them.
    pub fn new(current: u8, all: BTreeMap<u8, Vec<u8>>) -> Option<Self> {
        all.contains_key(&current).then_some(Self { current, all })
    }

    fn mac(&self, id: u8, token: &[u8]) -> Option<Hmac<Sha256>> {
        let mac = Hmac::<Sha256>::new_from_slice(self.all.get(&id)?).ok()?;
        Some(mac.chain_update(token))
    }
}

impl Snapshot {
    /// Of a device that has seen nothing.
    pub fn empty(user: UserId, device: DeviceId, epoch: u64) -> Self {
        let seen = BTreeMap::new();
        Self {
            user,
            device,
            epoch,
            seen,
        }
    }

    /// The newest change of the kind that was seen; 0 = none.
    pub fn seen(&self, kind: Kind) -> u64 {
        self.seen.get(&kind).copied().unwrap_or(0)
    }

    /// The token.
    ///
    /// # Panics
    /// Never: the current key is there, and HMAC takes keys of any length.
    pub fn seal(&self, keys: &Keys) -> Vec<u8> {
        let mut token = vec![FORMAT, keys.current];
        token.extend(self.user.0.to_be_bytes());
        token.extend(self.device.0.to_be_bytes());
        token.extend(self.epoch.to_be_bytes());
        for (kind, change) in &self.seen {
            token.push(*kind as u8);
            token.extend(change.to_be_bytes());
        }
        let mac = keys.mac(keys.current, &token).expect("the current key is there");
        token.extend(&mac.finalize().into_bytes()[..SNAPSHOT_MAC_BYTES]);
        token
    }

    /// What a token says, if it is this device's.
    ///
    /// # Errors
    /// See [`BadSnapshot`].
    pub fn open(
        token: &[u8],
        keys: &Keys,
        user: UserId,
        device: DeviceId,
        epoch: u64,
    ) -> Result<Self, BadSnapshot> {
        let snapshot = Self::authentic(token, keys).ok_or(BadSnapshot::Forged)?;
        if (snapshot.user, snapshot.device, snapshot.epoch) == (user, device, epoch) {
            Ok(snapshot)
        } else {
            Err(BadSnapshot::Foreign)
        }
    }

    fn authentic(token: &[u8], keys: &Keys) -> Option<Self> {
        let (token, code) = token.split_at_checked(token.len().checked_sub(SNAPSHOT_MAC_BYTES)?)?;
        let (head, pairs) = token.split_at_checked(HEAD_BYTES)?;
        if head[0] != FORMAT || pairs.len() % PAIR_BYTES != 0 {
            return None;
        }
        keys.mac(head[1], token)?.verify_truncated_left(code).ok()?;
        let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        let mut seen = BTreeMap::new();
        for pair in pairs.chunks_exact(PAIR_BYTES) {
            seen.insert(Kind::from_byte(pair[0])?, number(&pair[1..])?);
        }
        Some(Self {
            user: UserId(number(&head[2..10])?),
            device: DeviceId(u32::from_be_bytes(head[10..14].try_into().ok()?)),
            epoch: number(&head[14..])?,
            seen,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{BadSnapshot, Keys, Kind, Snapshot};
    use crate::ids::{DeviceId, UserId};

    fn keys(current: u8) -> Keys {
        let all = BTreeMap::from([(1, b"an old secret".to_vec()), (2, b"a new secret".to_vec())]);
        Keys::new(current, all).unwrap()
    }

    fn snapshot() -> Snapshot {
        let seen = BTreeMap::from([(Kind::Account, 1), (Kind::Conversations, u64::MAX)]);
        Snapshot {
            seen,
            ..Snapshot::empty(UserId(7), DeviceId(2), 5)
        }
    }

    fn open(token: &[u8], keys: &Keys) -> Result<Snapshot, BadSnapshot> {
        Snapshot::open(token, keys, UserId(7), DeviceId(2), 5)
    }

    #[test]
    fn a_token_survives_a_change_of_keys() {
        let token = snapshot().seal(&keys(1));
        assert_eq!(open(&token, &keys(2)), Ok(snapshot()));
        let gone = Keys::new(2, BTreeMap::from([(2, b"a new secret".to_vec())])).unwrap();
        assert_eq!(open(&token, &gone), Err(BadSnapshot::Forged));
        assert!(Keys::new(3, BTreeMap::new()).is_none());
    }

    #[test]
    fn it_is_good_for_one_device_and_epoch() {
        let token = snapshot().seal(&keys(2));
        let others = [
            (UserId(8), DeviceId(2), 5),
            (UserId(7), DeviceId(3), 5),
            (UserId(7), DeviceId(2), 6),
        ];
        for (user, device, epoch) in others {
            assert_eq!(
                Snapshot::open(&token, &keys(2), user, device, epoch),
                Err(BadSnapshot::Foreign)
            );
        }
    }

    proptest! {
        #[test]
        fn no_changed_token_is_taken(at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>()) {
            let token = snapshot().seal(&keys(2));
            let mut changed = token.clone();
            changed[at.index(token.len())] ^= flip;
            prop_assert_eq!(open(&changed, &keys(2)), Err(BadSnapshot::Forged));
            prop_assert_eq!(open(&token[..cut.index(token.len())], &keys(2)), Err(BadSnapshot::Forged));
        }

        #[test]
        fn garbage_is_refused(token in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(open(&token, &keys(2)), Err(BadSnapshot::Forged));
        }
    }
}
