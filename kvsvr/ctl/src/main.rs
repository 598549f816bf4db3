//! kvctl: ops CLI and benchmark of kvsvr.
fn main() {}
