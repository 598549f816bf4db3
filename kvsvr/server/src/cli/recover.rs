//! `kvsvr recover`: the three steps of a recovery of lost quorums, on the files of stopped nodes.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use kvsvr_proto::count;

use super::{Exit, Failure, print};
use crate::recover::{self, Collected, Plan, RecoverError};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Step 1, on each node that is left: writes what its replicas are into a file. Changes nothing.
    Collect {
        /// The stopped node's data directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The file to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Step 2, once: says which shards have lost their majority, and which survivor each of them goes on from. Changes nothing.
    Plan {
        /// The files of all nodes that are left.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The plan to write; without it the findings are only shown.
        #[arg(short, long, value_name = "PLAN")]
        output: Option<PathBuf>,
    },
    /// Step 3, on each node that is left: makes the plan true in its files. Can be repeated.
    Apply {
        /// The stopped node's data directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The plan.
        plan: PathBuf,
        /// The cluster's name, to confirm that acknowledged writes may be lost [default: asked for, on a terminal].
        #[arg(long, value_name = "CLUSTER-NAME")]
        confirm: Option<String>,
    },
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        let exit = match &error {
            RecoverError::Wal(_)
            | RecoverError::Storage(_)
            | RecoverError::HalfInstalled(_)
            | RecoverError::Store(crate::store::StoreError::Damaged { .. }) => Exit::Storage,
            RecoverError::Store(_)
            | RecoverError::NoMember(_)
            | RecoverError::NotPlanned(_)
            | RecoverError::StateChanged { .. } => Exit::DataRefused,
            RecoverError::BadFile { .. } | RecoverError::OtherCluster(_) | RecoverError::SameNode(_) => {
                Exit::Usage
            }
            RecoverError::NothingLost | RecoverError::NoSurvivor(_) => Exit::Error,
        };
        Failure::new(exit, error.to_string())
    }
}

pub(super) fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Collect { data, output } => collect(&data, &output),
        Command::Plan { files, output } => plan(&files, output.as_deref()),
        Command::Apply { data, plan, confirm } => apply(&data, &plan, confirm),
    }
}

fn collect(data: &Path, output: &Path) -> Result<Exit, Failure> {
    let collected = super::runtime()?.block_on(recover::collect(data))?;
    recover::write(output, &collected)?;
    print(&format!(
        "node {} of cluster {}: {}, written to {}\n",
        collected.node_id,
        match &collected.cluster_name[..] {
            "" => &collected.cluster_id,
            name => name,
        },
        count(collected.replicas.len(), "replica"),
        output.display()
    ))
}

fn plan(files: &[PathBuf], output: Option<&Path>) -> Result<Exit, Failure> {
    let collected = files.iter().map(|file| recover::read::<Collected>(file));
    let (findings, plan) = recover::plan(collected.collect::<Result<_, _>>()?)?;
    print(&(findings.lines().join("\n") + "\n"))?;
    let plan = plan?;
    let Some(output) = output else {
        return Ok(Exit::Clean);
    };
    recover::write(output, &plan)?;
    print(&format!(
        "\nThe plan is in {file}. Nothing is changed yet. On each of the nodes {nodes}, which must not run until all of them have it:\n  kvsvr recover apply --data DIR {file}\n",
        file = output.display(),
        nodes = plan
            .nodes
            .keys()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    ))
}

fn apply(data: &Path, plan: &Path, confirm: Option<String>) -> Result<Exit, Failure> {
    let plan = recover::read::<Plan>(plan)?;
    let runtime = super::runtime()?;
    let node = runtime.block_on(recover::StoppedNode::open(data, &plan))?;
    let id = node.id();
    if node.actions().is_empty() {
        return print(&format!(
            "node {id}: all is done already, or nothing is to be done\n"
        ));
    }
    let actions: Vec<String> = node.actions().iter().map(recover::Action::text).collect();
    print(&format!(
        "node {id} of cluster {}, {}:\n  {}\nThis cannot be undone, and writes that were acknowledged may be lost.\n",
        plan.cluster_name,
        data.display(),
        actions.join("\n  ")
    ))?;
    confirmed(&plan.cluster_name, confirm)?;
    runtime.block_on(node.apply())?;
    print(&format!(
        "node {id}: done. Start it when all nodes of the plan have it\n"
    ))
}

/// The operator knows which cluster this is.
fn confirmed(name: &str, given: Option<String>) -> Result<(), Failure> {
    let given = match given {
        Some(given) => given,
        None if io::stdin().is_terminal() => {
            print("Type the cluster's name to go on: ")?;
            // A prompt that cannot be seen is typed into all the same.
            drop(io::stdout().flush());
            let mut line = String::new();
            let read = io::stdin().read_line(&mut line);
            read.map_err(|e| Failure::new(Exit::Error, format!("cannot read the answer: {e}")))?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => String::new(),
    };
    if given == name {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!(
            "NOT_CONFIRMED: nothing was changed. Give the name of the cluster that the plan is for: --confirm {name}"
        ),
    ))
}
