//! See `kvsvr::fuzz::wal_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvsvr::fuzz::wal_records(data));
