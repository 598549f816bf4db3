//! `chat replay`: a transcript goes through the real path, and every device of everybody in it must see each line, once and in order.
//!
//! Each conversation of the transcript is one of two users of its own pair; users are few enough that each has some dozens of contacts. Lines of a conversation are sent one after the
//! other, by who said them; conversations go side by side.

mod transcript;
mod watcher;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use chat_client::{Client, History, Options};
use chat_proto::v1::{Login, Register, Send, Tokens, Want, request::Request as Q, send};
use clap::Args;
use comfy_table::Table;
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use tokio::time::sleep;

use self::{
    transcript::{Speech, Transcript},
    watcher::{Expected, Watcher},
};
use crate::crowd::{Output, PASSWORD, REGISTER_AT_A_TIME, bar, pair_of, patiently, told};

/// Contacts of a user, in each direction round the ring of users.
const NEIGHBOURS: usize = 20;
/// What takes longer counts as this.
const MAX_LATENCY: Duration = Duration::from_secs(600);
/// Pairs that become contacts at a time.
const BEFRIEND_AT_A_TIME: usize = 32;

/// Replays a transcript.
///
/// One JSON object a line: conversation, seq (1, 2, 3, ... in each), from, text. Exit codes: 0 every line arrived at every device, once and in order, 1 not, 2 wrong usage.
#[derive(Args)]
pub(crate) struct Replay {
    /// The transcript
    file: PathBuf,
    /// Gateways, HOST:PORT
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8080")]
    gateways: Vec<String>,
    /// Devices of each user
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    devices: u32,
    /// Conversations that go side by side
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    at_a_time: u32,
    /// Seconds without any news after which it has failed
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// text or json
    #[arg(short, long, default_value = "text")]
    output: Output,
}

/// A user and their devices.
struct Person {
    user: u64,
    devices: Vec<(Arc<Client>, Arc<Watcher>)>,
}

impl Replay {
    /// Runs it; what is wrong otherwise.
    pub(crate) async fn run(self) -> Result<bool, String> {
        let transcript = Transcript::read(&self.file)?;
        let people = transcript
            .conversations
            .len()
            .div_ceil(NEIGHBOURS)
            .max(2 * NEIGHBOURS + 1);
        let people = self.people(people).await?;
        let pairs: Vec<(usize, usize)> = (0..transcript.conversations.len())
            .map(|number| pair(number, people.len()))
            .collect();
        self.befriend(&people, &pairs).await?;
        self.expect(&transcript, &people, &pairs);
        let started = Instant::now();
        let latencies = self.speak(&transcript, &people, &pairs).await?;
        let spoken = started.elapsed();
        let is_whole = self.wait(&people).await;
        self.report(&transcript, &people, &latencies, (spoken, started.elapsed()));
        Ok(is_whole)
    }

    async fn people(&self, count: usize) -> Result<Vec<Person>, String> {
        let run: u32 = rand::random();
        let progress = bar(count, "users");
        let make = |number: usize| {
            let progress = progress.clone();
            async move {
                let person = self.person(&format!("r{run:08x}-{number}")).await;
                progress.inc(1);
                person
            }
        };
        let people = stream::iter(0..count).map(make).buffered(REGISTER_AT_A_TIME);
        let people = people.try_collect().await;
        progress.finish_and_clear();
        people
    }

    fn gateway(&self, number: usize) -> &str {
        &self.gateways[number % self.gateways.len()]
    }

    async fn person(&self, name: &str) -> Result<Person, String> {
        let register = Register {
            name: name.to_owned(),
            display_name: String::new(),
            password: PASSWORD.to_owned(),
            device: "replay 1".to_owned(),
        };
        let tokens = patiently(|| chat_client::register(self.gateway(0), &register)).await;
        let tokens = tokens.map_err(|error| told("a user cannot be made", &error))?;
        let user = tokens.user;
        let mut devices = vec![self.device(tokens)];
        for number in 1..self.devices {
            let login = Login {
                name: name.to_owned(),
                password: PASSWORD.to_owned(),
                device: format!("replay {}", number + 1),
            };
            let tokens = patiently(|| chat_client::login(self.gateway(0), &login)).await;
            let tokens = tokens.map_err(|error| told("a device cannot log in", &error))?;
            devices.push(self.device(tokens));
        }
        Ok(Person { user, devices })
    }

    fn device(&self, tokens: Tokens) -> (Arc<Client>, Arc<Watcher>) {
        let options = Options {
            history: History::All,
            backoff: (Duration::from_millis(100), Duration::from_secs(2)),
            ..Options::new(self.gateways.clone())
        };
        let client = Arc::new(Client::start(options, tokens));
        let watcher = Watcher::start(Arc::clone(&client));
        (client, watcher)
    }

    async fn befriend(&self, people: &[Person], pairs: &[(usize, usize)]) -> Result<(), String> {
        let progress = bar(pairs.len(), "contacts");
        let become_one = |(a, b): (usize, usize)| {
            let progress = progress.clone();
            async move {
                for (one, other) in [(a, b), (b, a)] {
                    let want = Want {
                        user: people[other].user,
                        greeting: String::new(),
                    };
                    let client = &people[one].devices[0].0;
                    let wanted = patiently(|| client.call(Q::Want(want.clone()))).await;
                    wanted.map_err(|error| told("two users cannot become contacts", &error))?;
                }
                progress.inc(1);
                Ok::<(), String>(())
            }
        };
        let pairs = stream::iter(pairs.iter().copied()).map(become_one);
        let done = pairs
            .buffer_unordered(BEFRIEND_AT_A_TIME)
            .try_collect::<Vec<()>>()
            .await;
        progress.finish_and_clear();
        done.map(drop)
    }

    fn expect(&self, transcript: &Transcript, people: &[Person], pairs: &[(usize, usize)]) {
        for (conversation, (a, b)) in transcript.conversations.iter().zip(pairs) {
            let id = pair_of(people[*a].user, people[*b].user);
            let texts: Arc<[String]> = conversation.iter().map(|speech| speech.text.clone()).collect();
            for person in [*a, *b] {
                for (_, watcher) in &people[person].devices {
                    watcher.expect(id.clone(), Expected::new(Arc::clone(&texts)));
                }
            }
        }
    }

    async fn speak(
        &self,
        transcript: &Transcript,
        people: &[Person],
        pairs: &[(usize, usize)],
    ) -> Result<Histogram<u64>, String> {
        let progress = bar(transcript.lines, "messages");
        let latencies = Histogram::new_with_bounds(1, MAX_LATENCY.as_micros() as u64, 3);
        let latencies = Mutex::new(latencies.map_err(|error| error.to_string())?);
        let all = transcript.conversations.iter().zip(pairs.iter().copied());
        let speak = |(conversation, pair): (&Vec<Speech>, (usize, usize))| {
            let conversation = conversation.clone();
            speak_one(conversation, people, pair, &latencies, &progress)
        };
        let all = stream::iter(all)
            .map(speak)
            .buffer_unordered(self.at_a_time as usize);
        let done = all.try_collect::<Vec<()>>().await;
        progress.finish_and_clear();
        done.map(|_| latencies.into_inner())
    }

    /// Until every device has everything, or nothing comes any more.
    async fn wait(&self, people: &[Person]) -> bool {
        let watchers = || {
            people
                .iter()
                .flat_map(|person| &person.devices)
                .map(|(_, watcher)| watcher)
        };
        let mut newest = Instant::now();
        let mut missing = usize::MAX;
        loop {
            let now: usize = watchers().map(|watcher| watcher.missing()).sum();
            if now == 0 {
                return watchers().all(|watcher| watcher.wrong().is_empty());
            }
            if now < missing {
                (newest, missing) = (Instant::now(), now);
            }
            if newest.elapsed() > Duration::from_secs(self.patience) {
                return false;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    #[expect(clippy::print_stdout, reason = "the result")]
    fn report(
        &self,
        transcript: &Transcript,
        people: &[Person],
        latencies: &Histogram<u64>,
        (spoken, whole): (Duration, Duration),
    ) {
        let watchers: Vec<&Arc<Watcher>> = people
            .iter()
            .flat_map(|person| &person.devices)
            .map(|(_, watcher)| watcher)
            .collect();
        let missing: usize = watchers.iter().map(|watcher| watcher.missing()).sum();
        let seen: usize = watchers.iter().map(|watcher| watcher.seen()).sum();
        let lost: usize = watchers.iter().map(|watcher| watcher.lost()).sum();
        let wrong: Vec<String> = watchers.iter().flat_map(|watcher| watcher.wrong()).collect();
        let ms = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        let rows: BTreeMap<&str, String> = [
            ("1 messages", transcript.lines.to_string()),
            ("2 conversations", transcript.conversations.len().to_string()),
            ("3 users", people.len().to_string()),
            ("4 devices", watchers.len().to_string()),
            ("5 seen, once and in order", seen.to_string()),
            ("6 missing", missing.to_string()),
            ("7 twice, out of order or changed", wrong.len().to_string()),
            ("8 connections lost meanwhile", lost.to_string()),
            (
                "9 messages/s",
                format!("{:.0}", transcript.lines as f64 / spoken.as_secs_f64()),
            ),
        ]
        .into();
        match self.output {
            Output::Text => {
                let mut table = Table::new();
                for (name, value) in &rows {
                    table.add_row([&name[2..], value]);
                }
                table.add_row([
                    "ms until a message was acknowledged: p50, p99, max",
                    &format!("{:.1}, {:.1}, {:.1}", ms(0.5), ms(0.99), ms(1.0)),
                ]);
                table.add_row([
                    "seconds until all was seen",
                    &format!("{:.1}", whole.as_secs_f64()),
                ]);
                println!("{table}");
                for text in wrong.iter().take(20) {
                    println!("WRONG {text}");
                }
            }
            Output::Json => {
                let json = serde_json::json!({
                    "messages": transcript.lines,
                    "conversations": transcript.conversations.len(),
                    "users": people.len(),
                    "devices": watchers.len(),
                    "seen": seen,
                    "missing": missing,
                    "wrong": wrong,
                    "connections_lost": lost,
                    "seconds_sending": spoken.as_secs_f64(),
                    "seconds": whole.as_secs_f64(),
                    "ack_ms": {"p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0)},
                });
                println!("{json}");
            }
        }
    }
}

async fn speak_one(
    conversation: Vec<Speech>,
    people: &[Person],
    (a, b): (usize, usize),
    latencies: &Mutex<Histogram<u64>>,
    progress: &ProgressBar,
) -> Result<(), String> {
    let id = pair_of(people[a].user, people[b].user);
    for (number, speech) in conversation.into_iter().enumerate() {
        let speaker = &people[if speech.is_first { a } else { b }];
        // Each device of theirs says something.
        let (client, _) = &speaker.devices[number % speaker.devices.len()];
        let begun = Instant::now();
        let send = Send {
            conversation: id.clone(),
            client_id: rand::random::<[u8; 16]>().to_vec().into(),
            reply_to: 0,
            body: Some(send::Body::Text(speech.text)),
        };
        let sent = client.send(send).await;
        let sent = sent.map_err(|error| told(&format!("line {} is not taken", speech.line), &error))?;
        if sent.seq != number as u64 + 1 {
            return Err(format!(
                "line {}: it became message {} of {id}",
                speech.line, sent.seq
            ));
        }
        let micros = begun.elapsed().as_micros() as u64;
        latencies.lock().saturating_record(micros);
        progress.inc(1);
    }
    Ok(())
}

/// The conversation's pair: neighbours in a ring, so that each has equally many.
fn pair(number: usize, people: usize) -> (usize, usize) {
    let (round, place) = (number / people, number % people);
    (place, (place + round + 1) % people)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{NEIGHBOURS, pair};

    #[test]
    fn each_conversation_has_a_pair_of_its_own() {
        for conversations in [1, 19, 500, 7_634] {
            let people = usize::div_ceil(conversations, NEIGHBOURS).max(2 * NEIGHBOURS + 1);
            let pairs = (0..conversations).map(|number| pair(number, people));
            let different: BTreeSet<(usize, usize)> = pairs
                .map(|(a, b)| (a.min(b), a.max(b)))
                .filter(|(a, b)| a != b)
                .collect();
            assert_eq!(different.len(), conversations);
        }
    }
}
