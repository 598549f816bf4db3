//! Messages at a given rate: of pairs, and to groups.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chat_client::{Connection, Hint};
use chat_proto::v1::{
    CreateGroup, Error, Invite, Join, Request, Send, message::Body, reply::Reply as R, request::Request as Q,
    send,
};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};

use super::{
    Common,
    report::{Latencies, Loaded, show_loads},
};
use crate::crowd::{ask, bar, befriend, connections, pair_of, users};

/// After the last message was to be sent: what has not come by then is missing.
const GRACE: Duration = Duration::from_secs(15);
/// Between two rates.
const PAUSE: Duration = Duration::from_secs(2);
/// What each user writes begins with this; then come the run and the microsecond at which it was to be sent.
const MARK: &str = "bench";

#[derive(Args)]
struct Rates {
    /// Messages a second; several: one after the other
    #[arg(long, value_delimiter = ',', default_value = "1000,2000,3000,4000")]
    rates: Vec<u32>,
    /// Seconds of each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Bytes of a text, about
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(40..=4096))]
    bytes: u16,
}

#[derive(Args)]
pub(super) struct Pairs {
    /// Pairs of users, each with a conversation
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,
    #[command(flatten)]
    rates: Rates,
}

#[derive(Args)]
pub(super) struct Groups {
    /// Groups, all of the same members
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    groups: u32,
    /// Members of each, all of them connected
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=500))]
    members: u32,
    #[command(flatten)]
    rates: Rates,
}

/// A conversation, and the users that write in it.
struct Talk {
    id: String,
    writers: Vec<usize>,
    /// Devices that see each message.
    readers: u64,
}

impl Pairs {
    pub(super) async fn run(self, common: &Common) -> Result<bool, String> {
        let count = self.pairs as usize;
        let tokens = users(&common.gateways, 2 * count).await?;
        let devices = connections(&common.gateways, &tokens).await?;
        let pairs: Vec<(usize, usize)> = (0..count).map(|pair| (2 * pair, 2 * pair + 1)).collect();
        befriend(&devices, &pairs).await?;
        let talks = pairs.iter().map(|(a, b)| Talk {
            id: pair_of(devices[*a].ready.user, devices[*b].ready.user),
            writers: vec![*a, *b],
            readers: 2,
        });
        let talks = talks.collect();
        run(devices, talks, &self.rates, common, "one to one").await
    }
}

impl Groups {
    pub(super) async fn run(self, common: &Common) -> Result<bool, String> {
        let tokens = users(&common.gateways, self.members as usize).await?;
        let devices = connections(&common.gateways, &tokens).await?;
        let mut talks = Vec::new();
        for number in 0..self.groups {
            talks.push(Talk {
                id: group(&devices, &format!("group {number}")).await?,
                writers: (0..devices.len()).collect(),
                readers: devices.len() as u64,
            });
        }
        run(devices, talks, &self.rates, common, "groups").await
    }
}

/// A group of all of them.
async fn group(devices: &[Connection], title: &str) -> Result<String, String> {
    let create = CreateGroup {
        client_id: rand::random::<[u8; 16]>().to_vec().into(),
        title: title.to_owned(),
        members: Vec::new(),
    };
    let Some(R::Group(group)) = ask(&devices[0], Q::CreateGroup(create)).await?.reply else {
        return Err("a group cannot be made: the answer is another one".to_owned());
    };
    let invite = Invite {
        conversation: group.conversation.clone(),
        seconds: 3_600,
    };
    let Some(R::Invitation(invitation)) = ask(&devices[0], Q::Invite(invite)).await?.reply else {
        return Err("nobody can be invited: the answer is another one".to_owned());
    };
    let progress = bar(devices.len() - 1, title);
    let join = |device: usize| {
        let (token, progress) = (invitation.token.clone(), progress.clone());
        async move {
            ask(&devices[device], Q::Join(Join { token })).await?;
            progress.inc(1);
            Ok::<(), String>(())
        }
    };
    let joined = stream::iter(1..devices.len()).map(join).buffer_unordered(8);
    joined.try_collect::<Vec<()>>().await?;
    progress.finish_and_clear();
    Ok(group.conversation)
}

/// What is known of one rate, while it runs.
#[derive(Default)]
struct Seen {
    acked: Latencies,
    arrived: Latencies,
    last_ack: Duration,
    last_arrival: Duration,
    errors: BTreeMap<String, u64>,
}

/// One run of one rate: what came of others is not counted.
struct Run {
    name: u32,
    begun: Instant,
    seen: Mutex<Seen>,
}

impl Run {
    fn since(&self, micros: u64) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_micros(micros))
    }
}

type Current = Arc<Mutex<Option<Arc<Run>>>>;

async fn run(
    devices: Vec<Connection>,
    talks: Vec<Talk>,
    rates: &Rates,
    common: &Common,
    what: &str,
) -> Result<bool, String> {
    let devices: Vec<Arc<Connection>> = devices.into_iter().map(Arc::new).collect();
    let current = Current::default();
    let readers: Vec<JoinHandle<()>> = devices
        .iter()
        .map(|device| tokio::spawn(read(Arc::clone(device), Arc::clone(&current))))
        .collect();
    let mut loads = Vec::new();
    for rate in &rates.rates {
        loads.push(load(&devices, &talks, *rate, rates, &current).await);
        sleep(PAUSE).await;
    }
    readers.iter().for_each(JoinHandle::abort);
    show_loads(what, &loads, common.output);
    Ok(loads.iter().all(|load| load.errors.is_empty()))
}

/// Looks at what a device is told.
async fn read(device: Arc<Connection>, current: Current) {
    while let Ok(hint) = device.hint().await {
        let Hint::Push(push) = hint else { continue };
        let Some(Body::Text(text)) = push.message.and_then(|message| message.body) else {
            continue;
        };
        let run = current.lock().clone();
        if let Some(run) = run
            && let Some(micros) = intended(&text.text, run.name)
        {
            let latency = run.since(micros);
            let mut seen = run.seen.lock();
            seen.arrived.record(latency);
            seen.last_arrival = run.begun.elapsed();
        }
    }
}

fn written(run: u32, micros: u64, bytes: u16) -> String {
    let text = format!("{MARK} {run} {micros} ");
    let rest = usize::from(bytes).saturating_sub(text.len());
    text + &"x".repeat(rest)
}

/// When a text was to be sent, if it is of this run.
fn intended(text: &str, run: u32) -> Option<u64> {
    let mut words = text.split(' ');
    let is_ours = words.next() == Some(MARK) && words.next()?.parse() == Ok(run);
    words.next()?.parse().ok().filter(|_| is_ours)
}

async fn load(
    devices: &[Arc<Connection>],
    talks: &[Talk],
    rate: u32,
    rates: &Rates,
    current: &Current,
) -> Loaded {
    let count = u64::from(rate) * rates.seconds;
    let run = Arc::new(Run {
        name: rand::random(),
        begun: Instant::now(),
        seen: Mutex::default(),
    });
    *current.lock() = Some(Arc::clone(&run));
    let progress = bar(count as usize, &format!("{rate}/s"));
    let mut sending = JoinSet::new();
    let mut expected = 0;
    for number in 0..count {
        let at = Duration::from_micros(number * 1_000_000 / u64::from(rate));
        sleep_until((run.begun + at).into()).await;
        let talk = &talks[number as usize % talks.len()];
        let turn = number as usize / talks.len();
        let device = Arc::clone(&devices[talk.writers[turn % talk.writers.len()]]);
        expected += talk.readers;
        let text = written(run.name, at.as_micros() as u64, rates.bytes);
        let (conversation, run) = (talk.id.clone(), Arc::clone(&run));
        sending.spawn(async move {
            let sent = send(&device, conversation, text).await;
            let latency = run.begun.elapsed().saturating_sub(at);
            let mut seen = run.seen.lock();
            match sent {
                Ok(()) => {
                    seen.acked.record(latency);
                    seen.last_ack = run.begun.elapsed();
                }
                Err(error) => {
                    *seen
                        .errors
                        .entry(error.code().as_str_name().to_owned())
                        .or_default() += 1
                }
            }
        });
        while sending.try_join_next().is_some() {}
        progress.set_position(number + 1);
    }
    let whole = timeout(GRACE, async {
        while sending.join_next().await.is_some() {}
        while run.seen.lock().arrived.count() < expected {
            sleep(Duration::from_millis(10)).await;
        }
    });
    // What is missing then is told.
    drop(whole.await);
    progress.finish_and_clear();
    let seen = std::mem::take(&mut *run.seen.lock());
    Loaded {
        rate,
        sent: count,
        expected,
        acked_in: seen.last_ack,
        arrived_in: seen.last_arrival,
        acked: seen.acked,
        arrived: seen.arrived,
        errors: seen.errors,
    }
}

async fn send(device: &Connection, conversation: String, text: String) -> Result<(), Error> {
    let send = Send {
        conversation,
        client_id: rand::random::<[u8; 16]>().to_vec().into(),
        reply_to: 0,
        body: Some(send::Body::Text(text)),
    };
    let request = Request {
        request: Some(Q::Send(send)),
    };
    device.call(request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{intended, written};

    #[test]
    fn a_text_says_when_it_was_to_be_sent() {
        let text = written(7, 1_234_567, 64);
        assert_eq!(text.len(), 64);
        assert_eq!(intended(&text, 7), Some(1_234_567));
        assert_eq!(intended(&text, 8), None);
        assert_eq!(intended("hello", 7), None);
        assert_eq!(intended("bench 7", 7), None);
    }
}
