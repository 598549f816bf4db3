//! See `kvsvr::fuzz::snapshot_chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvsvr::fuzz::snapshot_chunk(data));
