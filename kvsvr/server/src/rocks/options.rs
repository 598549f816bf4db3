//! How RocksDB is set up: memory, files, threads, and why.

use std::sync::Arc;

use kvsvr_core::engine::Cf;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, LogLevel, Options,
    WriteBufferManager,
};

use super::{
    Ground, RocksOptions,
    garbage::{FloorHistory, GarbageFilterFactory},
};
use crate::limits::{ROCKS_BACKGROUND_JOBS, ROCKS_OPEN_FILES};

/// Bits of bloom filter per key: one look-up in a hundred reads a block in vain.
const BLOOM_BITS: f64 = 10.0;
/// Uncompressed bytes of a block: a point read decompresses one of them.
const BLOCK_BYTES: usize = 8 << 10;
const TARGET_FILE_BYTES: u64 = 32 << 20;
const INFO_LOG_BYTES: usize = 4 << 20;
const INFO_LOG_FILES: usize = 3;
/// Files are compacted at least once in this time, so that garbage and deleted keys go even where nothing is written.
const COMPACT_EVERY_SECONDS: u64 = 24 * 3600;
/// Files of the first level that start a compaction: each rewrites what lies below them, so fewer and larger ones write less.
const COMPACTION_TRIGGER: i32 = 8;
/// Levels whose files are not compressed, because they are soon rewritten.
const UNCOMPRESSED_LEVELS: usize = 2;
const LEVELS: usize = 7;
/// Memtables of one column family, the one being written included, before writes wait for a flush.
const MAX_MEMTABLES: i32 = 3;

/// What all databases of an engine (the live one and its checkpoints) share.
pub(super) struct Shared {
    cache: Cache,
    memtables: WriteBufferManager,
    memtable_bytes: usize,
    direct_io: bool,
    pub(super) ground: Arc<dyn Ground>,
    pub(super) floors: Arc<FloorHistory>,
}

impl Shared {
    /// `direct_io`: the file system has it.
    pub(super) fn new(options: &RocksOptions, ground: Arc<dyn Ground>, direct_io: bool) -> Self {
        Self {
            cache: Cache::new_lru_cache(options.block_cache_bytes),
            memtables: WriteBufferManager::new_write_buffer_manager(options.memtable_bytes, false),
            memtable_bytes: options.memtable_bytes,
            direct_io,
            ground,
            floors: Arc::default(),
        }
    }

    pub(super) fn cache_bytes(&self) -> usize {
        self.cache.get_usage()
    }

    pub(super) fn memtable_bytes(&self) -> usize {
        self.memtables.get_usage()
    }

    /// The options of a database.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // There is no WAL; the column families must never be of different ages after a crash.
        options.set_atomic_flush(!kvsvr_core::mutant!("flush-not-atomic"));
        options.set_write_buffer_manager(&self.memtables);
        options.set_max_background_jobs(ROCKS_BACKGROUND_JOBS);
        options.set_max_open_files(ROCKS_OPEN_FILES);
        options.set_max_file_opening_threads(2);
        // Writes to disk as it goes, so that the sync at the end of a file does not hold up the log's.
        options.set_bytes_per_sync(1 << 20);
        // Files are read through the block cache and written once: copies in the kernel's cache would cost time and push out the log's.
        options.set_use_direct_io_for_flush_and_compaction(self.direct_io);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(INFO_LOG_BYTES);
        options.set_keep_log_file_num(INFO_LOG_FILES);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        self.ground.tune(&mut options);
        options
    }

    /// All column families.
    pub(super) fn column_families(&self) -> Vec<ColumnFamilyDescriptor> {
        Cf::ALL
            .iter()
            .map(|cf| ColumnFamilyDescriptor::new(cf.name(), self.column_family(*cf)))
            .collect()
    }

    fn column_family(&self, cf: Cf) -> Options {
        let mut options = Options::default();
        options.set_block_based_table_factory(&self.table(cf));
        let mut compression = [DBCompressionType::Lz4; LEVELS];
        compression[..UNCOMPRESSED_LEVELS].fill(DBCompressionType::None);
        options.set_num_levels(LEVELS as i32);
        options.set_compression_per_level(&compression);
        options.set_level_zero_file_num_compaction_trigger(COMPACTION_TRIGGER);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_target_file_size_base(TARGET_FILE_BYTES);
        options.set_periodic_compaction_seconds(COMPACT_EVERY_SECONDS);
        options.set_max_write_buffer_number(MAX_MEMTABLES);
        let part = match cf {
            Cf::Data | Cf::Hist => 3,
            Cf::Log | Cf::Ttl | Cf::State => 6,
        };
        options.set_write_buffer_size(self.memtable_bytes / part);
        // Point reads of keys that are not in the memtable need not search it.
        if matches!(cf, Cf::Data | Cf::State) {
            options.set_memtable_prefix_bloom_ratio(0.02);
            options.set_memtable_whole_key_filtering(true);
        }
        if matches!(cf, Cf::Hist | Cf::Log) {
            options.set_compaction_filter_factory(GarbageFilterFactory {
                cf,
                floors: self.floors.clone(),
            });
        }
        self.ground.tune(&mut options);
        options
    }

    /// Index and filter blocks live in the cache, so that the cache's size is the bound of all that is kept of files.
    fn table(&self, cf: Cf) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_block_size(BLOCK_BYTES);
        // Only these are read by whole key.
        if matches!(cf, Cf::Data | Cf::State) {
            table.set_bloom_filter(BLOOM_BITS, false);
            table.set_whole_key_filtering(true);
            table.set_optimize_filters_for_memory(true);
        }
        table
    }
}
