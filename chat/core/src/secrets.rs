//! Sealed tokens: bytes that only this backend can have made, for one purpose, which whoever holds them can read but not change.
//!
//! `1, key id u8, payload, code 16 bytes`. The code is HMAC-SHA256 (RFC 2104), cut to 16 bytes, over the purpose and all before it. Keys have ids, so that
//! a new one can be taken into use while tokens of the old one are still good.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::limits::{MAC_BYTES, MIN_SECRET_BYTES};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 2;

/// What a token is good for; one of another purpose is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// What a device has seen ([`snapshot`](crate::snapshot)).
    Snapshot = 1,
    /// To be a user's device for some minutes ([`tickets`](crate::tickets)).
    Access = 2,
    /// To get the next access token.
    Refresh = 3,
    /// To join a group.
    Invitation = 4,
    /// To be a gateway, which services believe.
    Gateway = 5,
}

/// The secret keys: the one that new tokens get, and those that are still taken.
#[derive(Clone)]
pub struct Secrets {
    current: u8,
    all: BTreeMap<u8, Vec<u8>>,
}

/// Why keys are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecrets {
    /// The current one is not among them.
    #[error("there is no secret key with id {0}")]
    Missing(u8),
    /// It could be guessed.
    #[error("the secret key with id {0} has less than {MIN_SECRET_BYTES} bytes")]
    Short(u8),
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets(current {}, of {})", self.current, self.all.len())
    }
}

impl Secrets {
    /// The keys by their ids, and the id of the one for new tokens.
    ///
    /// # Errors
    /// See [`BadSecrets`].
    pub fn new(current: u8, all: BTreeMap<u8, Vec<u8>>) -> Result<Self, BadSecrets> {
        if let Some((id, _)) = all.iter().find(|(_, key)| key.len() < MIN_SECRET_BYTES) {
            return Err(BadSecrets::Short(*id));
        }
        if !all.contains_key(&current) {
            return Err(BadSecrets::Missing(current));
        }
        Ok(Self { current, all })
    }

    fn mac(&self, id: u8, purpose: Purpose, token: &[u8]) -> Option<Hmac<Sha256>> {
        let mac = Hmac::<Sha256>::new_from_slice(self.all.get(&id)?).ok()?;
        Some(mac.chain_update([purpose as u8]).chain_update(token))
    }

    /// The token.
    ///
    /// # Panics
    /// Never: the current key is there, and HMAC takes keys of any length.
    pub fn seal(&self, purpose: Purpose, payload: &[u8]) -> Vec<u8> {
        let mut token = [&[FORMAT, self.current], payload].concat();
        let mac = self
            .mac(self.current, purpose, &token)
            .expect("the current key is there");
        token.extend(&mac.finalize().into_bytes()[..MAC_BYTES]);
        token
    }

    /// What is in a token; `None` if it is not ours, or of another purpose.
    pub fn open<'a>(&self, purpose: Purpose, token: &'a [u8]) -> Option<&'a [u8]> {
        let (token, code) = token.split_at_checked(token.len().checked_sub(MAC_BYTES)?)?;
        let (head, payload) = token.split_at_checked(HEAD_BYTES)?;
        if head[0] != FORMAT {
            return None;
        }
        self.mac(head[1], purpose, token)?
            .verify_truncated_left(code)
            .ok()?;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{BadSecrets, Purpose, Secrets};
    use crate::testing::secrets;

    #[test]
    fn format_is_pinned() {
        let token = secrets(2).seal(Purpose::Access, b"payload");
        assert_eq!(&token[..9], b"\x01\x02payload");
        assert_eq!(token.len(), 2 + 7 + 16);
        assert_eq!(secrets(2).open(Purpose::Access, &token), Some(&b"payload"[..]));
        assert_eq!(
            secrets(2).open(Purpose::Refresh, &token),
            None,
            "of another purpose"
        );
    }

    #[test]
    fn old_keys_are_taken_and_unknown_ones_are_not() {
        let token = secrets(1).seal(Purpose::Access, b"");
        assert_eq!(secrets(2).open(Purpose::Access, &token), Some(&b""[..]));
        let gone = Secrets::new(2, BTreeMap::from([(2, vec![9; 32])])).unwrap();
        assert_eq!(gone.open(Purpose::Access, &token), None);
    }

    #[test]
    fn keys_that_are_none() {
        assert_eq!(
            Secrets::new(3, BTreeMap::new()).unwrap_err(),
            BadSecrets::Missing(3)
        );
        let short = BTreeMap::from([(1, vec![0; 15])]);
        assert_eq!(Secrets::new(1, short).unwrap_err(), BadSecrets::Short(1));
        assert!(!format!("{:?}", secrets(1)).contains("secret key"));
    }

    proptest! {
        #[test]
        fn no_changed_token_is_taken(
            payload in prop::collection::vec(any::<u8>(), 0..80),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let token = secrets(2).seal(Purpose::Access, &payload);
            let mut changed = token.clone();
            changed[at.index(token.len())] ^= flip;
            prop_assert_eq!(secrets(2).open(Purpose::Access, &changed), None);
            prop_assert_eq!(secrets(2).open(Purpose::Access, &token[..cut.index(token.len())]), None);
        }

        #[test]
        fn garbage_is_refused(token in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(secrets(2).open(Purpose::Access, &token), None);
        }
    }
}
