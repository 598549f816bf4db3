//! The parts of the fault harness that touch the operating system (feature `runner`, Linux only): they put release binaries into a
//! world whose network, disks and clocks can be made to fail, and take that world down again.
//!
//! | module | does | needs |
//! |---|---|---|
//! | [`netns`], [`switch`], [`capture`] | hosts in network namespaces, and the links between them in user space | root, `ip`, `/dev/net/tun` |
//! | [`proxy`] | links between processes on loopback, as TCP sees them | nothing |
//! | [`process`] | starts, pauses, ends and kills a node | nothing |
//! | [`disk`], [`corrupt`] | power loss, a full disk, flipped bits | root, `mkfs.ext4`, `mount` with loop devices |
//! | [`shim`], [`clock`] | errors of reads, writes and syncs; wrong clocks | a C compiler |
//! | [`cache`] | what a loss of power takes from a disk besides | both of the last two |
//! | [`capabilities`] | finds out which of these work here | |
//!
//! Everything is taken down when its value is dropped. A run that is killed leaves no process behind ([`process`] sees to that), but
//! namespaces and mounts: their names tell whose they are ([`owner`]), and the `sweep` of [`netns`] and of [`disk`] removes those
//! whose owner is gone. No schedule of faults is here, and no opinion about what a node should do.

pub mod cache;
pub mod capabilities;
pub mod capture;
pub mod clock;
mod command;
pub mod corrupt;
pub mod disk;
pub mod link;
pub mod netns;
pub mod owner;
pub mod process;
pub mod proxy;
pub mod shim;
pub mod switch;
