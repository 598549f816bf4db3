//! The capture of the switch: the header of every packet, when it was sent, on which link, and what became of it.
//!
//! The file is pcapng (draft-ietf-opsawg-pcapng: section header, one interface for each sending host, enhanced packet blocks), which
//! Wireshark and tshark read; the fate is each packet's comment (`frame.comment`). At its limit the file is renamed to `NAME.1`, in place
//! of the one before, and begun again: the last one to two limits of bytes are kept.
//!
//! [`read`] reads these files only, not what other programs write.

mod format;

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    command::context,
    link::{HostId, Link},
};

/// Bytes kept of each packet: IPv4 and TCP with all options that are in use.
pub const HEADER_BYTES: usize = 80;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, unless a cut or a full device prevents that; then there is a second record.
    Forwarded {
        /// How much later, of the first copy.
        after: Duration,
        /// There is a second copy.
        twice: bool,
    },
    /// Lost by chance.
    Lost,
    /// Sent into a cut link.
    Cut,
    /// The link was cut before it arrived.
    CutUnderWay,
    /// Too much was under way, or the receiver's device took no more.
    Overflowed,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarded { after, twice } => {
                let word = if *twice { "twice" } else { "forwarded" };
                write!(f, "{word} after {} ns", after.as_nanos())
            }
            Self::Lost => f.write_str("lost"),
            Self::Cut => f.write_str("cut"),
            Self::CutUnderWay => f.write_str("cut under way"),
            Self::Overflowed => f.write_str("overflowed"),
        }
    }
}

impl FromStr for Fate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let forwarded = |rest: &str, twice| {
            let nanos = rest.strip_suffix(" ns").and_then(|n| n.parse().ok());
            nanos.map(|n| Self::Forwarded {
                after: Duration::from_nanos(n),
                twice,
            })
        };
        let fate = match text {
            "lost" => Some(Self::Lost),
            "cut" => Some(Self::Cut),
            "cut under way" => Some(Self::CutUnderWay),
            "overflowed" => Some(Self::Overflowed),
            other => match other.split_once(" after ") {
                Some(("forwarded", rest)) => forwarded(rest, false),
                Some(("twice", rest)) => forwarded(rest, true),
                _ => None,
            },
        };
        fate.ok_or_else(|| format!("\"{text}\" is no fate of a packet"))
    }
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketRecord {
    /// When it was sent (for [`Fate::CutUnderWay`], when it would have arrived), since the epoch.
    pub at: Duration,
    /// From whom to whom.
    pub link: Link,
    /// Its length in bytes.
    pub length: usize,
    /// Its first [`HEADER_BYTES`].
    pub headers: Vec<u8>,
    /// What became of it.
    pub fate: Fate,
}

/// What a timeline wants to know of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// The next byte that the sender expects.
    pub acknowledged: u32,
    /// FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// Bytes of data.
    pub payload: usize,
}

impl PacketRecord {
    /// The segment in it, if it is one of TCP.
    pub fn tcp(&self) -> Option<TcpSegment> {
        let bytes = &self.headers;
        let ip_len = usize::from(bytes.first()? & 15) * 4;
        if *bytes.get(9)? != 6 {
            return None;
        }
        let tcp = bytes.get(ip_len..ip_len + 20)?;
        let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let word = |at: usize| (u32::from(half(at)) << 16) | u32::from(half(at + 2));
        let tcp_len = usize::from(tcp[12] >> 4) * 4;
        Some(TcpSegment {
            source_port: half(0),
            destination_port: half(2),
            sequence: word(4),
            acknowledged: word(8),
            flags: tcp[13],
            payload: self.length.saturating_sub(ip_len + tcp_len),
        })
    }
}

/// A capture that is being written.
pub struct Capture {
    path: PathBuf,
    hosts: Vec<HostId>,
    /// Bytes after which the file is begun again.
    limit: u64,
    file: BufWriter<File>,
    written: u64,
}

impl Capture {
    /// Begins a file of at most about `limit` bytes, for packets that these hosts send.
    pub fn create(path: &Path, hosts: &[HostId], limit: u64) -> io::Result<Self> {
        let mut hosts = hosts.to_vec();
        hosts.sort_unstable();
        let (file, written) = begin(path, &hosts)?;
        Ok(Self {
            path: path.to_owned(),
            hosts,
            limit,
            file,
            written,
        })
    }

    /// Adds a packet. One from a host that was not named is an error.
    pub fn record(&mut self, packet: &PacketRecord) -> io::Result<()> {
        if self.written >= self.limit {
            self.file.flush()?;
            fs::rename(&self.path, earlier(&self.path)).map_err(context("rename a full capture"))?;
            (self.file, self.written) = begin(&self.path, &self.hosts)?;
        }
        let interface = self
            .hosts
            .binary_search(&packet.link.from)
            .map_err(|_| io::Error::other(format!("{} has no interface in the capture", packet.link.from)))?;
        let block = format::packet(interface as u32, packet);
        self.written += block.len() as u64;
        self.file.write_all(&block)
    }

    /// Writes what is still in memory.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where the packets before those of this file are.
fn earlier(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn begin(path: &Path, hosts: &[HostId]) -> io::Result<(BufWriter<File>, u64)> {
    let file = File::create(path).map_err(context(format!("create {}", path.display())))?;
    let mut file = BufWriter::new(file);
    let header = format::header(hosts);
    file.write_all(&header)?;
    Ok((file, header.len() as u64))
}

/// All packets of a capture, and of the file before it. A packet at the end that is incomplete, as a killed run leaves it, is left out.
pub fn read(path: &Path) -> io::Result<Vec<PacketRecord>> {
    let mut packets = Vec::new();
    for file in [earlier(path), path.to_owned()] {
        let bytes = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && file != path => continue,
            other => other.map_err(context(format!("read {}", file.display())))?,
        };
        format::parse(&bytes, &mut packets)
            .map_err(|what| io::Error::other(format!("{}: {what}", file.display())))?;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests;
