//! The rows of the chat backend in kvsvr: typed reads, and the transactions that its rules ask for. The only place that puts rows and keys together.
//!
//! What may be stored, and what it says, is decided in `chat-core`; nothing is decided here but how often to look again. An error of which kvsvr says that the outcome is unknown
//! stays one ([`StoreError::is_unknown`]): whoever asked asks again, with the same ids, and what was stored is found.

mod accounts;
mod changes;
mod conversations;
mod names;
mod rows;
mod users;
mod views;
mod workers;

pub use changes::{Changes, Told};
pub use conversations::Page;
pub use names::Reserved;
pub use rows::{Carried, Store, StoreError};
pub use users::ContactRows;
pub use views::{Glance, Mine};
