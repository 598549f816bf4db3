//! The services on the production node, in memory, with delivery workers: what people do, and what their devices see.
#![expect(clippy::unwrap_used, reason = "tests: what does not work fails them")]

mod accounts;
mod contacts;
mod groups;
mod messages;
mod world;
