//! Contacts: asking, accepting, declining, blocking.
//!
//! Each step changes one row of the caller's own, and is told to the other one and to the conversation of both before it is answered: from then on it decides
//! who may send. Who dies in between has stored the row, and the delivery workers tell it.

use chat_core::{
    UserId, contact,
    limits::{MAX_ABOUT, MAX_LINE},
    text,
};
use chat_proto::v1::{self, Code, Contact, ContactOptions, Done, Intent, contact::Relation as Seen};
use chat_storage::StoreError;

use crate::{
    caller::Caller,
    failure::Failure,
    limits::{MAX_PROFILES, TRIES},
    logic::Logic,
};

fn no_such_user() -> Failure {
    Failure::new(Code::NotFound, "there is no such user")
}

impl Logic {
    pub(crate) async fn find_user(
        &self,
        caller: Caller,
        request: v1::FindUser,
    ) -> Result<v1::Users, Failure> {
        self.may_ask(caller)?;
        let folded = text::fold_name(&request.name)?;
        let found = self.store().user_of_name(self.inner.region, &folded).await?;
        let mut users = self.profiles(found.as_slice()).await?;
        users.retain(|profile| !profile.deleted);
        Ok(v1::Users { users })
    }

    pub(crate) async fn get_users(&self, request: v1::GetUsers) -> Result<v1::Users, Failure> {
        if request.users.len() > MAX_PROFILES {
            return Err(Failure::new(
                Code::TooLarge,
                format!("at most {MAX_PROFILES} users at a time"),
            ));
        }
        let ids: Vec<UserId> = request.users.into_iter().map(UserId).collect();
        let users = self.profiles(&ids).await?;
        Ok(v1::Users { users })
    }

    /// Asks, or accepts.
    pub(crate) async fn want(&self, caller: Caller, request: v1::Want) -> Result<Done, Failure> {
        self.may_ask(caller)?;
        let other = self.other(caller, request.user)?;
        let account = self.store().account(other).await?;
        if account.revision == 0 || account.row.deleted {
            return Err(no_such_user());
        }
        let greeting = match request.greeting.trim() {
            "" => String::new(),
            greeting => text::body("a greeting", greeting, MAX_ABOUT)?,
        };
        self.change_intent(caller.user, other, |mine, theirs| {
            contact::want(mine, theirs, &greeting)
        })
        .await
    }

    /// Refuses, takes back, removes.
    pub(crate) async fn decline(&self, caller: Caller, request: v1::Decline) -> Result<Done, Failure> {
        let other = self.other(caller, request.user)?;
        self.change_intent(caller.user, other, contact::decline).await
    }

    pub(crate) async fn block(&self, caller: Caller, request: v1::Block) -> Result<Done, Failure> {
        let other = self.other(caller, request.user)?;
        self.change_intent(caller.user, other, |mine, _| contact::block(mine, !request.end))
            .await
    }

    fn other(&self, caller: Caller, user: u64) -> Result<UserId, Failure> {
        if user == caller.user.0 {
            return Err(Failure::invalid("that is yourself"));
        }
        if user == 0 {
            return Err(no_such_user());
        }
        Ok(UserId(user))
    }

    /// Changes what a user wants of another one. If it is so already it is told all the same: whoever stored it may have died before.
    pub(crate) async fn change_intent(
        &self,
        user: UserId,
        other: UserId,
        change: impl Fn(&Intent, &Intent) -> Option<Intent>,
    ) -> Result<Done, Failure> {
        for _ in 0..TRIES {
            let (mine, theirs) = self.store().intents(user, other).await?;
            let intent = match change(&mine.row, &theirs.row) {
                None if mine.revision == 0 => return Ok(Done {}),
                None => mine.row,
                Some(next) => {
                    let set = self.store().set_intent(user, other, mine.revision, &next);
                    if !set.await? {
                        continue;
                    }
                    next
                }
            };
            self.store().tell_intent(user, other, &intent).await?;
            return Ok(Done {});
        }
        Err(StoreError::Contended.into())
    }

    pub(crate) async fn set_alias(&self, caller: Caller, request: v1::SetAlias) -> Result<Done, Failure> {
        let other = self.other(caller, request.user)?;
        let alias = match request.alias.trim() {
            "" => String::new(),
            alias => text::line("an alias", alias, MAX_LINE)?,
        };
        let options = ContactOptions { alias };
        self.store()
            .set_contact_options(caller.user, other, &options)
            .await?;
        Ok(Done {})
    }

    /// What a user sees of others.
    pub(crate) async fn contacts(&self, user: UserId, others: &[UserId]) -> Result<Vec<Contact>, Failure> {
        let rows = self.store().contact_rows(user, others).await?;
        let profiles = self.profiles(others).await?;
        let seen = others.iter().zip(rows).filter_map(|(other, rows)| {
            let profile = profiles.iter().find(|profile| profile.user == other.0)?;
            let (relation, greeting) = match contact::relation(&rows.mine, &rows.theirs) {
                contact::Relation::Strangers => (Seen::Strangers, String::new()),
                contact::Relation::Requested => (Seen::Requested, rows.mine.greeting),
                contact::Relation::Asked => (Seen::Asked, rows.theirs.greeting),
                contact::Relation::Friends => (Seen::Friends, String::new()),
            };
            // Who is blocked does not ask any more.
            let relation = match relation {
                Seen::Asked if rows.mine.blocked => Seen::Strangers,
                relation => relation,
            };
            Some(Contact {
                profile: Some(profile.clone()),
                relation: relation.into(),
                blocked: rows.mine.blocked,
                greeting,
                alias: rows.options.alias,
            })
        });
        Ok(seen.collect())
    }

    /// Those of these users whose presence the caller may see: contacts, and the caller.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn visible(&self, caller: Caller, users: &[UserId]) -> Result<Vec<UserId>, Failure> {
        let rows = self.store().contact_rows(caller.user, users).await?;
        let pairs = users.iter().zip(rows);
        let seen = pairs
            .filter(|(user, rows)| **user == caller.user || contact::may_write(&rows.mine, &rows.theirs));
        Ok(seen.map(|(user, _)| *user).collect())
    }

    /// All of them are contacts of the caller.
    pub(crate) async fn all_friends(&self, caller: Caller, others: &[UserId]) -> Result<(), Failure> {
        let rows = self.store().contact_rows(caller.user, others).await?;
        let stranger = others
            .iter()
            .zip(rows)
            .find(|(_, rows)| !contact::may_write(&rows.mine, &rows.theirs));
        match stranger {
            None => Ok(()),
            Some((other, _)) => Err(Failure::new(
                Code::NotContacts,
                format!("user {other} is no contact of yours"),
            )),
        }
    }
}
