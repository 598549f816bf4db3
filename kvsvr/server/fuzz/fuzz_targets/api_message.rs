//! See `kvsvr::fuzz::api_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvsvr::fuzz::api_message(data));
