//! One method a type of value: raw values in, typed ones out, faults noted on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::fault::{Fault, Origin};
use super::redact::{may_be_secret, shown};
use super::sources::{Gathered, Raw};
use super::{Network, values};

/// Networks of a list; each connection is held against all of them.
const MAX_NETWORKS: usize = 256;

/// The raw values that are still to be read, and the faults so far.
pub(super) struct Reader {
    raw: BTreeMap<&'static str, Raw>,
    origins: BTreeMap<&'static str, Origin>,
    pub faults: Vec<Fault>,
}

impl Reader {
    pub fn new(gathered: Gathered) -> Self {
        let Gathered { entries, faults } = gathered;
        let origins = entries.iter().map(|(&key, entry)| (key, entry.origin.clone())).collect();
        let raw = entries.into_iter().map(|(key, entry)| (key, entry.raw)).collect();
        Self { raw, origins, faults }
    }

    /// Where the value of a key came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// One method a type of value; each gives the default where the value is at fault, which is then noted.
impl Reader {
    pub fn read<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Raw) -> Result<T, String>) -> T {
        let Some(raw) = self.raw.remove(key) else { return default };
        read(&raw).unwrap_or_else(|problem| {
            let (value, origin) = (Some(raw.shown()), self.origin(key));
            self.faults.push(Fault { key: Some(key.to_owned()), value, problem, origin });
            default
        })
    }

    pub fn integer<T: TryFrom<u64>>(&mut self, key: &'static str, default: T, range: RangeInclusive<u64>) -> T {
        self.read(key, default, |raw| {
            let number = match raw {
                Raw::Integer(number) => u64::try_from(*number).ok(),
                Raw::Text(text) => text.parse().ok(),
                _ => None,
            };
            let number = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
            number.ok_or_else(|| format!("must be an integer from {} to {}", range.start(), range.end()))
        })
    }

    pub fn size<T: TryFrom<u64>>(&mut self, key: &'static str, default: T, range: RangeInclusive<u64>) -> T {
        self.read(key, default, |raw| {
            let bytes = match raw {
                Raw::Integer(number) => u64::try_from(*number).ok(),
                raw => raw.text().and_then(values::size),
            };
            let bytes = bytes.filter(|bytes| range.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
            let [least, most] = [range.start(), range.end()].map(|&bytes| values::show_size(bytes));
            bytes
                .ok_or_else(|| format!("must be a size from {least} to {most}, such as \"64KiB\" or a number of bytes"))
        })
    }

    pub fn duration(&mut self, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.read(key, default, |raw| {
            let duration = raw.text().and_then(values::duration).filter(|duration| range.contains(duration));
            let [least, most] = [range.start(), range.end()].map(|&duration| values::show_duration(duration));
            duration.ok_or_else(|| format!("must be a duration from {least} to {most}, such as \"10s\" or \"500ms\""))
        })
    }

    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        self.read(key, default, |raw| {
            let text = match raw {
                Raw::Boolean(value) => Some(if *value { "true" } else { "false" }),
                raw => raw.text(),
            };
            let found = choices.iter().find(|(name, _)| Some(*name) == text);
            let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            found.map(|&(_, value)| value).ok_or_else(|| format!("must be one of {}", names()))
        })
    }

    pub fn address(&mut self, key: &'static str, default: SocketAddr) -> SocketAddr {
        self.read(key, default, |raw| {
            let address = raw.text().and_then(|text| text.parse().ok());
            address.ok_or_else(|| "must be an IP address and a port, such as 127.0.0.1:7001 or [::]:7001".to_owned())
        })
    }

    pub fn path(&mut self, key: &'static str, default: PathBuf) -> PathBuf {
        self.read(key, default, |raw| {
            let path = raw.text().filter(|text| !text.is_empty() && !may_be_secret(text));
            path.map(PathBuf::from).ok_or_else(|| "must be the path of a folder".to_owned())
        })
    }

    /// A file, or none where the text is empty.
    pub fn file(&mut self, key: &'static str, default: Option<PathBuf>) -> Option<PathBuf> {
        self.read(key, default, |raw| {
            // The path is wanted, and never what the file holds: a key, a token, a URL.
            let path = raw.text().filter(|text| !may_be_secret(text));
            let path = path.map(|text| (!text.is_empty()).then(|| PathBuf::from(text)));
            path.ok_or_else(|| "must be the path of a file, or \"\" for none".to_owned())
        })
    }

    /// The URL of a collector, or none where the text is empty.
    pub fn endpoint(&mut self, key: &'static str, default: Option<String>) -> Option<String> {
        self.read(key, default, |raw| {
            let text = raw.text().ok_or("must be a URL such as http://127.0.0.1:4318, or \"\" for none")?;
            (!text.is_empty()).then(|| values::endpoint(text)).transpose()
        })
    }

    pub fn hosts(&mut self, key: &'static str, default: Vec<String>) -> Vec<String> {
        self.read(key, default, |raw| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
            let is_host = |one: &String| !one.is_empty() && one.bytes().all(allowed) && !may_be_secret(one);
            let hosts = raw.list().filter(|all| all.iter().all(is_host));
            hosts.ok_or_else(|| {
                "must be a list of names of hosts, such as forebay.example.org, without ports".to_owned()
            })
        })
    }

    pub fn networks(&mut self, key: &'static str, default: Vec<Network>) -> Vec<Network> {
        self.read(key, default, |raw| {
            let networks: Option<Vec<_>> = raw.list().and_then(|all| all.iter().map(|one| one.parse().ok()).collect());
            networks.filter(|all| all.len() <= MAX_NETWORKS).ok_or_else(|| {
                format!(
                    "must be a list of at most {MAX_NETWORKS} addresses and networks, such as 10.0.0.7, 10.0.0.0/8 or fd00::/8"
                )
            })
        })
    }

    pub fn origins(&mut self, key: &'static str, default: Vec<String>) -> Vec<String> {
        self.read(key, default, |raw| {
            raw.list().filter(|all| all.iter().all(|one| values::is_origin(one))).ok_or_else(|| {
                "must be a list of origins as browsers send them, such as https://example.org or http://localhost:3000: \
                 lower case, no path, no usual port, no *"
                    .to_owned()
            })
        })
    }
}

impl Raw {
    /// The text of a string, a variable or a flag.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// A list; in a variable its items stand between commas.
    fn list(&self) -> Option<Vec<String>> {
        match self {
            Self::List(items) => Some(items.clone()),
            Self::Text(text) if text.trim().is_empty() => Some(Vec::new()),
            Self::Text(text) => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
            _ => None,
        }
    }

    /// The value as a fault shows it, without what may be a secret.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::String(text) => shown(text),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(items) => format!("[{}]", items.iter().map(|item| shown(item)).collect::<Vec<_>>().join(", ")),
            Self::Other(shown) => shown.clone(),
        }
    }
}
