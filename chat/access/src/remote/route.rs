//! Which process a request goes to: the highest by a hash of its address and of what the request is about (rendezvous hashing, Thaler and Ravishankar 1998). When one
//! goes or comes, only its own share moves.

use std::hash::{DefaultHasher, Hash, Hasher};

use chat_proto::{Service, v1::request::Request as Q};

use super::process::Process;

/// Where something belongs.
pub(super) fn place(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The processes that have a service, the one for this place first.
pub(super) fn in_order(processes: &[Process], service: Service, at: u64) -> Vec<&Process> {
    let mut found: Vec<&Process> = processes.iter().filter(|process| process.has(service)).collect();
    found.sort_by_cached_key(|process| place((process.address(), at)));
    found
}

/// The conversation that a request is about.
pub(super) fn conversation(request: &Q) -> Option<&str> {
    let conversation = match request {
        Q::Send(q) => &q.conversation,
        Q::Forward(q) => &q.to,
        Q::Recall(q) => &q.conversation,
        Q::Edit(q) => &q.conversation,
        Q::Pull(q) => &q.conversation,
        Q::SeekDate(q) => &q.conversation,
        Q::GetReceipts(q) => &q.conversation,
        Q::GetGroup(q) => &q.conversation,
        Q::ChangeGroup(q) => &q.conversation,
        Q::Invite(q) => &q.conversation,
        _ => return None,
    };
    Some(conversation)
}
