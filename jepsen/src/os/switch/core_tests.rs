//! Scheduling and the meaning of each rule, with given time and packets.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn host(id: u64) -> HostId {
    HostId::node(id).unwrap()
}

fn link(from: u64, to: u64) -> Link {
    Link {
        from: host(from),
        to: host(to),
    }
}

/// An IPv4 packet for a host with a number to know it by.
fn packet(to: HostId, number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0] = 0x45;
    bytes[16..20].copy_from_slice(&to.address().octets());
    bytes[20..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

fn core(seed: u64) -> Core {
    Core::new((1..=3).map(host), seed)
}

/// Sends this many packets from 1 to 2, one each millisecond, and tells when which arrived.
fn send(core: &mut Core, count: u32) -> Vec<(Duration, u32)> {
    for number in 0..count {
        core.accept(MS * number, host(1), &packet(host(2), number))
            .unwrap();
    }
    arrivals(core)
}

fn arrivals(core: &mut Core) -> Vec<(Duration, u32)> {
    let mut seen = Vec::new();
    while let Some(due) = core.next_due() {
        let arrival = core.pop_due(due).unwrap();
        if !arrival.cut {
            seen.push((due, number(&arrival.packet)));
        }
    }
    seen
}

#[test]
fn a_perfect_link_delivers_at_once_in_order() {
    let mut core = core(1);
    let all: Vec<_> = (0..10).map(|n| (MS * n, n)).collect();
    assert_eq!(send(&mut core, 10), all);
    let stats = core.stats()[&link(1, 2)];
    assert_eq!(
        stats,
        LinkStats {
            delivered: 10,
            delivered_bytes: 240,
            ..LinkStats::default()
        }
    );
}

#[test]
fn what_is_not_for_a_host_here_goes_nowhere() {
    let mut core = core(1);
    let mut ipv6 = packet(host(2), 0);
    ipv6[0] = 0x60;
    let to_self = packet(host(1), 0);
    let unknown = packet(host(9), 0);
    let foreign = {
        let mut bytes = packet(host(2), 0);
        bytes[17] = 79;
        bytes
    };
    for bytes in [&[][..], &[0x45; 10], &ipv6, &to_self, &unknown, &foreign] {
        assert_eq!(core.accept(MS, host(1), bytes), None);
    }
    assert_eq!(core.next_due(), None);
}

#[test]
fn a_cut_is_one_way() {
    let mut core = core(1);
    core.set(
        link(1, 2),
        LinkRules {
            cut: true,
            ..LinkRules::default()
        },
    );
    assert_eq!(
        core.accept(MS, host(1), &packet(host(2), 1)),
        Some((link(1, 2), Fate::Cut))
    );
    for (from, to) in [(2, 1), (1, 3), (3, 2)] {
        core.accept(MS, host(from), &packet(host(to), 2)).unwrap();
    }
    assert_eq!(arrivals(&mut core).len(), 3);
    core.heal();
    core.accept(MS, host(1), &packet(host(2), 3)).unwrap();
    assert_eq!(arrivals(&mut core), [(MS, 3)]);
    assert_eq!(core.stats()[&link(1, 2)].cut, 1);
}

#[test]
fn what_is_under_way_does_not_cross_a_cut() {
    let mut core = core(1);
    core.set(
        link(1, 2),
        LinkRules {
            delay: MS * 50,
            ..LinkRules::default()
        },
    );
    core.accept(MS, host(1), &packet(host(2), 1)).unwrap();
    core.set(
        link(1, 2),
        LinkRules {
            cut: true,
            ..LinkRules::default()
        },
    );
    let arrival = core.pop_due(MS * 51).unwrap();
    assert!(arrival.cut);
    assert_eq!(
        core.stats()[&link(1, 2)],
        LinkStats {
            cut: 1,
            delayed: 1,
            ..LinkStats::default()
        }
    );
}

#[test]
fn what_happens_to_packets_is_counted_and_nothing_else() {
    let counted = |rules: LinkRules| {
        let mut core = core(7);
        core.set(link(1, 2), rules);
        send(&mut core, 100);
        let stats = core.stats()[&link(1, 2)];
        (stats.delayed, stats.jittered, stats.overtaking)
    };
    let perfect = LinkRules::default();
    assert_eq!(counted(perfect), (0, 0, 0));
    let twice = LinkRules {
        duplicate: 1.0,
        ..perfect
    };
    assert_eq!(counted(twice), (0, 0, 0));
    let slow = LinkRules {
        delay: MS * 50,
        reorder: true,
        ..perfect
    };
    assert_eq!(counted(slow), (100, 0, 0), "all are slow in the same way");
    let uneven = LinkRules {
        jitter: MS * 30,
        ..perfect
    };
    assert_eq!(counted(uneven), (0, 100, 0), "they keep their order");
    let (_, jittered, overtaking) = counted(LinkRules {
        reorder: true,
        ..uneven
    });
    assert!(jittered == 100 && (20..100).contains(&overtaking), "{overtaking}");
    let one = LinkRules {
        jitter: MS / 2,
        reorder: true,
        duplicate: 1.0,
        ..perfect
    };
    assert_eq!(counted(one).2, 0, "copies of one packet do not overtake it");
}

#[test]
fn delay_and_jitter_make_it_later_within_their_bounds() {
    let rules = LinkRules {
        delay: MS * 50,
        jitter: MS * 30,
        reorder: true,
        ..LinkRules::default()
    };
    let mut core = core(7);
    core.set(link(1, 2), rules);
    let fate = core.accept(MS, host(1), &packet(host(2), 0)).unwrap().1;
    let Fate::Forwarded { after, twice: false } = fate else {
        panic!("{fate:?}")
    };
    assert!(after >= MS * 50 && after < MS * 80);
    assert_eq!(core.pop_due(MS + after - Duration::from_nanos(1)), None);
    assert!(core.pop_due(MS + after).is_some());

    let seen = send(&mut core, 200);
    assert!(
        seen.iter()
            .all(|&(at, n)| at >= MS * (n + 50) && at < MS * (n + 80))
    );
    assert!(seen.iter().any(|&(at, n)| at < MS * (n + 55)) && seen.iter().any(|&(at, n)| at > MS * (n + 75)));
}

#[test]
fn jitter_reorders_only_where_it_may() {
    let rules = LinkRules {
        jitter: MS * 30,
        ..LinkRules::default()
    };
    let order = |reorder| {
        let mut core = core(7);
        core.set(link(1, 2), LinkRules { reorder, ..rules });
        send(&mut core, 100).iter().map(|&(_, n)| n).collect::<Vec<_>>()
    };
    assert_eq!(order(false), (0..100).collect::<Vec<_>>());
    assert_ne!(order(true), order(false));
    assert_eq!(order(true), order(true), "the same seed gives the same order");
}

#[test]
fn loss_and_duplication_happen_as_often_as_asked() {
    let mut core = core(3);
    core.set(
        link(1, 2),
        LinkRules {
            loss: 0.3,
            duplicate: 0.5,
            ..LinkRules::default()
        },
    );
    let delivered = send(&mut core, 10_000).len() as u64;
    let stats = core.stats()[&link(1, 2)];
    assert!((2_800..3_200).contains(&stats.lost), "{stats:?}");
    assert!((3_300..3_700).contains(&stats.duplicated), "{stats:?}");
    assert_eq!(stats.delivered, delivered);
    assert_eq!(delivered, 10_000 - stats.lost + stats.duplicated);
}

#[test]
fn other_rules_and_other_links_do_not_change_which_packets_are_lost() {
    let survivors = |rules: LinkRules, beside: bool| {
        let mut core = core(5);
        core.set(link(1, 2), LinkRules { loss: 0.5, ..rules });
        if beside {
            send_beside(&mut core);
        }
        let mut seen: Vec<u32> = send(&mut core, 100).iter().map(|&(_, n)| n).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let plain = survivors(LinkRules::default(), false);
    let more = LinkRules {
        jitter: MS * 9,
        reorder: true,
        duplicate: 0.5,
        ..LinkRules::default()
    };
    assert_eq!(survivors(more, false), plain);
    assert_eq!(survivors(LinkRules::default(), true), plain);
}

/// Traffic on another link, delivered.
fn send_beside(core: &mut Core) {
    for n in 0..50 {
        core.accept(MS * n, host(3), &packet(host(2), n)).unwrap();
    }
    arrivals(core);
}

#[test]
fn a_full_link_loses_what_comes_beyond_and_recovers() {
    let mut core = core(1);
    core.set(
        link(1, 2),
        LinkRules {
            delay: MS,
            ..LinkRules::default()
        },
    );
    let mut large = packet(host(2), 0);
    large.resize(MAX_UNDER_WAY / 2, 0);
    let fates: Vec<Fate> = (0..3)
        .map(|_| core.accept(MS, host(1), &large).unwrap().1)
        .collect();
    assert_eq!(fates[2], Fate::Overflowed);
    assert_eq!(arrivals(&mut core).len(), 2);
    assert_ne!(core.accept(MS, host(1), &large).unwrap().1, Fate::Overflowed);
    assert_eq!(core.stats()[&link(1, 2)].overflowed, 1);
}

#[test]
fn a_packet_that_the_device_refuses_counts_as_overflow() {
    let mut core = core(1);
    send(&mut core, 2);
    core.refused(link(1, 2), 24);
    let expected = LinkStats {
        delivered: 1,
        delivered_bytes: 24,
        overflowed: 1,
        ..LinkStats::default()
    };
    assert_eq!(core.stats()[&link(1, 2)], expected);
}
