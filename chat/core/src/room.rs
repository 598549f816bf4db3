//! A conversation: who may do what in it, and what is stored then.
//!
//! The rules look at a [`Room`], which is what the conversation's rows were when they were read, and make a [`Plan`] of one transaction. Each plan checks that the rows that it
//! was decided on are unchanged, the head among them: so sequence numbers are dense, and a message is never stored after its sender left, was muted or was
//! blocked. That check is the commit point: what was sent before it counts, what comes after it is refused.
//!
//! A message gets the next sequence number; if it counts (it is no note of the system and no revision) it gets the next ordinal too, else it carries that of the last one before it.

use std::collections::BTreeMap;

use chat_proto::v1::{
    self, Accepted, ConversationHead, Intent, Member, Message, RetentionClass, Role, SystemNote,
    message::Body, system_note::What,
};
use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::{
    contact,
    ids::{ConversationId, UserId},
    keys::conversation as keys,
    limits::{CLIENT_ID_BYTES, MAX_EDITS, MAX_SEND_BATCH, REVISION_WINDOW_MS},
    plan::{Plan, Write},
};

/// Why something is not done. None of these passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// Neither now nor ever.
    #[error("you are not in this conversation")]
    NotMember,
    /// One to one: no contacts (any more).
    #[error("you are not contacts")]
    NotContacts,
    /// One to one: one side has blocked the other.
    #[error("this conversation is blocked")]
    Blocked,
    /// An administrator did that.
    #[error("you are muted in this group")]
    Muted,
    /// Not with this role.
    #[error("only administrators of the group may do this")]
    NotAllowed,
    /// It has as many members as it may have.
    #[error("the group is full")]
    Full,
    /// It was given up.
    #[error("the group is disbanded")]
    Disbanded,
    /// A client's id of a message, used again for another one.
    #[error("this message id was used for another message")]
    Reused,
    /// No such message, or its retention is over.
    #[error("there is no such message")]
    NoMessage,
    /// Of another sender.
    #[error("this message is not yours")]
    NotYours,
    /// Later than may be.
    #[error("it is too late to change this message")]
    TooLate,
    /// It was recalled, or is none that can be changed.
    #[error("this message cannot be changed")]
    Fixed,
}

/// A row and the revision at which it was put; 0 = it is not there, and the default stands for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row<M> {
    /// The row.
    pub row: M,
    /// Where it was put.
    pub revision: u64,
}

/// What a conversation's rows are.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// Which.
    pub id: ConversationId,
    /// The conversation.
    pub meta: Row<v1::Conversation>,
    /// Its newest message.
    pub head: Row<ConversationHead>,
    /// A group's members, and those who were.
    pub members: BTreeMap<UserId, Row<Member>>,
    /// One to one: what each side wants of the other.
    pub intents: BTreeMap<UserId, Row<Intent>>,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// By whom.
    pub sender: UserId,
    /// From which device.
    pub device: u32,
    /// Chosen by the client, the same whenever it tries again.
    pub client_id: [u8; CLIENT_ID_BYTES],
    /// What.
    pub body: Body,
    /// The message that it answers, or 0.
    pub reply_to: u64,
}

/// A message that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number in the conversation.
    pub seq: u64,
    /// When it was taken, milliseconds since 1970.
    pub at_ms: u64,
    /// It had been taken before.
    pub again: bool,
}

/// Client ids that were taken, as far as they were looked up.
pub type Taken = BTreeMap<(UserId, [u8; CLIENT_ID_BYTES]), Accepted>;

impl Room {
    /// A conversation that has no rows.
    pub fn empty(id: ConversationId) -> Self {
        Self {
            id,
            meta: Row::default(),
            head: Row::default(),
            members: BTreeMap::new(),
            intents: BTreeMap::new(),
        }
    }

    /// A member now, of a group.
    pub fn member(&self, user: UserId) -> Option<&Member> {
        self.members
            .get(&user)
            .map(|row| &row.row)
            .filter(|member| !member.left)
    }

    /// The members now, or both sides.
    pub fn users(&self) -> Vec<UserId> {
        match self.id {
            ConversationId::Direct(low, high) => vec![low, high],
            ConversationId::Group(_) => {
                let now = self.members.iter().filter(|(_, row)| !row.row.left);
                now.map(|(user, _)| *user).collect()
            }
        }
    }

    /// Takes in what a plan made of it, which was carried out at this revision: there is no need to look again.
    ///
    /// # Panics
    /// If the plan is not one of this file's or of [`group`](crate::group): those encode what is decoded here.
    pub fn advance(&mut self, plan: &Plan, revision: u64) {
        for Write { key, row, .. } in &plan.writes {
            if key == keys::HEAD {
                self.head = encoded_here(row, revision);
            } else if key == keys::META {
                self.meta = encoded_here(row, revision);
            } else if let Some(id) = key.strip_prefix(keys::MEMBERS).and_then(|id| id.try_into().ok()) {
                let user = UserId(u64::from_be_bytes(id));
                self.members.insert(user, encoded_here(row, revision));
            }
        }
    }

    fn intent(&self, user: UserId) -> Row<Intent> {
        self.intents.get(&user).cloned().unwrap_or_default()
    }

    /// Whether the user may send now.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn may_send(&self, user: UserId, now_ms: u64) -> Result<(), Refusal> {
        if let ConversationId::Direct(..) = self.id {
            let other = self.id.peer(user).ok_or(Refusal::NotMember)?;
            let (mine, theirs) = (self.intent(user).row, self.intent(other).row);
            return match contact::relation(&mine, &theirs) {
                contact::Relation::Friends if contact::may_write(&mine, &theirs) => Ok(()),
                contact::Relation::Friends => Err(Refusal::Blocked),
                _ => Err(Refusal::NotContacts),
            };
        }
        if self.meta.row.disbanded {
            return Err(Refusal::Disbanded);
        }
        let member = self.member(user).ok_or(Refusal::NotMember)?;
        let is_plain = member.role() == Role::Member;
        if is_plain && (self.meta.row.muted || member.muted_until_ms > now_ms) {
            return Err(Refusal::Muted);
        }
        Ok(())
    }

    /// What the right to send hangs on, besides the head.
    fn check_rights(&self, plan: &mut Plan) {
        match self.id {
            ConversationId::Direct(low, high) => {
                for user in [low, high] {
                    plan.check(keys::intent(user), self.intent(user).revision);
                }
            }
            // Each change of a member changes this row, too.
            ConversationId::Group(_) => plan.check(keys::META, self.meta.revision),
        }
    }

    /// Sends messages, in order, at most [`MAX_SEND_BATCH`]; the rest is to be sent after. An empty plan: none was new.
    pub fn send(&self, drafts: &[Draft], taken: &Taken, now_ms: u64) -> (Plan, Vec<Result<Sent, Refusal>>) {
        let mut plan = Plan::default();
        let mut writer = Writer::new(self, now_ms);
        let mut mine = Taken::new();
        let sent = drafts.iter().take(MAX_SEND_BATCH).map(|draft| {
            let id = (draft.sender, draft.client_id);
            let hash = body_hash(draft);
            if let Some(accepted) = taken.get(&id).or_else(|| mine.get(&id)) {
                let Accepted { seq, at_ms, .. } = *accepted;
                let is_same = accepted.body_hash == hash;
                return if is_same {
                    Ok(Sent {
                        seq,
                        at_ms,
                        again: true,
                    })
                } else {
                    Err(Refusal::Reused)
                };
            }
            self.may_send(draft.sender, now_ms)?;
            let at_ms = writer.now_ms;
            let seq = writer.message(&mut plan, draft);
            let accepted = Accepted {
                seq,
                at_ms,
                body_hash: hash.into(),
            };
            let key = keys::accepted(draft.sender, &draft.client_id);
            plan.check(key.clone(), 0);
            plan.put_for(key, &accepted, self.lives(&draft.body));
            mine.insert(id, accepted);
            Ok(Sent {
                seq,
                at_ms,
                again: false,
            })
        });
        let sent = sent.collect();
        if !plan.writes.is_empty() {
            self.check_rights(&mut plan);
            writer.end(&mut plan);
        }
        (plan, sent)
    }

    /// Takes the body of a message away, for everybody. Who administers a group may recall others' messages.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn recall(&self, user: UserId, message: &Row<Message>, now_ms: u64) -> Result<Plan, Refusal> {
        let is_admin = self
            .member(user)
            .is_some_and(|member| member.role() != Role::Member);
        self.may_revise(user, &message.row, now_ms, is_admin)?;
        let mut plan = Plan::default();
        let recalled = Message {
            body: None,
            recalled_by: user.0,
            ..message.row.clone()
        };
        let lives = message
            .row
            .body
            .as_ref()
            .and_then(|body| self.lives_on(body, message.row.at_ms, now_ms));
        plan.put_for(keys::recalled(message.row.ordinal), &(), lives);
        self.revise(&mut plan, message, &recalled, lives, now_ms);
        Ok(plan)
    }

    /// Replaces the text of a message.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn edit(
        &self,
        user: UserId,
        message: &Row<Message>,
        text: &str,
        now_ms: u64,
    ) -> Result<Plan, Refusal> {
        self.may_revise(user, &message.row, now_ms, false)?;
        self.may_send(user, now_ms)?;
        let Some(body @ Body::Text(old)) = &message.row.body else {
            return Err(Refusal::Fixed);
        };
        if message.row.edits >= MAX_EDITS || old.forwarded_from.is_some() {
            return Err(Refusal::Fixed);
        }
        let edited = Message {
            body: Some(Body::Text(v1::Text {
                text: text.to_owned(),
                forwarded_from: None,
            })),
            edits: message.row.edits + 1,
            edited_ms: now_ms,
            ..message.row.clone()
        };
        let mut plan = Plan::default();
        let lives = self.lives_on(body, message.row.at_ms, now_ms);
        self.revise(&mut plan, message, &edited, lives, now_ms);
        Ok(plan)
    }

    /// `any`: whoever sent it, and whenever.
    fn may_revise(&self, user: UserId, message: &Message, now_ms: u64, any: bool) -> Result<(), Refusal> {
        match self.id {
            ConversationId::Direct(..) => self.id.peer(user).map(drop).ok_or(Refusal::NotMember)?,
            ConversationId::Group(_) => self.member(user).map(drop).ok_or(Refusal::NotMember)?,
        }
        if message.sender == 0 || message.sender != user.0 && !any {
            return Err(Refusal::NotYours);
        }
        if message.recalled_by != 0 || !counts(message.body.as_ref()) {
            return Err(Refusal::Fixed);
        }
        if !any && now_ms.saturating_sub(message.at_ms) > REVISION_WINDOW_MS {
            return Err(Refusal::TooLate);
        }
        Ok(())
    }

    /// The message in its new form, and a message that says so: who has the old form gets it anew.
    fn revise(&self, plan: &mut Plan, old: &Row<Message>, new: &Message, lives: Option<u64>, now_ms: u64) {
        let key = keys::message(old.row.seq);
        plan.check(key.clone(), old.revision);
        plan.put_for(key, new, lives);
        let mut writer = Writer::new(self, now_ms);
        writer.revised(plan, old.row.seq, new.recalled_by != 0, lives);
        self.check_rights(plan);
        writer.end(plan);
    }

    /// Milliseconds that a message of this kind lives here; `None` = for ever.
    pub fn lives(&self, body: &Body) -> Option<u64> {
        retention_ms(self.meta.row.retention(), matches!(body, Body::Media(_)))
    }

    /// What is left of it. Never nothing: a row that is over goes by itself.
    fn lives_on(&self, body: &Body, at_ms: u64, now_ms: u64) -> Option<u64> {
        let whole = self.lives(body)?;
        Some(whole.saturating_sub(now_ms.saturating_sub(at_ms)).max(1))
    }
}

fn encoded_here<M: prost::Message + Default>(row: &[u8], revision: u64) -> Row<M> {
    let row = M::decode(row).expect("it was encoded by the plan");
    Row { row, revision }
}

/// Milliseconds that messages of a class live.
pub fn retention_ms(class: RetentionClass, is_media: bool) -> Option<u64> {
    const HOUR: u64 = 3600 * 1000;
    match class {
        RetentionClass::RetentionDefault if is_media => Some(120 * HOUR),
        RetentionClass::RetentionDefault => Some(72 * HOUR),
        RetentionClass::RetentionShort => Some(24 * HOUR),
        RetentionClass::RetentionLong => Some(30 * 24 * HOUR),
        RetentionClass::RetentionKeep => None,
    }
}

/// Only what people say counts as unread.
pub fn counts(body: Option<&Body>) -> bool {
    matches!(body, Some(Body::Text(_) | Body::Media(_)))
}

/// What tells two messages with the same client id apart.
pub fn body_hash(draft: &Draft) -> Vec<u8> {
    let message = Message {
        reply_to: draft.reply_to,
        body: Some(draft.body.clone()),
        ..Message::default()
    };
    Sha256::digest(message.encode_to_vec())[..16].to_vec()
}

/// Gives out numbers, one after the other.
pub(crate) struct Writer<'a> {
    room: &'a Room,
    head: ConversationHead,
    /// Not before the newest message.
    now_ms: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(room: &'a Room, now_ms: u64) -> Self {
        let now_ms = now_ms.max(room.head.row.at_ms);
        Self {
            room,
            head: room.head.row,
            now_ms,
        }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.head.seq
    }

    pub(crate) fn ordinal(&self) -> u64 {
        self.head.ordinal
    }

    fn put(&mut self, plan: &mut Plan, message: Message, ttl_ms: Option<u64>) -> u64 {
        self.head.seq += 1;
        self.head.ordinal += u64::from(counts(message.body.as_ref()));
        self.head.at_ms = self.now_ms;
        let ConversationHead {
            seq, ordinal, at_ms, ..
        } = self.head;
        plan.put_for(
            keys::message(seq),
            &Message {
                seq,
                ordinal,
                at_ms,
                ..message
            },
            ttl_ms,
        );
        seq
    }

    fn message(&mut self, plan: &mut Plan, draft: &Draft) -> u64 {
        let message = Message {
            sender: draft.sender.0,
            device: draft.device,
            client_id: draft.client_id.to_vec().into(),
            reply_to: draft.reply_to,
            body: Some(draft.body.clone()),
            ..Message::default()
        };
        self.put(plan, message, self.room.lives(&draft.body))
    }

    /// A note of the system, by whom it was caused and whom it concerns.
    pub(crate) fn note(
        &mut self,
        plan: &mut Plan,
        what: What,
        actor: UserId,
        subjects: &[UserId],
        text: &str,
    ) -> u64 {
        let note = SystemNote {
            what: what.into(),
            actor: actor.0,
            subjects: subjects.iter().map(|user| user.0).collect(),
            text: text.to_owned(),
        };
        let body = Body::System(note);
        let lives = self.room.lives(&body);
        self.put(
            plan,
            Message {
                body: Some(body),
                ..Message::default()
            },
            lives,
        )
    }

    fn revised(&mut self, plan: &mut Plan, of_seq: u64, recalled: bool, ttl_ms: Option<u64>) {
        self.head.revised += 1;
        let body = Body::Revision(v1::Revision { of_seq, recalled });
        self.put(
            plan,
            Message {
                body: Some(body),
                ..Message::default()
            },
            ttl_ms,
        );
    }

    /// The head, and that it is still the one before.
    pub(crate) fn end(self, plan: &mut Plan) {
        plan.check(keys::HEAD, self.room.head.revision);
        plan.put(keys::HEAD, &self.head);
    }
}

#[cfg(test)]
mod tests;
