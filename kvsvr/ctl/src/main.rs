//! The program `kvctl`. Everything is in the library, so that tests can call commands without a process.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(kvctl::cli::run(std::env::args_os()) as u8)
}
