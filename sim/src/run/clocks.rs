//! When clocks of machines were wrong, as far as the checkers of leases and ages must know.

use std::time::Duration;

use kvsvr_jepsen::{check::WrongClock, history::Nanos};

use crate::{
    faults::{Band, of_clock},
    plan::{Fault, What},
};

/// What the faults that were carried out did to clocks. A wall clock keeps what it has gained or lost by its rate: it is off for ever then.
pub(super) fn wrong(faults: &[Fault], bands: &[Band], machines: usize) -> Vec<WrongClock> {
    (0..machines)
        .flat_map(|machine| of_machine(machine, faults, bands))
        .collect()
}

fn of_machine(machine: usize, faults: &[Fault], bands: &[Band]) -> Vec<WrongClock> {
    let of_clocks = |band: &&Band| {
        let what = faults.get(band.fault).map(|fault| &fault.what);
        band.nodes.contains(&machine) && matches!(what, Some(What::WallClock { .. } | What::ClockRate { .. }))
    };
    let bands: Vec<&Band> = bands.iter().filter(of_clocks).collect();
    let mut moments: Vec<Duration> = bands.iter().map(|band| band.from).collect();
    moments.extend(bands.iter().filter_map(|band| band.until));
    moments.sort_unstable();
    moments.dedup();
    let mut wrong = Vec::new();
    // Nanoseconds that the oscillator has gained.
    let mut gained = 0i128;
    for (at, from) in moments.iter().enumerate() {
        let to = moments.get(at + 1);
        let active = bands
            .iter()
            .filter(|band| band.from <= *from && band.until.is_none_or(|until| until > *from));
        let (rate, offset_ms) = of_clock(active.map(|band| &faults[band.fault].what));
        let length = to.map_or(0.0, |to| (*to - *from).as_nanos() as f64);
        let gains = ((rate - 1.0) * length) as i128;
        let offset = gained + i128::from(offset_ms) * 1_000_000;
        let off = [offset, offset + gains];
        let most = |amounts: [i128; 2]| {
            let most = amounts.into_iter().max().unwrap_or(0).max(0);
            Nanos::try_from(most).unwrap_or(Nanos::MAX)
        };
        let one = WrongClock {
            node: machine as u64 + 1,
            from: nanos(*from),
            to: to.map_or(Nanos::MAX, |to| nanos(*to)),
            ahead: most(off),
            behind: most(off.map(|off| -off)),
            rate_off: ((rate - 1.0).abs() * 1e6).ceil() as u64,
        };
        if (one.ahead, one.behind, one.rate_off) != (0, 0, 0) {
            wrong.push(one);
        }
        gained += gains;
    }
    wrong
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::Victims;

    const SECOND: Nanos = 1_000_000_000;

    fn fault(what: What) -> Fault {
        Fault {
            at_ms: 0,
            for_ms: 0,
            what,
        }
    }

    fn band(fault: usize, from: u64, until: u64) -> Band {
        Band {
            came: [].into(),
            fault,
            kind: "",
            nodes: BTreeSet::from([1]),
            from: Duration::from_secs(from),
            until: Some(Duration::from_secs(until)),
        }
    }

    #[test]
    fn jumps_end_and_what_a_rate_has_gained_stays() {
        let victims = || Victims::Nodes([1].into());
        let offset_ms = -7_000;
        let faults = [
            fault(What::WallClock {
                victims: victims(),
                offset_ms,
            }),
            fault(What::Kill { victims: victims() }),
            fault(What::ClockRate {
                victims: victims(),
                rate: 1.1,
            }),
        ];
        let bands = [band(0, 10, 20), band(1, 12, 15), band(2, 30, 40)];
        let wrong = wrong(&faults, &bands, 3);
        let told: Vec<_> = wrong
            .iter()
            .map(|one| (one.from / SECOND, one.to / SECOND, one.ahead, one.behind))
            .collect();
        assert!(wrong.iter().all(|one| one.node == 2));
        let gained = told[1].2;
        assert!(gained.abs_diff(SECOND) < 1_000, "{gained}");
        let for_ever = Nanos::MAX / SECOND;
        assert_eq!(
            told,
            [
                (10, 20, 0, 7 * SECOND),
                (30, 40, gained, 0),
                (40, for_ever, gained, 0)
            ]
        );
        assert_eq!((wrong[1].rate_off, wrong[2].rate_off), (100_001, 0));
    }
}
