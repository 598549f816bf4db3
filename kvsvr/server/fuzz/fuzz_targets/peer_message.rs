//! See `kvsvr::fuzz::peer_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvsvr::fuzz::peer_message(data));
