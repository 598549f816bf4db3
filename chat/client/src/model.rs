//! What a device knows, and what it makes of what it is told: pure, no network and no clock.
//!
//! Messages come by pushes, syncs and pulls: twice, late, or not at all. The model gives each one out once, in the order of its conversation, and says which ones it must
//! ask for ([`Model::gap`]).

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
};

use chat_proto::v1::{Contact, Delta, Message, Page, Profile, Push, View, contact::Relation};

/// Where a device begins with a conversation that it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// With the first message that is the user's.
    All,
    /// With so many of the newest.
    Newest(u64),
}

/// Something new.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// The next message of a conversation.
    Message(String, Message),
    /// One of before, in a new form: it was edited or recalled.
    Revised(String, Message),
    /// A conversation is as this says.
    View(View),
    /// A contact is as this says.
    Contact(Contact),
    /// The account is as this says.
    Account(Profile),
}

/// Messages of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
struct Log {
    /// The number of the next message to be given out.
    next: u64,
    /// Those that came before their turn.
    ahead: BTreeMap<u64, Message>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Model {
    history: History,
    snapshot: Vec<u8>,
    account: Option<Profile>,
    contacts: BTreeMap<u64, Contact>,
    views: BTreeMap<String, View>,
    logs: BTreeMap<String, Log>,
    /// Messages of before that are to be pulled again.
    stale: VecDeque<(String, u64)>,
    news: VecDeque<News>,
}

impl Model {
    /// Of a device that knows nothing.
    pub fn new(history: History) -> Self {
        Self {
            history,
            snapshot: Vec::new(),
            account: None,
            contacts: BTreeMap::new(),
            views: BTreeMap::new(),
            logs: BTreeMap::new(),
            stale: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    /// To be shown at the next sync.
    pub fn snapshot(&self) -> &[u8] {
        &self.snapshot
    }

    /// The user, once it is known.
    pub fn account(&self) -> Option<&Profile> {
        self.account.as_ref()
    }

    /// Contacts and requests, by the other's id.
    pub fn contacts(&self) -> &BTreeMap<u64, Contact> {
        &self.contacts
    }

    /// Conversations.
    pub fn views(&self) -> &BTreeMap<String, View> {
        &self.views
    }

    /// Up to this message all of a conversation were given out.
    pub fn given(&self, conversation: &str) -> u64 {
        self.logs
            .get(conversation)
            .map_or(0, |log| log.next.saturating_sub(1))
    }

    /// What is new, the oldest first.
    pub fn next_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Takes an answer to a sync.
    pub fn delta(&mut self, delta: Delta) {
        if delta.reset {
            self.contacts.clear();
            self.views.clear();
        }
        if let Some(account) = delta.account {
            self.account = Some(account.clone());
            self.news.push_back(News::Account(account));
        }
        for contact in delta.contacts {
            let user = contact.profile.as_ref().map_or(0, |profile| profile.user);
            if contact.relation() == Relation::Strangers && !contact.blocked {
                self.contacts.remove(&user);
            } else {
                self.contacts.insert(user, contact.clone());
            }
            self.news.push_back(News::Contact(contact));
        }
        for mut view in delta.conversations {
            let messages = std::mem::take(&mut view.messages);
            self.view(view.clone());
            for message in messages {
                self.message(&view.conversation, message);
            }
            self.give_out(&view.conversation);
            self.news.push_back(News::View(view));
        }
        self.snapshot = delta.snapshot.to_vec();
    }

    fn view(&mut self, view: View) {
        let first = match self.history {
            History::All => view.from_seq,
            History::Newest(count) => view.from_seq.max((view.head_seq + 1).saturating_sub(count)),
        };
        let log = self.logs.entry(view.conversation.clone()).or_insert_with(|| Log {
            next: first.max(1),
            ahead: BTreeMap::new(),
        });
        // Who comes back to a group has nothing of what was meanwhile.
        log.next = log.next.max(view.from_seq);
        self.views.insert(view.conversation.clone(), view);
    }

    /// Takes a hint. One of a conversation that no sync has told yet is left to the sync.
    pub fn push(&mut self, push: Push) {
        let Some(message) = push.message else {
            return;
        };
        self.message(&push.conversation, message);
        self.give_out(&push.conversation);
    }

    fn message(&mut self, conversation: &str, message: Message) {
        let Some(log) = self.logs.get_mut(conversation) else {
            return;
        };
        if message.seq >= log.next {
            // The newer form, if there are two.
            let known = log.ahead.get(&message.seq);
            if known.is_none_or(|known| form(known) < form(&message)) {
                log.ahead.insert(message.seq, message);
            }
        } else if form(&message) > 0 {
            self.news
                .push_back(News::Revised(conversation.to_owned(), message));
        }
    }

    /// Takes the answer to a pull of these numbers. Those that are not there are gone.
    pub fn page(&mut self, conversation: &str, asked: &RangeInclusive<u64>, page: Page) {
        let last = page.messages.last().map(|message| message.seq);
        let upto = if page.more {
            last.unwrap_or(0)
        } else {
            *asked.end()
        };
        for message in page.messages {
            self.message(conversation, message);
        }
        let Some(log) = self.logs.get_mut(conversation) else {
            return;
        };
        if asked.contains(&log.next) {
            // What is missing up to here will not come.
            while log.next <= upto {
                if let Some(message) = log.ahead.remove(&log.next) {
                    self.news
                        .push_back(News::Message(conversation.to_owned(), message));
                }
                log.next += 1;
            }
        }
        self.give_out(conversation);
    }

    fn give_out(&mut self, conversation: &str) {
        let Some(log) = self.logs.get_mut(conversation) else {
            return;
        };
        log.ahead = log.ahead.split_off(&log.next);
        while let Some(message) = log.ahead.remove(&log.next) {
            log.next += 1;
            if let Some(chat_proto::v1::message::Body::Revision(revision)) = &message.body {
                self.stale.push_back((conversation.to_owned(), revision.of_seq));
            }
            self.news
                .push_back(News::Message(conversation.to_owned(), message));
        }
    }

    /// What is to be pulled: messages of a conversation that are there, and did not come.
    pub fn gap(&self) -> Option<(String, RangeInclusive<u64>)> {
        self.logs.iter().find_map(|(conversation, log)| {
            let known = self.views.get(conversation).map_or(0, |view| view.head_seq);
            let end = match log.ahead.first_key_value() {
                Some((first, _)) => first - 1,
                None => known,
            };
            (log.next <= end).then(|| (conversation.clone(), log.next..=end))
        })
    }

    /// A message of before that has changed and is to be pulled again, once.
    pub fn take_stale(&mut self) -> Option<(String, u64)> {
        self.stale.pop_front()
    }
}

/// Counts a message's changes.
fn form(message: &Message) -> u32 {
    if message.recalled_by != 0 {
        u32::MAX
    } else {
        message.edits
    }
}

#[cfg(test)]
mod tests {
    use chat_proto::v1::{Delta, Message, Page, Push, Text, View, message::Body};
    use proptest::prelude::*;

    use super::{History, Model, News};

    const HERE: &str = "d-1-2";

    fn message(seq: u64) -> Message {
        Message {
            seq,
            body: Some(Body::Text(Text {
                text: format!("m{seq}"),
                forwarded_from: None,
            })),
            ..Message::default()
        }
    }

    fn view(from_seq: u64, head_seq: u64, messages: Vec<Message>) -> Delta {
        let view = View {
            conversation: HERE.to_owned(),
            from_seq,
            head_seq,
            messages,
            ..View::default()
        };
        Delta {
            conversations: vec![view],
            ..Delta::default()
        }
    }

    fn push(seq: u64) -> Push {
        Push {
            conversation: HERE.to_owned(),
            message: Some(message(seq)),
        }
    }

    fn given(model: &mut Model) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some(news) = model.next_news() {
            if let News::Message(_, message) = news {
                seqs.push(message.seq);
            }
        }
        seqs
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let mut model = Model::new(History::All);
        model.push(push(1));
        assert_eq!(
            (given(&mut model), model.gap()),
            (vec![], None),
            "no sync has told of it"
        );
        model.delta(view(1, 5, vec![message(4), message(5)]));
        assert_eq!(model.gap(), Some((HERE.to_owned(), 1..=3)));
        let page = Page {
            messages: vec![message(1)],
            more: true,
        };
        model.page(HERE, &(1..=3), page);
        assert_eq!(
            (given(&mut model), model.gap()),
            (vec![1], Some((HERE.to_owned(), 2..=3)))
        );
        // The retention of 2 is over.
        let page = Page {
            messages: vec![message(3)],
            more: false,
        };
        model.page(HERE, &(2..=3), page);
        assert_eq!((given(&mut model), model.gap()), (vec![3, 4, 5], None));
    }

    #[test]
    fn only_the_newest_if_that_is_wanted() {
        let mut model = Model::new(History::Newest(2));
        model.delta(view(1, 9, vec![message(8), message(9)]));
        assert_eq!((given(&mut model), model.gap()), (vec![8, 9], None));
    }

    #[test]
    fn a_newer_form_of_an_older_message_is_news() {
        let mut model = Model::new(History::All);
        model.delta(view(1, 1, vec![message(1)]));
        assert_eq!(given(&mut model), [1]);
        let edited = Message {
            edits: 1,
            ..message(1)
        };
        let again = Push {
            conversation: HERE.to_owned(),
            message: Some(edited.clone()),
        };
        model.push(again);
        model.push(push(1));
        assert_eq!(model.next_news(), Some(News::Revised(HERE.to_owned(), edited)));
        assert_eq!(model.next_news(), None);
    }

    #[derive(Clone, Debug)]
    enum Act {
        /// So many are sent; some of them are pushed.
        Send(Vec<bool>),
        /// An old push comes again.
        Again(u64),
        /// A sync, with so many of the newest messages.
        Sync(u64),
        /// What is missing is pulled, so many at a time.
        Pull(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            prop::collection::vec(any::<bool>(), 1..6).prop_map(Act::Send),
            any::<u64>().prop_map(Act::Again),
            (0..6u64).prop_map(Act::Sync),
            (1..5u64).prop_map(Act::Pull),
        ]
    }

    fn pull(model: &mut Model, head: u64, at_a_time: u64) -> bool {
        let Some((conversation, asked)) = model.gap() else {
            return false;
        };
        let last = (*asked.end()).min(head).min(asked.start() + at_a_time - 1);
        let page = Page {
            messages: (*asked.start()..=last).map(message).collect(),
            more: last < *asked.end(),
        };
        model.page(&conversation, &asked, page);
        true
    }

    proptest! {
        /// Whatever is lost, late or told twice: each message once, in order, and all of them in the end.
        #[test]
        fn each_once_and_in_order(acts in prop::collection::vec(act(), 0..60)) {
            let mut model = Model::new(History::All);
            let (mut head, mut seen) = (0, Vec::new());
            for act in acts {
                match act {
                    Act::Send(pushed) => for is_pushed in pushed {
                        head += 1;
                        if is_pushed {
                            model.push(push(head));
                        }
                    },
                    Act::Again(which) => model.push(push(which % (head + 1))),
                    Act::Sync(newest) => {
                        let first = (head + 1).saturating_sub(newest).max(1);
                        model.delta(view(1, head, (first..=head).map(message).collect()));
                    }
                    Act::Pull(at_a_time) => drop(pull(&mut model, head, at_a_time)),
                }
                seen.extend(given(&mut model));
            }
            model.delta(view(1, head, Vec::new()));
            while pull(&mut model, head, 3) {}
            seen.extend(given(&mut model));
            prop_assert!(seen.iter().copied().eq(1..=head), "{:?} of {}", seen, head);
        }
    }
}
