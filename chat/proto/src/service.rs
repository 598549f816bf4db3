//! The services of the backend, and which of them answers what. A process may have any of them.

use std::{fmt, str::FromStr};

use crate::v1::request::Request;

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Registration, login, tokens, devices, profiles.
    Account,
    /// Search, requests, blocks.
    Contact,
    /// Groups and their members.
    Group,
    /// Messages, marks, favourites.
    Message,
    /// What has changed since a snapshot.
    Sync,
    /// Workers that tell users what others did. Nobody asks it for anything.
    Delivery,
}

/// There is no such service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no service {0:?}: services are account, contact, group, message, sync, delivery")]
pub struct UnknownService(String);

impl Service {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Account,
        Self::Contact,
        Self::Group,
        Self::Message,
        Self::Sync,
        Self::Delivery,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Contact => "contact",
            Self::Group => "group",
            Self::Message => "message",
            Self::Sync => "sync",
            Self::Delivery => "delivery",
        }
    }

    /// The one that answers a request.
    pub fn of(request: &Request) -> Self {
        use Request as Q;
        match request {
            Q::Sync(_) => Self::Sync,
            Q::Send(_)
            | Q::Forward(_)
            | Q::Recall(_)
            | Q::Edit(_)
            | Q::MarkRead(_)
            | Q::MarkGot(_)
            | Q::SetOptions(_)
            | Q::Pull(_)
            | Q::SeekDate(_)
            | Q::GetReceipts(_)
            | Q::Keep(_)
            | Q::ListKept(_) => Self::Message,
            Q::FindUser(_) | Q::GetUsers(_) | Q::Want(_) | Q::Decline(_) | Q::Block(_) | Q::SetAlias(_) => {
                Self::Contact
            }
            Q::CreateGroup(_) | Q::GetGroup(_) | Q::ChangeGroup(_) | Q::Invite(_) | Q::Join(_) => Self::Group,
            Q::SetProfile(_)
            | Q::ChangePassword(_)
            | Q::DeleteAccount(_)
            | Q::ListDevices(_)
            | Q::RemoveDevice(_) => Self::Account,
        }
    }
}

/// The name of a request, as it is in the protocol.
pub fn kind_of(request: &Request) -> &'static str {
    use Request as Q;
    match request {
        Q::Sync(_) => "sync",
        Q::Send(_) => "send",
        Q::Forward(_) => "forward",
        Q::Recall(_) => "recall",
        Q::Edit(_) => "edit",
        Q::MarkRead(_) => "mark_read",
        Q::MarkGot(_) => "mark_got",
        Q::SetOptions(_) => "set_options",
        Q::Pull(_) => "pull",
        Q::SeekDate(_) => "seek_date",
        Q::GetReceipts(_) => "get_receipts",
        Q::Keep(_) => "keep",
        Q::ListKept(_) => "list_kept",
        Q::FindUser(_) => "find_user",
        Q::GetUsers(_) => "get_users",
        Q::Want(_) => "want",
        Q::Decline(_) => "decline",
        Q::Block(_) => "block",
        Q::SetAlias(_) => "set_alias",
        Q::CreateGroup(_) => "create_group",
        Q::GetGroup(_) => "get_group",
        Q::ChangeGroup(_) => "change_group",
        Q::Invite(_) => "invite",
        Q::Join(_) => "join",
        Q::SetProfile(_) => "set_profile",
        Q::ChangePassword(_) => "change_password",
        Q::DeleteAccount(_) => "delete_account",
        Q::ListDevices(_) => "list_devices",
        Q::RemoveDevice(_) => "remove_device",
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        let named = |service: &Self| service.name() == name;
        let service = Self::ALL.into_iter().find(named);
        service.ok_or_else(|| UnknownService(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Service;

    #[test]
    fn names_are_read_as_they_are_written() {
        for service in Service::ALL {
            assert_eq!(service.to_string().parse(), Ok(service));
        }
        let error = "messages".parse::<Service>().unwrap_err();
        assert!(error.to_string().contains("message, sync"), "{error}");
    }
}
