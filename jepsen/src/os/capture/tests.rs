use super::*;

fn host(id: u64) -> HostId {
    HostId::node(id).unwrap()
}

/// A TCP segment with this sequence number.
fn segment(from: HostId, to: HostId, sequence: u32, fate: Fate) -> PacketRecord {
    let mut headers = vec![0; 52];
    headers[0] = 0x45;
    headers[9] = 6;
    headers[12..16].copy_from_slice(&from.address().octets());
    headers[16..20].copy_from_slice(&to.address().octets());
    headers[20..24].copy_from_slice(&[0x1b, 0xbd, 0x80, 0x01]);
    headers[24..28].copy_from_slice(&sequence.to_be_bytes());
    headers[28..32].copy_from_slice(&77_u32.to_be_bytes());
    headers[32] = 8 << 4;
    headers[33] = 0x18;
    PacketRecord {
        at: Duration::new(1_790_000_000, 123_456_789),
        link: Link { from, to },
        length: 1052,
        headers,
        fate,
    }
}

fn all_fates() -> Vec<Fate> {
    let after = Duration::from_nanos(50_000_001);
    vec![
        Fate::Forwarded { after, twice: false },
        Fate::Forwarded { after, twice: true },
        Fate::Lost,
        Fate::Cut,
        Fate::CutUnderWay,
        Fate::Overflowed,
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packets.pcapng");
    let records: Vec<PacketRecord> = all_fates()
        .into_iter()
        .map(|fate| segment(host(3), HostId::CLIENTS, 9, fate))
        .collect();
    let mut capture = Capture::create(&path, &[HostId::CLIENTS, host(3)], 1 << 20).unwrap();
    for record in &records {
        capture.record(record).unwrap();
    }
    assert!(
        capture.record(&segment(host(4), host(3), 1, Fate::Lost)).is_err(),
        "no such interface"
    );
    capture.finish().unwrap();
    assert_eq!(read(&path).unwrap(), records);

    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert_eq!(read(&path).unwrap(), records[..5], "a torn end");
    fs::write(&path, b"something else entirely").unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn a_file_is_laid_out_as_the_standard_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packets.pcapng");
    let mut capture = Capture::create(&path, &[host(1)], 1 << 20).unwrap();
    capture.record(&segment(host(1), host(2), 1, Fate::Lost)).unwrap();
    capture.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    // Section header: type, length, byte order, version 1.0, length of the section not given, length.
    let section = [word(0), word(4), word(8), word(12), word(24)];
    assert_eq!(section, [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, 28]);
    // Interface: raw IP, how much of a packet is kept, its name, nanoseconds.
    assert_eq!([word(28), word(32), word(36), word(40)], [1, 40, 101, 80]);
    assert_eq!(&bytes[44..50], [2, 0, 2, 0, b'n', b'1']);
    assert_eq!(&bytes[52..57], [9, 0, 1, 0, 9]);
    // Packet: interface 0, time, lengths kept and original, then the comment.
    let nanos = u64::from(word(80)) << 32 | u64::from(word(84));
    assert_eq!(nanos, 1_790_000_000_123_456_789);
    assert_eq!(
        [word(68), word(72), word(76), word(88), word(92)],
        [6, 96, 0, 52, 1052]
    );
    assert_eq!(&bytes[148..156], [1, 0, 4, 0, b'l', b'o', b's', b't']);
    assert_eq!(word(160), word(72));
    assert_eq!(bytes.len(), 164);
}

#[test]
fn a_full_file_is_begun_again_and_the_one_before_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packets.pcapng");
    let mut capture = Capture::create(&path, &[host(1)], 1000).unwrap();
    for sequence in 0..40 {
        capture
            .record(&segment(host(1), host(2), sequence, Fate::Cut))
            .unwrap();
    }
    capture.finish().unwrap();
    let kept: Vec<u32> = read(&path)
        .unwrap()
        .iter()
        .map(|r| r.tcp().unwrap().sequence)
        .collect();
    assert!(kept.len() >= 10 && kept.len() < 40, "{}", kept.len());
    assert_eq!(kept, (40 - kept.len() as u32..40).collect::<Vec<_>>());
}

#[test]
fn a_segment_shows_its_numbers() {
    let record = segment(host(1), host(2), 0xdead_beef, Fate::Lost);
    let expected = TcpSegment {
        source_port: 7101,
        destination_port: 32769,
        sequence: 0xdead_beef,
        acknowledged: 77,
        flags: 0x18,
        payload: 1000,
    };
    assert_eq!(record.tcp(), Some(expected));
    let mut udp = record.clone();
    udp.headers[9] = 17;
    assert_eq!(udp.tcp(), None);
    let short = PacketRecord {
        headers: vec![0x45; 12],
        ..record
    };
    assert_eq!(short.tcp(), None);
}
