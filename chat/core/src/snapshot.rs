//! What a device has seen: the token that it gets with each answer to a sync, keeps without looking into it, and shows at the next one.
//!
//! As in WeChat's sync protocol, the server computes it: pairs of a kind of data and the newest change of that kind that this device was given. To show a
//! newer one says that what came with the one before has arrived, so nothing else is acknowledged. It is sealed ([`secrets`](crate::secrets))
//! and bound to the user, the device and the account's epoch: nobody can make one up, or use somebody else's.
//!
//! Its payload is `user u64, device u32, epoch u64, (kind u8, change u64)*`, big-endian; a kind with the highest bit set says where to go on with it.

use std::collections::BTreeMap;

use crate::{
    ids::{DeviceId, UserId},
    secrets::{Purpose, Secrets},
};

const HEAD_BYTES: usize = 8 + 4 + 8;
const PAIR_BYTES: usize = 1 + 8;
/// Set in a pair of [`Snapshot::rest`].
const REST: u8 = 0x80;

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

    /// That of a byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
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
    /// Kinds of which everything is being given anew, in several answers: where the next one begins.
    pub rest: BTreeMap<Kind, u64>,
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

impl Snapshot {
    /// Of a device that has seen nothing.
    pub fn empty(user: UserId, device: DeviceId, epoch: u64) -> Self {
        Self {
            user,
            device,
            epoch,
            seen: BTreeMap::new(),
            rest: BTreeMap::new(),
        }
    }

    /// The newest change of the kind that was seen; 0 = none.
    pub fn seen(&self, kind: Kind) -> u64 {
        self.seen.get(&kind).copied().unwrap_or(0)
    }

    /// The token.
    pub fn seal(&self, secrets: &Secrets) -> Vec<u8> {
        let mut payload = Vec::with_capacity(HEAD_BYTES + PAIR_BYTES * self.seen.len());
        payload.extend(self.user.0.to_be_bytes());
        payload.extend(self.device.0.to_be_bytes());
        payload.extend(self.epoch.to_be_bytes());
        let seen = self.seen.iter().map(|(kind, at)| (*kind as u8, at));
        let rest = self.rest.iter().map(|(kind, at)| (*kind as u8 | REST, at));
        for (kind, at) in seen.chain(rest) {
            payload.push(kind);
            payload.extend(at.to_be_bytes());
        }
        secrets.seal(Purpose::Snapshot, &payload)
    }

    /// What a token says, if it is this device's.
    ///
    /// # Errors
    /// See [`BadSnapshot`].
    pub fn open(
        token: &[u8],
        secrets: &Secrets,
        user: UserId,
        device: DeviceId,
        epoch: u64,
    ) -> Result<Self, BadSnapshot> {
        let payload = secrets.open(Purpose::Snapshot, token);
        let snapshot = payload.and_then(Self::decode).ok_or(BadSnapshot::Forged)?;
        if (snapshot.user, snapshot.device, snapshot.epoch) == (user, device, epoch) {
            Ok(snapshot)
        } else {
            Err(BadSnapshot::Foreign)
        }
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (head, pairs) = payload.split_at_checked(HEAD_BYTES)?;
        let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        let (mut seen, mut rest) = (BTreeMap::new(), BTreeMap::new());
        for pair in pairs.chunks(PAIR_BYTES) {
            let of = if pair[0] & REST == 0 { &mut seen } else { &mut rest };
            of.insert(Kind::from_byte(pair[0] & !REST)?, number(&pair[1..])?);
        }
        Some(Self {
            user: UserId(number(&head[..8])?),
            device: DeviceId(u32::from_be_bytes(head[8..12].try_into().ok()?)),
            epoch: number(&head[12..])?,
            seen,
            rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{BadSnapshot, Kind, Snapshot};
    use crate::{
        ids::{DeviceId, UserId},
        secrets::{Purpose, Secrets},
        testing::secrets,
    };

    fn snapshot() -> Snapshot {
        let seen = BTreeMap::from([(Kind::Account, 1), (Kind::Conversations, u64::MAX)]);
        Snapshot {
            seen,
            rest: BTreeMap::from([(Kind::Contacts, 9)]),
            ..Snapshot::empty(UserId(7), DeviceId(2), 5)
        }
    }

    fn open(token: &[u8], secrets: &Secrets) -> Result<Snapshot, BadSnapshot> {
        Snapshot::open(token, secrets, UserId(7), DeviceId(2), 5)
    }

    #[test]
    fn it_is_what_was_sealed() {
        let token = snapshot().seal(&secrets(1));
        assert_eq!(open(&token, &secrets(2)), Ok(snapshot()));
        assert_eq!(open(&token[1..], &secrets(2)), Err(BadSnapshot::Forged));
    }

    #[test]
    fn it_is_good_for_one_device_and_epoch() {
        let token = snapshot().seal(&secrets(2));
        let others = [
            (UserId(8), DeviceId(2), 5),
            (UserId(7), DeviceId(3), 5),
            (UserId(7), DeviceId(2), 6),
        ];
        for (user, device, epoch) in others {
            assert_eq!(
                Snapshot::open(&token, &secrets(2), user, device, epoch),
                Err(BadSnapshot::Foreign)
            );
        }
    }

    /// Sealed by us, in a form of another time: not taken, and nothing panics.
    #[test]
    fn a_payload_that_is_none_is_refused() {
        let whole = snapshot().seal(&secrets(2));
        let payload = secrets(2).open(Purpose::Snapshot, &whole).unwrap().to_vec();
        for length in (0..payload.len()).filter(|length| (length - 20.min(*length)) % 9 != 0 || *length < 20)
        {
            let token = secrets(2).seal(Purpose::Snapshot, &payload[..length]);
            assert_eq!(open(&token, &secrets(2)), Err(BadSnapshot::Forged), "{length}");
        }
    }
}
