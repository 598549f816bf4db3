//! How many messages of a conversation a user has not read: a function of stored facts, never a number that is counted up and down.
//!
//! Each message that counts (not notes of the system, not revisions) has an ordinal in its conversation: 1, 2, 3, ... Everything that makes messages read or
//! unseen is a mark, and covers all ordinals up to one: what was read, what came before the user joined, what they hid, what is past its retention. Who sends has read up to there, so
//! own messages never count. Recalled messages do not count either; their ordinals are known one by one, and are few.

/// The facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Ordinal of the newest message of the user's membership.
    pub head: u64,
    /// Up to where they read on any device, their own messages included.
    pub read: u64,
    /// Up to where they were no member yet.
    pub joined: u64,
    /// Up to where they hid messages.
    pub hidden: u64,
    /// Up to where messages are past their retention.
    pub expired: u64,
    /// Ordinals of recalled messages, ascending; those at or below the marks may be left out.
    pub recalled: &'a [u64],
}

impl Facts<'_> {
    /// Nothing at or below this is unread.
    pub fn floor(&self) -> u64 {
        self.read.max(self.joined).max(self.hidden).max(self.expired)
    }
}

/// Messages that count and are unread.
pub fn unread(facts: &Facts<'_>) -> u64 {
    let floor = facts.floor().min(facts.head);
    let upto = |ordinal| facts.recalled.partition_point(|at| *at <= ordinal) as u64;
    (facts.head - floor).saturating_sub(upto(facts.head) - upto(floor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Facts, unread};

    const ME: u8 = 0;

    /// The naive account: every message with everything that happened to it.
    #[derive(Clone, Debug, Default)]
    struct Oracle {
        messages: Vec<Message>,
        member: bool,
        hidden: usize,
        expired: usize,
    }

    #[derive(Clone, Debug)]
    struct Message {
        counts: bool,
        seen: bool,
        recalled: bool,
        mine: bool,
        in_membership: bool,
    }

    impl Oracle {
        fn unread(&self) -> u64 {
            let shown = |(at, m): &(usize, &Message)| {
                m.counts
                    && !m.seen
                    && !m.recalled
                    && !m.mine
                    && m.in_membership
                    && *at >= self.hidden
                    && *at >= self.expired
            };
            self.messages.iter().enumerate().filter(shown).count() as u64
        }
    }

    /// What the rows of a user and a conversation hold.
    #[derive(Clone, Debug, Default)]
    struct Stored {
        /// Ordinal at each message.
        ordinals: Vec<u64>,
        head: u64,
        read: u64,
        joined: u64,
        hidden: u64,
        expired: u64,
        recalled: Vec<u64>,
    }

    #[derive(Clone, Debug)]
    enum Act {
        Send { sender: u8 },
        Note,
        Read(usize),
        Recall(usize),
        Hide,
        Expire(usize),
        Leave,
        Rejoin,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            8 => (0..4u8).prop_map(|sender| Act::Send { sender }),
            2 => Just(Act::Note),
            3 => any::<usize>().prop_map(Act::Read),
            3 => any::<usize>().prop_map(Act::Recall),
            1 => Just(Act::Hide),
            1 => any::<usize>().prop_map(Act::Expire),
            1 => Just(Act::Leave),
            1 => Just(Act::Rejoin),
        ]
    }

    fn apply(act: &Act, oracle: &mut Oracle, stored: &mut Stored) {
        match act {
            Act::Send { sender } if *sender != ME || oracle.member => send(*sender == ME, oracle, stored),
            Act::Note => note(oracle, stored),
            Act::Read(upto) if !oracle.messages.is_empty() && oracle.member => {
                read(upto % oracle.messages.len(), oracle, stored)
            }
            Act::Recall(which) if !oracle.messages.is_empty() => {
                recall(which % oracle.messages.len(), oracle, stored)
            }
            Act::Hide if oracle.member => {
                oracle.hidden = oracle.messages.len();
                stored.hidden = stored.head;
            }
            Act::Expire(upto) if !oracle.messages.is_empty() => {
                let upto = upto % oracle.messages.len();
                oracle.expired = oracle.expired.max(upto + 1);
                stored.expired = stored.expired.max(stored.ordinals[upto]);
            }
            Act::Leave => oracle.member = false,
            // What was before, and while they were away, is not theirs.
            Act::Rejoin if !oracle.member => {
                oracle.member = true;
                oracle.messages.iter_mut().for_each(|m| m.in_membership = false);
                stored.joined = last(stored);
                stored.head = last(stored);
            }
            _ => {}
        }
    }

    fn last(stored: &Stored) -> u64 {
        stored.ordinals.last().copied().unwrap_or(0)
    }

    fn push(message: Message, oracle: &mut Oracle, stored: &mut Stored) {
        let ordinal = last(stored) + u64::from(message.counts);
        stored.ordinals.push(ordinal);
        // Who is no member is told nothing more.
        if oracle.member {
            stored.head = ordinal;
        }
        oracle.messages.push(message);
    }

    fn send(mine: bool, oracle: &mut Oracle, stored: &mut Stored) {
        let message = Message {
            counts: true,
            seen: false,
            recalled: false,
            mine,
            in_membership: oracle.member,
        };
        push(message, oracle, stored);
        if mine {
            let upto = oracle.messages.len() - 1;
            read(upto, oracle, stored);
        }
    }

    fn note(oracle: &mut Oracle, stored: &mut Stored) {
        let message = Message {
            counts: false,
            seen: false,
            recalled: false,
            mine: false,
            in_membership: oracle.member,
        };
        push(message, oracle, stored);
    }

    fn read(upto: usize, oracle: &mut Oracle, stored: &mut Stored) {
        oracle.messages[..=upto].iter_mut().for_each(|m| m.seen = true);
        stored.read = stored.read.max(stored.ordinals[upto]);
    }

    fn recall(which: usize, oracle: &mut Oracle, stored: &mut Stored) {
        let message = &mut oracle.messages[which];
        if !message.counts || message.recalled {
            return;
        }
        message.recalled = true;
        let ordinal = stored.ordinals[which];
        let at = stored.recalled.partition_point(|other| *other < ordinal);
        stored.recalled.insert(at, ordinal);
    }

    fn facts(stored: &Stored) -> Facts<'_> {
        let Stored {
            head,
            read,
            joined,
            hidden,
            expired,
            ref recalled,
            ..
        } = *stored;
        Facts {
            head,
            read,
            joined,
            hidden,
            expired,
            recalled,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

        #[test]
        fn it_is_what_a_naive_account_says(acts in prop::collection::vec(act(), 0..120)) {
            let mut oracle = Oracle { member: true, ..Oracle::default() };
            let mut stored = Stored::default();
            for act in &acts {
                apply(act, &mut oracle, &mut stored);
                // Who left sees what they had.
                prop_assert_eq!(unread(&facts(&stored)), oracle.unread(), "after {:?}", act);
            }
        }
    }

    #[test]
    fn recalled_ordinals_below_the_floor_do_not_count_twice() {
        let facts = Facts {
            head: 10,
            read: 4,
            recalled: &[2, 4, 5, 10, 11],
            ..Facts::default()
        };
        assert_eq!(unread(&facts), 4);
        assert_eq!(
            unread(&Facts {
                head: 3,
                hidden: 5,
                recalled: &[4],
                ..Facts::default()
            }),
            0
        );
    }
}
