//! Messages: sending, forwarding, recalling, editing, reading, and what a user sets and keeps of a conversation.
//!
//! Who may read what: of a conversation of two both sides everything, of a group a member what came since they joined, and who left what came before that.

use std::ops::RangeInclusive;

use chat_core::{
    ConversationId, UserId,
    limits::{MAX_LINE, MAX_MEDIUM, MAX_TEXT},
    plan::Plan,
    room::{self, Draft, Refusal, Room, Row},
    text,
};
use chat_proto::v1::{
    self, Code, ConversationOptions, Done, Favourite, Media, Message, Origin, Page, ReadMark, Text, media,
    message::Body, receipts::Receipt,
};
use chat_storage::Carried;

use crate::{
    accounts::HASH_BYTES,
    caller::Caller,
    failure::Failure,
    groups::client_id,
    limits::{PAGE, TRIES},
    logic::Logic,
};

/// Sequence numbers of messages that somebody may read.
type Readable = RangeInclusive<u64>;

/// Letters of the longest media type.
const MAX_MIME: usize = 100;

impl Logic {
    pub(crate) async fn send(&self, caller: Caller, request: v1::Send) -> Result<v1::Sent, Failure> {
        let id: ConversationId = request.conversation.parse()?;
        let body = match request.body {
            Some(v1::send::Body::Text(text)) => {
                text::message(&text, MAX_TEXT)?;
                Body::Text(Text {
                    text,
                    forwarded_from: None,
                })
            }
            Some(v1::send::Body::Media(media)) => Body::Media(checked(media)?),
            None => return Err(Failure::invalid("a message has a text or a medium")),
        };
        self.send_body(caller, id, &request.client_id, body, request.reply_to)
            .await
    }

    async fn send_body(
        &self,
        caller: Caller,
        id: ConversationId,
        client: &[u8],
        body: Body,
        reply_to: u64,
    ) -> Result<v1::Sent, Failure> {
        let client_id = client_id(client)?;
        let now = std::time::Duration::from_millis(self.now_ms());
        self.inner
            .sends
            .take(&caller.user, 1, now)
            .map_err(|wait| Failure::limited("messages", wait))?;
        let draft = Draft {
            sender: caller.user,
            device: caller.device.0,
            client_id,
            body,
            reply_to,
        };
        let sent = self.inner.rooms.send(id, draft).await?;
        Ok(v1::Sent {
            seq: sent.seq,
            at_ms: sent.at_ms,
            again: sent.again,
        })
    }

    pub(crate) async fn forward(&self, caller: Caller, request: v1::Forward) -> Result<v1::Sent, Failure> {
        let (from, to): (ConversationId, ConversationId) = (request.from.parse()?, request.to.parse()?);
        let message = self.readable_message(caller, from, request.seq).await?.row;
        let first = Origin {
            sender: message.sender,
            at_ms: message.at_ms,
        };
        let body = match message.body {
            Some(Body::Text(text)) => Body::Text(Text {
                forwarded_from: text.forwarded_from.or(Some(first)),
                ..text
            }),
            Some(Body::Media(media)) => Body::Media(Media {
                forwarded_from: media.forwarded_from.or(Some(first)),
                ..media
            }),
            _ => return Err(Refusal::NoMessage.into()),
        };
        self.send_body(caller, to, &request.client_id, body, 0).await
    }

    pub(crate) async fn recall(&self, caller: Caller, request: v1::Recall) -> Result<Done, Failure> {
        let id = request.conversation.parse()?;
        self.revise(caller, id, request.seq, |room, message| {
            if message.row.recalled_by != 0 {
                return Ok(None);
            }
            room.recall(caller.user, message, self.now_ms()).map(Some)
        })
        .await
    }

    pub(crate) async fn edit(&self, caller: Caller, request: v1::Edit) -> Result<Done, Failure> {
        let id = request.conversation.parse()?;
        let text = request.text;
        text::message(&text, MAX_TEXT)?;
        self.revise(caller, id, request.seq, |room, message| {
            let is_mine = message.row.sender == caller.user.0;
            let is_so = matches!(&message.row.body, Some(Body::Text(now)) if now.text == text);
            if is_mine && is_so {
                return Ok(None);
            }
            room.edit(caller.user, message, &text, self.now_ms()).map(Some)
        })
        .await
    }

    /// `None` of a plan: it is so already.
    async fn revise(
        &self,
        caller: Caller,
        id: ConversationId,
        seq: u64,
        plan: impl Fn(&Room, &Row<Message>) -> Result<Option<Plan>, Refusal>,
    ) -> Result<Done, Failure> {
        for _ in 0..TRIES {
            let message = self.readable_message(caller, id, seq).await?;
            let room = self.store().room(id).await?;
            let Some(plan) = plan(&room, &message)? else {
                return Ok(Done {});
            };
            if let Carried::Out(_) = self.store().carry_out_in(id, &plan).await? {
                return Ok(Done {});
            }
        }
        Err(Failure::contended())
    }

    /// What of a conversation the caller may read.
    async fn readable(&self, caller: Caller, id: ConversationId) -> Result<Readable, Failure> {
        if let ConversationId::Direct(..) = id {
            id.peer(caller.user).ok_or(Refusal::NotMember)?;
            return Ok(1..=u64::MAX);
        }
        let member = self.store().member(id, caller.user).await?;
        if member.revision == 0 {
            return Err(Refusal::NotMember.into());
        }
        let last = if member.row.left {
            member.row.left_seq
        } else {
            u64::MAX
        };
        Ok(member.row.joined_seq + 1..=last)
    }

    async fn readable_message(
        &self,
        caller: Caller,
        id: ConversationId,
        seq: u64,
    ) -> Result<Row<Message>, Failure> {
        let readable = self.readable(caller, id).await?;
        let message = self.store().message(id, seq).await?;
        if !readable.contains(&seq) || message.revision == 0 {
            return Err(Refusal::NoMessage.into());
        }
        Ok(message)
    }

    /// The others of a conversation that the caller may write in now.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn others(&self, caller: Caller, conversation: &str) -> Result<Vec<UserId>, Failure> {
        let room = self.inner.rooms.look(conversation.parse()?).await?;
        room.may_send(caller.user, self.now_ms())?;
        let mut others = room.users();
        others.retain(|user| *user != caller.user);
        Ok(others)
    }

    pub(crate) async fn mark_read(&self, caller: Caller, request: v1::MarkRead) -> Result<Done, Failure> {
        let id = request.conversation.parse()?;
        let mark = self.mark(caller, id, request.seq).await?;
        self.store().mark_read(caller.user, id, &mark).await?;
        Ok(Done {})
    }

    pub(crate) async fn mark_got(&self, caller: Caller, request: v1::MarkGot) -> Result<Done, Failure> {
        let id = request.conversation.parse()?;
        if let ConversationId::Group(_) = id {
            return Err(Failure::invalid(
                "only a conversation of two is told what has arrived",
            ));
        }
        let mark = self.mark(caller, id, request.seq).await?;
        self.store().tell_got(id, caller.user, &mark).await?;
        Ok(Done {})
    }

    /// A mark at a message that the caller may read, or at the newest one before.
    async fn mark(&self, caller: Caller, id: ConversationId, seq: u64) -> Result<ReadMark, Failure> {
        let readable = self.readable(caller, id).await?;
        Ok(self.store().mark_at(id, seq.min(*readable.end())).await?)
    }

    pub(crate) async fn set_options(&self, caller: Caller, request: v1::SetOptions) -> Result<Done, Failure> {
        let id: ConversationId = request.conversation.parse()?;
        let hidden = self.mark(caller, id, request.hide_seq).await?;
        for _ in 0..TRIES {
            let mine = self.store().mine(caller.user, &[id]).await?;
            let options = mine.into_iter().next().unwrap_or_default().options;
            let mut changed = ConversationOptions {
                muted: request.muted.unwrap_or(options.row.muted),
                pinned: request.pinned.unwrap_or(options.row.pinned),
                ..options.row
            };
            if hidden.seq > changed.hidden_seq {
                (changed.hidden_seq, changed.hidden_ordinal) = (hidden.seq, hidden.ordinal);
            }
            let is_set = changed == options.row
                || self
                    .store()
                    .set_options(caller.user, id, options.revision, &changed)
                    .await?;
            if is_set {
                return Ok(Done {});
            }
        }
        Err(Failure::contended())
    }

    pub(crate) async fn pull(&self, caller: Caller, request: v1::Pull) -> Result<Page, Failure> {
        let id = request.conversation.parse()?;
        let readable = self.readable(caller, id).await?;
        let to = match request.to_seq {
            0 => u64::MAX,
            to => to,
        };
        let (from, to) = (request.from_seq.max(*readable.start()), to.min(*readable.end()));
        if from > to {
            return Ok(Page::default());
        }
        let limit = match request.limit {
            0 => PAGE,
            limit => limit.min(PAGE),
        };
        let page = self
            .store()
            .messages(id, from, to, limit, request.backwards)
            .await?;
        Ok(Page {
            messages: page.messages,
            more: page.more,
        })
    }

    pub(crate) async fn seek_date(
        &self,
        caller: Caller,
        request: v1::SeekDate,
    ) -> Result<v1::Sought, Failure> {
        let id = request.conversation.parse()?;
        let readable = self.readable(caller, id).await?;
        let newest = self.store().mark_at(id, u64::MAX).await?.seq;
        let among = *readable.start()..=newest.min(*readable.end());
        let seq = self.store().seq_at(id, among, request.at_ms).await?;
        Ok(v1::Sought { seq })
    }

    pub(crate) async fn receipts(
        &self,
        caller: Caller,
        request: v1::GetReceipts,
    ) -> Result<v1::Receipts, Failure> {
        let id = request.conversation.parse()?;
        self.readable(caller, id).await?;
        let receipts = self.store().receipts(id).await?;
        let receipt = |(user, mark): (UserId, ReadMark)| Receipt {
            user: user.0,
            read_seq: mark.seq,
        };
        Ok(v1::Receipts {
            receipts: receipts.into_iter().map(receipt).collect(),
        })
    }

    pub(crate) async fn keep(&self, caller: Caller, request: v1::Keep) -> Result<Done, Failure> {
        let id: ConversationId = request.conversation.parse()?;
        let at = (id, request.seq);
        if request.drop {
            self.store().keep(caller.user, at, None).await?;
            return Ok(Done {});
        }
        let message = self.readable_message(caller, id, request.seq).await?.row;
        if !room::counts(message.body.as_ref()) {
            return Err(Refusal::NoMessage.into());
        }
        let kept = Favourite {
            conversation: id.to_string(),
            message: Some(message),
            kept_ms: self.now_ms(),
        };
        self.store().keep(caller.user, at, Some(&kept)).await?;
        Ok(Done {})
    }

    pub(crate) async fn list_kept(&self, caller: Caller, request: v1::ListKept) -> Result<v1::Kept, Failure> {
        let limit = match request.limit {
            0 => PAGE,
            limit => limit.min(PAGE),
        };
        let (kept, next) = self.store().kept(caller.user, &request.after, limit).await?;
        Ok(v1::Kept { kept, next })
    }
}

/// A medium as it may be sent.
fn checked(media: Media) -> Result<Media, Failure> {
    if media.kind() == media::Kind::Unspecified {
        return Err(Failure::invalid(
            "a medium is an image, a voice message or a file",
        ));
    }
    if media.hash.len() != HASH_BYTES {
        return Err(Failure::invalid(format!(
            "the hash of a medium has {HASH_BYTES} bytes"
        )));
    }
    if media.bytes == 0 || media.bytes > MAX_MEDIUM {
        return Err(Failure::new(
            Code::TooLarge,
            format!("a medium has 1 to {MAX_MEDIUM} bytes"),
        ));
    }
    let is_type = |c: u8| c.is_ascii_alphanumeric() || b"/+.-".contains(&c);
    if media.mime.len() > MAX_MIME || !media.mime.bytes().all(is_type) {
        return Err(Failure::invalid("a media type is like image/png"));
    }
    let name = match media.name.trim() {
        "" => String::new(),
        name => text::line("a file's name", name, MAX_LINE)?,
    };
    if name.contains(['/', '\\']) {
        return Err(Failure::invalid("a file's name is no path"));
    }
    Ok(Media {
        name,
        forwarded_from: None,
        ..media
    })
}
