//! The file of secret keys that all processes of a chat backend share.
//!
//! One key a line, `ID HEX`; the last line's is the one for new tokens. Lines that begin with `#` are for people.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use chat_core::secrets::Secrets;

/// Bytes of a new key.
const KEY_BYTES: usize = 32;

/// The keys in a file; a new one is made if there is none.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn load_or_create(path: &Path) -> Result<Secrets, String> {
    let shown = path.display();
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|error| format!("{shown}: {error}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(|error| format!("{shown}: cannot be written: {error}"))?;
            let text =
                fs::read_to_string(path).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
            parse(&text).map_err(|error| format!("{shown}: {error}"))
        }
        Err(error) => Err(format!("{shown}: cannot be read: {error}")),
    }
}

fn new_file() -> String {
    let key: [u8; KEY_BYTES] = rand::random();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "# Secret keys of the chat backend. Whoever has them can be any user. The last one is for new tokens;\n# keep older ones for as long as their tokens are to be good.\n1 {hex}\n"
    )
}

/// A new file, unless another process has just made one: whole, or not there.
fn create(path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    write(&new, &new_file())?;
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // For the owner only.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn parse(text: &str) -> Result<Secrets, String> {
    let (mut all, mut current) = (BTreeMap::new(), None);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || {
            format!(
                "line {number} is no key: write an id from 0 to 255 and hexadecimal digits, as in 1 0a1b..."
            )
        };
        let (id, hex) = line.split_once(char::is_whitespace).ok_or_else(bad)?;
        let id: u8 = id.parse().map_err(|_| bad())?;
        let key = bytes(hex.trim()).ok_or_else(bad)?;
        if all.insert(id, key).is_some() {
            return Err(format!("line {number}: there is a key with id {id} before"));
        }
        current = Some(id);
    }
    let current = current.ok_or("there is no key in it")?;
    Secrets::new(current, all).map_err(|error| error.to_string())
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::{create, load_or_create, new_file, parse};

    #[test]
    fn who_comes_second_takes_what_is_there() {
        let directory = std::env::temp_dir().join(format!("chat-secrets-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("secrets");
        load_or_create(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        create(&path).unwrap();
        load_or_create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        let left = std::fs::read_dir(&directory).unwrap().count();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(left, 1, "nothing else is left there");
    }

    #[test]
    fn keys_are_read_and_mistakes_are_told() {
        assert!(parse(&new_file()).is_ok());
        let key = "00".repeat(16);
        assert!(parse(&format!("# old\n1 {key}\n\n2 {key}\n")).is_ok());
        for (text, told) in [
            (String::new(), "no key"),
            ("1".to_owned(), "line 1"),
            (format!("# x\n300 {key}"), "line 2"),
            ("1 0g".to_owned(), "line 1"),
            ("1 0".to_owned(), "line 1"),
            (format!("1 {key}\n1 {key}"), "before"),
            ("1 00".to_owned(), "less than"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }
}
