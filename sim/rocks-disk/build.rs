//! Compiles `src/disk.cc` against the headers of the RocksDB that librocksdb-sys has compiled.

use std::{env, path::PathBuf};

fn main() {
    let sources = env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR").expect("librocksdb-sys says where it is");
    let sources = PathBuf::from(sources).join("rocksdb");
    for file in ["src/disk.cc", "src/files.h"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .file("src/disk.cc")
        .include("src")
        .include(sources.join("include"))
        .include(&sources)
        .flag("-std=c++20")
        .flag("-include")
        .flag("cstdint")
        .warnings(false);
    // The layout of RocksDB's classes depends on these: they must be as librocksdb-sys has them on Linux.
    for name in ["NDEBUG", "LZ4"] {
        build.define(name, "1");
    }
    for name in [
        "HAVE_ALIGNED_NEW",
        "HAVE_UINT128_EXTENSION",
        "OS_LINUX",
        "ROCKSDB_PLATFORM_POSIX",
        "ROCKSDB_LIB_IO_POSIX",
        "ROCKSDB_SCHED_GETCPU_PRESENT",
        "ROCKSDB_AUXV_GETAUXVAL_PRESENT",
        "ROCKSDB_FALLOCATE_PRESENT",
        "ROCKSDB_RANGESYNC_PRESENT",
    ] {
        build.define(name, None);
    }
    build.compile("kvsvr_sim_rocks_disk");
}
