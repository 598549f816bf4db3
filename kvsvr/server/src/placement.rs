//! Where replicas belong, and the next safe step towards that. Pure: what is known comes in as a [`View`], what is to be done goes out as
//! a [`Decision`].
//!
//! The state of the nodes says what is wanted (a node that drains is to have no replicas), so every operation is carried out by comparing
//! what is wanted with what is: whoever leads the meta shard goes on where another one stopped. What is under way is in the rows
//! of the meta shard ([`ShardRow`]); what is real is what a shard's leader says of its membership ([`Real`]).
//!
//! A shard changes by one replica at a time, in this order:
//!
//! ```text
//! row: change {add x, remove y}     x starts an empty replica of a new incarnation
//! add x as a learner                it does not count; wait until it is caught up, in entries and in time
//! hand leadership over              if y leads
//! joint change                      to the voters with x and without y; y stays as a learner, so that it knows
//! row: x is a replica               clients may go there
//! drop y                            once it has heard of it, or does not answer
//! row: no change                    y destroys its replica
//! ```
//!
//! A replica that is made anew on its node (`reseed`) loses its vote first, as an exception: it does not count as a good one.
//!
//! Giving a change up is taking it out of the row, at any of these points: what was added and does not vote is dropped, what votes
//! stays. Deliberately not here: clocks, the network, the encoding of rows.

mod abort;
mod begin;
mod check;
mod decide;
mod model;
mod reseed;
mod state;
mod step;
#[cfg(test)]
mod tests;

pub use self::{
    check::{Request, admit, by_itself, check},
    decide::{After, Decision, Doing, Write, decide},
    model::{assume, plan},
    state::{
        Change, Node, NodeState, OpKind, OpState, Operation, Pace, Progress, Real, ShardRow, View, majority,
    },
    step::{Step, differs},
};
