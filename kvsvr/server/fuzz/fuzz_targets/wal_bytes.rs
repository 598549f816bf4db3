//! See `kvsvr::fuzz::wal_bytes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvsvr::fuzz::wal_bytes(data));
