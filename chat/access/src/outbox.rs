//! What waits to be sent to one client: answers, then hints, in bounded memory whatever the client does.
//!
//! Answers are as many as requests under way. Pushed messages, typing and presence are hints: if a client does not take them, they are all dropped and it is told that its conversations
//! have changed: it is *lagging*, and a sync tells it everything. Hints of changes become one.

use std::{collections::VecDeque, mem, sync::Arc};

use axum::extract::ws::Message;
use chat_proto::v1::{Changed, ServerFrame, server_frame::Body};

use crate::{
    codec::{Codec, Shared},
    limits::{MAX_QUEUED, MAX_QUEUED_BYTES},
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    hints: VecDeque<Arc<Shared>>,
    bytes: usize,
    changed: Changed,
}

impl Outbox {
    /// Takes a hint. False: the client is lagging, and hints were dropped.
    pub(crate) fn hint(&mut self, hint: &Arc<Shared>) -> bool {
        if let Some(Body::Changed(changed)) = hint.body() {
            self.changed.account |= changed.account;
            self.changed.contacts |= changed.contacts;
            self.changed.conversations |= changed.conversations;
            return true;
        }
        let weight = hint.weight();
        if self.hints.len() >= MAX_QUEUED || self.bytes + weight > MAX_QUEUED_BYTES {
            self.hints.clear();
            self.bytes = 0;
            self.changed.conversations = true;
            return false;
        }
        self.bytes += weight;
        self.hints.push_back(Arc::clone(hint));
        true
    }

    /// The next hint to be sent.
    pub(crate) fn next(&mut self, codec: Codec) -> Option<Message> {
        let hint = self.hints.pop_front()?;
        self.bytes -= hint.weight();
        Some(hint.message(codec))
    }

    /// Something has changed.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed != Changed::default()
    }

    /// What has changed, once; and whether the account is among it.
    pub(crate) fn take_changed(&mut self, codec: Codec) -> Option<(Message, bool)> {
        let changed = mem::take(&mut self.changed);
        (changed != Changed::default()).then(|| {
            let frame = ServerFrame {
                id: 0,
                body: Some(Body::Changed(changed)),
            };
            (codec.encode(&frame), changed.account)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chat_proto::v1::{Changed, Push, server_frame::Body};

    use super::Outbox;
    use crate::{
        codec::{Codec, Shared},
        limits::{MAX_QUEUED, MAX_QUEUED_BYTES},
    };

    fn push(bytes: usize) -> Arc<Shared> {
        let push = Push {
            conversation: "x".repeat(bytes),
            message: None,
        };
        Arc::new(Shared::new(Body::Push(push)))
    }

    #[test]
    fn hints_of_changes_become_one() {
        let mut outbox = Outbox::default();
        for (account, contacts) in [(true, false), (false, true), (true, false)] {
            let changed = Changed {
                account,
                contacts,
                conversations: false,
            };
            outbox.hint(&Arc::new(Shared::new(Body::Changed(changed))));
        }
        let (message, account) = outbox.take_changed(Codec::Json).unwrap();
        assert!(account);
        assert_eq!(
            message.into_text().unwrap().as_str(),
            r#"{"changed":{"account":true,"contacts":true}}"#
        );
        assert!(outbox.take_changed(Codec::Json).is_none() && outbox.next(Codec::Json).is_none());
    }

    #[test]
    fn who_takes_nothing_is_told_to_sync_and_costs_no_more() {
        let mut outbox = Outbox::default();
        for _ in 0..MAX_QUEUED {
            assert!(outbox.hint(&push(10)));
        }
        assert!(!outbox.has_changed());
        assert!(!outbox.hint(&push(10)));
        assert!(outbox.has_changed() && outbox.next(Codec::Json).is_none());
        assert_eq!(outbox.bytes, 0);
        for _ in 0..10 {
            outbox.hint(&push(MAX_QUEUED_BYTES / 4));
            assert!(outbox.bytes <= MAX_QUEUED_BYTES);
        }
    }
}
