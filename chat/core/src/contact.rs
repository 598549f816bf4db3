//! What two users are to each other, as a function of what each of them wants.
//!
//! Each side has one row that only it changes, its [`Intent`], and a copy of the other's, which comes later. An intent says since which version of it
//! the other is wanted, and up to which version of the other's it declined: so a refusal that crosses a new request on its way does not swallow it, and a request that was refused does not come back. Both sides
//! compute the same from the same two intents, whatever was lost, told twice or late in between, once each has the other's newest.
//!
//! | mine holds | the other's holds | I see |
//! |---|---|---|
//! | no | no | [`Relation::Strangers`] |
//! | yes | no | [`Relation::Requested`] |
//! | no | yes | [`Relation::Asked`] |
//! | yes | yes | [`Relation::Friends`] |
//!
//! Wanting holds until one side declines it: the own side by not wanting any more, the other by an intent that cancels this version.

use chat_proto::v1::Intent;

/// What a user is to another one, from the first one's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Nothing between them.
    Strangers,
    /// I asked.
    Requested,
    /// The other one asked.
    Asked,
    /// Both want.
    Friends,
}

/// Mine wants, and the other did not decline it.
fn holds(mine: &Intent, theirs: &Intent) -> bool {
    mine.wished > theirs.cancels
}

/// What they are to each other. What there is no row of is the default: wants nothing.
pub fn relation(mine: &Intent, theirs: &Intent) -> Relation {
    match (holds(mine, theirs), holds(theirs, mine)) {
        (false, false) => Relation::Strangers,
        (true, false) => Relation::Requested,
        (false, true) => Relation::Asked,
        (true, true) => Relation::Friends,
    }
}

/// May one write to the other: friends, and neither has blocked the other.
pub fn may_write(a: &Intent, b: &Intent) -> bool {
    relation(a, b) == Relation::Friends && !a.blocked && !b.blocked
}

/// To ask, or to accept: there is no difference. `None`: it is so already.
pub fn want(mine: &Intent, theirs: &Intent, greeting: &str) -> Option<Intent> {
    if holds(mine, theirs) {
        return None;
    }
    Some(Intent {
        version: mine.version + 1,
        wished: mine.version + 1,
        greeting: greeting.to_owned(),
        ..mine.clone()
    })
}

/// To refuse, to take a request back, to remove: there is no difference. `None`: there is nothing to decline.
pub fn decline(mine: &Intent, theirs: &Intent) -> Option<Intent> {
    if relation(mine, theirs) == Relation::Strangers {
        return None;
    }
    Some(Intent {
        version: mine.version + 1,
        wished: 0,
        cancels: mine.cancels.max(theirs.version),
        greeting: String::new(),
        ..mine.clone()
    })
}

/// To block, or to end that. What they are to each other stays. `None`: it is so already.
pub fn block(mine: &Intent, blocked: bool) -> Option<Intent> {
    (mine.blocked != blocked).then(|| Intent {
        version: mine.version + 1,
        blocked,
        ..mine.clone()
    })
}

#[cfg(test)]
mod tests {
    use chat_proto::v1::Intent;
    use proptest::prelude::*;

    use super::{Relation, block, decline, may_write, relation, want};

    /// One user's two rows.
    #[derive(Clone, Debug, Default)]
    struct Side {
        mine: Intent,
        theirs: Intent,
    }

    impl Side {
        fn sees(&self) -> Relation {
            relation(&self.mine, &self.theirs)
        }

        fn change(&mut self, next: Option<Intent>) {
            if let Some(next) = next {
                assert!(next.version == self.mine.version + 1 && next.cancels >= self.mine.cancels);
                self.mine = next;
            }
        }

        /// A register: only a newer one is taken.
        fn told(&mut self, intent: &Intent) {
            if intent.version > self.theirs.version {
                self.theirs = intent.clone();
            }
        }
    }

    fn tell(a: &mut Side, b: &mut Side) {
        a.told(&b.mine.clone());
        b.told(&a.mine.clone());
    }

    fn ask(side: &mut Side) {
        let next = want(&side.mine, &side.theirs, "hello");
        side.change(next);
    }

    fn refuse(side: &mut Side) {
        let next = decline(&side.mine, &side.theirs);
        side.change(next);
    }

    #[test]
    fn asked_accepted_removed_and_asked_again() {
        let (mut a, mut b) = (Side::default(), Side::default());
        ask(&mut a);
        assert_eq!((a.sees(), b.sees()), (Relation::Requested, Relation::Strangers));
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Requested, Relation::Asked));
        ask(&mut b);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Friends, Relation::Friends));
        assert!(may_write(&a.mine, &b.mine));
        refuse(&mut a);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Strangers, Relation::Strangers));
        ask(&mut b);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Asked, Relation::Requested));
    }

    #[test]
    fn a_refusal_does_not_come_back_and_a_new_request_does() {
        let (mut a, mut b) = (Side::default(), Side::default());
        ask(&mut a);
        tell(&mut a, &mut b);
        refuse(&mut b);
        assert_eq!(b.sees(), Relation::Strangers);
        // The refusal is on its way: to ask again is nothing new yet.
        ask(&mut a);
        assert_eq!(a.mine.version, 1);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Strangers, Relation::Strangers));
        ask(&mut a);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Requested, Relation::Asked));
    }

    #[test]
    fn both_ask_at_once() {
        let (mut a, mut b) = (Side::default(), Side::default());
        ask(&mut a);
        ask(&mut b);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Friends, Relation::Friends));
    }

    #[test]
    fn who_is_blocked_does_not_write_and_stays_a_friend() {
        let (mut a, mut b) = (Side::default(), Side::default());
        ask(&mut a);
        ask(&mut b);
        tell(&mut a, &mut b);
        let next = block(&a.mine, true);
        a.change(next);
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Friends, Relation::Friends));
        assert!(!may_write(&a.mine, &b.mine) && !may_write(&b.mine, &a.mine));
        let next = block(&a.mine, false);
        a.change(next);
        assert!(may_write(&b.mine, &a.mine));
        assert_eq!(block(&a.mine, false), None);
    }

    #[test]
    fn a_block_does_not_bring_a_declined_wish_back() {
        let (mut a, mut b) = (Side::default(), Side::default());
        ask(&mut a);
        tell(&mut a, &mut b);
        refuse(&mut b);
        for blocked in [true, false] {
            let next = block(&a.mine, blocked);
            a.change(next);
        }
        tell(&mut a, &mut b);
        assert_eq!((a.sees(), b.sees()), (Relation::Strangers, Relation::Strangers));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Ask(bool),
        Refuse(bool),
        Block(bool, bool),
        /// The n-th intent that this side ever had reaches the other, perhaps again.
        Tell(bool, usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            any::<bool>().prop_map(Act::Ask),
            any::<bool>().prop_map(Act::Refuse),
            (any::<bool>(), any::<bool>()).prop_map(|(who, on)| Act::Block(who, on)),
            (any::<bool>(), 0..64usize).prop_map(|(who, which)| Act::Tell(who, which)),
        ]
    }

    proptest! {
        /// Both sides end up seeing the same, and who declined last what they had heard of is not asked again by it.
        #[test]
        fn sides_converge(acts in prop::collection::vec(act(), 0..60)) {
            let mut sides = [Side::default(), Side::default()];
            let mut past = [vec![Intent::default()], vec![Intent::default()]];
            for act in acts {
                match act {
                    Act::Ask(who) => {
                        let side = &mut sides[usize::from(who)];
                        ask(side);
                        prop_assert!(matches!(side.sees(), Relation::Requested | Relation::Friends));
                    }
                    Act::Refuse(who) => {
                        let side = &mut sides[usize::from(who)];
                        refuse(side);
                        prop_assert_eq!(side.sees(), Relation::Strangers);
                    }
                    Act::Block(who, on) => {
                        let side = &mut sides[usize::from(who)];
                        let (before, next) = (side.sees(), block(&side.mine, on));
                        side.change(next);
                        prop_assert_eq!(side.sees(), before);
                    }
                    Act::Tell(who, which) => {
                        let intents = &past[usize::from(who)];
                        let intent = intents[which % intents.len()].clone();
                        sides[usize::from(!who)].told(&intent);
                    }
                }
                for (side, past) in sides.iter().zip(&mut past) {
                    if past.last() != Some(&side.mine) {
                        past.push(side.mine.clone());
                    }
                }
            }
            let [a, b] = &mut sides;
            tell(a, b);
            let mirrored = match a.sees() {
                Relation::Requested => Relation::Asked,
                Relation::Asked => Relation::Requested,
                same => same,
            };
            prop_assert_eq!(b.sees(), mirrored);
            prop_assert_eq!(may_write(&a.mine, &b.mine), may_write(&b.mine, &a.mine));
        }
    }
}
