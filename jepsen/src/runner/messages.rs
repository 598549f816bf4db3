//! The packets of a capture as messages of the picture: those that carry something, and those that tell of a connection.

use std::time::Duration;

use crate::{
    history::Nanos,
    os::{
        capture::{Fate, PacketRecord},
        link::HostId,
    },
    report::Message,
};

/// TCP's flags, as [`TcpSegment::flags`](crate::os::capture::TcpSegment) has them.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// Messages between nodes, and between nodes and clients, who have the number after the last node. `began` is the wall clock, since
/// the epoch, when the run began; what was sent before is left out.
pub fn messages_of(packets: &[PacketRecord], nodes: u64, began: Duration) -> Vec<Message> {
    let mut messages: Vec<Message> = packets
        .iter()
        .filter_map(|packet| message(packet, nodes, began))
        .collect();
    messages.sort_by_key(|message| message.sent);
    messages
}

fn message(packet: &PacketRecord, nodes: u64, began: Duration) -> Option<Message> {
    // Its sending is on record already.
    if packet.fate == Fate::CutUnderWay {
        return None;
    }
    let sent = nanos(packet.at.checked_sub(began)?);
    let segment = packet.tcp()?;
    let flags = segment.flags & (FIN | SYN | RST);
    if segment.payload == 0 && flags == 0 {
        return None;
    }
    let kind = match flags {
        0 => "data",
        flags if flags & RST != 0 => "reset",
        flags if flags & SYN != 0 => "connect",
        _ => "close",
    };
    let (arrived, fate) = match packet.fate {
        Fate::Forwarded { after, twice } => {
            let fate = if twice { "arrives twice" } else { "" };
            (Some(sent + nanos(after)), fate)
        }
        Fate::Lost => (None, "lost"),
        Fate::Cut | Fate::CutUnderWay => (None, "cut"),
        Fate::Overflowed => (None, "overflowed"),
    };
    Some(Message {
        sent,
        arrived,
        from: place(packet.link.from, nodes)?,
        to: place(packet.link.to, nodes)?,
        kind: kind.to_owned(),
        bytes: segment.payload as u64,
        fate: fate.to_owned(),
    })
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

/// The picture's number of a host.
fn place(host: HostId, nodes: u64) -> Option<u32> {
    if host == HostId::CLIENTS {
        return u32::try_from(nodes).ok();
    }
    let at = (1..=nodes).position(|id| HostId::node(id) == Some(host))?;
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::link::Link;

    fn packet(at_ms: u64, from: HostId, flags: u8, payload: usize, fate: Fate) -> PacketRecord {
        let mut headers = vec![0; 40];
        headers[0] = 0x45;
        headers[9] = 6;
        headers[32] = 5 << 4;
        headers[33] = flags;
        PacketRecord {
            at: Duration::from_millis(at_ms),
            link: Link {
                from,
                to: HostId::CLIENTS,
            },
            length: 40 + payload,
            headers,
            fate,
        }
    }

    #[test]
    fn data_and_connections_are_shown_and_acknowledgements_are_not() {
        let node = HostId::node(2).unwrap();
        let there = Fate::Forwarded {
            after: Duration::from_millis(1),
            twice: true,
        };
        let packets = [
            packet(5, node, 16, 10, there),
            packet(20, node, 16, 0, there),
            packet(19, node, RST | 16, 0, Fate::Lost),
            packet(16, node, SYN, 0, Fate::Cut),
            packet(16, node, 16, 10, Fate::CutUnderWay),
            packet(15, node, 16, 10, there),
            packet(30, HostId::node(9).unwrap(), 16, 10, there),
        ];
        let messages = messages_of(&packets, 3, Duration::from_millis(10));
        let shown: Vec<_> = messages
            .iter()
            .map(|one| (one.sent, one.arrived, one.from, one.to, &*one.kind, &*one.fate))
            .collect();
        const MS: u64 = 1_000_000;
        assert_eq!(
            shown,
            [
                (5 * MS, Some(6 * MS), 1, 3, "data", "arrives twice"),
                (6 * MS, None, 1, 3, "connect", "cut"),
                (9 * MS, None, 1, 3, "reset", "lost"),
            ]
        );
        assert_eq!(messages[0].bytes, 10);
    }
}
