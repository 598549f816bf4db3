use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use futures::FutureExt as _;
use kvsvr_core::{mem::MemEngine, testing};
use proptest::{collection::vec, prelude::*};

use super::*;

mod history;
mod threads;
mod times;

type Rows = BTreeMap<(Cf, Bytes), Bytes>;
type Hook = Box<dyn FnOnce() -> Result<(), EngineError> + Send>;

/// A [`MemEngine`] that does what a test says just before and after it takes in a batch, once. It remembers its states.
#[derive(Default)]
struct Hooked {
    engine: MemEngine,
    before_write: Mutex<Option<Hook>>,
    after_write: Mutex<Option<Hook>>,
    fail_flush: AtomicBool,
    /// After each batch, if `remember`: each may become durable, an engine flushes by itself when it likes.
    states: Mutex<Vec<Rows>>,
    remember: AtomicBool,
}

impl Hooked {
    fn failing_flush(&self, engine: &BufferedEngine) {
        *self.before_write.lock() = Some(Box::new(|| Err(broken())));
        self.fail_flush.store(true, Ordering::Relaxed);
        engine.flush().unwrap_err();
        self.fail_flush.store(false, Ordering::Relaxed);
        *self.before_write.lock() = None;
    }
}

fn run(hook: &Mutex<Option<Hook>>) -> Result<(), EngineError> {
    let hook = hook.lock().take();
    hook.map_or(Ok(()), |hook| hook())
}

fn broken() -> EngineError {
    EngineError::Io("broken".into())
}

impl EngineRead for Hooked {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(cf, key)
    }

    fn scan(&self, cf: Cf, range: Scan<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        self.engine.scan(cf, range, visit)
    }
}

impl Engine for Hooked {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        run(&self.before_write)?;
        self.engine.write(batch)?;
        if self.remember.load(Ordering::Relaxed) {
            self.states.lock().push(content(&self.engine));
        }
        run(&self.after_write)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        // Whatever can happen here should.
        (0..3).for_each(|_| std::thread::yield_now());
        self.engine.snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        if self.fail_flush.load(Ordering::Relaxed) {
            return Err(broken());
        }
        self.engine.flush()
    }

    fn get_durable(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get_durable(cf, key)
    }

    fn set_garbage_floor(&self, shard: ShardId, floor: Revision) {
        self.engine.set_garbage_floor(shard, floor);
    }
}

fn buffered(max_bytes: usize) -> (Arc<Hooked>, BufferedEngine) {
    let inner = Arc::new(Hooked::default());
    (
        inner.clone(),
        BufferedEngine::with_bounds(inner, max_bytes / 2, max_bytes, 1 << 20),
    )
}

fn apply(rows: &mut Rows, writes: &[Write]) {
    for write in writes.iter().cloned() {
        match write {
            Write::Put(cf, key, value) => drop(rows.insert((cf, key), value)),
            Write::Delete(cf, key) => drop(rows.remove(&(cf, key))),
            Write::Retire(retired) => {
                let (key, row) = retired.encode();
                rows.insert((Cf::Hist, key), row);
            }
            Write::DeleteRange(of, start, end) => {
                rows.retain(|(cf, key), _| *cf != of || *key < start || (!end.is_empty() && *key >= end));
            }
        }
    }
}

fn scan(engine: &dyn EngineRead, cf: Cf, start: &[u8], end: &[u8], reverse: bool) -> Vec<(Bytes, Bytes)> {
    let mut pairs = Vec::new();
    engine
        .scan(cf, Scan { start, end, reverse }, &mut |key, value| {
            pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            GO_ON
        })
        .unwrap();
    pairs
}

fn content(engine: &dyn EngineRead) -> Rows {
    let of = |cf| {
        scan(engine, cf, b"", b"", false)
            .into_iter()
            .map(move |(k, v)| ((cf, k), v))
    };
    Cf::ALL.into_iter().flat_map(of).collect()
}

/// Compares gets, and scans of all bounds in both directions, with the rows.
fn check(engine: &dyn EngineRead, rows: &Rows) {
    let mut bounds: BTreeSet<Bytes> = rows.keys().map(|(_, key)| key.clone()).collect();
    bounds.extend(["", "a", "ab", "b", "bc", "c", "zz"].map(Bytes::from));
    for cf in Cf::ALL {
        for start in &bounds {
            assert_eq!(
                engine.get(cf, start).unwrap(),
                rows.get(&(cf, start.clone())).cloned(),
                "{cf:?} {start:?}"
            );
            for end in &bounds {
                let inside = |key: &Bytes| key >= start && (end.is_empty() || key < end);
                let mut wanted: Vec<_> = rows
                    .iter()
                    .filter(|((of, key), _)| *of == cf && inside(key))
                    .map(|((_, key), value)| (key.clone(), value.clone()))
                    .collect();
                assert_eq!(
                    scan(engine, cf, start, end, false),
                    wanted,
                    "{cf:?} {start:?}..{end:?}"
                );
                wanted.reverse();
                assert_eq!(
                    scan(engine, cf, start, end, true),
                    wanted,
                    "{cf:?} {start:?}..{end:?} reverse"
                );
            }
        }
    }
}

#[test]
fn conforms() {
    testing::engine_conformance(|| {
        Box::new(BufferedEngine::new(Arc::new(MemEngine::new()), 1 << 20, 1 << 20))
    });
}

#[test]
fn conforms_when_every_write_drains() {
    testing::engine_conformance(|| Box::new(buffered(1).1));
}

#[test]
fn conforms_with_a_row_cache_and_without() {
    for cache_bytes in [0, 2_000] {
        testing::engine_conformance(|| {
            let inner = Arc::new(MemEngine::new());
            Box::new(BufferedEngine::with_bounds(inner, 200, 400, cache_bytes))
        });
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A batch with a range delete; these happen when what was buffered before it is drained, if something was.
    DeleteRange(Vec<Write>, Vec<Meanwhile>),
    /// Flushes; while the inner engine has not taken the rows yet, and when it has, these happen.
    Flush(Vec<Meanwhile>, Vec<Meanwhile>),
    /// The inner engine fails to take the rows.
    FailingFlush,
    CloseSnapshot(prop::sample::Index),
    Meanwhile(Meanwhile),
}

/// What may happen at any time.
#[derive(Clone, Debug)]
enum Meanwhile {
    Write(Vec<Write>),
    OpenSnapshot,
    Check,
}

fn any_key() -> impl Strategy<Value = Bytes> {
    "[a-c]{0,2}".prop_map(Bytes::from)
}

fn any_rows() -> impl Strategy<Value = Vec<Write>> {
    let cf = || prop_oneof![3 => Just(Cf::Data), 1 => Just(Cf::State)];
    let row = prop_oneof![
        3 => (cf(), any_key(), "[x-z]{1,2}").prop_map(|(cf, key, value)| Write::Put(cf, key, value.into())),
        2 => (cf(), any_key()).prop_map(|(cf, key)| Write::Delete(cf, key)),
    ];
    vec(row, 0..6)
}

fn any_meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        3 => any_rows().prop_map(Meanwhile::Write),
        2 => Just(Meanwhile::OpenSnapshot),
        1 => Just(Meanwhile::Check),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let batch = (any_rows(), any_key(), any_key(), any_rows()).prop_map(|(mut before, start, end, after)| {
        before.push(Write::DeleteRange(Cf::Data, start, end));
        before.extend(after);
        before
    });
    prop_oneof![
        6 => any_meanwhile().prop_map(Step::Meanwhile),
        2 => (batch, vec(any_meanwhile(), 0..4)).prop_map(|(batch, m)| Step::DeleteRange(batch, m)),
        2 => (vec(any_meanwhile(), 0..4), vec(any_meanwhile(), 0..4)).prop_map(|(b, a)| Step::Flush(b, a)),
        1 => Just(Step::FailingFlush),
        2 => any::<prop::sample::Index>().prop_map(Step::CloseSnapshot),
    ]
}

/// The engine under test beside plain maps of what it must show.
struct Pair {
    engine: &'static BufferedEngine,
    rows: Rows,
    /// After each batch, and before the first.
    states: Vec<Rows>,
    snapshots: Vec<(Box<dyn EngineSnapshot + 'static>, Rows)>,
}

impl Pair {
    fn meanwhile(&mut self, step: Meanwhile) {
        match step {
            Meanwhile::Write(writes) => {
                self.wrote(&writes);
                self.engine.write(WriteBatch { writes }).unwrap();
            }
            Meanwhile::OpenSnapshot => self.snapshots.push((self.engine.snapshot(), self.rows.clone())),
            Meanwhile::Check => self.check(),
        }
    }

    fn wrote(&mut self, writes: &[Write]) {
        apply(&mut self.rows, writes);
        self.states.push(self.rows.clone());
    }

    fn check(&self) {
        check(self.engine, &self.rows);
        for (snapshot, rows) in &self.snapshots {
            check(&**snapshot, rows);
        }
    }
}

fn check_inner(inner: &Hooked, drained: &Rows, durable: &Rows) {
    let now = content(&inner.engine);
    assert_eq!(now, *drained, "the inner engine is as of the last drain");
    let left = content(&inner.engine.crash());
    assert_eq!(left, *durable, "a crash leaves the last flush");
}

/// Runs the steps and checks, after each, reads, snapshots, what the inner engine holds, and what a crash would leave.
fn runs_like_maps(steps: Vec<Step>, max_bytes: usize) {
    let (inner, engine) = buffered(max_bytes);
    inner.remember.store(true, Ordering::Relaxed);
    // Hooks and snapshots refer to it; a test's engine may live to the end of the process.
    let engine: &'static BufferedEngine = Box::leak(Box::new(engine));
    let pair = Arc::new(Mutex::new(Pair {
        engine,
        rows: Rows::new(),
        states: vec![Rows::new()],
        snapshots: Vec::new(),
    }));
    let (mut drained, mut durable) = (Rows::new(), Rows::new());
    let hook = |steps: Vec<Meanwhile>| -> Option<Hook> {
        let pair = pair.clone();
        Some(Box::new(move || {
            let mut pair = pair.lock();
            steps.into_iter().for_each(|step| pair.meanwhile(step));
            pair.check();
            Ok(())
        }))
    };
    for step in steps {
        match step {
            Step::Meanwhile(step) => pair.lock().meanwhile(step),
            Step::DeleteRange(writes, meanwhile) => {
                let buffered = engine.bytes() > 0;
                // Otherwise it would run while the engine is locked.
                *inner.after_write.lock() = hook(meanwhile).filter(|_| buffered);
                engine
                    .write(WriteBatch {
                        writes: writes.clone(),
                    })
                    .unwrap();
                let mut pair = pair.lock();
                pair.wrote(&writes);
                drained = pair.rows.clone();
                // What was buffered before it has been flushed.
                durable = content(&inner.engine.crash());
                assert!(pair.states.contains(&durable));
            }
            Step::Flush(before, after) => {
                let left = engine.layers.read().frozen.is_some();
                drained = pair.lock().rows.clone();
                *inner.before_write.lock() = hook(before);
                *inner.after_write.lock() = hook(after);
                engine.flush().unwrap();
                if left {
                    // The buffer that an earlier flush left was taken first, so what happened meanwhile came along with the rest.
                    drained = pair.lock().rows.clone();
                }
                durable = drained.clone();
                // Where there was nothing to drain.
                (*inner.before_write.lock(), *inner.after_write.lock()) = (None, None);
            }
            Step::FailingFlush => inner.failing_flush(engine),
            Step::CloseSnapshot(index) => {
                let mut pair = pair.lock();
                if !pair.snapshots.is_empty() {
                    let at = index.index(pair.snapshots.len());
                    pair.snapshots.swap_remove(at);
                }
            }
        }
        pair.lock().check();
        for state in inner.states.lock().drain(..) {
            let whole = pair.lock().states.contains(&state);
            assert!(whole, "a crash could leave {state:?}");
        }
        if max_bytes == usize::MAX {
            check_inner(&inner, &drained, &durable);
        }
    }
    // Refers to the engine through its hooks and snapshots.
    pair.lock().snapshots.clear();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..testing::cases(96) })]

    #[test]
    fn reads_snapshots_and_crashes_are_as_with_plain_maps(steps in vec(any_step(), 1..16)) {
        runs_like_maps(steps, usize::MAX);
    }

    #[test]
    fn a_writer_that_drains_changes_nothing(steps in vec(any_step(), 1..12)) {
        // What happens during a drain may itself have to drain: in the one thread here that would wait for itself.
        let steps = steps.into_iter().filter_map(|step| match step {
            Step::Flush(..) | Step::FailingFlush => None,
            Step::DeleteRange(writes, _) => Some(Step::DeleteRange(writes, Vec::new())),
            other => Some(other),
        });
        runs_like_maps(steps.collect(), 600);
    }
}

fn put(cf: Cf, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Write {
    Write::Put(cf, key.into(), value.into())
}

fn write(engine: &BufferedEngine, writes: impl IntoIterator<Item = Write>) {
    let writes = writes.into_iter().collect();
    engine.write(WriteBatch { writes }).unwrap();
}

#[test]
fn a_failed_flush_keeps_the_rows_and_the_next_one_brings_them() {
    let (inner, engine) = buffered(usize::MAX);
    write(&engine, [put(Cf::Data, "a", "1")]);
    *inner.before_write.lock() = Some(Box::new(|| Err(broken())));
    engine.flush().unwrap_err();
    write(&engine, [put(Cf::Data, "a", "2"), put(Cf::Data, "b", "1")]);
    assert_eq!(engine.get(Cf::Data, b"a").unwrap(), Some("2".into()));
    assert_eq!(inner.engine.get(Cf::Data, b"a").unwrap(), None);
    engine.flush().unwrap();
    assert_eq!(engine.bytes(), 0);
    let durable = inner.engine.crash();
    assert_eq!(durable.get(Cf::Data, b"a").unwrap(), Some("2".into()));
    assert_eq!(durable.get(Cf::Data, b"b").unwrap(), Some("1".into()));
}

#[test]
fn a_failed_range_delete_changes_nothing() {
    let (inner, engine) = buffered(usize::MAX);
    write(&engine, [put(Cf::Data, "a", "1")]);
    engine.flush().unwrap();
    *inner.before_write.lock() = Some(Box::new(|| Err(broken())));
    let mut batch = WriteBatch::default();
    batch.delete_range(Cf::Data, "", "");
    engine.write(batch).unwrap_err();
    assert_eq!(engine.get(Cf::Data, b"a").unwrap(), Some("1".into()));
}

#[test]
fn bytes_are_counted_also_for_versions() {
    let (_, engine) = buffered(usize::MAX);
    let row = crate::limits::BUFFER_ROW_OVERHEAD;
    write(&engine, [put(Cf::Data, "key", "12345")]);
    assert_eq!(engine.bytes(), row + 3 + 5);
    write(&engine, [put(Cf::Data, "key", "1"), put(Cf::Hist, "key", "1")]);
    assert_eq!(engine.bytes(), 2 * (row + 3 + 1));
    let snapshot = engine.snapshot();
    write(&engine, [Write::Delete(Cf::Data, "key".into())]);
    let version = crate::limits::BUFFER_VERSION_OVERHEAD;
    assert_eq!(engine.bytes(), 2 * (row + 3 + 1) + version);
    // Only the one version that the snapshot shows is kept.
    (0..9).for_each(|_| write(&engine, [put(Cf::Data, "key", "12")]));
    assert_eq!(engine.bytes(), 2 * (row + 3 + 1) + version + 2);
    drop(snapshot);
    write(&engine, [put(Cf::Data, "key", "1")]);
    assert_eq!(engine.bytes(), 2 * (row + 3 + 1));
    assert!(!engine.needs_flush());
    engine.flush().unwrap();
    assert_eq!(engine.bytes(), 0);
}

#[test]
fn a_flush_is_due_at_the_limit_and_a_writer_at_the_bound_drains() {
    const DUE: usize = 1 << 20;
    let (inner, engine) = buffered(2 * DUE);
    let value = Bytes::from(vec![0; DUE]);
    assert_eq!(engine.flush_due().now_or_never(), None);
    write(&engine, [put(Cf::Data, "a", value.clone())]);
    assert!(engine.needs_flush());
    assert_eq!(engine.flush_due().now_or_never(), Some(()));
    write(&engine, [put(Cf::Data, "b", value)]);
    assert_eq!(inner.engine.get(Cf::Data, b"a").unwrap(), None);
    write(&engine, [put(Cf::Data, "c", "1")]);
    assert!(!engine.needs_flush());
    assert!(inner.engine.get(Cf::Data, b"b").unwrap().is_some());
    assert_eq!(inner.engine.get(Cf::Data, b"c").unwrap(), None);
    assert_eq!(
        inner.engine.get_durable(Cf::Data, b"b").unwrap(),
        None,
        "only a flush makes durable"
    );
}

/// Longer than the steps in which a scan reads the buffers; every layer has every third key, and a part is hidden.
#[test]
fn long_scans_merge_all_layers() {
    let (inner, engine) = buffered(usize::MAX);
    let engine: &'static BufferedEngine = Box::leak(Box::new(engine));
    let key = |i: u32| Bytes::from(format!("partition/of/some/length/{i:05}"));
    let layer = |of: u32| (0..3000).filter(move |i| i % 3 == of);
    let mut rows = Rows::new();
    let mut batch = |writes: Vec<Write>| {
        apply(&mut rows, &writes);
        write(engine, writes);
    };
    batch(layer(0).map(|i| put(Cf::Hist, key(i), "base")).collect());
    engine.flush().unwrap();
    batch(layer(1).map(|i| put(Cf::Hist, key(i), "frozen")).collect());
    batch(
        (0..3000)
            .step_by(5)
            .map(|i| Write::Delete(Cf::Hist, key(i)))
            .collect(),
    );
    *inner.before_write.lock() = Some(Box::new(|| Err(broken())));
    engine.flush().unwrap_err();
    batch(layer(2).map(|i| put(Cf::Hist, key(i), "active")).collect());
    batch(
        (0..3000)
            .step_by(7)
            .map(|i| put(Cf::Hist, key(i), "again"))
            .collect(),
    );
    batch(
        (0..3000)
            .step_by(11)
            .map(|i| Write::Delete(Cf::Hist, key(i)))
            .collect(),
    );
    assert!(content(&inner.engine).len() < rows.len(), "the layers are apart");
    assert_eq!(content(engine), rows);
    let range = |from: u32, to: u32, reverse| scan(engine, Cf::Hist, &key(from), &key(to), reverse);
    for (from, to) in [(0, 3000), (500, 2500), (1234, 1240), (2999, 3000)] {
        let wanted: Vec<_> = (from..to)
            .filter_map(|i| rows.get(&(Cf::Hist, key(i))).map(|value| (key(i), value.clone())))
            .collect();
        assert_eq!(range(from, to, false), wanted);
        assert_eq!(
            range(from, to, true),
            wanted.into_iter().rev().collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_scan_sees_one_state_while_its_visitor_writes_and_flushes() {
    let (_, engine) = buffered(usize::MAX);
    let key = |i: u32| Bytes::from(format!("{i:04}"));
    write(&engine, (0..1000).map(|i| put(Cf::Data, key(i), "old")));
    let mut seen = 0;
    let all = Scan {
        start: b"",
        end: b"",
        reverse: false,
    };
    engine
        .scan(Cf::Data, all, &mut |at, value| {
            assert_eq!((at, value), (&key(seen)[..], &b"old"[..]));
            if seen % 100 == 0 {
                write(&engine, (0..1000).map(|i| put(Cf::Data, key(i), "new")));
                write(&engine, [put(Cf::Data, format!("{seen:04}x"), "new")]);
            }
            if seen % 300 == 0 {
                engine.flush().unwrap();
            }
            seen += 1;
            GO_ON
        })
        .unwrap();
    assert_eq!(seen, 1000);
    assert!(
        scan(&engine, Cf::Data, b"", b"", true)
            .iter()
            .all(|(_, value)| value == "new")
    );
}
