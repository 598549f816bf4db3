//! Which gateways are linked to this process, who is connected there, and what they are told.
//!
//! Hints for a gateway that does not take them are dropped, and it is told so when it does: then it tells its users to sync.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chat_core::UserId;
use chat_proto::{
    internal::v1::{Elsewhere, FromGateway, Hint, ToGateway, to_gateway::What},
    v1::{ServerFrame, server_frame::Body},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::delivery::Notices;

/// Hints that wait for a gateway.
const MAX_QUEUED: usize = 4_096;

/// Names a gateway's link.
type Id = u64;
/// A link's users.
type Users = HashMap<u64, BTreeSet<Id>>;

/// See the module.
#[derive(Default)]
pub struct Exchange {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    is_closed: bool,
    next: Id,
    gateways: BTreeMap<Id, Gateway>,
    /// Where a user has sessions.
    here: Users,
    /// Where a user's presence is wanted.
    watched: Users,
}

struct Gateway {
    queue: mpsc::Sender<ToGateway>,
    /// Hints were dropped since it was told so.
    has_lost: bool,
    here: BTreeSet<u64>,
    watched: BTreeSet<u64>,
}

impl Gateway {
    fn tell(&mut self, what: What) {
        let message = ToGateway { what: Some(what) };
        if self.queue.try_send(message).is_err() {
            self.has_lost = true;
        }
    }
}

/// A gateway's link. Dropping it ends it.
pub(super) struct Seat {
    exchange: Arc<Exchange>,
    id: Id,
}

/// What a gateway is told.
pub(super) struct Told {
    exchange: Arc<Exchange>,
    id: Id,
    queue: mpsc::Receiver<ToGateway>,
}

impl Exchange {
    /// Gateways that are linked.
    pub fn gateways(&self) -> usize {
        self.inner.lock().gateways.len()
    }

    /// This process stops.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().is_closed
    }

    /// Ends all links, and lets nobody in any more: gateways go on with other processes.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        inner.gateways.clear();
    }

    /// Another gateway. `None`: this process stops.
    pub(super) fn add(self: &Arc<Self>) -> Option<(Seat, Told)> {
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        let mut inner = self.inner.lock();
        if inner.is_closed {
            return None;
        }
        inner.next += 1;
        let id = inner.next;
        let gateway = Gateway {
            queue: sender,
            has_lost: false,
            here: BTreeSet::new(),
            watched: BTreeSet::new(),
        };
        inner.gateways.insert(id, gateway);
        drop(inner);
        let exchange = Arc::clone(self);
        let seat = Seat { exchange, id };
        let exchange = Arc::clone(self);
        Some((seat, Told { exchange, id, queue }))
    }
}

impl Seat {
    /// What the gateway says of its users.
    pub(super) fn take(&self, said: FromGateway) {
        let mut inner = self.exchange.inner.lock();
        let mut news = BTreeMap::new();
        for user in said.here {
            inner.here(self.id, user, true, &mut news);
        }
        for user in said.gone {
            inner.here(self.id, user, false, &mut news);
        }
        for user in said.watched {
            inner.watch(self.id, user, &mut news);
        }
        for user in said.unwatched {
            inner.unwatch(self.id, user);
        }
        inner.tell(news);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.exchange.inner.lock();
        let Some(gateway) = inner.gateways.remove(&self.id) else {
            return;
        };
        let mut news = BTreeMap::new();
        for user in gateway.watched {
            forget(&mut inner.watched, user, self.id);
        }
        for user in gateway.here {
            forget(&mut inner.here, user, self.id);
            inner.news_of(user, &mut news);
        }
        inner.tell(news);
    }
}

impl Told {
    /// The next message. `None`: the link has ended.
    pub(super) async fn next(&mut self) -> Option<ToGateway> {
        if self.take_lost() {
            return Some(ToGateway {
                what: Some(What::Lost(true)),
            });
        }
        self.queue.recv().await
    }

    /// Something was lost, and all that came before it has been taken.
    fn take_lost(&self) -> bool {
        if !self.queue.is_empty() {
            return false;
        }
        let mut inner = self.exchange.inner.lock();
        let gateway = inner.gateways.get_mut(&self.id);
        gateway.is_some_and(|gateway| std::mem::take(&mut gateway.has_lost))
    }
}

fn forget(users: &mut Users, user: u64, id: Id) {
    if let Some(at) = users.get_mut(&user) {
        at.remove(&id);
        if at.is_empty() {
            users.remove(&user);
        }
    }
}

/// What gateways are to be told of users at others.
type News = BTreeMap<Id, Elsewhere>;

impl Inner {
    fn here(&mut self, id: Id, user: u64, is_here: bool, news: &mut News) {
        let Some(gateway) = self.gateways.get_mut(&id) else {
            return;
        };
        if is_here {
            gateway.here.insert(user);
            self.here.entry(user).or_default().insert(id);
        } else {
            gateway.here.remove(&user);
            forget(&mut self.here, user, id);
        }
        self.news_of(user, news);
    }

    fn watch(&mut self, id: Id, user: u64, news: &mut News) {
        let Some(gateway) = self.gateways.get_mut(&id) else {
            return;
        };
        gateway.watched.insert(user);
        self.watched.entry(user).or_default().insert(id);
        self.news_for(id, user, news);
    }

    fn unwatch(&mut self, id: Id, user: u64) {
        if let Some(gateway) = self.gateways.get_mut(&id) {
            gateway.watched.remove(&user);
            forget(&mut self.watched, user, id);
        }
    }

    /// Everybody who wants to know of the user is told.
    fn news_of(&self, user: u64, news: &mut News) {
        for id in self.watched.get(&user).into_iter().flatten() {
            self.news_for(*id, user, news);
        }
    }

    fn news_for(&self, id: Id, user: u64, news: &mut News) {
        let at = self.here.get(&user);
        let is_elsewhere = at.is_some_and(|at| at.iter().any(|other| *other != id));
        let news = news.entry(id).or_default();
        let of = if is_elsewhere {
            &mut news.online
        } else {
            &mut news.offline
        };
        of.push(user);
    }

    fn tell(&mut self, news: News) {
        for (id, elsewhere) in news {
            if let Some(gateway) = self.gateways.get_mut(&id) {
                gateway.tell(What::Elsewhere(elsewhere));
            }
        }
    }
}

impl Notices for Exchange {
    fn notify(&self, users: &[UserId], body: &Body) {
        let mut inner = self.inner.lock();
        let mut at: BTreeMap<Id, Vec<u64>> = BTreeMap::new();
        for user in users {
            for id in inner.here.get(&user.0).into_iter().flatten() {
                at.entry(*id).or_default().push(user.0);
            }
        }
        for (id, users) in at {
            let frame = ServerFrame {
                id: 0,
                body: Some(body.clone()),
            };
            let hint = Hint {
                users,
                frame: Some(frame),
            };
            if let Some(gateway) = inner.gateways.get_mut(&id) {
                gateway.tell(What::Hint(hint));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chat_core::UserId;
    use chat_proto::{
        internal::v1::{FromGateway, to_gateway::What},
        v1::{Changed, server_frame::Body},
    };
    use futures::FutureExt;

    use super::{Exchange, MAX_QUEUED, Told};
    use crate::delivery::Notices;

    fn says(here: &[u64], gone: &[u64], watched: &[u64], unwatched: &[u64]) -> FromGateway {
        FromGateway {
            here: here.to_vec(),
            gone: gone.to_vec(),
            watched: watched.to_vec(),
            unwatched: unwatched.to_vec(),
        }
    }

    fn next(told: &mut Told) -> Option<What> {
        told.next().now_or_never().flatten()?.what
    }

    fn online(told: &mut Told) -> Option<(Vec<u64>, Vec<u64>)> {
        match next(told)? {
            What::Elsewhere(elsewhere) => Some((elsewhere.online, elsewhere.offline)),
            other => panic!("{other:?}"),
        }
    }

    fn changed() -> Body {
        Body::Changed(Changed::default())
    }

    #[test]
    fn hints_go_where_users_are() {
        let exchange = Arc::new(Exchange::default());
        let ((one, mut told), (two, mut told_two)) = (exchange.add().unwrap(), exchange.add().unwrap());
        one.take(says(&[1, 2], &[], &[], &[]));
        two.take(says(&[2, 3], &[], &[], &[]));
        exchange.notify(&[UserId(1), UserId(2), UserId(4)], &changed());
        let users = |what: Option<What>| match what {
            Some(What::Hint(hint)) => hint.users,
            other => panic!("{other:?}"),
        };
        assert_eq!(users(next(&mut told)), [1, 2]);
        assert_eq!(users(next(&mut told_two)), [2]);
        one.take(says(&[], &[1, 2], &[], &[]));
        exchange.notify(&[UserId(1), UserId(2)], &changed());
        assert_eq!(next(&mut told), None);
        assert_eq!(users(next(&mut told_two)), [2]);
        drop(two);
        exchange.notify(&[UserId(2)], &changed());
        assert_eq!((next(&mut told_two), exchange.gateways()), (None, 1));
    }

    #[test]
    fn presence_is_that_of_other_gateways() {
        let exchange = Arc::new(Exchange::default());
        let ((one, mut told), (two, mut told_two)) = (exchange.add().unwrap(), exchange.add().unwrap());
        one.take(says(&[1], &[], &[1, 2], &[]));
        assert_eq!(online(&mut told), Some((vec![], vec![1, 2])));
        two.take(says(&[1, 2], &[], &[], &[]));
        assert_eq!(online(&mut told), Some((vec![1, 2], vec![])));
        two.take(says(&[], &[1], &[1], &[]));
        assert_eq!(online(&mut told), Some((vec![], vec![1])));
        assert_eq!(online(&mut told_two), Some((vec![1], vec![])));
        one.take(says(&[], &[], &[], &[1]));
        drop(two);
        assert_eq!(online(&mut told), Some((vec![], vec![2])));
        assert_eq!(online(&mut told), None);
    }

    #[test]
    fn a_gateway_that_takes_nothing_is_told_that_hints_were_lost() {
        let exchange = Arc::new(Exchange::default());
        let (seat, mut told) = exchange.add().unwrap();
        seat.take(says(&[1], &[], &[], &[]));
        for _ in 0..=MAX_QUEUED {
            exchange.notify(&[UserId(1)], &changed());
        }
        for _ in 0..MAX_QUEUED {
            assert!(matches!(next(&mut told), Some(What::Hint(_))));
        }
        assert_eq!(next(&mut told), Some(What::Lost(true)));
        assert_eq!(next(&mut told), None);
    }

    #[test]
    fn a_process_that_stops_ends_its_links() {
        let exchange = Arc::new(Exchange::default());
        let (seat, mut told) = exchange.add().unwrap();
        exchange.close();
        assert!(matches!(told.next().now_or_never(), Some(None)));
        seat.take(says(&[1], &[], &[1], &[]));
        assert!(exchange.add().is_none() && exchange.gateways() == 0);
    }
}
