//! `kvctl ops`: operations on members, their progress, and taking one back.

use std::time::Duration;

use clap::{Args, Subcommand};
use kvsvr_client::{
    Client,
    proto::{ChangeMembersRequest, MembersResponse, Operation, change_members_request::Change, operation},
};
use kvsvr_proto::count;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    context::Context,
    failure::{self, Failure},
    limits::{OPERATION_REQUEST_TIMEOUT, OPERATION_TIMEOUT, POLL},
    output::{Field, Mood},
    progress,
    text::show_span,
};

/// `kvctl ops`.
#[derive(Subcommand, Clone, Debug)]
pub enum OpsCommand {
    /// The newest operations
    List,
    /// What an operation has done, and what it waits for
    Show(ShowArgs),
    /// Take an operation back
    Abort(AbortArgs),
}

/// `kvctl ops show`.
#[derive(Args, Clone, Copy, Debug)]
pub struct ShowArgs {
    /// The operation [default: the newest]
    pub id: Option<u64>,
    /// Wait for its end
    #[arg(long)]
    pub wait: bool,
}

/// `kvctl ops abort`.
#[derive(Args, Clone, Copy, Debug)]
pub struct AbortArgs {
    /// The operation
    pub id: u64,
    /// Do not wait until it is taken back
    #[arg(long)]
    pub no_wait: bool,
}

/// Runs an ops command.
pub async fn ops(context: &mut Context, command: &OpsCommand) -> Result<(), Failure> {
    match command {
        OpsCommand::List => list(context).await,
        OpsCommand::Show(args) => {
            let members = context.client()?.members().await?;
            let id = match args.id {
                Some(id) => id,
                None => newest(&members)?,
            };
            if args.wait {
                return wait(context, id, false).await;
            }
            let operation = find(&members, id)?.clone();
            show(context, &operation, members.now_ms)
        }
        OpsCommand::Abort(args) => {
            context.confirm(&format!(
                "take operation {} back: what it has moved goes where it belongs then",
                args.id
            ))?;
            let request = ChangeMembersRequest {
                change: Some(Change::Abort(args.id)),
                ..ChangeMembersRequest::default()
            };
            let timeout = context.request_timeout().max(OPERATION_REQUEST_TIMEOUT);
            let client = context.client()?.with_timeout(timeout);
            let answer = client.change_members(request).await?;
            match answer.operation {
                Some(operation) if args.no_wait => print(context, &operation, None),
                _ => wait(context, args.id, true).await,
            }
        }
    }
}

fn newest(members: &MembersResponse) -> Result<u64, Failure> {
    let newest = members.operations.last().map(|operation| operation.id);
    newest.ok_or_else(|| Failure::new(failure::NOT_FOUND, "there was no operation yet"))
}

fn find(members: &MembersResponse, id: u64) -> Result<&Operation, Failure> {
    let found = members.operations.iter().find(|operation| operation.id == id);
    found.ok_or_else(|| {
        Failure::new(
            failure::NOT_FOUND,
            format!("there is no operation {id}; `kvctl ops list` shows the newest"),
        )
    })
}

/// What it is, in words.
fn what(operation: &Operation) -> String {
    let node = operation.node;
    match operation.kind() {
        operation::Kind::Add => format!("add node {node}"),
        operation::Kind::Drain => format!("drain node {node}"),
        operation::Kind::Undrain => format!("undrain node {node}"),
        operation::Kind::Remove => format!("remove node {node}"),
        operation::Kind::Replace => format!("replace node {node} by node {}", operation.new_node),
        operation::Kind::Evict => format!("evict node {node}"),
        operation::Kind::Restore => format!("restore node {node}"),
        operation::Kind::Label => format!("label node {node}"),
        operation::Kind::Repair => format!("repair what node {node} had"),
        operation::Kind::Return => format!("take node {node} back"),
        operation::Kind::Slow => format!("let node {node}, whose disk is slow, lead nothing"),
        operation::Kind::Quick => format!("let node {node} lead again, whose disk was slow"),
        operation::Kind::Reseed => format!("reseed shard {} on node {node}", operation.shard),
        operation::Kind::Unknown => "an operation of a newer version".to_owned(),
    }
}

fn state(operation: &Operation) -> (&'static str, Mood) {
    match operation.state() {
        operation::State::Running => ("running", Mood::Warn),
        operation::State::Aborting => ("aborting", Mood::Warn),
        operation::State::Done => ("done", Mood::Good),
        operation::State::Aborted => ("aborted", Mood::Bad),
    }
}

/// One line about how far it is.
fn progress_line(operation: &Operation, now_ms: u64) -> String {
    let steps = operation.steps_done + operation.steps_left;
    let left = match operation.time_left(now_ms) {
        Some(eta) => format!(
            ", about {} left",
            show_span(Duration::from_secs(eta.as_secs().max(1)))
        ),
        None => String::new(),
    };
    let last = operation.events.last().map(|event| event.text.as_str());
    let doing = operation.waiting.first().map(String::as_str).or(last);
    format!(
        "{}: step {} of {steps}{left}; {}",
        what(operation),
        operation.steps_done,
        doing.unwrap_or("beginning")
    )
}

/// The operation under way, if there is one and the leader of the meta shard tells: one line, and the same as JSON.
pub(crate) async fn running(client: &Client) -> Option<(String, Value)> {
    let members = client.members().await.ok()?;
    let operation = members.operations.last().filter(|operation| !operation.ended())?;
    let json = operation_json(operation, Some(members.now_ms));
    Some((
        format!(
            "operation {}, {}",
            operation.id,
            progress_line(operation, members.now_ms)
        ),
        json,
    ))
}

/// Waits for an operation's end, with its progress on standard error. `to_abort`: it is to be taken back.
pub async fn wait(context: &mut Context, id: u64, to_abort: bool) -> Result<(), Failure> {
    let timeout = context.wait_timeout(OPERATION_TIMEOUT);
    let deadline = Instant::now() + timeout;
    let client = context
        .client()?
        .with_timeout(context.request_timeout().min(timeout));
    let bar = progress::spinner();
    let mut shown = String::new();
    loop {
        // While leaders change nobody may answer for a while.
        let answer = client.members().await;
        if let Ok(members) = &answer {
            let operation = find(members, id)?;
            if operation.ended() {
                bar.finish_and_clear();
                print(context, operation, Some(members.now_ms))?;
                return outcome(operation, to_abort);
            }
            let line = progress_line(operation, members.now_ms);
            if bar.is_hidden() && line != shown {
                context.note(&line);
            }
            bar.set_message(line.clone());
            shown = line;
        }
        if Instant::now() + POLL >= deadline {
            bar.finish_and_clear();
            let text = format!(
                "operation {id} has not ended within {}; it goes on by itself",
                show_span(timeout)
            );
            return Err(Failure::timed_out(text).with_help(format!(
                "`kvctl ops show {id} --wait` waits again, `kvctl ops abort {id}` takes it back"
            )));
        }
        sleep(POLL).await;
    }
}

/// Whether it ended as it was to.
fn outcome(operation: &Operation, to_abort: bool) -> Result<(), Failure> {
    let id = operation.id;
    match (operation.state(), to_abort) {
        (operation::State::Aborted, false) => Err(Failure::new(
            failure::ABORTED,
            format!("operation {id} ({}) was taken back", what(operation)),
        )),
        _ => Ok(()),
    }
}

/// One line about an operation.
pub fn print(context: &mut Context, operation: &Operation, now_ms: Option<u64>) -> Result<(), Failure> {
    let (state, _) = state(operation);
    let took = now_ms.map(|now| {
        format!(
            ", {} in {}",
            count(operation.steps_done, "step"),
            show_span(operation.span(now))
        )
    });
    let line = format!(
        "operation {} ({}) is {state}{}",
        operation.id,
        what(operation),
        took.unwrap_or_default()
    );
    context.print(line, operation_json(operation, now_ms))
}

fn operation_json(operation: &Operation, now_ms: Option<u64>) -> Value {
    let id = |id: u64| (id != 0).then(|| id.to_string());
    let shard = (operation.kind() == operation::Kind::Reseed).then_some(operation.shard);
    let events: Vec<Value> = operation
        .events
        .iter()
        .map(|event| json!({ "at_ms": event.at_ms, "text": event.text }))
        .collect();
    json!({
        "id": operation.id.to_string(), "what": what(operation), "state": state(operation).0, "node": id(operation.node),
        "new_node": id(operation.new_node), "shard": shard, "who": operation.who, "started_ms": operation.started_ms,
        "ended_ms": operation.ended().then_some(operation.ended_ms), "steps_done": operation.steps_done,
        "steps_left": operation.steps_left, "eta_s": now_ms.and_then(|now| operation.time_left(now)).map(|eta| eta.as_secs()),
        "waiting": operation.waiting, "events": events,
    })
}

async fn list(context: &mut Context) -> Result<(), Failure> {
    let members = context.client()?.members().await?;
    if context.out.is_json() {
        let operations = members.operations.iter();
        let operations: Vec<Value> = operations
            .map(|o| operation_json(o, Some(members.now_ms)))
            .collect();
        return Ok(context.out.json(&json!({ "operations": operations }))?);
    }
    let rows = members.operations.iter().map(|operation| {
        let (name, mood) = state(operation);
        let steps = operation.steps_done + operation.steps_left;
        vec![
            Field::number(operation.id),
            Field::text(what(operation)),
            Field::text(name).mood(mood),
            Field::text(format!("{} of {steps}", operation.steps_done)),
            Field::text(show_span(operation.span(members.now_ms))),
            Field::text(&operation.who),
        ]
    });
    let header = ["OP", "WHAT", "STATE", "STEPS", "TIME", "WHO"];
    Ok(context.out.table(&header, rows.collect())?)
}

fn show(context: &mut Context, operation: &Operation, now_ms: u64) -> Result<(), Failure> {
    if context.out.is_json() {
        return Ok(context.out.json(&operation_json(operation, Some(now_ms)))?);
    }
    print(context, operation, Some(now_ms))?;
    if let Some(eta) = operation.time_left(now_ms) {
        let eta = show_span(Duration::from_secs(eta.as_secs().max(1)));
        context.out.line(format!(
            "{} left, about {eta}",
            count(operation.steps_left, "step")
        ))?;
    }
    for event in &operation.events {
        let after = Duration::from_millis(event.at_ms.saturating_sub(operation.started_ms));
        context
            .out
            .line(format!("{:>10}  {}", show_span(after), event.text))?;
    }
    for waiting in &operation.waiting {
        context.out.line(format!("{:>10}  {waiting}", "now"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(done: u32, left: u32, state: operation::State) -> Operation {
        Operation {
            id: 7,
            kind: operation::Kind::Replace.into(),
            node: 3,
            new_node: 4,
            state: state.into(),
            started_ms: 10_000,
            ended_ms: 40_000,
            steps_done: done,
            steps_left: left,
            events: (1..=u64::from(done))
                .map(|n| operation::Event {
                    at_ms: 10_000 + 10_000 * n / u64::from(done),
                    ..operation::Event::default()
                })
                .collect(),
            waiting: vec!["shard 1: node 4 catches up".into()],
            ..Operation::default()
        }
    }

    #[test]
    fn progress_is_in_words() {
        let running = operation(4, 8, operation::State::Running);
        assert_eq!(
            progress_line(&running, 20_000),
            "replace node 3 by node 4: step 4 of 12, about 20.0s left; shard 1: node 4 catches up"
        );
    }

    #[test]
    fn ids_are_text_in_json() {
        let json = operation_json(&operation(1, 2, operation::State::Running), Some(20_000));
        assert_eq!(
            (&json["id"], &json["node"], &json["new_node"]),
            (&json!("7"), &json!("3"), &json!("4"))
        );
        assert_eq!((&json["state"], &json["eta_s"]), (&json!("running"), &json!(20)));
        assert_eq!(json["ended_ms"], Value::Null);
    }

    #[test]
    fn an_operation_is_found_by_its_number() {
        let members = MembersResponse {
            operations: vec![operation(1, 2, operation::State::Running)],
            ..MembersResponse::default()
        };
        assert_eq!(newest(&members).unwrap(), 7);
        assert!(find(&members, 7).is_ok() && find(&members, 8).is_err());
        assert!(newest(&MembersResponse::default()).is_err());
    }

    #[test]
    fn an_operation_that_was_taken_back_has_failed_but_for_who_asked_for_it() {
        let aborted = operation(3, 0, operation::State::Aborted);
        assert!(outcome(&aborted, true).is_ok() && outcome(&aborted, false).is_err());
        assert!(outcome(&operation(3, 0, operation::State::Done), false).is_ok());
    }
}
