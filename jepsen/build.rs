//! Says which version and commit a program is built from, as `KVSVR_BUILD`, for its reports. The simulator's build runs this file, too.
//!
//! It runs again when HEAD moves or one of the sources changes, so that "-dirty" is true of what was compiled. The commit is unknown
//! without git, and where the sources are not themselves a clone: an archive, perhaps unpacked inside of somebody else's clone.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

/// What both programs are made of, from the root of the sources. Tests change nothing in a program.
const SOURCES: [&str; 12] = [
    "Cargo.toml",
    "Cargo.lock",
    "proto",
    "kvsvr/core/Cargo.toml",
    "kvsvr/core/src",
    "kvsvr/client/Cargo.toml",
    "kvsvr/client/src",
    "kvsvr/server/Cargo.toml",
    "kvsvr/server/src",
    "jepsen/Cargo.toml",
    "jepsen/build.rs",
    "jepsen/src",
];
/// What the simulator is made of besides.
const SOURCES_OF_SIM: [&str; 5] = [
    "sim/Cargo.toml",
    "sim/Cargo.lock",
    "sim/.cargo",
    "sim/src",
    "sim/rocks-disk",
];

fn main() -> Result<(), Box<dyn Error>> {
    let package = env::var("CARGO_PKG_NAME")?;
    // Checkers and workloads by themselves tell nobody what they are, and need not be compiled for each commit.
    if package == "kvsvr-jepsen" && env::var_os("CARGO_FEATURE_RUNNER").is_none() {
        println!("cargo:rerun-if-changed=build.rs");
        return Ok(());
    }
    let own = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = own.parent().ok_or("the package is not in the sources")?;
    let of_sim = SOURCES_OF_SIM.iter().filter(|_| package == "kvsvr-sim");
    let sources = SOURCES.iter().chain(of_sim).copied();
    let sources: Vec<&str> = sources.filter(|source| root.join(source).exists()).collect();
    sources.iter().for_each(|source| watch(&root.join(source)));
    let commit = if is_clone(root) {
        watch_head(root);
        commit(root, &sources)
    } else {
        None
    };
    println!(
        "cargo:rustc-env=KVSVR_BUILD={} (commit {})",
        env::var("CARGO_PKG_VERSION")?,
        commit.as_deref().unwrap_or("unknown")
    );
    Ok(())
}

fn watch(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}

/// The sources are a clone, and not only inside of one.
fn is_clone(root: &Path) -> bool {
    let top = git(root, &["rev-parse", "--show-toplevel"]).map(PathBuf::from);
    let top = top.and_then(|top| top.canonicalize().ok());
    top.is_some_and(|top| root.canonicalize().is_ok_and(|root| top == root))
}

/// HEAD and the branch that it is on.
fn watch_head(root: &Path) {
    let in_git = |name: &str| {
        let path = git(root, &["rev-parse", "--git-path", name])?;
        Some(root.join(path)).filter(|path| path.exists())
    };
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    // One that is packed with others has no file of its own until it moves.
    let branch = branch.and_then(|name| in_git(&name).or_else(|| in_git("refs/heads")));
    in_git("HEAD")
        .into_iter()
        .chain(branch)
        .for_each(|path| watch(&path));
}

/// The commit, and whether the sources differ from it.
fn commit(root: &Path, sources: &[&str]) -> Option<String> {
    let commit = git(root, &["rev-parse", "--short", "HEAD"])?;
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changed = git(root, &[&status[..], sources].concat())?;
    let dirty = if changed.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}"))
}

/// What git says, if there is git and it says something.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        // It must not write. The others are meant for whoever has called cargo: a hook, perhaps.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
