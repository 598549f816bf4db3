//! Calls for operators: thin wrappers of the Admin service. They go to one node and are tried again only where they look for a leader.

use std::{collections::BTreeMap, sync::Arc};

use kvsvr_proto::v1;
use prost::Message;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::{
    client::Client,
    core::Core,
    error::{Code, Error, Result},
    follow,
    retry::{Next, Repeat, Step, Tries},
    router::Place,
    transport::{Method, StreamReceiver},
};

/// The shard that knows the cluster.
const META_SHARD: u32 = 0;

/// What a compaction over all nodes did.
#[derive(Clone, Debug, Default)]
pub struct Compacted {
    /// The new floors by shard: reads and watches below are refused.
    pub floors: BTreeMap<u32, u64>,
    /// What went wrong, for shards or nodes.
    pub errors: Vec<Error>,
}

/// The parts of a shard's backup as they come.
#[derive(Debug)]
pub struct Backup {
    address: String,
    stream: StreamReceiver,
    patience: Duration,
    next: u64,
}

impl Backup {
    /// The next part; `None` after the last one, which has the head. Their checksums are right.
    ///
    /// # Errors
    /// The stream broke or stood still for the client's timeout, or a part was damaged: what came so far is of no use then.
    pub async fn next_part(&mut self) -> Result<Option<v1::BackupPart>> {
        if self.next == u64::MAX {
            return Ok(None);
        }
        let part = match timeout(self.patience, self.stream.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => {
                return Err(Error::unexpected(
                    "the end of a backup before its last part",
                    &self.address,
                ));
            }
            Err(_) => {
                let text = format!("nothing came for {:?} in the middle of a backup", self.patience);
                return Err(Error::definite(Code::Timeout, text));
            }
        };
        let part = v1::BackupPart::decode(part)
            .map_err(|e| Error::unexpected(&format!("a part that does not decode ({e})"), &self.address))?;
        if part.number != self.next || crc32c::crc32c(&part.rows) != part.crc32c {
            let text = format!("part {} instead of {}, or a damaged one", part.number, self.next);
            return Err(Error::unexpected(&text, &self.address));
        }
        self.next = if part.head.is_empty() {
            self.next + 1
        } else {
            u64::MAX
        };
        Ok(Some(part))
    }
}

impl Client {
    /// Fetches the shard map, with the leaders as the answering node knows them.
    ///
    /// # Errors
    /// `Unreachable` or `NotReady` if no node has one.
    pub async fn shard_map(&self) -> Result<v1::ShardMap> {
        self.core.fetch_map(self.deadline(), u64::MAX).await?;
        self.known_map()
            .ok_or_else(|| Error::definite(Code::NotReady, "there is no shard map yet"))
    }

    /// The shard map as this client knows it, without asking anybody.
    pub fn known_map(&self) -> Option<v1::ShardMap> {
        self.core.router().read().map().cloned()
    }

    /// The numbers of the data shards.
    ///
    /// # Errors
    /// There is no shard map and none can be fetched.
    pub async fn data_shards(&self) -> Result<Vec<u32>> {
        self.core.need_map(self.deadline()).await?;
        Ok(self.core.router().read().data_shards())
    }

    /// Who a node (HOST:PORT) is.
    ///
    /// # Errors
    /// It cannot be reached; see [`Error`].
    pub async fn identify(&self, address: &str) -> Result<v1::IdentifyResponse> {
        self.core
            .call(
                address,
                Method::AdminIdentify,
                &v1::IdentifyRequest {},
                self.timeout(),
            )
            .await
    }

    /// The state of a node (HOST:PORT).
    ///
    /// # Errors
    /// It cannot be reached; see [`Error`].
    pub async fn status(&self, address: &str) -> Result<v1::NodeStatus> {
        let response: v1::StatusResponse = self
            .core
            .call(
                address,
                Method::AdminStatus,
                &v1::StatusRequest {},
                self.timeout(),
            )
            .await?;
        response
            .status
            .ok_or_else(|| Error::unexpected("no status", address))
    }

    /// A hash of a shard's content on a node, with the log index it belongs to. Replicas at the same index have the same.
    ///
    /// # Errors
    /// The node has no replica of the shard; see [`Error`].
    pub async fn state_hash(&self, address: &str, shard: u32) -> Result<v1::StateHashResponse> {
        self.state_hash_at(address, shard, 0).await
    }

    /// The same of the state after the entry at an index, which is waited for; if the answer's index is beyond it, there is no hash.
    ///
    /// # Errors
    /// As [`Client::state_hash`], and if the index is not reached in time.
    pub async fn state_hash_at(
        &self,
        address: &str,
        shard: u32,
        at_index: u64,
    ) -> Result<v1::StateHashResponse> {
        let request = v1::StateHashRequest { shard, at_index };
        self.core
            .call(address, Method::AdminStateHash, &request, self.timeout())
            .await
    }

    /// One state of a shard, in parts, from the node at this address: what was acknowledged before is in it.
    ///
    /// # Errors
    /// The node has no replica of the shard or cannot be reached; see [`Error`].
    pub async fn backup(&self, address: &str, shard: u32) -> Result<Backup> {
        let request = v1::BackupRequest { shard };
        let request = request.encode_to_vec().into();
        let stream = follow::open_at(&self.core, address, Method::AdminBackup, request).await?;
        Ok(Backup {
            address: address.to_owned(),
            stream,
            patience: self.timeout(),
            next: 0,
        })
    }

    /// Gives a part of a backup to a shard, which must never have been used. `backup`: a number that all parts of one have. May be repeated. Returns the number of the part that comes next.
    ///
    /// # Errors
    /// `Refused` if the shard holds data already; see [`Error`].
    pub async fn restore_part(&self, backup: u64, shard: u32, part: v1::BackupPart) -> Result<u64> {
        let request = v1::RestorePart {
            shard,
            part: Some(part),
            backup,
        };
        let response: v1::RestorePartResponse = self
            .call_leader(shard, Method::AdminRestore, &request, Repeat::Harmless)
            .await?;
        Ok(response.next)
    }

    /// Creates a cluster of empty nodes. Sent to the first of the request's addresses. Not repeated: after an unknown outcome look
    /// at [`Client::identify`].
    ///
    /// # Errors
    /// `Refused` if a node belongs to a cluster already; see [`Error`].
    pub async fn bootstrap(&self, request: v1::BootstrapRequest) -> Result<v1::BootstrapResponse> {
        let Some(address) = request.addresses.first().cloned() else {
            return Err(Error::definite(
                Code::Invalid,
                "no addresses: name the nodes of the new cluster",
            ));
        };
        self.core
            .call(&address, Method::AdminBootstrap, &request, self.timeout())
            .await
    }

    /// Hands a shard's leadership to a node; `None` = to the best candidate. Returns the new leader's node id.
    ///
    /// # Errors
    /// `Refused` if the target is not caught up; see [`Error`].
    pub async fn transfer_leader(&self, shard: u32, to: Option<u64>) -> Result<u64> {
        let request = v1::TransferLeaderRequest {
            shard,
            to: to.unwrap_or(0),
        };
        let response: v1::TransferLeaderResponse = self
            .call_leader(shard, Method::AdminTransferLeader, &request, Repeat::Harmless)
            .await?;
        if response.leader != 0 {
            self.core
                .router()
                .write()
                .leader_is(shard, response.leader, "", self.core.now());
        }
        Ok(response.leader)
    }

    /// The nodes with what they are for, and the operations that change them, by the meta shard's leader.
    ///
    /// # Errors
    /// The meta shard has no leader that answers; see [`Error`].
    pub async fn members(&self) -> Result<v1::MembersResponse> {
        self.call_leader(
            META_SHARD,
            Method::AdminMembers,
            &v1::MembersRequest {},
            Repeat::Read,
        )
        .await
    }

    /// Sets a setting of the cluster (an empty value: its default); an empty name sets nothing. All settings.
    ///
    /// # Errors
    /// `Invalid` if there is no such setting, or it cannot have this value; see [`Error`].
    pub async fn configure(&self, name: &str, value: &str) -> Result<v1::ConfigureResponse> {
        let request = v1::ConfigureRequest {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        self.call_leader(META_SHARD, Method::AdminConfigure, &request, Repeat::Harmless)
            .await
    }

    /// Begins an operation that changes the members, or takes one back; with `dry_run` only its plan comes back. Not repeated after an
    /// unknown outcome: [`Client::members`] tells whether it has begun.
    ///
    /// # Errors
    /// `Refused` with the reason if it is unsafe or makes no sense; see [`Error`].
    pub async fn change_members(
        &self,
        request: v1::ChangeMembersRequest,
    ) -> Result<v1::ChangeMembersResponse> {
        let repeat = if request.dry_run {
            Repeat::Read
        } else {
            Repeat::Forbidden
        };
        self.call_leader(META_SHARD, Method::AdminChangeMembers, &request, repeat)
            .await
    }

    /// Moves the compaction floor of one shard, or of all data shards, to `keep_revisions` behind the newest revision, but not past what its
    /// consumers have acknowledged unless `past_consumers`.
    ///
    /// # Errors
    /// No node could be asked; what went wrong for single shards and nodes is in the reply.
    pub async fn compact(
        &self,
        shard: Option<u32>,
        keep_revisions: u64,
        past_consumers: bool,
    ) -> Result<Compacted> {
        let request = v1::CompactRequest {
            shard: shard.unwrap_or(0),
            all: shard.is_none(),
            keep_revisions,
            past_consumers,
        };
        let mut done = Compacted::default();
        if let Some(shard) = shard {
            let response = self
                .call_leader(shard, Method::AdminCompact, &request, Repeat::Harmless)
                .await?;
            done.add(response, "the leader");
            return Ok(done);
        }
        for (_, address) in self.nodes().await? {
            match self
                .core
                .call(&address, Method::AdminCompact, &request, self.timeout())
                .await
            {
                Ok(response) => done.add(response, &address),
                Err(error) => done.errors.push(error),
            }
        }
        for shard in self.core.router().read().data_shards() {
            if !done.floors.contains_key(&shard) {
                let message =
                    format!("shard {shard} was not compacted: no node that answered leads it; try again");
                done.errors.push(Error::definite(Code::NoLeader, message));
            }
        }
        Ok(done)
    }

    /// The consumers of all shards, by shard and name.
    ///
    /// # Errors
    /// A node could not be asked and no other knows its shards.
    pub async fn consumers(&self) -> Result<Vec<v1::ConsumerInfo>> {
        let mut found: BTreeMap<(u32, String), v1::ConsumerInfo> = BTreeMap::new();
        let mut failed = None;
        let mut answered = false;
        for (_, address) in self.nodes().await? {
            let request = v1::ConsumerListRequest {};
            let response: Result<v1::ConsumerListResponse> = self
                .core
                .call(&address, Method::ConsumerList, &request, self.timeout())
                .await;
            match response {
                Ok(response) => {
                    answered = true;
                    for info in response.consumers {
                        let newest = found
                            .entry((info.shard, info.name.clone()))
                            .or_insert_with(|| info.clone());
                        // Replicas that lag know less.
                        if (info.epoch, info.cursor, info.shard_revision)
                            > (newest.epoch, newest.cursor, newest.shard_revision)
                        {
                            *newest = info;
                        }
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(found.into_values().collect()),
        }
    }

    /// All nodes of the cluster: id and address.
    ///
    /// # Errors
    /// There is no shard map and none can be fetched.
    pub async fn nodes(&self) -> Result<Vec<(u64, String)>> {
        self.core.need_map(self.deadline()).await?;
        let map = self.known_map().unwrap_or_default();
        Ok(map.nodes.into_iter().map(|n| (n.id, n.address)).collect())
    }

    /// Calls the node that leads a shard, wherever it is by now.
    async fn call_leader<Q: Message, R: Message + Default>(
        &self,
        shard: u32,
        method: Method,
        request: &Q,
        repeat: Repeat,
    ) -> Result<R> {
        let deadline = self.deadline();
        self.core.locate(Place::Shard(shard), deadline).await?;
        let mut tries = Tries::new(repeat);
        let mut avoid = Vec::new();
        loop {
            let target = self.core.router().read().leader(shard, &avoid, self.core.now());
            let Some(target) = target else {
                return Err(Error::definite(
                    Code::NotFound,
                    format!("there is no shard {shard}"),
                ));
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.core.call(&target.address, method, request, left).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let replicas = self.core.router().read().replicas(shard);
            match tries.judge(&error, left, replicas, rand::random_range(0.0..1.0)) {
                Step::Retry { after, next } => {
                    sleep(after.max(Duration::ZERO)).await;
                    follow_hint(&self.core, shard, next, &error, target.node, &mut avoid, replicas);
                }
                Step::Fail => return Err(tries.last_error(error)),
            }
        }
    }
}

fn follow_hint(
    core: &Arc<Core>,
    shard: u32,
    next: Next,
    error: &Error,
    asked: u64,
    avoid: &mut Vec<u64>,
    replicas: usize,
) {
    match next {
        Next::Leader { node, address } => {
            core.router().write().leader_is(shard, node, &address, core.now());
            avoid.retain(|n| *n != node);
        }
        Next::Other => {
            if matches!(error.code, Code::NoLeader | Code::NotLeader) {
                core.router().write().not_leader(shard, asked);
            }
            if avoid.len() + 1 >= replicas {
                avoid.clear();
            }
            avoid.push(asked);
        }
        Next::RefreshMap => core.refresh_map(),
        Next::Route | Next::NewSession => {}
    }
}

impl Compacted {
    fn add(&mut self, response: v1::CompactResponse, address: &str) {
        self.floors.extend(response.floors);
        self.errors
            .extend(response.errors.into_iter().map(|e| Error::from_proto(e, address)));
    }
}
