//! The page: what is words is written here as HTML, so that it can be read without JavaScript; what is time is drawn by `page/*.js` from
//! [`Columns`].

use super::{
    Judgement, Outcome, Record, ShownCall,
    columns::{Columns, place_text},
    heading, verdicts,
};
use crate::history::Nanos;

/// Most messages in a page. More would make it slow to load, and none of them could be told from the next.
const MAX_MESSAGES: usize = 20_000;
/// Most rows of a witness's table.
const MAX_WITNESS_ROWS: usize = 100;

pub(super) const STYLE: &str = include_str!("page/style.css");
/// One function around all parts, so that they share names with each other and with nothing else.
pub(super) const SCRIPT: &str = concat!(
    "(() => {\n'use strict';\n",
    include_str!("page/model.js"),
    include_str!("page/view.js"),
    include_str!("page/canvas.js"),
    include_str!("page/overview.js"),
    include_str!("page/nodes.js"),
    include_str!("page/calls.js"),
    include_str!("page/input.js"),
    "})();\n"
);

/// The page of a run. If the record has more than 20,000 messages, those around the moments that matter are in it.
pub fn render(record: &Record) -> String {
    if record.messages.len() > MAX_MESSAGES {
        let mut smaller = record.clone();
        smaller.keep_messages(MAX_MESSAGES);
        return page(&smaller);
    }
    page(record)
}

fn page(record: &Record) -> String {
    format!(
        include_str!("page/page.html"),
        ruling = heading::ruling_of(record),
        title = escaped(&record.title),
        heading = heading::heading(record),
        verdicts = verdicts::verdicts(&record.judgements),
        witnesses = record
            .judgements
            .iter()
            .map(|one| witness(record, one))
            .collect::<String>(),
        plan = plan(record),
        data = data(record),
        style = STYLE,
        script = SCRIPT,
    )
}

/// Text that means itself in HTML, between tags and in attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The data as JSON that cannot end the script element that it is in: `<` is only found in strings, where it may be written as a number.
fn data(record: &Record) -> String {
    let json = serde_json::to_string(&Columns::new(record));
    let json = json.unwrap_or_else(|never| unreachable!("numbers and strings have a JSON form: {never}"));
    json.replace('<', "\\u003c")
}

/// Seconds with microseconds.
pub(super) fn seconds(time: Nanos) -> String {
    format!("{}.{:06} s", time / 1_000_000_000, time % 1_000_000_000 / 1000)
}

fn witness(record: &Record, judgement: &Judgement) -> String {
    let mut rows: Vec<(Nanos, String)> = Vec::new();
    let calls = record.operations.iter();
    for call in calls.filter(|call| judgement.operations.contains(&call.id)) {
        rows.push((call.invoked, call_row(record, call)));
    }
    for seen in record
        .seen
        .iter()
        .filter(|seen| judgement.events.contains(&seen.event))
    {
        let row = format!(
            "<tr class=\"seen\"><td><button data-event=\"{0}\">event {0}</button></td><td>{1}</td><td>saw</td><td></td><td>{2}</td>\
             <td></td><td>{3}</td></tr>\n",
            seen.event,
            seen.process,
            seconds(seen.time),
            escaped(&seen.text),
        );
        rows.push((seen.time, row));
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.sort();
    let more = match rows.len().saturating_sub(MAX_WITNESS_ROWS) {
        0 => String::new(),
        more => format!("<p>and {more} more</p>\n"),
    };
    let rows: String = rows
        .into_iter()
        .take(MAX_WITNESS_ROWS)
        .map(|(_, row)| row)
        .collect();
    format!(
        "<section>\n<h2>Witness of {}</h2>\n<table>\n<tr><th></th><th>process</th><th>call</th><th>outcome</th><th>began</th>\
         <th>took</th><th>result</th></tr>\n{rows}</table>\n{more}</section>\n",
        escaped(&judgement.checker),
    )
}

fn call_row(record: &Record, call: &ShownCall) -> String {
    let (outcome, name) = match call.outcome {
        Outcome::Ok => ("ok", "ok"),
        Outcome::Fail => ("fail", "failed"),
        Outcome::Info => ("info", "unknown"),
    };
    let during = record.faults.iter().filter(|fault| {
        let ended = call.ended.unwrap_or(call.invoked);
        fault.from < ended && fault.to.is_none_or(|to| to > call.invoked)
    });
    let during: Vec<_> = during
        .map(|fault| format!("{} ({})", fault.kind, place_text(record, &fault.place)))
        .collect();
    let during = if during.is_empty() {
        String::new()
    } else {
        format!("<br><small>during {}</small>", escaped(&during.join(", ")))
    };
    format!(
        "<tr><td><button data-call=\"{0}\">#{0}</button></td><td>{1}</td><td>{2}</td><td class=\"{outcome}\">{name}</td>\
         <td>{3}</td><td>{4}</td><td>{5}{during}</td></tr>\n",
        call.id,
        call.process,
        escaped(&call.call),
        seconds(call.invoked),
        call.ended
            .map_or(String::from("never ended"), |ended| milliseconds(
                ended.saturating_sub(call.invoked)
            )),
        escaped(&call.result),
    )
}

fn milliseconds(time: Nanos) -> String {
    format!("{}.{:03} ms", time / 1_000_000, time % 1_000_000 / 1000)
}

fn plan(record: &Record) -> String {
    if record.plan.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<details>\n<summary>Plan</summary>\n<pre>{}</pre>\n</details>\n</section>\n",
        escaped(&record.plan)
    )
}
