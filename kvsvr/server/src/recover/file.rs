//! The files that go from step to step: JSON with a version, and a checksum over what is in it.

use std::{fs, io, io::Write as _, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Collected, Plan, RecoverError};

/// The version of both files' format.
const FORMAT_VERSION: u32 = 1;

/// What a file is.
pub trait Kind: Serialize + DeserializeOwned {
    /// Its name in the file.
    const KIND: &'static str;
    /// Which command makes it.
    const MADE_BY: &'static str;
}

impl Kind for Collected {
    const KIND: &'static str = "kvsvr-recover-collected";
    const MADE_BY: &'static str = "kvsvr recover collect";
}

impl Kind for Plan {
    const KIND: &'static str = "kvsvr-recover-plan";
    const MADE_BY: &'static str = "kvsvr recover plan";
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    kind: String,
    format_version: u32,
    /// CRC-32C of the content as compact JSON with sorted keys, 8 hex digits.
    crc32c: String,
    content: Value,
}

fn checksum(content: &Value) -> Result<String, serde_json::Error> {
    // `Value` keeps keys sorted, so white space and order in the file do not matter.
    let bytes = serde_json::to_vec(content)?;
    Ok(format!("{:08x}", crc32c::crc32c(&bytes)))
}

fn bad(path: &Path, detail: impl Into<String>) -> RecoverError {
    RecoverError::BadFile {
        path: path.display().to_string(),
        detail: detail.into(),
    }
}

/// Reads a file of an earlier step.
///
/// # Errors
/// It cannot be read, is of another kind or version, or damaged.
pub fn read<T: Kind>(path: &Path) -> Result<T, RecoverError> {
    let text = fs::read(path).map_err(|e| bad(path, format!("cannot be read: {e}")))?;
    parse(&text).map_err(|detail| bad(path, detail))
}

pub(super) fn parse<T: Kind>(text: &[u8]) -> Result<T, String> {
    let again = T::MADE_BY;
    let damaged = |detail: &str| format!("the file is damaged ({detail}); make it again with `{again}`");
    let envelope: Envelope = serde_json::from_slice(text).map_err(|e| damaged(&e.to_string()))?;
    if envelope.kind != T::KIND {
        return Err(format!(
            "this is a file of the kind {}; one that `{again}` makes is needed",
            envelope.kind
        ));
    }
    if envelope.format_version > FORMAT_VERSION {
        return Err(format!(
            "the file has format version {}, this program knows versions up to {FORMAT_VERSION}: use one version of kvsvr for all steps",
            envelope.format_version
        ));
    }
    if checksum(&envelope.content).map_err(|e| damaged(&e.to_string()))? != envelope.crc32c {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_value(envelope.content).map_err(|e| damaged(&e.to_string()))
}

pub(super) fn encode<T: Kind>(content: &T) -> Result<String, serde_json::Error> {
    let content = serde_json::to_value(content)?;
    let envelope = Envelope {
        kind: T::KIND.to_owned(),
        format_version: FORMAT_VERSION,
        crc32c: checksum(&content)?,
        content,
    };
    Ok(serde_json::to_string_pretty(&envelope)? + "\n")
}

/// Writes a file for the next step: it has its name when it is whole and synced.
///
/// # Errors
/// It cannot be written.
pub fn write<T: Kind>(path: &Path, content: &T) -> Result<(), RecoverError> {
    let text = encode(content).map_err(RecoverError::storage)?;
    let failed = |e: io::Error| bad(path, format!("cannot be written: {e}"));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
