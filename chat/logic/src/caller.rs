//! Who asks.

use chat_core::{DeviceId, UserId, tickets::Access};

/// A user's device whose access token a gateway has seen: services believe gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// The account's epoch.
    pub epoch: u64,
}

impl From<Access> for Caller {
    fn from(access: Access) -> Self {
        let Access {
            user, device, epoch, ..
        } = access;
        Self { user, device, epoch }
    }
}
