//! What one device sees, held against what it must see.

use std::{collections::BTreeMap, sync::Arc};

use chat_client::{Client, Happened, News};
use chat_proto::v1::{Message, message::Body};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// A conversation's texts, and how many of them came.
#[derive(Debug)]
pub(super) struct Expected {
    texts: Arc<[String]>,
    seen: usize,
}

impl Expected {
    pub(super) fn new(texts: Arc<[String]>) -> Self {
        Self { texts, seen: 0 }
    }
}

#[derive(Debug, Default)]
struct State {
    expected: BTreeMap<String, Expected>,
    wrong: Vec<String>,
    lost: usize,
}

/// See the module.
pub(super) struct Watcher {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    pub(super) fn start(client: Arc<Client>) -> Arc<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let seen = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Some(happened) = client.happened().await {
                seen.lock().happened(happened);
            }
        });
        Arc::new(Self { state, task })
    }

    /// From now on these texts are to come.
    pub(super) fn expect(&self, conversation: String, expected: Expected) {
        self.state.lock().expected.insert(conversation, expected);
    }

    /// Messages that have not come.
    pub(super) fn missing(&self) -> usize {
        let state = self.state.lock();
        state.expected.values().map(|of| of.texts.len() - of.seen).sum()
    }

    /// Messages that came as they should.
    pub(super) fn seen(&self) -> usize {
        self.state.lock().expected.values().map(|of| of.seen).sum()
    }

    /// What came otherwise than it should.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.state.lock().wrong.clone()
    }

    /// Times that the connection was lost.
    pub(super) fn lost(&self) -> usize {
        self.state.lock().lost
    }
}

impl State {
    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::News(News::Message(conversation, message)) => self.message(&conversation, &message),
            Happened::Lost(_) => self.lost += 1,
            Happened::LoggedOut => self.wrong.push("a device was logged out".to_owned()),
            _ => {}
        }
    }

    fn message(&mut self, conversation: &str, message: &Message) {
        let Some(expected) = self.expected.get_mut(conversation) else {
            self.wrong
                .push(format!("{conversation}: nobody has said anything there"));
            return;
        };
        let text = match &message.body {
            Some(Body::Text(text)) => &text.text,
            other => {
                self.wrong
                    .push(format!("{conversation}: message {} is {other:?}", message.seq));
                return;
            }
        };
        let place = expected.seen;
        if message.seq != place as u64 + 1 || expected.texts.get(place) != Some(text) {
            self.wrong.push(format!(
                "{conversation}: message {} with {text:?} came, expected was {}",
                message.seq,
                place + 1
            ));
            return;
        }
        expected.seen += 1;
    }
}

#[cfg(test)]
mod tests {
    use chat_proto::v1::{Message, Text, message::Body};

    use super::{Expected, State};

    fn message(seq: u64, text: &str) -> Message {
        Message {
            seq,
            body: Some(Body::Text(Text {
                text: text.to_owned(),
                forwarded_from: None,
            })),
            ..Message::default()
        }
    }

    #[test]
    fn what_is_twice_missing_or_changed_is_seen() {
        let texts = ["one".to_owned(), "two".to_owned()];
        let state = || {
            let mut state = State::default();
            state
                .expected
                .insert("x".to_owned(), Expected::new(texts.clone().into()));
            state
        };
        let after = |messages: &[Message]| {
            let mut state = state();
            messages.iter().for_each(|of| state.message("x", of));
            (state.expected["x"].seen, state.wrong.len())
        };
        assert_eq!(after(&[message(1, "one"), message(2, "two")]), (2, 0));
        assert_eq!(after(&[message(1, "one"), message(1, "one")]), (1, 1));
        assert_eq!(after(&[message(2, "two")]), (0, 1));
        assert_eq!(after(&[message(1, "uno")]), (0, 1));
        let mut other = state();
        other.message("y", &message(1, "one"));
        assert_eq!(other.wrong.len(), 1);
    }
}
