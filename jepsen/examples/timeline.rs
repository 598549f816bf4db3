//! Makes the page of a run: `timeline RECORD.json PAGE.html`, or of an invented run with so many operations and a stale read:
//! `timeline --demo 20000 PAGE.html`.

use std::{env, error::Error, fs};

use kvsvr_jepsen::report::{self, Record};

#[path = "timeline/demo.rs"]
mod demo;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (record, page) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--demo", operations, page] => (demo::record(operations.parse()?), page),
        [record, page] => (serde_json::from_slice::<Record>(&fs::read(record)?)?, page),
        _ => {
            return Err(
                "usage: timeline RECORD.json PAGE.html | timeline --demo OPERATIONS PAGE.html".into(),
            );
        }
    };
    fs::write(page, report::render(&record))?;
    Ok(())
}
