//! x
use kvsvr_jepsen::report::Record;
pub(crate) fn record(_: u64) -> Record { Record::default() }
