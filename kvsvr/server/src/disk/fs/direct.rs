//! Writes past the kernel's page cache (O_DIRECT).
//!
//! Such a write must start and end at a sector, in the file and in memory, so it is gathered in a buffer first. What is not aligned,
//! and every file system that refuses, is left to the caller, who writes through the cache. Nothing here syncs.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::limits::DIRECT_WRITE_BYTES;

/// Length and offset of a write must be multiples of it. Disks with larger sectors refuse, and are written through the cache.
const SECTOR: u64 = 512;
/// Where memory must start: a multiple of any sector.
const ALIGNMENT: usize = 4096;

/// Options to open a file for direct writes. Some file systems in memory refuse them.
pub(crate) fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed());
    options
}

/// Aligned memory that writes are gathered in.
pub(super) struct Gather {
    memory: Box<[u8]>,
    start: usize,
}

impl Default for Gather {
    fn default() -> Self {
        let memory = vec![0; DIRECT_WRITE_BYTES + ALIGNMENT].into_boxed_slice();
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }
}

impl Gather {
    /// Calls `write` with all bytes of the buffers, [`DIRECT_WRITE_BYTES`] at a time, and where they begin.
    fn pieces(
        &mut self,
        buffers: &[Bytes],
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let space = &mut self.memory[self.start..self.start + DIRECT_WRITE_BYTES];
        let (mut filled, mut written) = (0, 0);
        for mut rest in buffers.iter().map(|buffer| &buffer[..]) {
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.len().min(space.len() - filled));
                space[filled..filled + part.len()].copy_from_slice(part);
                filled += part.len();
                rest = after;
                if filled == space.len() {
                    write(space, written)?;
                    written += filled as u64;
                    filled = 0;
                }
            }
        }
        if filled == 0 {
            return Ok(());
        }
        write(&space[..filled], written)
    }
}

/// A file that is open for direct writes, if it can be.
pub(super) struct DirectFile {
    file: Option<fs::File>,
    /// A write was refused although it was aligned to [`SECTOR`].
    refused: AtomicBool,
}

impl DirectFile {
    /// Opens a file that exists.
    pub(super) fn open(path: &Path) -> Self {
        Self {
            file: options().open(path).ok(),
            refused: AtomicBool::new(false),
        }
    }

    /// Writes the buffers one after the other from `offset` on. False if that cannot be done this way; the caller then writes all of them.
    pub(super) fn write(&self, gather: &mut Gather, offset: u64, buffers: &[Bytes]) -> io::Result<bool> {
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let aligned = offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR);
        let Some(file) = self.file.as_ref().filter(|_| aligned) else {
            return Ok(false);
        };
        if self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match gather.pieces(buffers, |bytes, at| file.write_all_at(bytes, offset + at)) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_bytes_in_order() {
        let mut gather = Gather::default();
        for lens in [
            &[0][..],
            &[1, 0, 2],
            &[DIRECT_WRITE_BYTES],
            &[7, DIRECT_WRITE_BYTES - 7, 512],
            &[3 * DIRECT_WRITE_BYTES + 512],
        ] {
            let mut next = 0_u8;
            let buffers: Vec<Bytes> = lens
                .iter()
                .map(|len| {
                    let bytes = (0..*len).map(|_| {
                        next = next.wrapping_mul(5).wrapping_add(1);
                        next
                    });
                    bytes.collect()
                })
                .collect();
            let mut seen = Vec::new();
            let all = gather.pieces(&buffers, |piece, at| {
                assert_eq!(at, seen.len() as u64);
                assert!(piece.as_ptr().align_offset(ALIGNMENT) == 0 && !piece.is_empty());
                seen.extend_from_slice(piece);
                Ok(())
            });
            all.unwrap();
            assert!(seen == buffers.concat(), "{lens:?}");
        }
    }

    #[test]
    fn what_is_not_whole_sectors_is_left_to_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, [1; 2048]).unwrap();
        let (file, mut gather) = (DirectFile::open(&path), Gather::default());
        let sector = [Bytes::from_static(&[2; 500]), Bytes::from_static(&[3; 12])];
        assert!(!file.write(&mut gather, 100, &sector).unwrap());
        assert!(!file.write(&mut gather, 512, &sector[..1]).unwrap());
        assert_eq!(fs::read(&path).unwrap(), [1; 2048]);
        // Depends on the file system, but must be one or the other.
        let written = file.write(&mut gather, 512, &sector).unwrap();
        let expected = if written { sector.concat() } else { vec![1; 512] };
        assert_eq!(fs::read(&path).unwrap()[512..1024], expected);
    }
}
