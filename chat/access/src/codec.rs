//! Frames in the two forms that clients may choose: protobuf, and the JSON that proto3 defines for it.

use std::sync::OnceLock;

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use chat_proto::v1::{ClientFrame, ServerFrame, server_frame::Body};
use prost::Message as _;

/// How frames of a connection are written, by the name of the WebSocket's subprotocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Codec {
    /// `kvchat.v1+json`, in text messages; and what a client gets that names none.
    #[default]
    Json,
    /// `kvchat.v1+protobuf`, in binary messages.
    Protobuf,
}

/// The subprotocol of JSON.
pub const JSON: &str = "kvchat.v1+json";
/// The subprotocol of protobuf.
pub const PROTOBUF: &str = "kvchat.v1+protobuf";

impl Codec {
    /// That of a subprotocol.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            JSON => Some(Self::Json),
            PROTOBUF => Some(Self::Protobuf),
            _ => None,
        }
    }

    /// A client's frame. `None`: this message is none, but one of the WebSocket itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(self, message: Message) -> Option<Result<ClientFrame, String>> {
        match (self, message) {
            (Self::Json, Message::Text(text)) => {
                Some(serde_json::from_str(&text).map_err(|error| format!("no frame: {error}")))
            }
            (Self::Protobuf, Message::Binary(bytes)) => {
                Some(ClientFrame::decode(bytes).map_err(|error| format!("no frame: {error}")))
            }
            (Self::Json, Message::Binary(_)) => Some(Err(format!("{JSON} has text messages only"))),
            (Self::Protobuf, Message::Text(_)) => Some(Err(format!("{PROTOBUF} has binary messages only"))),
            (_, Message::Ping(_) | Message::Pong(_) | Message::Close(_)) => None,
        }
    }

    /// A frame as it is sent.
    pub(crate) fn encode(self, frame: &ServerFrame) -> Message {
        match self {
            Self::Json => Message::Text(json(frame)),
            Self::Protobuf => Message::Binary(frame.encode_to_vec().into()),
        }
    }
}

fn json(frame: &ServerFrame) -> Utf8Bytes {
    // There is nothing in a frame that has no JSON: no map with keys that are not text.
    serde_json::to_string(frame).unwrap_or_default().into()
}

/// A frame that goes to many, written once in each form.
#[derive(Debug)]
pub(crate) struct Shared {
    frame: ServerFrame,
    json: OnceLock<Utf8Bytes>,
    protobuf: OnceLock<Bytes>,
}

impl Shared {
    /// A frame that answers nothing.
    pub(crate) fn new(body: Body) -> Self {
        Self {
            frame: ServerFrame {
                id: 0,
                body: Some(body),
            },
            json: OnceLock::new(),
            protobuf: OnceLock::new(),
        }
    }

    /// What is in it.
    pub(crate) fn body(&self) -> Option<&Body> {
        self.frame.body.as_ref()
    }

    /// About how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        self.frame.encoded_len()
    }

    /// As it is sent.
    pub(crate) fn message(&self, codec: Codec) -> Message {
        match codec {
            Codec::Json => Message::Text(self.json.get_or_init(|| json(&self.frame)).clone()),
            Codec::Protobuf => {
                let bytes = self.protobuf.get_or_init(|| self.frame.encode_to_vec().into());
                Message::Binary(bytes.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::ws::Message;
    use chat_proto::v1::{
        Changed, ClientFrame, Hello, Request, Send, ServerFrame, client_frame, request, send,
        server_frame::Body,
    };
    use prost::Message as _;

    use super::{Codec, Shared};

    fn frame() -> ClientFrame {
        let send = Send {
            conversation: "d-1-2".to_owned(),
            client_id: vec![7; 16].into(),
            reply_to: u64::MAX,
            body: Some(send::Body::Text("hi".to_owned())),
        };
        let request = Request {
            request: Some(request::Request::Send(send)),
        };
        ClientFrame {
            id: 3,
            body: Some(client_frame::Body::Request(request)),
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let json = r#"{"id":3,"request":{"send":{"conversation":"d-1-2","clientId":"BwcHBwcHBwcHBwcHBwcHBw==","replyTo":"18446744073709551615","text":"hi"}}}"#;
        assert_eq!(serde_json::to_string(&frame()).unwrap(), json);
        let text = Message::Text(json.into());
        assert_eq!(Codec::Json.decode(text), Some(Ok(frame())));
        let binary = Message::Binary(frame().encode_to_vec().into());
        assert_eq!(Codec::Protobuf.decode(binary), Some(Ok(frame())));
    }

    #[test]
    fn a_newer_client_may_say_more() {
        let text = Message::Text(r#"{"id":1,"hello":{"version":1,"color":"red"}}"#.into());
        let hello = Hello {
            version: 1,
            ..Hello::default()
        };
        let expected = ClientFrame {
            id: 1,
            body: Some(client_frame::Body::Hello(hello)),
        };
        assert_eq!(Codec::Json.decode(text), Some(Ok(expected)));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for text in ["", "{", "[]", r#"{"id":-1}"#, r#"{"id":"x"}"#, "\u{0}"] {
            let decoded = Codec::Json.decode(Message::Text(text.into()));
            assert!(matches!(decoded, Some(Err(_))), "{text:?}");
        }
        let garbage = Message::Binary(vec![0xff; 9].into());
        assert!(matches!(Codec::Protobuf.decode(garbage.clone()), Some(Err(_))));
        assert!(matches!(Codec::Json.decode(garbage), Some(Err(_))));
        assert_eq!(Codec::Json.decode(Message::Ping(vec![].into())), None);
    }

    #[test]
    fn a_shared_frame_is_as_a_single_one() {
        let body = Body::Changed(Changed {
            conversations: true,
            ..Changed::default()
        });
        let single = ServerFrame {
            id: 0,
            body: Some(body.clone()),
        };
        let shared = Shared::new(body);
        for codec in [Codec::Json, Codec::Protobuf] {
            assert_eq!(shared.message(codec), codec.encode(&single));
        }
    }
}
