//! The data directory: what is in it, whose it is, and that one process uses it at a time.
//!
//! ```text
//! LOCK       locked by the running process
//! STORE      format version, store id, time of creation; written once, first of all
//! IDENTITY   cluster id and node id; written once, when the node joins
//! REPLICAS   replicas of shards that were made or destroyed after the cluster was made
//! ADDRESS    where others reach the node; not replaced once it has joined
//! wal/       the log, see [`crate::wal`]
//! rocks/     the state machines' data
//! staging/   snapshots on their way in
//! ```
//!
//! The store id is random and registered with the cluster, so that a directory that was lost, emptied or swapped is noticed.
//! Small files are replaced atomically ([`crate::disk::replace`]). The lock is the operating system's (it ends with the
//! process, however it ends), so it is apart from the [`Disk`](crate::disk::Disk) seam.

mod address;
mod replicas;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::replicas::{ReplicaRecord, ReplicaState};
use crate::disk::{self, DynDisk};

/// The version of the directory's format.
pub const FORMAT_VERSION: u32 = 1;
/// Directory of the log.
pub const WAL_DIR: &str = "wal";
/// Directory of the engine.
pub const ROCKS_DIR: &str = "rocks";
/// Directory of snapshots that are being received; may be emptied at any start.
pub const STAGING_DIR: &str = "staging";

const LOCK_FILE: &str = "LOCK";
const STORE_FILE: &str = "STORE";
const IDENTITY_FILE: &str = "IDENTITY";
const PROMISE_FILE: &str = "PROMISE";
/// What may be in a directory that is not ours yet: our own beginnings, and what a fresh file system holds.
const HARMLESS: [&str; 3] = [LOCK_FILE, "STORE.tmp", "lost+found"];

/// What to know when the data of a member is lost or damaged; ends messages about it, without a full stop.
pub const MEMBER_LOST: &str = "The cluster runs on with the other replicas, as long as each shard has its majority. Give \
     its place to a new node with an empty data directory, which may have the same address: kvctl member replace NODE HOST:PORT";

/// A data directory's random identity, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StoreId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("a store id is 32 hex digits, not {text:?}"));
        }
        let number = u128::from_str_radix(text, 16).map_err(|error| error.to_string())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for StoreId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StoreId> for String {
    fn from(id: StoreId) -> Self {
        id.to_string()
    }
}

/// The content of `STORE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMeta {
    /// [`FORMAT_VERSION`] of the program that made it.
    pub format_version: u32,
    /// Who this directory is.
    pub store_id: StoreId,
    /// Unix milliseconds; for people.
    pub created_ms: u64,
}

/// The content of `IDENTITY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster that the node belongs to.
    pub cluster_id: u64,
    /// The node's number in it.
    pub node_id: u64,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refuses.
    #[error(
        "cannot use the data directory {path}: {source}. Check that the path exists and that the user of this process may write there"
    )]
    Io {
        /// The file or directory.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by another process. Stop that process, or give this node a directory of its own with --data"
    )]
    Locked {
        /// The directory.
        path: String,
    },
    /// There are files in it, but it is not a data directory.
    #[error(
        "the directory is not empty ({found}, ...) and holds no {STORE_FILE} file, so it is not a kvsvr data directory. Give an empty or a new directory with --data"
    )]
    Foreign {
        /// A file that was found.
        found: String,
    },
    /// Made by a newer program.
    #[error(
        "the data directory has format version {found}, this program knows versions up to {FORMAT_VERSION}. Run the version of kvsvr that wrote it, or a newer one"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A file of ours does not parse.
    #[error(
        "{file} in the data directory is damaged: {detail}. Restore the file from a copy of this disk. {MEMBER_LOST}"
    )]
    Damaged {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The node has an identity already.
    #[error("this data directory belongs to node {} of cluster {:016x}; it cannot become node {} of cluster {:016x}. Use an empty directory for a new node", found.node_id, found.cluster_id, wanted.node_id, wanted.cluster_id)]
    OtherIdentity {
        /// What is stored.
        found: Identity,
        /// What was to be stored.
        wanted: Identity,
    },
}

/// Holds the directory for this process until it is dropped.
#[derive(Debug)]
pub struct DataLock {
    _file: fs::File,
    path: PathBuf,
}

impl DataLock {
    /// Creates the directory if it is missing, and locks it.
    pub fn acquire(path: &Path) -> Result<Self, StoreError> {
        let failed = |path: &Path, source| StoreError::Io {
            path: path.display().to_string(),
            source,
        };
        create_durably(path).map_err(|error| failed(path, error))?;
        Self::lock(
            path,
            fs::OpenOptions::new().create(true).truncate(false).write(true),
        )
    }

    /// Locks a directory that is there, and creates nothing in one that is not ours: `None` if there is nothing to lock.
    pub fn acquire_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        fs::read_dir(path).map_err(|source| io_error(&path.display().to_string(), source))?;
        if !path.join(STORE_FILE).exists() && !path.join(LOCK_FILE).exists() {
            return Ok(None);
        }
        Self::lock(
            path,
            fs::OpenOptions::new().create(true).truncate(false).write(true),
        )
        .map(Some)
    }

    fn lock(path: &Path, options: &fs::OpenOptions) -> Result<Self, StoreError> {
        let lock = path.join(LOCK_FILE);
        let failed = |source| StoreError::Io {
            path: lock.display().to_string(),
            source,
        };
        let file = options.open(&lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                _file: file,
                path: path.to_owned(),
            }),
            Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: path.display().to_string(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a directory and those above it, unless they are there, so that a power failure leaves their names.
fn create_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(path)?;
    for dir in missing.into_iter().filter_map(Path::parent) {
        let dir = if dir == Path::new("") { Path::new(".") } else { dir };
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// An open data directory.
#[derive(Debug)]
pub struct Store {
    disk: DynDisk,
    meta: StoreMeta,
    identity: Option<Identity>,
}

impl Store {
    /// Opens the directory; an empty one is formatted first, with a store id that the caller has drawn from the runtime's random
    /// numbers.
    pub async fn open(disk: DynDisk, fresh_id: StoreId, now_ms: u64) -> Result<Self, StoreError> {
        if let Some(store) = Self::open_existing(disk.clone()).await? {
            return Ok(store);
        }
        let meta = StoreMeta {
            format_version: FORMAT_VERSION,
            store_id: fresh_id,
            created_ms: now_ms,
        };
        write_json(&disk, STORE_FILE, &meta).await?;
        Ok(Self {
            disk,
            meta,
            identity: None,
        })
    }

    /// Opens the directory if it is formatted; `None` if it is empty. Writes nothing.
    pub async fn open_existing(disk: DynDisk) -> Result<Option<Self>, StoreError> {
        let Some(meta) = read_json::<StoreMeta>(&disk, STORE_FILE).await? else {
            let names = disk.list("").await.map_err(|error| io_error("", error))?;
            return match names.into_iter().find(|name| !HARMLESS.contains(&name.as_str())) {
                Some(found) => Err(StoreError::Foreign { found }),
                None => Ok(None),
            };
        };
        let identity = read_json(&disk, IDENTITY_FILE).await?;
        Ok(Some(Self { disk, meta, identity }))
    }

    /// What `STORE` says.
    pub fn meta(&self) -> StoreMeta {
        self.meta
    }

    /// Cluster and node id, once the node has joined.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The longest promise to a leader that an earlier process on this directory may have made, milliseconds; 0 = none.
    pub async fn promised_ms(&self) -> Result<u64, StoreError> {
        let stored = read_json::<Promise>(&self.disk, PROMISE_FILE).await?;
        Ok(stored.map_or(0, |promise| promise.election_max_ms))
    }

    /// Keeps what this process promises. Before it makes the first promise, and after what was stored has run out.
    pub async fn set_promised_ms(&self, election_max_ms: u64) -> Result<(), StoreError> {
        if self.promised_ms().await? == election_max_ms {
            return Ok(());
        }
        let promise = Promise {
            format_version: FORMAT_VERSION,
            election_max_ms,
        };
        write_json(&self.disk, PROMISE_FILE, &promise).await
    }

    /// Keeps the identity for ever. Setting the same one again does nothing.
    pub async fn set_identity(&mut self, wanted: Identity) -> Result<(), StoreError> {
        match self.identity {
            Some(found) if found == wanted => Ok(()),
            Some(found) => Err(StoreError::OtherIdentity { found, wanted }),
            None => {
                write_json(&self.disk, IDENTITY_FILE, &wanted).await?;
                self.identity = Some(wanted);
                Ok(())
            }
        }
    }
}

fn io_error(path: &str, source: io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The file [`PROMISE_FILE`].
#[derive(Serialize, Deserialize)]
struct Promise {
    format_version: u32,
    election_max_ms: u64,
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

async fn read_json<T: for<'a> Deserialize<'a>>(
    disk: &DynDisk,
    file: &'static str,
) -> Result<Option<T>, StoreError> {
    let bytes = match disk.read(file).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(file, error)),
    };
    // The version first: a newer format may have other fields.
    let version = serde_json::from_slice::<VersionOnly>(&bytes).map_or(0, |version| version.format_version);
    if version > FORMAT_VERSION {
        return Err(StoreError::Newer { found: version });
    }
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| StoreError::Damaged {
        file,
        detail: error.to_string(),
    })
}

async fn write_json<T: Serialize>(disk: &DynDisk, file: &'static str, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| StoreError::Damaged {
        file,
        detail: error.to_string(),
    })?;
    text.push(b'\n');
    disk::replace(disk, file, Bytes::from(text))
        .await
        .map_err(|error| io_error(file, error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::mem::MemDisk;

    const ID: StoreId = StoreId([0xab; 16]);

    fn shared(disk: &MemDisk) -> DynDisk {
        Arc::new(disk.clone())
    }

    async fn put(disk: &MemDisk, path: &str, text: &'static str) {
        disk::replace(&shared(disk), path, Bytes::from_static(text.as_bytes()))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_promise_outlives_the_process() {
        let disk = MemDisk::new(1);
        let store = Store::open(shared(&disk), ID, 5).await.unwrap();
        assert_eq!(store.promised_ms().await.unwrap(), 0);
        store.set_promised_ms(2000).await.unwrap();
        let disk = disk.crash(3);
        let store = Store::open(shared(&disk), ID, 6).await.unwrap();
        assert_eq!(store.promised_ms().await.unwrap(), 2000);
        let before = disk.operations();
        store.set_promised_ms(2000).await.unwrap();
        assert_eq!(disk.operations(), before + 1, "what is the same is not written");
        store.set_promised_ms(900).await.unwrap();
        assert_eq!(store.promised_ms().await.unwrap(), 900);
    }

    #[tokio::test]
    async fn formats_once_and_keeps_its_identity() {
        let disk = MemDisk::new(1);
        let mut store = Store::open(shared(&disk), ID, 5).await.unwrap();
        let identity = Identity {
            cluster_id: 7,
            node_id: 2,
        };
        assert_eq!(store.identity(), None);
        store.set_identity(identity).await.unwrap();
        store.set_identity(identity).await.unwrap();
        let other = Identity {
            node_id: 3,
            ..identity
        };
        assert!(matches!(
            store.set_identity(other).await,
            Err(StoreError::OtherIdentity { .. })
        ));

        let disk = disk.crash(9);
        let store = Store::open(shared(&disk), StoreId([1; 16]), 6).await.unwrap();
        assert_eq!(
            store.meta(),
            StoreMeta {
                format_version: 1,
                store_id: ID,
                created_ms: 5
            }
        );
        assert_eq!(store.identity(), Some(identity));
    }

    #[tokio::test]
    async fn a_crash_while_formatting_leaves_an_empty_or_a_whole_store() {
        for after in 1..20 {
            let disk = MemDisk::new(after);
            disk.fail_power_after(after);
            let acknowledged = Store::open(shared(&disk), ID, 5).await.is_ok();
            let disk = disk.crash(after);
            let found = Store::open_existing(shared(&disk)).await.unwrap();
            assert!(found.is_some() || !acknowledged);
            assert!(found.is_none_or(|store| store.meta().store_id == ID));
        }
    }

    #[tokio::test]
    async fn refuses_what_is_not_its_own() {
        let disk = MemDisk::new(1);
        put(&disk, "photo.jpg", "x").await;
        let error = Store::open(shared(&disk), ID, 5).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Foreign { found } if found == "photo.jpg"),
            "{error}"
        );

        let disk = MemDisk::new(1);
        put(&disk, STORE_FILE, r#"{"format_version": 99, "shape": "new"}"#).await;
        let error = Store::open(shared(&disk), ID, 5).await.unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99 }), "{error}");

        let disk = MemDisk::new(1);
        put(
            &disk,
            STORE_FILE,
            r#"{"format_version": 1, "store_id": "zz", "created_ms": 0}"#,
        )
        .await;
        let error = Store::open(shared(&disk), ID, 5).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { file: STORE_FILE, .. }),
            "{error}"
        );
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/data");
        assert!(matches!(
            DataLock::acquire_existing(&path),
            Err(StoreError::Io { .. })
        ));
        let lock = DataLock::acquire(&path).unwrap();
        assert!(matches!(DataLock::acquire(&path), Err(StoreError::Locked { .. })));
        drop(lock);
        DataLock::acquire(&path).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = DataLock::acquire(&file).unwrap_err();
        assert!(
            error.to_string().contains("--data") || error.to_string().contains("Check"),
            "{error}"
        );
    }

    #[test]
    fn store_ids_are_text() {
        let id: StoreId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(id.0[15], 15);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        assert!("+00102030405060708090a0b0c0d0e0f".parse::<StoreId>().is_err());
        assert!("00".parse::<StoreId>().is_err());
    }
}
