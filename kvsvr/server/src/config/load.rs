//! Where settings come from: flags before environment before file before defaults.
//!
//! The result remembers the origin of each value, for `kvsvr config print` and for error messages. An unknown key in the file or after
//! `--set` is an error that names the closest known one. An unknown `KVSVR_*` variable is a warning, since other programs may use the
//! prefix.

use std::{collections::BTreeMap, fmt, path::Path};

use super::{
    Config, ConfigError,
    settings::{SETTINGS, Setting, find, nearest},
    split_address,
};
use crate::limits::HTTP_PORT_OFFSET;

/// Variables with our prefix that are not settings.
const OTHER_VARIABLES: &[&str] = &[
    "KVSVR_CONFIG",
    #[cfg(feature = "mutants")]
    kvsvr_client::mutants::VARIABLE,
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// Follows from another setting, which is named.
    Derived(&'static str),
    /// The configuration file.
    File(String),
    /// An environment variable, which is named.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Derived(key) => write!(f, "from {key}"),
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// What the process was given. Values are not interpreted yet.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Setting and value, in the order of the command line; the last one counts.
    pub flags: Vec<(String, String)>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Path and text of the configuration file.
    pub file: Option<(String, String)>,
}

/// A configuration and where each value came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The values. Not validated.
    pub config: Config,
    /// By setting.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What the operator should look at, e.g. a variable that looks like a setting and is none.
    pub warnings: Vec<String>,
}

type Given = BTreeMap<&'static str, (String, Origin)>;

/// Merges the sources. All that is wrong is in the error.
pub fn load(sources: &Sources) -> Result<Effective, ConfigError> {
    let (mut given, mut wrong, mut warnings) = (Given::new(), Vec::new(), Vec::new());
    if let Some((path, text)) = &sources.file {
        from_file(path, text, &mut given, &mut wrong);
    }
    from_environment(&sources.environment, &mut given, &mut warnings);
    from_flags(&sources.flags, &mut given, &mut wrong);

    let mut config = Config::default();
    let mut origins = BTreeMap::new();
    // In the order of the table: a preset before what it presets.
    for setting in SETTINGS {
        let Some((value, origin)) = given.remove(setting.key) else {
            origins.insert(setting.key, Origin::Default);
            continue;
        };
        if let Err(reason) = (setting.set)(&mut config, &value) {
            wrong.push(format!("{} ({origin}): {reason}", setting.key));
        }
        origins.insert(setting.key, origin);
    }
    derive(&mut config, &mut origins);
    if wrong.is_empty() {
        Ok(Effective {
            config,
            origins,
            warnings,
        })
    } else {
        Err(ConfigError(wrong))
    }
}

/// Values that follow from others unless they are given.
fn derive(config: &mut Config, origins: &mut BTreeMap<&'static str, Origin>) {
    let is_default = |origins: &BTreeMap<_, _>, key| origins.get(key) == Some(&Origin::Default);
    for key in ["raft.heartbeat", "raft.election_min", "raft.election_max"] {
        if is_default(origins, key) {
            origins.insert(key, Origin::Derived("raft.timing"));
        }
    }
    if is_default(origins, "advertise") {
        config.advertise = config.listen.clone();
        origins.insert("advertise", Origin::Derived("listen"));
    }
    if is_default(origins, "http") {
        config.http = http_for(&config.listen);
        origins.insert("http", Origin::Derived("listen"));
    }
}

/// The host of `listen`, its port + 1000 (or 0 for 0). `None` where that is no port or `listen` is no address.
fn http_for(listen: &str) -> Option<String> {
    let (host, port) = split_address(listen)?;
    let port = if port == 0 {
        0
    } else {
        port.checked_add(HTTP_PORT_OFFSET)?
    };
    Some(format!("{host}:{port}"))
}

fn from_file(path: &str, text: &str, given: &mut Given, wrong: &mut Vec<String>) {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return wrong.push(format!("{path} is not TOML: {error}")),
    };
    flatten("", &table, &mut |key, value| {
        let Some(setting) = find(key) else {
            return wrong.push(unknown(key, &format!("in {path}")));
        };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            other => {
                let kind = other.type_str();
                return wrong.push(format!(
                    "{key} (file {path}): a {kind} is not possible here, write a string or a whole number"
                ));
            }
        };
        given.insert(setting.key, (text, Origin::File(path.to_owned())));
    });
}

/// Calls `visit` for each value with its dotted key.
fn flatten(prefix: &str, table: &toml::Table, visit: &mut impl FnMut(&str, &toml::Value)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) if find(&key).is_none() && !inner.is_empty() => {
                flatten(&key, inner, visit)
            }
            value => visit(&key, value),
        }
    }
}

fn from_environment(environment: &[(String, String)], given: &mut Given, warnings: &mut Vec<String>) {
    for (variable, value) in environment {
        if !variable.starts_with("KVSVR_") || OTHER_VARIABLES.contains(&variable.as_str()) {
            continue;
        }
        match SETTINGS.iter().find(|setting| setting.variable() == *variable) {
            Some(setting) => {
                given.insert(
                    setting.key,
                    (value.clone(), Origin::Environment(variable.clone())),
                );
            }
            None => warnings.push(format!(
                "the environment variable {variable} is not a setting and has no effect"
            )),
        }
    }
}

fn from_flags(flags: &[(String, String)], given: &mut Given, wrong: &mut Vec<String>) {
    for (key, value) in flags {
        match find(key) {
            Some(setting) => {
                given.insert(setting.key, (value.clone(), Origin::Flag));
            }
            None => wrong.push(unknown(key, "on the command line")),
        }
    }
}

fn unknown(key: &str, place: &str) -> String {
    match nearest(key) {
        Some(near) => format!("{key} {place} is not a setting; did you mean {near}?"),
        None => format!("{key} {place} is not a setting; `kvsvr config print` lists them all"),
    }
}

impl Effective {
    /// A TOML file with these values, in which each has its meaning and its origin as a comment. Loading it gives the same values.
    pub fn to_toml(&self) -> String {
        let mut out = String::from(
            "# Configuration of a kvsvr node.\n# Precedence: flags, environment (KVSVR_*), file, defaults.\n",
        );
        let mut section = "";
        for setting in SETTINGS {
            let (table, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
            if table != section {
                section = table;
                out.push_str(&format!("\n[{table}]\n"));
            }
            out.push('\n');
            out.push_str(&comment(
                setting,
                self.origins.get(setting.key).unwrap_or(&Origin::Default),
            ));
            let value = (setting.get)(&self.config);
            let unset = if value == "\"\"" { "# " } else { "" };
            out.push_str(&format!("{unset}{name} = {value}\n"));
        }
        out
    }
}

fn comment(setting: &Setting, origin: &Origin) -> String {
    let mut out = String::new();
    let mut line = String::from("#");
    for word in setting.help.split_whitespace() {
        if line.len() + 1 + word.len() > 100 {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push_str(&format!("\n# {}; value: {origin}\n", setting.variable()));
    out
}

/// Reads a configuration file as a source.
pub(crate) fn read_file(path: &Path) -> Result<(String, String), ConfigError> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(ConfigError(vec![format!(
            "cannot read the configuration file {name}: {error}"
        )])),
    }
}
