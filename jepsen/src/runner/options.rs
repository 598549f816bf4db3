//! What a run is asked to do, and the plan that comes of it on this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use super::{
    load,
    plan::{Nemesis, Plan, draw, modes},
    planted::Planted,
    world,
};
use crate::os::capabilities::Capability;

/// Operations that must be carried out in each second of the load, unless a number is given.
const LEAST_RATE: f64 = 20.0;

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's binary.
    pub binary: PathBuf,
    /// Names of programs, or `all`.
    pub workloads: Vec<String>,
    /// Names of nemeses, `all` (that are possible here, but for those that change members), or `none`.
    pub nemeses: Vec<String>,
    /// How long clients work.
    pub load: Duration,
    /// Nodes.
    pub nodes: u64,
    /// Data shards.
    pub shards: u32,
    /// Of all chance.
    pub seed: u64,
    /// Clients of all programs together.
    pub clients: u32,
    /// Operations in a second that clients try to make together.
    pub rate: u32,
    /// Loopback and the proxy, even if there could be namespaces.
    pub proxy: bool,
    /// Where disks of nodes are.
    pub scratch: PathBuf,
    /// Where the report is written.
    pub report: PathBuf,
    /// Operations that must be carried out; `None`: 20 for each second of load.
    pub least_ok: Option<u64>,
    /// Percent of unknown outcomes that are too many.
    pub most_unknown: f64,
    /// A plan to run again, instead of the options that make one.
    pub plan: Option<Plan>,
    /// Nodes keep their whole log, from which unknown outcomes are resolved; then they send no snapshots.
    pub keep_log: bool,
    /// The planted bug that nodes and clients are to have.
    pub mutant: Option<Planted>,
    /// The command line, for the report.
    pub command: String,
}

/// A plan for this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// What is run.
    pub plan: Plan,
    /// Kinds that are not in the plan, and why.
    pub left_out: BTreeMap<Nemesis, String>,
}

impl Options {
    /// Makes the plan.
    ///
    /// # Errors
    /// What was asked for cannot be: an unknown name, a nemesis that is not possible here, too little time.
    pub fn prepare(&self, capabilities: &[Capability]) -> Result<Prepared, String> {
        let here = world::Here::new(capabilities, self.proxy);
        if let Some(plan) = &self.plan {
            require(&plan.nemeses, here)?;
            if let Some(mode) = plan.modes().into_iter().find(|mode| !here.can(*mode)) {
                return Err(format!("the plan has {mode}, which needs the switch"));
            }
            within_load(plan)?;
            return Ok(Prepared {
                left_out: left_out(&plan.nemeses, here),
                plan: plan.clone(),
            });
        }
        if !(1..=99).contains(&self.nodes) || self.shards == 0 {
            return Err("a cluster has 1 to 99 nodes and at least one shard".into());
        }
        let nemeses = self.nemeses(here)?;
        if self.nodes < 4 && nemeses.contains(&Nemesis::Members) {
            return Err("members needs at least 4 nodes: what a drained one had must go somewhere".into());
        }
        if self.nodes < 3 && nemeses.contains(&Nemesis::Replace) {
            return Err("replace needs at least 3 nodes: the others must have what one loses".into());
        }
        let load_ms = self.load.as_millis() as u64;
        let left_out = left_out(&nemeses, here);
        let mut possible = modes(&nemeses, self.nodes);
        possible.retain(|mode| here.can(*mode));
        let plan = Plan {
            seed: self.seed,
            nodes: self.nodes,
            shards: self.shards,
            load_ms,
            workload: load::spec(&self.workloads, self.clients, self.rate)?,
            faults: draw(self.seed, self.nodes, self.shards, load_ms, &possible)?,
            nemeses,
        };
        Ok(Prepared { plan, left_out })
    }

    /// Operations that must be carried out.
    pub fn least_ok(&self, plan: &Plan) -> u64 {
        let by_rate = plan.load_ms as f64 / 1000.0 * LEAST_RATE;
        self.least_ok.unwrap_or(by_rate as u64)
    }

    /// The kinds that are asked for, each once.
    fn nemeses(&self, here: world::Here<'_>) -> Result<Vec<Nemesis>, String> {
        if self.nemeses.len() > 1 && self.nemeses.iter().any(|name| name == "none") {
            let all = self.nemeses.join(",");
            return Err(format!(
                "--nemesis {all}: none means that nothing goes wrong, and stands alone"
            ));
        }
        let mut wanted = BTreeSet::new();
        for name in &self.nemeses {
            match name.as_str() {
                "none" => {}
                "all" => {
                    let possible =
                        |nemesis: &Nemesis| !nemesis.changes_members() && here.missing(*nemesis).is_none();
                    wanted.extend(Nemesis::ALL.into_iter().filter(possible));
                }
                name => {
                    wanted.insert(name.parse::<Nemesis>()?);
                }
            }
        }
        let wanted: Vec<Nemesis> = wanted.into_iter().collect();
        require(&wanted, here)?;
        Ok(wanted)
    }
}

/// Kinds that are not among these, and why.
fn left_out(nemeses: &[Nemesis], here: world::Here<'_>) -> BTreeMap<Nemesis, String> {
    let others = Nemesis::ALL.into_iter().filter(|one| !nemeses.contains(one));
    let why = |nemesis| here.missing(nemesis).unwrap_or("not asked for").to_owned();
    others.map(|nemesis| (nemesis, why(nemesis))).collect()
}

/// All of these are possible here.
fn require(nemeses: &[Nemesis], here: world::Here<'_>) -> Result<(), String> {
    for nemesis in nemeses {
        if let Some(why) = here.missing(*nemesis) {
            return Err(format!(
                "{nemesis} is not possible here ({why}); `--nemesis all` takes what is"
            ));
        }
    }
    Ok(())
}

/// No fault of a plan that was changed by hand begins when its load is over.
fn within_load(plan: &Plan) -> Result<(), String> {
    let late = plan.faults.iter().find(|fault| fault.at_ms >= plan.load_ms);
    late.map_or(Ok(()), |fault| {
        let (at, load) = (fault.at_ms, plan.load_ms);
        Err(format!(
            "the plan's fault at {at} ms begins when the load is over; it takes {load} ms"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::capabilities::Mechanism;

    fn options(nemeses: &[&str]) -> Options {
        Options {
            binary: PathBuf::new(),
            workloads: vec!["register".into()],
            nemeses: nemeses.iter().map(|name| (*name).to_owned()).collect(),
            load: Duration::from_secs(120),
            nodes: 3,
            shards: 2,
            seed: 1,
            clients: 4,
            rate: 100,
            proxy: false,
            scratch: PathBuf::new(),
            report: PathBuf::new(),
            least_ok: None,
            most_unknown: 5.0,
            plan: None,
            keep_log: false,
            mutant: None,
            command: String::new(),
        }
    }

    fn without(mechanism: Mechanism) -> Vec<Capability> {
        let capability = |one| Capability {
            mechanism: one,
            missing: (one == mechanism).then(|| "no root".to_owned()),
        };
        Mechanism::ALL.map(capability).into()
    }

    #[test]
    fn all_takes_what_is_possible_and_tells_what_is_not() {
        let here = without(Mechanism::DiskImages);
        let prepared = options(&["all"]).prepare(&here).unwrap();
        let why = || "no root".to_owned();
        let of_members = [Nemesis::Members, Nemesis::Replace].map(|one| (one, "not asked for".to_owned()));
        let mut left_out = BTreeMap::from([(Nemesis::Power, why()), (Nemesis::DiskFull, why())]);
        left_out.extend(of_members);
        assert_eq!(prepared.left_out, left_out);
        assert_eq!(prepared.plan.nemeses.len(), Nemesis::ALL.len() - 4);
        let happens = |nemesis: &Nemesis| {
            let mut faults = prepared.plan.faults.iter();
            faults.any(|fault| fault.action.nemesis() == *nemesis)
        };
        assert!(prepared.plan.nemeses.iter().all(happens) && !left_out.keys().any(happens));
    }

    #[test]
    fn what_is_not_asked_for_is_told_too() {
        let here = without(Mechanism::Shim);
        let prepared = options(&["kill", "link"]).prepare(&here).unwrap();
        assert_eq!(prepared.left_out.len(), Nemesis::ALL.len() - 2);
        assert_eq!(prepared.left_out[&Nemesis::Pause], "not asked for");
        assert_eq!(prepared.left_out[&Nemesis::Power], "no root", "it needs both");
        let mut again = options(&["none"]);
        again.plan = Some(prepared.plan);
        assert_eq!(again.prepare(&here).unwrap().left_out, prepared.left_out);
    }

    #[test]
    fn behind_the_proxy_links_need_to_know_who_connects() {
        let here = without(Mechanism::PeerLookup);
        assert!(options(&["partition"]).prepare(&here).is_ok(), "the switch does");
        let mut proxied = options(&["all"]);
        proxied.proxy = true;
        let left_out = proxied.prepare(&here).unwrap().left_out;
        assert_eq!(
            left_out.into_keys().collect::<Vec<_>>(),
            [
                Nemesis::Partition,
                Nemesis::Link,
                Nemesis::Members,
                Nemesis::Replace
            ]
        );
        let links = options(&["link"]);
        let ways = |options: &Options| {
            options
                .prepare(&without(Mechanism::Shim))
                .unwrap()
                .plan
                .modes()
                .len()
        };
        proxied.nemeses = vec!["link".into()];
        (proxied.load, proxied.proxy) = (Duration::from_secs(600), true);
        let switched = Options {
            load: proxied.load,
            ..links
        };
        assert_eq!(
            (ways(&switched), ways(&proxied)),
            (5, 3),
            "it repeats and reorders nothing"
        );
        let plan = switched.prepare(&without(Mechanism::Shim)).unwrap().plan;
        proxied.plan = Some(plan);
        let error = proxied.prepare(&without(Mechanism::Shim)).unwrap_err();
        assert!(error.contains("which needs the switch"), "{error}");
        let mut unprivileged = without(Mechanism::PeerLookup);
        unprivileged[0].missing = Some("no root".into());
        assert!(options(&["link"]).prepare(&unprivileged).is_err());
    }

    #[test]
    fn what_is_named_and_not_possible_is_refused() {
        let here = without(Mechanism::DiskImages);
        let error = options(&["kill", "power"]).prepare(&here).unwrap_err();
        assert!(error.contains("power") && error.contains("no root"), "{error}");
        let error = options(&["killl"]).prepare(&here).unwrap_err();
        assert!(
            error.contains("\"killl\"") && error.contains("kill-all"),
            "{error}"
        );
        for both in [["kill", "none"], ["none", "all"]] {
            let error = options(&both).prepare(&here).unwrap_err();
            assert!(
                error.contains(&both.join(",")) && error.contains("alone"),
                "{error}"
            );
        }
        let none = options(&["none"]).prepare(&here).unwrap();
        assert!(none.plan.faults.is_empty() && none.plan.nemeses.is_empty());
    }

    #[test]
    fn a_plan_is_run_as_it_is() {
        let here = without(Mechanism::Namespaces);
        let first = options(&["kill", "link"]).prepare(&here).unwrap().plan;
        let mut again = options(&["none"]);
        again.plan = Some(first.clone());
        assert_eq!(again.prepare(&here).unwrap().plan, first);
        assert_eq!(again.least_ok(&first), 2_400);
        let mut late = again.clone();
        late.plan.as_mut().unwrap().faults[0].at_ms = first.load_ms;
        let error = late.prepare(&here).unwrap_err();
        assert!(error.contains("when the load is over"), "{error}");
        let lacking = without(Mechanism::Shim);
        let clocks = options(&["clock"]).prepare(&here).unwrap().plan;
        again.plan = Some(clocks);
        assert!(again.prepare(&lacking).is_err());
    }
}
