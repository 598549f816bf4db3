//! Passwords, hashed with argon2id (RFC 9106; the parameters are OWASP's: 19 MiB, 2 passes, 1 lane), a few at a time, on threads of their own.

use std::time::Duration;

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use chat_core::text;
use chat_proto::v1::Code;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    failure::Failure,
    limits::{HASHES_AT_A_TIME, HASHES_WAITING},
    logic::Seams,
};

/// Bytes of a salt.
const SALT_BYTES: usize = 16;

pub(crate) struct Passwords {
    seams: Seams,
    turn: Semaphore,
    waiting: Semaphore,
}

impl Passwords {
    pub(crate) fn new(seams: Seams) -> Self {
        Self {
            seams,
            turn: Semaphore::new(HASHES_AT_A_TIME),
            waiting: Semaphore::new(HASHES_AT_A_TIME + HASHES_WAITING),
        }
    }

    /// The hash of a new password, as a PHC string.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, Failure> {
        text::check_password(password)?;
        let mut salt = [0; SALT_BYTES];
        (self.seams.fill_random)(&mut salt);
        let (argon2, password) = (self.argon2(), password.to_owned());
        self.in_turn(move || {
            let hash = argon2.hash_password_with_salt(password.as_bytes(), &salt);
            hash.map(|hash| hash.to_string()).map_err(|error| {
                Failure::new(
                    Code::Unavailable,
                    format!("the password cannot be hashed: {error}"),
                )
            })
        })
        .await?
    }

    /// Whether it is the password of this hash.
    pub(crate) async fn is(&self, password: &str, hash: &str) -> Result<bool, Failure> {
        if text::check_password(password).is_err() {
            return Ok(false);
        }
        let (argon2, password, hash) = (self.argon2(), password.to_owned(), hash.to_owned());
        self.in_turn(move || {
            let hash = PasswordHash::new(&hash);
            hash.is_ok_and(|hash| argon2.verify_password(password.as_bytes(), &hash).is_ok())
        })
        .await
    }

    fn argon2(&self) -> Argon2<'static> {
        Argon2::new(
            argon2::Algorithm::Argon2id,
            argon2::Version::V0x13,
            self.seams.argon2.clone(),
        )
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        let _turn = self.turn.acquire().await.map_err(|_| busy())?;
        let (done, result) = oneshot::channel();
        (self.seams.run)(Box::new(move || drop(done.send(work()))));
        result.await.map_err(|_| busy())
    }
}

fn busy() -> Failure {
    Failure::limited("logins", Duration::from_secs(1))
}
