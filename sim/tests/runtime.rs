//! openraft's own test suite for async runtimes, on the node's runtime in its simulated form.

#[test]
fn passes_openrafts_conformance_suite() {
    openraft_rt::testing::Suite::<kvsvr::raft::runtime::Runtime>::test_all();
}
