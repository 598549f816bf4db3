//! Retired versions.

use kvsvr_core::{keys, rows::Retired, types::Partition};

use super::*;

/// More versions of one key than a look-up steps over, in both buffers.
#[test]
fn all_versions_of_a_hot_key_are_found() {
    let (inner, engine) = buffered(usize::MAX);
    let key = keys::data_key(ShardId(1), &Partition::local("p"), b"hot");
    let versions = 3 * crate::limits::BUFFER_FORMER_STEPS as u64;
    let retired = |mod_rev: u64| Retired {
        data_key: key.clone(),
        row: mod_rev.to_string().into(),
        mod_rev,
        superseded_at: mod_rev + 1,
    };
    let mut rows = Rows::new();
    let mut half = None;
    for revision in 1..=versions {
        let mut writes = vec![put(Cf::Data, key.clone(), revision.to_string())];
        writes.extend((revision > 1).then(|| Write::Retire(retired(revision - 1))));
        apply(&mut rows, &writes);
        write(&engine, writes);
        if revision == versions / 2 {
            half = Some((engine.snapshot(), rows.clone()));
            inner.failing_flush(&engine);
        }
    }
    let states: [(&dyn EngineRead, &Rows); 2] = match &half {
        Some((snapshot, then)) => [(&engine, &rows), (&**snapshot, then)],
        None => unreachable!("there are that many"),
    };
    for (engine, rows) in states {
        for revision in 1..=versions {
            let at = (Cf::Hist, retired(revision).encode().0);
            assert_eq!(engine.get(at.0, &at.1).unwrap(), rows.get(&at).cloned());
        }
        assert_eq!(content(engine), *rows);
    }
}
