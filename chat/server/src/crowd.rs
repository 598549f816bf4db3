//! Users for replays and measurements: made, logged in, and acquainted with each other.

use std::time::{Duration, Instant};

use chat_client::Connection;
use chat_proto::v1::{Code, Error, Register, Reply, Request, Tokens, Want, request::Request as Q};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

/// The same for all users of a crowd.
pub(crate) const PASSWORD: &str = "a user of a crowd";
/// Users that are made at a time: hashing their passwords takes the servers long.
pub(crate) const REGISTER_AT_A_TIME: usize = 4;
/// Connections that are opened, and requests that are asked, at a time.
const AT_A_TIME: usize = 64;

/// How results are written.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Output {
    /// A table.
    Text,
    /// One JSON object.
    Json,
}

/// An error of the server, for people.
pub(crate) fn told(what: &str, error: &Error) -> String {
    format!(
        "{what}: {} ({})",
        error.message,
        error.code().as_str_name().to_ascii_lowercase()
    )
}

/// Asks again as long as the server says that it may pass.
pub(crate) async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match ask().await {
            Err(error) if may_pass(&error) && Instant::now() < deadline => {
                let pause = u64::from(error.retry_after_ms).clamp(50, 5_000);
                sleep(Duration::from_millis(pause)).await;
            }
            answer => return answer,
        }
    }
}

fn may_pass(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::RateLimited | Code::Unavailable | Code::UnknownOutcome
    )
}

/// A bar of something that takes long.
pub(crate) fn bar(count: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    let style = ProgressStyle::with_template("{prefix:14} {wide_bar} {pos}/{len} {per_sec} ETA {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what.to_owned());
    bar
}

/// The conversation of two users.
pub(crate) fn pair_of(a: u64, b: u64) -> String {
    format!("d-{}-{}", a.min(b), a.max(b))
}

/// New users. Gateways are used in turn.
pub(crate) async fn users(gateways: &[String], count: usize) -> Result<Vec<Tokens>, String> {
    let run: u32 = rand::random();
    let progress = bar(count, "users");
    let make = |number: usize| {
        let progress = progress.clone();
        async move {
            let register = Register {
                name: format!("b{run:08x}-{number}"),
                display_name: String::new(),
                password: PASSWORD.to_owned(),
                device: "bench".to_owned(),
            };
            let gateway = &gateways[number % gateways.len()];
            let tokens = patiently(|| chat_client::register(gateway, &register)).await;
            progress.inc(1);
            tokens.map_err(|error| told("a user cannot be made", &error))
        }
    };
    let users = stream::iter(0..count).map(make).buffered(REGISTER_AT_A_TIME);
    let users = users.try_collect().await;
    progress.finish_and_clear();
    users
}

/// A connection for each of these tokens, to the gateways in turn.
pub(crate) async fn connections(gateways: &[String], tokens: &[Tokens]) -> Result<Vec<Connection>, String> {
    let progress = bar(tokens.len(), "connections");
    let open = |(number, tokens): (usize, Tokens)| {
        let progress = progress.clone();
        async move {
            let gateway = &gateways[number % gateways.len()];
            let opened = Connection::open(gateway, &tokens.access_token, b"").await;
            progress.inc(1);
            opened.map_err(|lost| format!("connection {} of {gateway}: {lost}", number + 1))
        }
    };
    let all = tokens.iter().cloned().enumerate().map(open);
    let all = stream::iter(all).buffered(AT_A_TIME).try_collect().await;
    progress.finish_and_clear();
    all
}

/// Asks until the server can answer.
pub(crate) async fn ask(connection: &Connection, request: Q) -> Result<Reply, String> {
    let request = Request {
        request: Some(request),
    };
    let answer = patiently(|| connection.call(request.clone())).await;
    answer.map_err(|error| told("a request is refused", &error))
}

/// Makes contacts of these users.
pub(crate) async fn befriend(users: &[Connection], pairs: &[(usize, usize)]) -> Result<(), String> {
    let progress = bar(pairs.len(), "contacts");
    let become_one = |(a, b): (usize, usize)| {
        let progress = progress.clone();
        async move {
            for (one, other) in [(a, b), (b, a)] {
                let want = Want {
                    user: users[other].ready.user,
                    greeting: String::new(),
                };
                ask(&users[one], Q::Want(want)).await?;
            }
            progress.inc(1);
            Ok::<(), String>(())
        }
    };
    let all = stream::iter(pairs.iter().copied()).map(become_one);
    let done = all.buffer_unordered(AT_A_TIME).try_collect::<Vec<()>>().await;
    progress.finish_and_clear();
    done.map(drop)
}
