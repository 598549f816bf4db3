//! Who is connected here: sessions of users, and who watches whose presence.
//!
//! A session outlives its connection for a while: what happens meanwhile is kept in its outbox, and a client that comes back in time is told that nothing was missed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::extract::ws::Message;
use chat_proto::{
    internal::v1::{Elsewhere, FromGateway},
    v1::{Changed, Presence, server_frame::Body},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    backend::Identity,
    codec::{Codec, Shared},
    limits::{MAX_SESSIONS, RESUME},
    link::{self, Links, News},
    outbox::Outbox,
};

/// Names a session.
pub(crate) type Key = [u8; 16];

/// Of one client, over one or more connections.
pub(crate) struct Session {
    pub(crate) key: Key,
    pub(crate) who: Identity,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    outbox: Outbox,
    /// Counts connections: only the newest one serves the session.
    connection: u64,
    /// Since when there is no connection.
    gone_since: Option<Instant>,
    /// Whose presence it watches.
    watched: BTreeSet<u64>,
}

impl Session {
    /// False: its client is lagging.
    fn hint(&self, hint: &Arc<Shared>) -> bool {
        let is_taken = self.state.lock().outbox.hint(hint);
        self.wake.notify_one();
        is_taken
    }

    /// Something is to be done: see the other functions.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Still the newest connection.
    pub(crate) fn is_served_by(&self, connection: u64) -> bool {
        self.state.lock().connection == connection
    }

    /// The next hint.
    pub(crate) fn next(&self, codec: Codec) -> Option<Message> {
        self.state.lock().outbox.next(codec)
    }

    /// Something has changed, and is not told yet.
    pub(crate) fn has_changed(&self) -> bool {
        self.state.lock().outbox.has_changed()
    }

    /// What has changed, once; and whether the account is among it.
    pub(crate) fn take_changed(&self, codec: Codec) -> Option<(Message, bool)> {
        self.state.lock().outbox.take_changed(codec)
    }
}

/// See the module.
#[derive(Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    lagging: AtomicU64,
}

#[derive(Default)]
struct Inner {
    sessions: HashMap<Key, Arc<Session>>,
    users: HashMap<u64, Vec<Arc<Session>>>,
    /// Who watches a user.
    watchers: HashMap<u64, BTreeMap<Key, Arc<Session>>>,
    /// Watched users with a session at another gateway, and the links that say so.
    elsewhere: HashMap<u64, BTreeSet<link::Id>>,
    links: Links,
}

/// A connection's place at a session.
pub(crate) struct Seat {
    pub(crate) session: Arc<Session>,
    pub(crate) connection: u64,
    /// Nothing was missed since the connection before.
    pub(crate) resumed: bool,
}

/// The user has as many sessions here as they may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Hub {
    /// Sends a hint to all sessions of these users that are here.
    pub fn notify(&self, users: &[u64], body: &Body) {
        let inner = self.inner.lock();
        let mut shared = None;
        for session in users.iter().filter_map(|user| inner.users.get(user)).flatten() {
            if !session.hint(shared.get_or_insert_with(|| Arc::new(Shared::new(body.clone())))) {
                self.lagging.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Times that hints were dropped, because a client did not take them.
    pub(crate) fn lagging(&self) -> u64 {
        self.lagging.load(Ordering::Relaxed)
    }

    /// Sessions, those without a connection included.
    pub fn sessions(&self) -> usize {
        self.inner.lock().sessions.len()
    }

    /// A new connection: of the session with this key, if it is there and of the same device; else of a new one.
    pub(crate) fn take_seat(&self, who: Identity, key: Option<Key>, new: Key) -> Result<Seat, TooMany> {
        let mut inner = self.inner.lock();
        let known = key.and_then(|key| inner.sessions.get(&key).cloned());
        if let Some(session) = known.filter(|session| session.who == who) {
            let connection = {
                let mut state = session.state.lock();
                state.connection += 1;
                state.gone_since = None;
                state.connection
            };
            // The connection before, if it still stands, sees that it is not the newest.
            session.wake.notify_waiters();
            session.wake.notify_one();
            return Ok(Seat {
                session,
                connection,
                resumed: true,
            });
        }
        let session = Arc::new(Session {
            key: new,
            who,
            state: Mutex::new(State {
                outbox: Outbox::default(),
                connection: 1,
                gone_since: None,
                watched: BTreeSet::new(),
            }),
            wake: Notify::new(),
        });
        let sessions = inner.users.entry(who.user).or_default();
        if sessions.len() >= MAX_SESSIONS {
            return Err(TooMany);
        }
        sessions.push(Arc::clone(&session));
        let is_first = sessions.len() == 1;
        inner.sessions.insert(new, Arc::clone(&session));
        if is_first {
            inner.links.user(who.user);
            if !inner.elsewhere.contains_key(&who.user) {
                inner.tell_watchers(who.user, true);
            }
        }
        Ok(Seat {
            session,
            connection: 1,
            resumed: false,
        })
    }

    /// The connection is over. `for_good`: so is the session.
    pub(crate) fn leave(&self, seat: &Seat, for_good: bool) {
        if !seat.session.is_served_by(seat.connection) {
            return;
        }
        if for_good {
            self.inner.lock().remove(&seat.session);
        } else {
            seat.session.state.lock().gone_since = Some(Instant::now());
        }
    }

    /// Forgets sessions that have had no connection for too long. To be called from time to time.
    pub(crate) fn forget_gone(&self) {
        let mut inner = self.inner.lock();
        let gone = inner.sessions.values().filter(|session| {
            let since = session.state.lock().gone_since;
            since.is_some_and(|since| since.elapsed() > RESUME)
        });
        let gone: Vec<Arc<Session>> = gone.cloned().collect();
        gone.iter().for_each(|session| inner.remove(session));
    }

    /// From now on the session hears of these users, and of no others; which of them are here.
    pub(crate) fn watch(&self, session: &Arc<Session>, users: &[u64]) -> Presence {
        let mut inner = self.inner.lock();
        let watched: BTreeSet<u64> = users.iter().copied().collect();
        let before = std::mem::replace(&mut session.state.lock().watched, watched.clone());
        inner.unwatch(session, before.difference(&watched));
        let mut presence = Presence::default();
        for user in &watched {
            inner.watch(session, *user);
            let of = if inner.is_online(*user) {
                &mut presence.online
            } else {
                &mut presence.offline
            };
            of.push(*user);
        }
        presence
    }

    /// Tells all sessions to sync: hints for them may have been lost.
    pub(crate) fn all_changed(&self) {
        let all = Changed {
            account: true,
            contacts: true,
            conversations: true,
        };
        let hint = Arc::new(Shared::new(Body::Changed(all)));
        for session in self.inner.lock().sessions.values() {
            session.hint(&hint);
        }
    }

    /// A link to a process that knows nothing.
    pub(crate) fn add_link(&self, news: &Arc<News>) -> link::Id {
        let mut inner = self.inner.lock();
        inner.users.keys().for_each(|user| news.user(*user));
        inner.watchers.keys().for_each(|user| news.watched(*user));
        inner.links.add(news)
    }

    /// The link is no more.
    pub(crate) fn remove_link(&self, id: link::Id) {
        let mut inner = self.inner.lock();
        inner.links.remove(id);
        let told: Vec<u64> = inner.elsewhere.keys().copied().collect();
        told.into_iter().for_each(|user| inner.not_elsewhere(user, id));
    }

    /// What is to be said of users that have come or gone, and of others that are watched or not any more.
    pub(crate) fn say(&self, users: Vec<u64>, watched: Vec<u64>) -> FromGateway {
        let inner = self.inner.lock();
        let (here, gone) = users.into_iter().partition(|user| inner.users.contains_key(user));
        let (watched, unwatched) = watched
            .into_iter()
            .partition(|user| inner.watchers.contains_key(user));
        FromGateway {
            here,
            gone,
            watched,
            unwatched,
        }
    }

    /// What came by a link of users at other gateways.
    pub(crate) fn elsewhere(&self, id: link::Id, elsewhere: &Elsewhere) {
        let mut inner = self.inner.lock();
        for user in &elsewhere.offline {
            inner.not_elsewhere(*user, id);
        }
        for user in &elsewhere.online {
            if inner.watchers.contains_key(user) {
                let was_online = inner.is_online(*user);
                inner.elsewhere.entry(*user).or_default().insert(id);
                if !was_online {
                    inner.tell_watchers(*user, true);
                }
            }
        }
    }

    /// Wakes all connections: something is to be done by each.
    pub(crate) fn wake_all(&self) {
        let inner = self.inner.lock();
        inner
            .sessions
            .values()
            .for_each(|session| session.wake.notify_one());
    }
}

impl Inner {
    fn tell_watchers(&self, user: u64, is_here: bool) {
        let Some(watchers) = self.watchers.get(&user) else {
            return;
        };
        let mut presence = Presence::default();
        let of = if is_here {
            &mut presence.online
        } else {
            &mut presence.offline
        };
        of.push(user);
        let hint = Arc::new(Shared::new(Body::Presence(presence)));
        for session in watchers.values() {
            session.hint(&hint);
        }
    }

    fn is_online(&self, user: u64) -> bool {
        self.users.contains_key(&user) || self.elsewhere.contains_key(&user)
    }

    fn not_elsewhere(&mut self, user: u64, id: link::Id) {
        let Some(links) = self.elsewhere.get_mut(&user) else {
            return;
        };
        links.remove(&id);
        if links.is_empty() {
            self.elsewhere.remove(&user);
            if !self.users.contains_key(&user) {
                self.tell_watchers(user, false);
            }
        }
    }

    fn watch(&mut self, session: &Arc<Session>, user: u64) {
        let watchers = self.watchers.entry(user).or_default();
        let is_first = watchers.is_empty();
        watchers.insert(session.key, Arc::clone(session));
        if is_first {
            self.links.watched(user);
        }
    }

    fn unwatch<'a>(&mut self, session: &Session, users: impl IntoIterator<Item = &'a u64>) {
        for user in users {
            if let Some(watchers) = self.watchers.get_mut(user) {
                watchers.remove(&session.key);
                if watchers.is_empty() {
                    self.watchers.remove(user);
                    self.elsewhere.remove(user);
                    self.links.watched(*user);
                }
            }
        }
    }

    fn remove(&mut self, session: &Session) {
        let watched = std::mem::take(&mut session.state.lock().watched);
        self.unwatch(session, &watched);
        self.sessions.remove(&session.key);
        let user = session.who.user;
        let Some(sessions) = self.users.get_mut(&user) else {
            return;
        };
        sessions.retain(|other| other.key != session.key);
        if sessions.is_empty() {
            self.users.remove(&user);
            self.links.user(user);
            if !self.elsewhere.contains_key(&user) {
                self.tell_watchers(user, false);
            }
        }
    }
}

/// Between two looks for sessions that are gone.
pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use chat_proto::v1::{Changed, Presence, server_frame::Body};

    use super::{Hub, TooMany};
    use crate::{
        backend::Identity,
        codec::Codec,
        limits::{MAX_SESSIONS, RESUME},
    };

    fn who(user: u64) -> Identity {
        Identity {
            user,
            device: 1,
            epoch: 1,
        }
    }

    fn changed() -> Body {
        Body::Changed(Changed {
            contacts: true,
            ..Changed::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_while_a_connection_is_broken_is_kept_for_a_while() {
        let hub = Hub::default();
        let seat = hub.take_seat(who(7), None, [1; 16]).unwrap();
        assert!(!seat.resumed);
        hub.leave(&seat, false);
        hub.notify(&[7, 8], &changed());
        // Not somebody else's, and not with another key.
        assert!(!hub.take_seat(who(8), Some([1; 16]), [2; 16]).unwrap().resumed);
        assert!(!hub.take_seat(who(7), Some([9; 16]), [3; 16]).unwrap().resumed);
        let again = hub.take_seat(who(7), Some([1; 16]), [4; 16]).unwrap();
        assert!(again.resumed && again.session.has_changed());
        assert!(!seat.session.is_served_by(seat.connection) && again.session.is_served_by(again.connection));
        // The old connection's end is not the new one's.
        hub.leave(&seat, true);
        assert_eq!(hub.sessions(), 3);
        hub.leave(&again, false);
        tokio::time::advance(RESUME * 2).await;
        hub.forget_gone();
        assert!(!hub.take_seat(who(7), Some([1; 16]), [5; 16]).unwrap().resumed);
    }

    #[test]
    fn presence_is_told_when_it_changes() {
        let hub = Hub::default();
        let watcher = hub.take_seat(who(1), None, [1; 16]).unwrap().session;
        let both = hub.watch(&watcher, &[1, 2]);
        assert_eq!((both.online, both.offline), (vec![1], vec![2]));
        let first = hub.take_seat(who(2), None, [2; 16]).unwrap();
        let second = hub.take_seat(who(2), None, [3; 16]).unwrap();
        hub.leave(&first, true);
        hub.leave(&second, true);
        let told = |online: &[u64], offline: &[u64]| {
            let presence = Presence {
                online: online.to_vec(),
                offline: offline.to_vec(),
            };
            crate::codec::Shared::new(Body::Presence(presence)).message(Codec::Json)
        };
        assert_eq!(watcher.next(Codec::Json), Some(told(&[2], &[])));
        assert_eq!(watcher.next(Codec::Json), Some(told(&[], &[2])));
        assert_eq!(watcher.next(Codec::Json), None);
        hub.watch(&watcher, &[]);
        hub.take_seat(who(2), None, [4; 16]).unwrap();
        assert_eq!(watcher.next(Codec::Json), None);
    }

    #[test]
    fn a_user_has_only_so_many_sessions() {
        let hub = Hub::default();
        for number in 0..MAX_SESSIONS {
            assert!(hub.take_seat(who(1), None, [number as u8; 16]).is_ok());
        }
        assert_eq!(hub.take_seat(who(1), None, [255; 16]).err(), Some(TooMany));
        assert!(hub.take_seat(who(2), None, [255; 16]).is_ok());
    }
}
