//! A link to a process of services: it is told who is here and whose presence is wanted, whenever that changes.
//!
//! What has changed is remembered as a set of users, and what is said of them is how it is when it is said. So a slow link costs no more memory than there are users.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chat_proto::internal::v1::{Elsewhere, FromGateway};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::hub::Hub;

/// Users of one message.
const MAX_CHANGES: usize = 5_000;

/// Names a link.
pub(crate) type Id = u64;

/// What a link has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    changed: Mutex<Changed>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Changed {
    users: HashSet<u64>,
    watched: HashSet<u64>,
}

impl News {
    /// The user's first session began, or the last one ended.
    pub(crate) fn user(&self, user: u64) {
        self.changed.lock().users.insert(user);
        self.wake.notify_one();
    }

    /// Somebody wants to know the user's presence, or nobody any more.
    pub(crate) fn watched(&self, user: u64) {
        self.changed.lock().watched.insert(user);
        self.wake.notify_one();
    }
}

/// All links of a hub.
#[derive(Debug, Default)]
pub(crate) struct Links {
    next: Id,
    all: HashMap<Id, Arc<News>>,
}

impl Links {
    pub(crate) fn add(&mut self, news: &Arc<News>) -> Id {
        self.next += 1;
        self.all.insert(self.next, Arc::clone(news));
        self.next
    }

    pub(crate) fn remove(&mut self, id: Id) {
        self.all.remove(&id);
    }

    pub(crate) fn user(&self, user: u64) {
        self.all.values().for_each(|news| news.user(user));
    }

    pub(crate) fn watched(&self, user: u64) {
        self.all.values().for_each(|news| news.watched(user));
    }
}

/// See the module. Dropping it ends the link: what came by it of users elsewhere is forgotten.
pub(crate) struct Link {
    hub: Arc<Hub>,
    id: Id,
    news: Arc<News>,
}

impl Link {
    /// A new link, to a process that knows nothing.
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        let news = Arc::new(News::default());
        Self {
            id: hub.add_link(&news),
            hub: Arc::clone(hub),
            news,
        }
    }

    /// What is to be said next. May be dropped and called again.
    pub(crate) async fn changes(&self) -> FromGateway {
        loop {
            let said = self.take();
            if said != FromGateway::default() {
                return said;
            }
            self.news.wake.notified().await;
        }
    }

    fn take(&self) -> FromGateway {
        let (users, watched) = {
            let mut changed = self.news.changed.lock();
            (take(&mut changed.users), take(&mut changed.watched))
        };
        self.hub.say(users, watched)
    }

    /// What the process says of users at other gateways.
    pub(crate) fn elsewhere(&self, elsewhere: &Elsewhere) {
        self.hub.elsewhere(self.id, elsewhere);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hub.remove_link(self.id);
    }
}

/// Some of a set.
fn take(all: &mut HashSet<u64>) -> Vec<u64> {
    let some: Vec<u64> = all.iter().copied().take(MAX_CHANGES).collect();
    for user in &some {
        all.remove(user);
    }
    some
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chat_proto::{internal::v1::Elsewhere, v1::server_frame::Body};
    use futures::FutureExt;

    use super::{Link, MAX_CHANGES};
    use crate::{
        backend::Identity,
        codec::{Codec, Shared},
        hub::Hub,
    };

    fn who(user: u64) -> Identity {
        Identity {
            user,
            device: 1,
            epoch: 1,
        }
    }

    fn presence(online: &[u64], offline: &[u64]) -> Option<axum::extract::ws::Message> {
        let presence = chat_proto::v1::Presence {
            online: online.to_vec(),
            offline: offline.to_vec(),
        };
        Some(Shared::new(Body::Presence(presence)).message(Codec::Json))
    }

    #[tokio::test]
    async fn a_link_is_told_what_is_and_then_what_changes() {
        let hub = Arc::new(Hub::default());
        let seat = hub.take_seat(who(1), None, [1; 16]).unwrap();
        hub.watch(&seat.session, &[2, 3]);
        let link = Link::new(&hub);
        let mut said = link.changes().await;
        said.watched.sort_unstable();
        assert_eq!((said.here, said.watched), (vec![1], vec![2, 3]));
        assert!(link.changes().now_or_never().is_none());
        // What was and is no more is not said.
        let short = hub.take_seat(who(4), None, [4; 16]).unwrap();
        hub.leave(&short, true);
        hub.watch(&seat.session, &[3]);
        let said = link.changes().await;
        assert_eq!((said.gone, said.unwatched), (vec![4], vec![2]));
        assert!(said.here.is_empty() && said.watched.is_empty());
    }

    #[tokio::test]
    async fn much_is_said_in_parts() {
        let hub = Arc::new(Hub::default());
        let users = 2 * MAX_CHANGES as u64 + 1;
        for user in 0..users {
            let key = u128::from(user).to_be_bytes();
            drop(hub.take_seat(who(user), None, key).unwrap());
        }
        let link = Link::new(&hub);
        let mut said = Vec::new();
        while said.len() < users as usize {
            let part = link.changes().await.here;
            assert!(part.len() <= MAX_CHANGES);
            said.extend(part);
        }
        said.sort_unstable();
        assert_eq!(said, (0..users).collect::<Vec<_>>());
    }

    #[test]
    fn a_user_is_there_as_long_as_somebody_says_so() {
        let hub = Arc::new(Hub::default());
        let watcher = hub.take_seat(who(1), None, [1; 16]).unwrap().session;
        hub.watch(&watcher, &[2]);
        let (one, other) = (Link::new(&hub), Link::new(&hub));
        let says = |online: &[u64], offline: &[u64]| Elsewhere {
            online: online.to_vec(),
            offline: offline.to_vec(),
        };
        // Nobody here wants to know of 3.
        one.elsewhere(&says(&[2, 3], &[]));
        other.elsewhere(&says(&[2], &[]));
        assert_eq!(watcher.next(Codec::Json), presence(&[2], &[]));
        let here = hub.take_seat(who(2), None, [2; 16]).unwrap();
        one.elsewhere(&says(&[], &[2]));
        hub.leave(&here, true);
        assert_eq!(watcher.next(Codec::Json), None);
        assert_eq!(hub.watch(&watcher, &[2]).online, [2]);
        drop(other);
        assert_eq!(watcher.next(Codec::Json), presence(&[], &[2]));
        // Whom nobody watched meanwhile is not known.
        one.elsewhere(&says(&[2], &[]));
        hub.watch(&watcher, &[]);
        assert_eq!(hub.watch(&watcher, &[2]).offline, [2]);
    }
}
