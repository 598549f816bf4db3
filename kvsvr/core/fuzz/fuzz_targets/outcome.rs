//! See `kvsvr_core::testing::fuzz::outcome`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvsvr_core::testing::fuzz::outcome(data));
