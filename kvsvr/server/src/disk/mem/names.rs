//! The names of a [`MemDisk`](super::MemDisk): directories, what their names stand for, and how much of that is durable.
//!
//! A change of a name belongs to the directory that has the name, and is durable when that directory is synced, no sooner. A power failure
//! keeps a prefix of each directory's changes, of each another one. A directory whose own name is lost takes with it all that it holds. What
//! is renamed within a directory has the old name or the new one; what is moved to another directory the old one, the new one, or both.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use parking_lot::Mutex;

use super::content::{Content, Random};

pub(super) type File = Arc<Mutex<Content>>;

/// What a name stands for.
#[derive(Clone, Debug)]
enum Node {
    File(File),
    /// By its number.
    Dir(u64),
}

#[derive(Clone, Debug)]
struct Change {
    /// Among all of the disk.
    number: u64,
    /// Names, and what they stand for from then on, all at once; `None`: they are gone.
    names: Vec<(String, Option<Node>)>,
    /// The change of another directory without which this one is not kept: what leaves here has arrived there.
    needs: Option<(u64, u64)>,
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        for (name, node) in &self.names {
            match node {
                Some(node) => names.insert(name.clone(), node.clone()),
                None => names.remove(name),
            };
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Directory {
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// What is not durable yet, oldest first.
    changes: Vec<Change>,
}

/// The number of the directory that has no name.
const ROOT: u64 = 0;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Names {
    dirs: BTreeMap<u64, Directory>,
    /// The last number that was given to a directory or a change.
    last: u64,
}

pub(super) fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {path}"))
}

/// The directory of a path, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Copies files, each once: names that share a file still do.
struct Copies<F> {
    copies: BTreeMap<*const Mutex<Content>, File>,
    copy: F,
}

impl<F: FnMut(&Content) -> Content> Copies<F> {
    fn new(copy: F) -> Self {
        let copies = BTreeMap::new();
        Self { copies, copy }
    }

    fn of(&mut self, node: &Node) -> Node {
        let Node::File(file) = node else {
            return node.clone();
        };
        let copy = &mut self.copy;
        let made = self
            .copies
            .entry(Arc::as_ptr(file))
            .or_insert_with(|| Arc::new(Mutex::new(copy(&file.lock()))));
        Node::File(made.clone())
    }

    fn of_all(&mut self, names: &BTreeMap<String, Node>) -> BTreeMap<String, Node> {
        let copied = names.iter().map(|(name, node)| (name.clone(), self.of(node)));
        copied.collect()
    }
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            dirs: [(ROOT, Directory::default())].into(),
            last: ROOT,
        }
    }

    fn node(&self, path: &str) -> Option<Node> {
        let mut node = Node::Dir(ROOT);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Node::Dir(dir) = node else { return None };
            node = self.dirs.get(&dir)?.names.get(name)?.clone();
        }
        Some(node)
    }

    fn dir(&self, path: &str) -> Option<u64> {
        match self.node(path)? {
            Node::Dir(dir) => Some(dir),
            Node::File(_) => None,
        }
    }

    pub(super) fn file(&self, path: &str) -> Option<File> {
        match self.node(path)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    /// Changes names of a directory. The number of the change.
    fn change(&mut self, dir: u64, names: Vec<(String, Option<Node>)>, needs: Option<(u64, u64)>) -> u64 {
        self.last += 1;
        let number = self.last;
        let change = Change { number, names, needs };
        if let Some(directory) = self.dirs.get_mut(&dir) {
            change.apply(&mut directory.names);
            directory.changes.push(change);
        }
        number
    }

    /// Makes an empty file of this name, unless it is there. `NotFound` if there is no such directory.
    pub(super) fn create(&mut self, path: &str) -> io::Result<File> {
        let (dir, name) = split(path);
        let parent = self.dir(dir).ok_or_else(|| missing(path))?;
        match self.node(path) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::Error::new(io::ErrorKind::IsADirectory, path.to_owned())),
            None => {
                let file = File::default();
                let node = Some(Node::File(file.clone()));
                self.change(parent, vec![(name.to_owned(), node)], None);
                Ok(file)
            }
        }
    }

    /// Makes a directory and those above it, unless they are there.
    pub(super) fn create_dir(&mut self, path: &str) {
        let mut parent = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let known = self.dirs.get(&parent).and_then(|dir| dir.names.get(name));
            parent = match known {
                Some(Node::Dir(dir)) => *dir,
                _ => {
                    self.last += 1;
                    let dir = self.last;
                    self.dirs.insert(dir, Directory::default());
                    self.change(parent, vec![(name.to_owned(), Some(Node::Dir(dir)))], None);
                    dir
                }
            };
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let node = self.node(from).ok_or_else(|| missing(from))?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from), split(to));
        let source = self.dir(from_dir).ok_or_else(|| missing(from))?;
        let target = self.dir(to_dir).ok_or_else(|| missing(to))?;
        let (gone, arrived) = ((from_name.to_owned(), None), (to_name.to_owned(), Some(node)));
        if source == target {
            self.change(source, vec![gone, arrived], None);
        } else {
            let number = self.change(target, vec![arrived], None);
            self.change(source, vec![gone], Some((target, number)));
        }
        Ok(())
    }

    /// Removes a file, if there is one.
    pub(super) fn remove(&mut self, path: &str) {
        let (dir, name) = split(path);
        if let (Some(dir), Some(_)) = (self.dir(dir), self.file(path)) {
            self.change(dir, vec![(name.to_owned(), None)], None);
        }
    }

    /// Removes a directory and what is in it, in any order, as a file system lists it.
    pub(super) fn remove_dir(&mut self, path: &str, random: &mut Random) {
        let (parent, name) = split(path);
        let (Some(parent), Some(dir)) = (self.dir(parent), self.dir(path)) else {
            return;
        };
        let mut inside = self.list(path);
        while !inside.is_empty() {
            let next = random.below(inside.len() as u64);
            let name = inside.swap_remove(usize::try_from(next).unwrap_or(0));
            let below = format!("{path}/{name}");
            match self.dir(&below) {
                Some(_) => self.remove_dir(&below, random),
                None => {
                    self.change(dir, vec![(name, None)], None);
                }
            }
        }
        self.change(parent, vec![(name.to_owned(), None)], None);
    }

    /// Makes the names in a directory durable. `NotFound` if there is none.
    pub(super) fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        let dir = self.dir(path).ok_or_else(|| missing(path))?;
        self.settle(dir, self.last);
        Ok(())
    }

    /// Makes the changes of a directory durable, up to this one, and those that they need.
    fn settle(&mut self, dir: u64, through: u64) {
        let Some(directory) = self.dirs.get_mut(&dir) else {
            return;
        };
        let count = directory
            .changes
            .partition_point(|change| change.number <= through);
        let settled: Vec<Change> = directory.changes.drain(..count).collect();
        for change in &settled {
            change.apply(&mut directory.durable);
        }
        for (dir, number) in settled.into_iter().filter_map(|change| change.needs) {
            self.settle(dir, number);
        }
    }

    /// The names in a directory, sorted; none if there is no such directory.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let dir = self.dir(path).and_then(|dir| self.dirs.get(&dir));
        dir.map_or_else(Vec::new, |dir| dir.names.keys().cloned().collect())
    }

    /// All files with their paths, sorted by them.
    pub(super) fn files(&self) -> BTreeMap<String, File> {
        let mut files = BTreeMap::new();
        let mut left = vec![(String::new(), ROOT)];
        while let Some((prefix, dir)) = left.pop() {
            for (name, node) in self.dirs.get(&dir).into_iter().flat_map(|dir| &dir.names) {
                let path = format!("{prefix}{name}");
                match node {
                    Node::File(file) => {
                        files.insert(path, file.clone());
                    }
                    Node::Dir(below) => left.push((format!("{path}/"), *below)),
                }
            }
        }
        files
    }

    /// The same names, of copies of the files.
    pub(super) fn copied(&self) -> Self {
        let mut copies = Copies::new(Content::clone);
        let mut copied = self.clone();
        for (number, directory) in &self.dirs {
            let changes = directory.changes.iter().map(|change| Change {
                names: change
                    .names
                    .iter()
                    .map(|(name, node)| (name.clone(), node.as_ref().map(|node| copies.of(node))))
                    .collect(),
                ..change.clone()
            });
            let changes = changes.collect();
            let copy = Directory {
                names: copies.of_all(&directory.names),
                durable: copies.of_all(&directory.durable),
                changes,
            };
            copied.dirs.insert(*number, copy);
        }
        copied
    }

    /// The names that a power failure leaves, all of them durable, of the files that it leaves; and how many changes it undid.
    pub(super) fn crash(&self, random: &mut Random) -> (Self, u64) {
        let mut kept = BTreeSet::new();
        let mut pending = BTreeSet::new();
        for directory in self.dirs.values() {
            let numbers = || directory.changes.iter().map(|change| change.number);
            let some = random.below(directory.changes.len() as u64 + 1);
            kept.extend(numbers().take(usize::try_from(some).unwrap_or(usize::MAX)));
            pending.extend(numbers());
        }
        let holds = |number: &u64| kept.contains(number) || !pending.contains(number);
        let is_kept = |change: &&Change| {
            let needed = change.needs.map(|(_, number)| number);
            kept.contains(&change.number) && needed.is_none_or(|number| holds(&number))
        };
        let mut copies = Copies::new(|content: &Content| content.clone().crash(random));
        let mut after = Self {
            dirs: BTreeMap::new(),
            last: self.last,
        };
        let mut left = vec![ROOT];
        while let Some(number) = left.pop() {
            let Some(directory) = self
                .dirs
                .get(&number)
                .filter(|_| !after.dirs.contains_key(&number))
            else {
                continue;
            };
            let mut names = directory.durable.clone();
            for change in directory.changes.iter().filter(is_kept) {
                change.apply(&mut names);
            }
            left.extend(names.values().filter_map(|node| match node {
                Node::Dir(below) => Some(*below),
                Node::File(_) => None,
            }));
            let names = copies.of_all(&names);
            let found = Directory {
                durable: names.clone(),
                names,
                changes: Vec::new(),
            };
            after.dirs.insert(number, found);
        }
        (after, (pending.len() - kept.len()) as u64)
    }
}
