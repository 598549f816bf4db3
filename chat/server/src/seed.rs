//! `chat seed`: some users who know each other, a group, and some messages, to look at. Doing it twice changes nothing.

use chat_client::Connection;
use chat_proto::v1::{CreateGroup, Register, Send, Want, reply::Reply as R, request::Request as Q, send};
use clap::Args;
use comfy_table::Table;

use crate::crowd::{ask, pair_of, patiently, told};

/// Who they are, by user name.
const PEOPLE: [(&str, &str); 3] = [
    ("alice", "Alice Liddell"),
    ("bob", "Bob Carroll"),
    ("carol", "Carol Dodgson"),
];
/// Of all of them.
const PASSWORD: &str = "down the rabbit hole";
/// What is said in the conversation of the first two, and by whom.
const TALK: [(usize, &str); 4] = [
    (0, "Hello Bob! Did you see a white rabbit?"),
    (1, "He was late, as always."),
    (0, "Curiouser and curiouser 🐇"),
    (1, "你好! Tea at six?"),
];
const GROUP: &str = "A mad tea-party";

/// Makes users to try it out with.
///
/// Exit codes: 0 they are there, 1 not, 2 wrong usage.
#[derive(Args)]
pub(crate) struct Seed {
    /// A gateway, HOST:PORT
    #[arg(long, default_value = "127.0.0.1:8080")]
    gateway: String,
}

impl Seed {
    #[expect(clippy::print_stdout, reason = "the result")]
    pub(crate) async fn run(self) -> Result<bool, String> {
        let mut people = Vec::new();
        for (name, display_name) in PEOPLE {
            people.push(self.person(name, display_name).await?);
        }
        for one in &people {
            for other in people.iter().filter(|other| other.ready.user != one.ready.user) {
                let want = Want {
                    user: other.ready.user,
                    greeting: String::new(),
                };
                ask(one, Q::Want(want)).await?;
            }
        }
        let pair = pair_of(people[0].ready.user, people[1].ready.user);
        for (number, (speaker, text)) in TALK.into_iter().enumerate() {
            say(&people[speaker], &pair, number as u8, text).await?;
        }
        let group = group(&people).await?;
        say(&people[2], &group, 100, "Welcome! There is plenty of room.").await?;
        let mut table = Table::new();
        table.set_header(["user name", "password", "is"]);
        for (name, display_name) in PEOPLE {
            table.add_row([name, PASSWORD, display_name]);
        }
        println!("{table}\nThey are contacts, and members of the group \"{GROUP}\".");
        Ok(true)
    }

    async fn person(&self, name: &str, display_name: &str) -> Result<Connection, String> {
        let register = Register {
            name: name.to_owned(),
            display_name: display_name.to_owned(),
            password: PASSWORD.to_owned(),
            device: "chat seed".to_owned(),
        };
        let tokens = patiently(|| chat_client::register(&self.gateway, &register)).await;
        let tokens = tokens.map_err(|error| told(&format!("{name} cannot be made"), &error))?;
        let opened = Connection::open(&self.gateway, &tokens.access_token, b"").await;
        opened.map_err(|lost| format!("{}: {lost}", self.gateway))
    }
}

async fn say(who: &Connection, conversation: &str, number: u8, text: &str) -> Result<(), String> {
    let send = Send {
        conversation: conversation.to_owned(),
        client_id: vec![number; 16].into(),
        reply_to: 0,
        body: Some(send::Body::Text(text.to_owned())),
    };
    ask(who, Q::Send(send)).await.map(drop)
}

async fn group(people: &[Connection]) -> Result<String, String> {
    let create = CreateGroup {
        client_id: vec![1; 16].into(),
        title: GROUP.to_owned(),
        members: people[1..].iter().map(|person| person.ready.user).collect(),
    };
    match ask(&people[0], Q::CreateGroup(create)).await?.reply {
        Some(R::Group(group)) => Ok(group.conversation),
        _ => Err("the group cannot be made: the answer is another one".to_owned()),
    }
}
