//! What a device shows to be let in: an access token for some minutes, a refresh token for the next one, and the invitation by which somebody may join a group.
//!
//! A refresh token has the generation of its device, which grows by one with each refresh. The one before the newest is answered with the newest
//! again, because an answer may have been lost; an older one can only be a copy that somebody else uses, and logs the device out (RFC 9700, section 4.14.2). So no
//! secret of a device is stored.

use crate::{
    ids::{DeviceId, GroupId, UserId},
    secrets::{Purpose, Secrets},
};

/// To be this user's device until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// The account's epoch: void with another one.
    pub epoch: u64,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
}

/// To get the next access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// The account's epoch: void with another one.
    pub epoch: u64,
    /// The device's.
    pub generation: u64,
}

/// To join a group until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Which.
    pub group: GroupId,
    /// Whose invitation: void if they are no member any more.
    pub by: UserId,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
}

/// What is to be done with a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The next generation.
    Next,
    /// The answer was lost: the newest once more.
    Again,
    /// Somebody has a copy: the device is to be logged out.
    Stolen,
}

/// What is to be done with a token of this generation, if the device's is that one.
pub fn turn(shown: u64, newest: u64) -> Turn {
    match newest.checked_sub(shown) {
        Some(0) => Turn::Next,
        Some(1) => Turn::Again,
        _ => Turn::Stolen,
    }
}

fn numbers<const N: usize>(payload: &[u8]) -> Option<[u64; N]> {
    let (numbers, rest) = payload.as_chunks::<8>();
    let numbers: [[u8; 8]; N] = numbers.try_into().ok()?;
    rest.is_empty().then(|| numbers.map(u64::from_be_bytes))
}

fn payload(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

impl Access {
    /// The token.
    pub fn seal(&self, secrets: &Secrets) -> Vec<u8> {
        let numbers = [self.user.0, self.device.0.into(), self.epoch, self.expires_ms];
        secrets.seal(Purpose::Access, &payload(&numbers))
    }

    /// What a token says. `None`: it is not ours, or over.
    pub fn open(token: &[u8], secrets: &Secrets, now_ms: u64) -> Option<Self> {
        let [user, device, epoch, expires_ms] = numbers(secrets.open(Purpose::Access, token)?)?;
        let access = Self {
            user: UserId(user),
            device: DeviceId(device.try_into().ok()?),
            epoch,
            expires_ms,
        };
        (now_ms < expires_ms).then_some(access)
    }
}

impl Refresh {
    /// The token.
    pub fn seal(&self, secrets: &Secrets) -> Vec<u8> {
        let numbers = [self.user.0, self.device.0.into(), self.epoch, self.generation];
        secrets.seal(Purpose::Refresh, &payload(&numbers))
    }

    /// What a token says. `None`: it is not ours.
    pub fn open(token: &[u8], secrets: &Secrets) -> Option<Self> {
        let [user, device, epoch, generation] = numbers(secrets.open(Purpose::Refresh, token)?)?;
        Some(Self {
            user: UserId(user),
            device: DeviceId(device.try_into().ok()?),
            epoch,
            generation,
        })
    }
}

impl Invitation {
    /// The token.
    pub fn seal(&self, secrets: &Secrets) -> Vec<u8> {
        let numbers = [self.group.0, self.by.0, self.expires_ms];
        secrets.seal(Purpose::Invitation, &payload(&numbers))
    }

    /// What a token says. `None`: it is not ours, or over.
    pub fn open(token: &[u8], secrets: &Secrets, now_ms: u64) -> Option<Self> {
        let [group, by, expires_ms] = numbers(secrets.open(Purpose::Invitation, token)?)?;
        let invitation = Self {
            group: GroupId(group),
            by: UserId(by),
            expires_ms,
        };
        (now_ms < expires_ms).then_some(invitation)
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Invitation, Refresh, Turn, turn};
    use crate::{
        ids::{DeviceId, GroupId, UserId},
        testing::secrets,
    };

    #[test]
    fn tokens_are_good_for_what_they_say_and_end() {
        let secrets = secrets(2);
        let access = Access {
            user: UserId(7),
            device: DeviceId(2),
            epoch: 5,
            expires_ms: 100,
        };
        let token = access.seal(&secrets);
        assert_eq!(Access::open(&token, &secrets, 99), Some(access));
        assert_eq!(Access::open(&token, &secrets, 100), None);
        let refresh = Refresh {
            user: UserId(7),
            device: DeviceId(2),
            epoch: 5,
            generation: 9,
        };
        let token = refresh.seal(&secrets);
        assert_eq!(Refresh::open(&token, &secrets), Some(refresh));
        assert_eq!(
            Access::open(&token, &secrets, 0),
            None,
            "the same numbers for another purpose"
        );
        let invitation = Invitation {
            group: GroupId(1),
            by: UserId(7),
            expires_ms: 100,
        };
        let token = invitation.seal(&secrets);
        assert_eq!(Invitation::open(&token, &secrets, 1), Some(invitation));
        assert_eq!(Invitation::open(&token, &secrets, 101), None);
    }

    #[test]
    fn an_older_refresh_token_is_a_stolen_one() {
        assert_eq!(turn(3, 3), Turn::Next);
        assert_eq!(turn(2, 3), Turn::Again);
        assert_eq!((turn(1, 3), turn(4, 3)), (Turn::Stolen, Turn::Stolen));
    }
}
