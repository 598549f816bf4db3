//! `kvctl top`: a cluster as it is now, again and again.
//!
//! [`sample`] asks the nodes and remembers the last samples, [`picture`] says what follows from them, [`frame`] lays that out in
//! lines, [`screen`] shows the lines on a terminal, [`ui`] is what keys do. All but the asking and the showing is pure.

pub mod frame;
pub mod picture;
pub mod sample;
pub mod screen;
pub mod table;
pub mod ui;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use crossterm::event::{Event, EventStream};
use futures::StreamExt as _;
use kvsvr_client::{Client, proto::ShardMap};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use self::{
    frame::{Canvas, Frame},
    picture::{Picture, picture_json},
    sample::{History, Sample},
    screen::Screen,
    ui::{Act, Ui},
};
use crate::{
    context::Context,
    failure::Failure,
    limits::{TOP_INTERVAL_LEAST, TOP_TIMEOUT, TOP_WIDTH},
    output,
    text::parse_timeout,
};

/// `kvctl top`.
#[derive(Args, Clone, Copy, Debug)]
pub struct TopArgs {
    /// Between two looks at the cluster
    #[arg(long, default_value = "1s", value_parser = parse_interval, value_name = "SPAN")]
    pub interval: Duration,
    /// Print one frame as text, with the rates of one interval; so it is, too, if standard output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Columns of a frame that is printed [default: the terminal's, or 160]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(40..=1000))]
    pub width: Option<u16>,
}

fn parse_interval(typed: &str) -> Result<Duration, String> {
    match parse_timeout(typed).map_err(|e| e.to_string())? {
        span if span < TOP_INTERVAL_LEAST => Err(format!("an interval is at least {TOP_INTERVAL_LEAST:?}")),
        span => Ok(span),
    }
}

/// Shows the cluster until the operator has seen enough.
pub async fn top(context: &mut Context, args: &TopArgs) -> Result<(), Failure> {
    let timeout = context.request_timeout().min(TOP_TIMEOUT);
    let sampler = Sampler::new(context.client()?.with_timeout(timeout), args.interval);
    match (context.out.is_json(), args.once || !io::stdout().is_terminal()) {
        (true, _) => lines(context, sampler, args.once).await,
        (false, true) => once(context, sampler, args.width).await,
        (false, false) => live(sampler).await,
    }
}

/// Takes samples, one in each interval.
#[derive(Clone)]
struct Sampler {
    client: Client,
    interval: Duration,
    begun: Instant,
    /// When the next is due.
    next: Instant,
    known: Option<ShardMap>,
}

impl Sampler {
    fn new(client: Client, interval: Duration) -> Self {
        let begun = Instant::now();
        Self {
            client,
            interval,
            begun,
            next: begun,
            known: None,
        }
    }

    /// Waits until a sample is due, and takes it.
    async fn next(mut self) -> (Self, Sample) {
        sleep_until(self.next).await;
        // After a slow answer the next is a whole interval later.
        self.next = Instant::now() + self.interval;
        let at = self.begun.elapsed();
        let (sample, map) = Sample::fetch(&self.client, self.known.take(), at).await;
        self.known = map;
        (self, sample)
    }
}

/// Two samples as one frame of text.
async fn once(context: &mut Context, mut sampler: Sampler, width: Option<u16>) -> Result<(), Failure> {
    let (history, sample) = two(&mut sampler).await?;
    let terminal = io::stdout()
        .is_terminal()
        .then(crossterm::terminal::size)
        .and_then(Result::ok);
    let canvas = Canvas {
        width: usize::from(width.or(terminal.map(|(width, _)| width)).unwrap_or(TOP_WIDTH)),
        height: None,
        color: false,
    };
    let frame = Frame::new(Picture::new(&sample, &history), &Ui::default(), &canvas);
    Ok(context.out.raw(frame.text().as_bytes())?)
}

/// Two samples.
///
/// # Errors
/// Nobody answers at the beginning.
async fn two(sampler: &mut Sampler) -> Result<(History, Sample), Failure> {
    sampler.known = Some(sampler.client.shard_map().await?);
    let mut history = History::default();
    let (next, first) = sampler.clone().next().await;
    history.push(&first);
    let (_, second) = next.next().await;
    history.push(&second);
    Ok((history, second))
}

/// Samples as JSON, a line each: one, or until Ctrl-C.
async fn lines(context: &mut Context, mut sampler: Sampler, once: bool) -> Result<(), Failure> {
    if once {
        let (history, sample) = two(&mut sampler).await?;
        return Ok(context.out.json(&picture_json(&sample, &history, now_ms()))?);
    }
    let mut history = History::default();
    loop {
        let (next, sample) = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(()),
            next = sampler.next() => next,
        };
        sampler = next;
        history.push(&sample);
        context.out.json(&picture_json(&sample, &history, now_ms()))?;
        context.out.flush()?;
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

/// Frames on the terminal until a key or a signal ends it.
async fn live(sampler: Sampler) -> Result<(), Failure> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::open(output::wants_color(&io::stdout()))?;
    let mut keys = EventStream::new();
    let (mut ui, mut history) = (Ui::default(), History::default());
    let mut picture = Picture::waiting();
    let mut sampling = Box::pin(sampler.next());
    loop {
        let Frame { seen, .. } = screen.draw(|canvas| Frame::new(picture.clone(), &ui, canvas))?;
        let mut act = Act::Nothing;
        while act == Act::Nothing {
            act = tokio::select! {
                event = keys.next() => match event {
                    Some(Ok(Event::Key(key))) => ui.key(key, &seen),
                    Some(Ok(Event::Resize(..))) => Act::Draw,
                    Some(Ok(_)) => Act::Nothing,
                    Some(Err(error)) => return Err(error.into()),
                    None => Act::Quit,
                },
                (sampler, sample) = &mut sampling => {
                    history.push(&sample);
                    picture = Picture::new(&sample, &history);
                    sampling = Box::pin(sampler.next());
                    Act::Draw
                }
                _ = tokio::signal::ctrl_c() => Act::Quit,
                _ = hang_up.recv() => Act::Quit,
                _ = terminate.recv() => Act::Quit,
            };
        }
        if act == Act::Quit {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, tests::parse};

    #[test]
    fn options_are_checked() {
        let Command::Top(args) = parse("top").command else {
            panic!("another command");
        };
        assert_eq!(
            (args.interval, args.once, args.width),
            (Duration::from_secs(1), false, None)
        );
        assert_eq!(parse_interval("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_interval("99ms").unwrap_err().contains("100ms"));
        assert!(parse_interval("fast").is_err());
    }
}
