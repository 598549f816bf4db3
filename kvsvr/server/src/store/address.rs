//! The address that a member was first started with: its peers have it in their lists and do not learn another one.

use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, Store, StoreError, read_json, write_json};

const ADDRESS_FILE: &str = "ADDRESS";

/// The file [`ADDRESS_FILE`].
#[derive(Serialize, Deserialize)]
struct Address {
    format_version: u32,
    address: String,
}

impl Store {
    /// Keeps the address that this node gives to others. A member's is never replaced: the one that was kept is returned if it is another.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub async fn keep_address(&self, address: &str) -> Result<Option<String>, StoreError> {
        let kept = read_json::<Address>(&self.disk, ADDRESS_FILE).await?;
        match kept {
            Some(kept) if kept.address == address => Ok(None),
            Some(kept) if self.identity.is_some() => Ok(Some(kept.address)),
            _ => {
                let file = Address {
                    format_version: FORMAT_VERSION,
                    address: address.to_owned(),
                };
                write_json(&self.disk, ADDRESS_FILE, &file).await?;
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        disk::mem::MemDisk,
        store::{Identity, StoreId},
    };

    #[tokio::test]
    async fn a_member_remembers_its_first_address() {
        let disk = Arc::new(MemDisk::new(1));
        let mut store = Store::open(disk.clone(), StoreId([1; 16]), 5).await.unwrap();
        assert_eq!(store.keep_address("a:1").await.unwrap(), None);
        assert_eq!(store.keep_address("b:1").await.unwrap(), None, "not a member yet");
        let identity = Identity {
            cluster_id: 1,
            node_id: 2,
        };
        store.set_identity(identity).await.unwrap();
        for _ in 0..2 {
            let kept = store.keep_address("c:1").await.unwrap();
            assert_eq!(kept.as_deref(), Some("b:1"));
        }
        assert_eq!(store.keep_address("b:1").await.unwrap(), None);
    }
}
