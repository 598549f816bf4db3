//! One run as a picture: a self-contained HTML page with what nodes, faults and clients did over time, and the proof of what went wrong.
//!
//! [`Record`] is what a run leaves behind; it is kept as JSON beside the plan, and [`render`] makes the page of it then or later. The parts
//! that come from a history are made by [`operations_of`], [`seen_of`] and [`rates_of`]; states of nodes that are sampled are made short by
//! [`changes_of`].
//!
//! Relies on nothing but its input: no clock, no file, and the page loads nothing. The page is written in plain HTML, CSS and JavaScript in
//! `report/page/`. It does not judge: verdicts come from `check`.

mod columns;
mod from_history;
mod heading;
mod packing;
mod page;
mod rates;
mod record;
#[cfg(test)]
mod tests;
mod verdicts;
mod window;

pub use self::{
    from_history::{operations_of, seen_of},
    page::render,
    rates::{Bucket, Rates, rates_of},
    record::{
        Fault, Judge, Judgement, Mark, Message, NodeState, Outcome, Place, Record, Role, Ruling, ShownCall,
        ShownEvent, changes_of,
    },
};
