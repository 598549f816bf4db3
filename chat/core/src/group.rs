//! Groups: who joins, leaves, and may do what.
//!
//! Every change is one transaction with the conversation's row in it, whose version grows by one: so the limit of members holds whatever comes at once, and whoever
//! sends is checked against the members of that moment. Each change is a note in the conversation, which everybody gets who is a member before or after it.

use std::collections::BTreeSet;

use chat_proto::v1::{self, Member, RetentionClass, Role, system_note::What};

use crate::{
    ids::UserId,
    keys::conversation as keys,
    limits::MAX_MEMBERS,
    plan::Plan,
    room::{Refusal, Room, Row, Writer},
};

/// A change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These users become members.
    Add(Vec<UserId>),
    /// Who asks is no member any more. The owner hands the group on, or, if nobody is left, gives it up.
    Leave,
    /// This user is no member any more.
    Remove(UserId),
    /// It has another title.
    Rename(String),
    /// This member has another role; a new owner replaces the old one.
    SetRole(UserId, Role),
    /// This member may not send before this time (milliseconds since 1970); 0 = may.
    Mute(UserId, u64),
    /// Only administrators may send, or everybody.
    MuteAll(bool),
    /// Messages from now on live as long as this class says.
    Retain(RetentionClass),
    /// Nobody sends any more.
    Disband,
}

/// A new group.
///
/// # Errors
/// [`Refusal::Full`].
pub fn create(
    room: &Room,
    creator: UserId,
    title: &str,
    members: &[UserId],
    now_ms: u64,
) -> Result<Plan, Refusal> {
    let users: BTreeSet<UserId> = members.iter().copied().chain([creator]).collect();
    if users.len() > MAX_MEMBERS as usize {
        return Err(Refusal::Full);
    }
    let mut step = Step::new(room, now_ms);
    step.meta.title = title.to_owned();
    step.meta.created_ms = now_ms;
    step.meta.creator = creator.0;
    step.note(
        What::Created,
        creator,
        &users.iter().copied().collect::<Vec<_>>(),
        title,
    );
    for user in users {
        let role = if user == creator {
            Role::Owner
        } else {
            Role::Member
        };
        step.join(user, role);
    }
    Ok(step.end())
}

/// A change by a member; an empty plan: it is so already.
///
/// # Errors
/// See [`Refusal`].
pub fn change(room: &Room, actor: UserId, change: &Change, now_ms: u64) -> Result<Plan, Refusal> {
    if room.meta.row.disbanded {
        return Err(Refusal::Disbanded);
    }
    let member = room.member(actor).ok_or(Refusal::NotMember)?;
    let mut step = Step::new(room, now_ms);
    match change {
        Change::Add(users) => step.add(actor, users)?,
        Change::Leave => step.leave(actor),
        Change::Remove(user) => {
            let other = room.member(*user).ok_or(Refusal::NotMember)?;
            above(member, other)?;
            step.go(*user, What::Removed, actor);
        }
        Change::Rename(title) => {
            admin(member)?;
            if room.meta.row.title == *title {
                return Ok(Plan::default());
            }
            title.clone_into(&mut step.meta.title);
            step.note(What::Renamed, actor, &[], title);
        }
        Change::SetRole(user, role) => step.set_role(actor, *user, *role)?,
        Change::Mute(user, until_ms) => {
            let other = room.member(*user).ok_or(Refusal::NotMember)?;
            above(member, other)?;
            let is_muted = *until_ms > now_ms;
            step.change(*user, |member| {
                member.muted_until_ms = if is_muted { *until_ms } else { 0 }
            });
            step.note(
                if is_muted { What::Muted } else { What::Unmuted },
                actor,
                &[*user],
                "",
            );
        }
        Change::MuteAll(muted) => {
            admin(member)?;
            step.meta.muted = *muted;
            step.note(if *muted { What::Muted } else { What::Unmuted }, actor, &[], "");
        }
        Change::Retain(class) => {
            owner(member)?;
            step.meta.set_retention(*class);
            step.note(What::RetentionChanged, actor, &[], class.as_str_name());
        }
        Change::Disband => {
            owner(member)?;
            step.meta.disbanded = true;
            step.note(What::Disbanded, actor, &[], "");
        }
    }
    Ok(step.end())
}

fn admin(member: &Member) -> Result<(), Refusal> {
    (member.role() != Role::Member)
        .then_some(())
        .ok_or(Refusal::NotAllowed)
}

fn owner(member: &Member) -> Result<(), Refusal> {
    (member.role() == Role::Owner)
        .then_some(())
        .ok_or(Refusal::NotAllowed)
}

/// Roles are in ascending order.
fn above(member: &Member, other: &Member) -> Result<(), Refusal> {
    admin(member)?;
    (member.role > other.role)
        .then_some(())
        .ok_or(Refusal::NotAllowed)
}

/// A change in the making.
struct Step<'a> {
    room: &'a Room,
    plan: Plan,
    meta: v1::Conversation,
    writer: Writer<'a>,
}

impl<'a> Step<'a> {
    fn new(room: &'a Room, now_ms: u64) -> Self {
        let mut meta = room.meta.row.clone();
        meta.version += 1;
        Self {
            room,
            plan: Plan::default(),
            meta,
            writer: Writer::new(room, now_ms),
        }
    }

    fn note(&mut self, what: What, actor: UserId, subjects: &[UserId], text: &str) {
        self.writer.note(&mut self.plan, what, actor, subjects, text);
    }

    fn put(&mut self, user: UserId, member: &Member) {
        let revision = self.room.members.get(&user).map_or(0, |row| row.revision);
        self.plan.check(keys::member(user), revision);
        self.plan.put(keys::member(user), member);
    }

    /// Once the note is written: the new member gets it, and nothing from before.
    fn join(&mut self, user: UserId, role: Role) {
        let member = Member {
            version: self.meta.version,
            role: role.into(),
            joined_seq: self.writer.seq() - 1,
            joined_ordinal: self.writer.ordinal(),
            ..Member::default()
        };
        self.meta.members += 1;
        self.put(user, &member);
    }

    fn change(&mut self, user: UserId, change: impl FnOnce(&mut Member)) {
        let mut member = self
            .room
            .members
            .get(&user)
            .map(|row| row.row)
            .unwrap_or_default();
        member.version = self.meta.version;
        change(&mut member);
        self.put(user, &member);
    }

    fn add(&mut self, actor: UserId, users: &[UserId]) -> Result<(), Refusal> {
        let new: BTreeSet<UserId> = users
            .iter()
            .copied()
            .filter(|user| self.room.member(*user).is_none())
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        if self.meta.members as usize + new.len() > MAX_MEMBERS as usize {
            return Err(Refusal::Full);
        }
        self.note(What::Joined, actor, &new.iter().copied().collect::<Vec<_>>(), "");
        for user in new {
            self.join(user, Role::Member);
        }
        Ok(())
    }

    /// The note is the last that they get.
    fn go(&mut self, user: UserId, what: What, actor: UserId) {
        self.note(what, actor, &[user], "");
        let (left_seq, left_ordinal) = (self.writer.seq(), self.writer.ordinal());
        self.change(user, |member| {
            member.left = true;
            member.left_seq = left_seq;
            member.left_ordinal = left_ordinal;
        });
        self.meta.members -= 1;
    }

    fn leave(&mut self, user: UserId) {
        self.go(user, What::Left, user);
        if self
            .room
            .member(user)
            .is_none_or(|member| member.role() != Role::Owner)
        {
            return;
        }
        // Administrators first, then who has been there longest.
        let others = self
            .room
            .members
            .iter()
            .filter(|(id, row)| **id != user && !row.row.left);
        let heir =
            others.max_by_key(|(id, Row { row, .. })| (row.role, std::cmp::Reverse((row.joined_seq, **id))));
        match heir.map(|(id, _)| *id) {
            Some(heir) => {
                self.change(heir, |member| member.set_role(Role::Owner));
                self.note(What::RoleChanged, user, &[heir], Role::Owner.as_str_name());
            }
            None => self.meta.disbanded = true,
        }
    }

    fn set_role(&mut self, actor: UserId, user: UserId, role: Role) -> Result<(), Refusal> {
        owner(self.room.member(actor).ok_or(Refusal::NotMember)?)?;
        let other = self.room.member(user).ok_or(Refusal::NotMember)?;
        if role == Role::Unspecified || user == actor && role != Role::Owner {
            return Err(Refusal::NotAllowed);
        }
        if other.role() == role {
            return Ok(());
        }
        self.change(user, |member| member.set_role(role));
        if role == Role::Owner {
            self.change(actor, |member| member.set_role(Role::Admin));
        }
        self.note(What::RoleChanged, actor, &[user], role.as_str_name());
        Ok(())
    }

    fn end(mut self) -> Plan {
        // Each change has a note.
        if self.writer.seq() == self.room.head.row.seq {
            return Plan::default();
        }
        self.plan.check(keys::META, self.room.meta.revision);
        self.plan.put(keys::META, &self.meta);
        self.writer.end(&mut self.plan);
        self.plan
    }
}

#[cfg(test)]
mod tests;
