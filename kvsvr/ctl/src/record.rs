//! The lines of import and export: one key-value pair as one JSON object.
//!
//! `{"partition":"alice","key":"city","value":"Lisbon"}`. `region` (default 0), `enc` (`utf8`, the default, `base64` or `hex`: how
//! `partition`, `key` and `value` are written) and `expires_at_ms` (unix milliseconds) may be added; `version`, `create_rev` and
//! `mod_rev` are written by export for information and ignored by import. Other fields are refused: a misspelt one would be lost.

use bytes::Bytes;
use kvsvr_client::{KeyValue, Partition};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    output::bytes_object,
    text::{self, Encoding},
};

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What the key belongs to.
    pub partition: Partition,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Unix milliseconds; 0 = never.
    pub expires_at_ms: u64,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Enc {
    #[default]
    Utf8,
    Base64,
    Hex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    partition: Option<String>,
    #[serde(default)]
    region: u16,
    key: String,
    value: String,
    #[serde(default)]
    enc: Enc,
    #[serde(default)]
    expires_at_ms: u64,
    #[serde(default, rename = "version")]
    _version: u64,
    #[serde(default, rename = "create_rev")]
    _create_rev: u64,
    #[serde(default, rename = "mod_rev")]
    _mod_rev: u64,
}

impl Record {
    /// A line as JSON; lines without a partition go to `default`, if there is one.
    ///
    /// # Errors
    /// What is wrong with the line, in words.
    pub fn parse(line: &[u8], default: Option<&Partition>) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let bytes = |field: &str, typed: String| match wire.enc {
            Enc::Utf8 => Ok(Bytes::from(typed)),
            Enc::Base64 => text::parse_base64(&typed).map_err(|e| format!("{field}: {e}")),
            Enc::Hex => text::parse_hex(&typed).map_err(|e| format!("{field}: {e}")),
        };
        let partition = match (wire.partition, default) {
            (Some(name), _) => Partition::new(wire.region, bytes("partition", name)?),
            (None, Some(default)) => default.clone(),
            (None, None) => {
                return Err("it has no \"partition\"; --partition says where such lines go".into());
            }
        };
        Ok(Self {
            partition,
            key: bytes("key", wire.key)?,
            value: bytes("value", wire.value)?,
            expires_at_ms: wire.expires_at_ms,
        })
    }
}

/// The line of a pair.
pub fn show(partition: &Partition, kv: &KeyValue) -> Value {
    let mut rest = json!({ "version": kv.version, "create_rev": kv.create_rev, "mod_rev": kv.mod_rev });
    if partition.region != 0 {
        rest["region"] = partition.region.into();
    }
    if kv.expires_at_ms != 0 {
        rest["expires_at_ms"] = kv.expires_at_ms.into();
    }
    bytes_object(
        Encoding::Text,
        &[
            ("partition", &partition.name),
            ("key", &kv.key),
            ("value", &kv.value),
        ],
        rest,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_exported_can_be_imported(
            region in any::<u16>(),
            name in proptest::collection::vec(any::<u8>(), 1..20),
            key in prop_oneof![".{1,9}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 1..20)],
            value in prop_oneof![".{0,9}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..20)],
            expires_at_ms in any::<u64>(),
        ) {
            let partition = Partition::new(region, name);
            let kv = KeyValue { key: key.into(), value: value.into(), expires_at_ms, version: 3, ..KeyValue::default() };
            let line = show(&partition, &kv).to_string();
            prop_assert!(!line.contains('\n'));
            let expected = Record { partition, key: kv.key, value: kv.value, expires_at_ms };
            prop_assert_eq!(Record::parse(line.as_bytes(), None), Ok(expected));
        }

        #[test]
        fn any_line_is_parsed_or_refused(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Record::parse(&line, None);
        }
    }

    #[test]
    fn lines_may_be_short() {
        let record = Record::parse(br#"{"partition":"p","key":"k","value":""}"#, None).unwrap();
        assert_eq!(
            (record.partition, record.expires_at_ms),
            (Partition::local("p"), 0)
        );
        let other = Partition::new(3, "other");
        let record = Record::parse(br#"{"key":"6b","value":"","enc":"hex"}"#, Some(&other)).unwrap();
        assert_eq!((record.partition, &record.key[..]), (other, &b"k"[..]));
    }

    #[test]
    fn bad_lines_say_why() {
        for (line, part) in [
            ("", "EOF"),
            ("[]", "expected"),
            (r#"{"key":"k","value":"v"}"#, "no \"partition\""),
            (r#"{"partition":"p","value":"v"}"#, "missing field `key`"),
            (
                r#"{"partition":"p","key":"k","value":"v","ttl":5}"#,
                "unknown field `ttl`",
            ),
            (
                r#"{"partition":"cA==","key":"aw==","value":"*","enc":"base64"}"#,
                "value: '*' is not a base64",
            ),
            (
                r#"{"partition":"p","key":"k","value":"v","region":70000}"#,
                "70000",
            ),
            (r#"{"partition":"p","key":"k","value":7}"#, "string"),
        ] {
            let message = Record::parse(line.as_bytes(), None).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
