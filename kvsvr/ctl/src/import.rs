//! `kvctl import`: many puts in flight, lines in, counts out.
//!
//! Each line is written once it is read, so an import may be stopped and begun again: the same line writes the same value. Lines are
//! finished in order for the purpose of counting, so when one fails, every line before it has been written, and the message says how
//! to go on from there. There is no transaction over lines.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use futures::{Stream, StreamExt as _};
use indicatif::ProgressBar;
use kvsvr_client::{Client, Compare, Op, Partition, PutOptions, Txn};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    context::Context,
    data::now_ms,
    failure::{self, Failure},
    limits::{IMPORT_IN_FLIGHT, MAX_IMPORT_ERRORS, MAX_IMPORT_LINE, MAX_IN_FLIGHT},
    progress,
    record::Record,
};

/// `kvctl import`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "LINES
  {\"partition\":\"alice\",\"key\":\"city\",\"value\":\"Lisbon\"}
  Also: \"region\":N, \"expires_at_ms\":UNIX_MS,
  \"enc\":\"utf8|base64|hex\" (how partition, key and value are written).
  Empty lines are passed over. Bad lines are reported and the others are written; then the
  exit code is 1. An import that stopped says how many lines are done; --skip goes on after
  them. Doing a line twice does no harm.")]
pub struct ImportArgs {
    /// JSON lines; - is standard input
    pub file: String,
    /// Partition of lines that name none
    #[arg(long, value_name = "PARTITION")]
    pub partition: Option<String>,
    /// Writes in flight
    #[arg(long, default_value_t = IMPORT_IN_FLIGHT, value_name = "N")]
    pub in_flight: usize,
    /// Pass over so many lines: those of an import that stopped
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub skip: u64,
    /// Leave keys alone that exist
    #[arg(long)]
    pub if_absent: bool,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines, skipped and empty ones included.
    pub lines: u64,
    /// Pairs that were written.
    pub written: u64,
    /// Keys that existed and were left alone (`--if-absent`).
    pub kept: u64,
    /// Pairs whose time was over.
    pub expired: u64,
    /// Lines that are no valid pair, or that the server finds invalid.
    pub bad: u64,
    /// Bytes of the keys and values written.
    pub bytes: u64,
}

/// What became of a line.
enum Done {
    Nothing,
    Written(u64),
    Kept,
    Expired,
    Bad(String),
}

/// A line with its number, from 1.
type Numbered = (u64, io::Result<Bytes>);

/// Writes the pairs of a file.
pub async fn import(context: &mut Context, args: &ImportArgs) -> Result<(), Failure> {
    if args.in_flight == 0 || args.in_flight > MAX_IN_FLIGHT {
        return Err(Failure::invalid(format!(
            "--in-flight is out of range: 1 to {MAX_IN_FLIGHT}"
        )));
    }
    let partition = args
        .partition
        .as_deref()
        .map(|typed| context.partition(typed))
        .transpose()?;
    let client = context.client()?;
    let (lines, bar) = open(args)?;
    let mut counts = Counts::default();
    let result = write_all(
        &client,
        lines,
        args,
        partition.as_ref(),
        &mut counts,
        |line, message| {
            bar.suspend(|| context.note(format!("line {line}: {message}")));
        },
    );
    let result = result.await;
    bar.finish_and_clear();
    let line = format!(
        "{} lines: {} written ({}), {} kept, {} expired, {} bad",
        counts.lines,
        counts.written,
        crate::text::show_size(counts.bytes),
        counts.kept,
        counts.expired,
        counts.bad
    );
    context.out.result(line, &counts)?;
    result?;
    match counts.bad {
        0 => Ok(()),
        bad => Err(Failure::invalid(format!(
            "{bad} lines were bad; all others are written"
        ))),
    }
}

/// The file's lines, read by a thread of their own so that a slow source does not hold up the network.
fn open(args: &ImportArgs) -> Result<(mpsc::Receiver<Numbered>, ProgressBar), Failure> {
    let (reader, size): (Box<dyn io::Read + Send>, Option<u64>) = if args.file == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let at = |e: io::Error| Failure::from(e).at(&args.file);
        let file = File::open(&args.file).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        let size = meta.is_file().then_some(meta.len());
        (Box::new(file), size)
    };
    let bar = match size {
        Some(size) => progress::byte_bar(size, "importing"),
        None => progress::bar(None, "importing"),
    };
    let by_bytes = size.is_some();
    let (sender, lines) = mpsc::channel(2 * args.in_flight);
    let (skip, thread_bar) = (args.skip, bar.clone());
    tokio::task::spawn_blocking(move || {
        read_lines(BufReader::with_capacity(1 << 18, reader), skip, |line, read| {
            thread_bar.inc(if by_bytes { read } else { 1 });
            sender.blocking_send(line).is_ok()
        });
    });
    Ok((lines, bar))
}

/// Gives each line that is not skipped, its number and the bytes read for it, to `give` until that says no, or an error occurs.
fn read_lines(mut reader: impl BufRead, skip: u64, mut give: impl FnMut(Numbered, u64) -> bool) {
    for number in 1.. {
        let mut line = Vec::new();
        let read = reader
            .by_ref()
            .take(MAX_IMPORT_LINE as u64 + 1)
            .read_until(b'\n', &mut line);
        let (line, read) = match read {
            Ok(0) => return,
            Ok(read) if read > MAX_IMPORT_LINE => {
                let message = format!("the line is longer than {MAX_IMPORT_LINE} bytes");
                (Err(io::Error::new(io::ErrorKind::InvalidData, message)), read)
            }
            Ok(read) => (Ok(Bytes::from(line)), read),
            Err(error) => (Err(error), 0),
        };
        let last = line.is_err();
        // A skipped line is given as an empty one, so that it is counted.
        let line = if number <= skip && !last {
            Ok(Bytes::new())
        } else {
            line
        };
        if !give((number, line), read as u64) || last {
            return;
        }
    }
}

async fn write_all(
    client: &Client,
    mut lines: mpsc::Receiver<Numbered>,
    args: &ImportArgs,
    partition: Option<&Partition>,
    counts: &mut Counts,
    complain: impl Fn(u64, &str),
) -> Result<(), Failure> {
    let source = futures::stream::poll_fn(move |cx| lines.poll_recv(cx));
    let writes = source.map(|(number, line)| async move {
        let done = match line {
            Ok(line) => write(client, &line, partition, args.if_absent).await,
            Err(error) => Err(Failure::from(error)),
        };
        (number, done)
    });
    settle(writes.buffered(args.in_flight), counts, complain).await
}

/// Counts finished lines, in their order, until one fails.
async fn settle(
    finished: impl Stream<Item = (u64, Result<Done, Failure>)>,
    counts: &mut Counts,
    complain: impl Fn(u64, &str),
) -> Result<(), Failure> {
    futures::pin_mut!(finished);
    while let Some((number, done)) = finished.next().await {
        match done {
            Ok(Done::Nothing) => {}
            Ok(Done::Written(bytes)) => {
                counts.written += 1;
                counts.bytes += bytes;
            }
            Ok(Done::Kept) => counts.kept += 1,
            Ok(Done::Expired) => counts.expired += 1,
            Ok(Done::Bad(message)) => {
                counts.bad += 1;
                if counts.bad <= MAX_IMPORT_ERRORS as u64 {
                    complain(number, &message);
                }
            }
            Err(failure) => {
                let help = format!("all lines before it are done: go on with --skip {}", number - 1);
                return Err(failure.at(format!("line {number}")).with_help(help));
            }
        }
        counts.lines += 1;
    }
    Ok(())
}

async fn write(
    client: &Client,
    line: &[u8],
    default: Option<&Partition>,
    if_absent: bool,
) -> Result<Done, Failure> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(Done::Nothing);
    }
    let record = match Record::parse(line, default) {
        Ok(record) => record,
        Err(message) => return Ok(Done::Bad(message)),
    };
    let ttl = match record.expires_at_ms {
        0 => None,
        at => match at.saturating_sub(now_ms()) {
            0 => return Ok(Done::Expired),
            left => Some(Duration::from_millis(left)),
        },
    };
    let options = PutOptions { ttl, lease: None };
    let bytes = (record.key.len() + record.value.len()) as u64;
    let result = if if_absent {
        let put = Op::put_with(record.key.clone(), record.value, options);
        let txn = Txn::new().when(Compare::absent(record.key)).then(put);
        client
            .txn(&record.partition, txn)
            .await
            .map(|reply| reply.succeeded)
    } else {
        client
            .put_with(&record.partition, record.key, record.value, options)
            .await
            .map(|_| true)
    };
    match result {
        Ok(true) => Ok(Done::Written(bytes)),
        Ok(false) => Ok(Done::Kept),
        Err(error) if error.code.name() == failure::INVALID => Ok(Done::Bad(error.message)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn lines(text: &[u8], skip: u64) -> Vec<(u64, Result<String, String>)> {
        let mut got = Vec::new();
        read_lines(text, skip, |(number, line), _| {
            got.push((
                number,
                line.map(|l| String::from_utf8_lossy(&l).into_owned())
                    .map_err(|e| e.to_string()),
            ));
            true
        });
        got
    }

    #[test]
    fn lines_are_numbered_and_skipped() {
        let line = |n, text: &str| (n, Ok(text.to_owned()));
        assert_eq!(lines(b"a\n\nb", 0), [line(1, "a\n"), line(2, "\n"), line(3, "b")]);
        assert_eq!(lines(b"a\n\nb", 2), [line(1, ""), line(2, ""), line(3, "b")]);
        assert_eq!(lines(b"", 0), []);
    }

    #[test]
    fn an_endless_line_is_an_error_and_the_last() {
        let mut text = vec![b'x'; MAX_IMPORT_LINE + 10];
        text.extend(b"\nb\n");
        let got = lines(&text, 0);
        assert_eq!(got.len(), 1);
        assert!(got[0].1.as_ref().unwrap_err().contains("longer than"));
    }

    #[tokio::test]
    async fn counts_stop_at_the_first_failure() {
        let outcomes = vec![
            (1, Ok(Done::Written(10))),
            (2, Ok(Done::Bad("no key".into()))),
            (3, Ok(Done::Nothing)),
            (4, Ok(Done::Expired)),
            (5, Ok(Done::Kept)),
            (6, Err(Failure::new(failure::TIMEOUT, "no answer"))),
            (7, Ok(Done::Written(10))),
        ];
        let (mut counts, complaints) = (Counts::default(), RefCell::new(Vec::new()));
        let result = settle(futures::stream::iter(outcomes), &mut counts, |line, message| {
            complaints.borrow_mut().push(format!("{line} {message}"));
        });
        let failure = result.await.unwrap_err();
        assert_eq!(
            counts,
            Counts {
                lines: 5,
                written: 1,
                kept: 1,
                expired: 1,
                bad: 1,
                bytes: 10
            }
        );
        assert_eq!(complaints.into_inner(), ["2 no key"]);
        assert_eq!(failure.message, "line 6: no answer");
        assert!(failure.help.unwrap().ends_with("--skip 5"));
    }
}
