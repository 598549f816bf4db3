//! The node's binary.

use std::process::ExitCode;

// Three nodes and their clients share small hosts: the allocator is a quarter of the CPU time, and this one is the fastest measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kvsvr::cli::main(kvsvr::process::run)
}
