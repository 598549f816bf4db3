//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian.

use std::{net::Ipv4Addr, time::Duration};

use super::{Fate, PacketRecord};
use crate::os::link::{HostId, Link};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// LINKTYPE_RAW: packets begin with their IP header.
const LINKTYPE_RAW: u16 = 101;
const OPTION_COMMENT: u16 = 1;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_TSRESOL: u16 = 9;
/// Times are in units of 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// Type, length, body, length again; the body is padded to four bytes by whoever made it.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (body.len() + 12) as u32;
    let mut out = Vec::with_capacity(body.len() + 12);
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&len.to_le_bytes());
    out
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

/// The start of a file: the section, and an interface for each host.
pub(super) fn header(hosts: &[HostId]) -> Vec<u8> {
    let mut body = BYTE_ORDER_MAGIC.to_le_bytes().to_vec();
    // Version 1.0, and a section whose length is not given.
    body.extend_from_slice(&[1, 0, 0, 0]);
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    let mut out = block(SECTION_HEADER, &body);
    for host in hosts {
        let mut body = LINKTYPE_RAW.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&(super::HEADER_BYTES as u32).to_le_bytes());
        option(&mut body, OPTION_IF_NAME, host.to_string().as_bytes());
        option(&mut body, OPTION_IF_TSRESOL, &[NANOSECONDS]);
        end_of_options(&mut body);
        out.extend_from_slice(&block(INTERFACE, &body));
    }
    out
}

/// One packet that the host of this interface sent.
pub(super) fn packet(interface: u32, record: &PacketRecord) -> Vec<u8> {
    let nanos = record.at.as_nanos() as u64;
    let mut body = Vec::with_capacity(192);
    for word in [
        interface,
        (nanos >> 32) as u32,
        nanos as u32,
        record.headers.len() as u32,
        record.length as u32,
    ] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.extend_from_slice(&record.headers);
    pad(&mut body);
    option(&mut body, OPTION_COMMENT, record.fate.to_string().as_bytes());
    end_of_options(&mut body);
    block(ENHANCED_PACKET, &body)
}

/// Adds the packets of a file. Stops at an incomplete block; anything else that is wrong is an error.
pub(super) fn parse(mut bytes: &[u8], packets: &mut Vec<PacketRecord>) -> Result<(), String> {
    let mut first = true;
    while let Some((kind, len)) = word(bytes, 0).zip(word(bytes, 4)) {
        let len = len as usize;
        if first && kind != SECTION_HEADER {
            return Err("not a pcapng file".into());
        }
        first = false;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(format!("a block of {len} bytes"));
        }
        let Some(block) = bytes.get(..len) else {
            break;
        };
        if kind == ENHANCED_PACKET {
            packets.push(record(&block[8..len - 4]).ok_or("a packet that this program does not write")?);
        }
        bytes = &bytes[len..];
    }
    Ok(())
}

fn record(body: &[u8]) -> Option<PacketRecord> {
    let nanos = (u64::from(word(body, 4)?) << 32) | u64::from(word(body, 8)?);
    let captured = word(body, 12)? as usize;
    let headers = body.get(20..20 + captured)?.to_vec();
    let address = |at: usize| {
        let octets: [u8; 4] = headers.get(at..at + 4)?.try_into().ok()?;
        HostId::of_address(Ipv4Addr::from(octets))
    };
    let options = body.get((20 + captured).next_multiple_of(4)..)?;
    Some(PacketRecord {
        at: Duration::from_nanos(nanos),
        link: Link {
            from: address(12)?,
            to: address(16)?,
        },
        length: word(body, 16)? as usize,
        fate: comment(options)?.parse::<Fate>().ok()?,
        headers,
    })
}

/// The comment is the only option.
fn comment(options: &[u8]) -> Option<&str> {
    let head = word(options, 0)?;
    if head as u16 != OPTION_COMMENT {
        return None;
    }
    std::str::from_utf8(options.get(4..4 + (head >> 16) as usize)?).ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
