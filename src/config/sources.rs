//! From the sources to one raw value a key: file, then environment, then flags.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::redact::{shown_message, shown_name};
use super::values;

/// Every key, in the order of the documentation.
pub(super) const KEYS: [&str; 61] = [
    "node_id",
    "on_disconnect",
    "ingest.listen",
    "ingest.max_report_bytes",
    "ingest.max_request_bytes",
    "ingest.max_connections",
    "ingest.max_connections_per_address",
    "ingest.max_in_flight",
    "ingest.max_queued_bytes",
    "ingest.max_reply_bytes",
    "ingest.max_reply_bytes_per_connection",
    "ingest.max_waiting_dones",
    "ingest.max_ids",
    "ingest.max_ids_per_connection",
    "ingest.same_id",
    "ingest.handshake_timeout",
    "ingest.idle_timeout",
    "ingest.ping_interval",
    "ingest.keep_alive",
    "ingest.allowed_origins",
    "ingest.allowed_hosts",
    "ingest.proxy",
    "ingest.trusted_proxies",
    "ingest.tls_cert",
    "ingest.tls_key",
    "journal.dir",
    "journal.lanes",
    "journal.max_bytes",
    "journal.max_backlog_per_id",
    "journal.max_ids",
    "journal.min_free_disk",
    "journal.cache_bytes",
    "journal.recent_bytes",
    "flush.batch",
    "flush.tick",
    "flush.catch_up_batch",
    "sink.url",
    "sink.table",
    "sink.connections",
    "sink.max_rows",
    "sink.max_bytes",
    "sink.timeout",
    "sink.create_tables",
    "sink.settled_marks",
    "sink.tls_ca",
    "sink.tls_cert",
    "sink.tls_key",
    "admin.listen",
    "admin.max_connections",
    "admin.allowed_hosts",
    "admin.tls_cert",
    "admin.tls_key",
    "access.tokens",
    "access.allow_insecure_listen",
    "shutdown.drain",
    "log.level",
    "log.format",
    "trace.otlp_endpoint",
    "trace.otlp_ca",
    "trace.sample_one_in",
    "trace.max_queued_spans",
];

/// What starts the name of every variable that is a setting.
const PREFIX: &str = "FOREBAY_";

/// Those that are none: where commands find the node, which a shell may have set for all that it starts.
const OF_COMMANDS: [&str; 3] = ["ADMIN_URL", "ADMIN_TOKEN_FILE", "ADMIN_CA"];

/// Where settings come from. Not `Debug`: it may hold passwords.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file's name and its text, if there is one.
    pub file: Option<(String, String)>,
    /// Environment variables; those that do not start with `FOREBAY_` are ignored.
    pub variables: Vec<(String, String)>,
    /// Flags of the command line.
    pub flags: Flags,
}

/// What the command line says. Not `Debug`: the sink's URL may hold a password.
#[derive(Clone, Default)]
pub struct Flags {
    /// `--listen`: `ingest.listen`.
    pub listen: Option<String>,
    /// `--admin-listen`: `admin.listen`.
    pub admin_listen: Option<String>,
    /// `--data-dir D`: `journal.dir` is `D/journal`, and the default sink is `D/reports.db`.
    pub data_dir: Option<String>,
    /// `--sink`: `sink.url`.
    pub sink: Option<String>,
    /// `--allow-insecure-listen`: `access.allow_insecure_listen`.
    pub allow_insecure_listen: bool,
}

/// A value before its key's type is applied.
pub(super) enum Raw {
    /// From a variable or a flag: may stand for any type.
    Text(String),
    /// A string of the file.
    String(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<String>),
    /// A value of the file that no key takes, as it is shown.
    Other(String),
}

pub(super) struct Entry {
    pub raw: Raw,
    pub origin: Origin,
}

/// Every key that a source sets, by its last source, and the faults found on the way.
#[derive(Default)]
pub(super) struct Gathered {
    pub entries: BTreeMap<&'static str, Entry>,
    pub faults: Vec<Fault>,
}

impl Gathered {
    pub fn from(sources: &Sources) -> Self {
        let mut gathered = Self::default();
        if let Some((name, text)) = &sources.file {
            gathered.read_file(name, text);
        }
        for (name, value) in &sources.variables {
            gathered.read_variable(name, value);
        }
        gathered.read_flags(&sources.flags);
        gathered
    }

    fn read_file(&mut self, name: &str, text: &str) {
        let line_at = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count();
        let origin = |at: usize| Origin::File { name: name.to_owned(), line: line_at(at) };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let origin = origin(error.span().map_or(0, |span| span.start));
            // Only the message: the error's own text repeats the line, which may hold a password.
            let problem = format!("not valid TOML: {}", shown_message(error.message()));
            self.faults.push(Fault { key: None, value: None, problem, origin });
        }
        if !errors.is_empty() {
            return;
        }
        for (key, value) in root.get_ref() {
            let at = origin(key.span().start);
            let name: &str = key.get_ref();
            match value.get_ref() {
                DeValue::Table(section) if SECTIONS.contains(&name) => {
                    for (key, value) in section {
                        let at = origin(key.span().start);
                        self.set(&format!("{name}.{}", key.get_ref()), raw(value.get_ref()), at);
                    }
                }
                DeValue::Table(_) => self.unknown(name, &SECTIONS, "section", at),
                _ if SECTIONS.contains(&name) => {
                    let problem = format!("is a section: write [{name}] and its keys below");
                    self.faults.push(Fault { key: Some(name.to_owned()), value: None, problem, origin: at });
                }
                value => self.set(name, raw(value), at),
            }
        }
    }

    fn read_variable(&mut self, name: &str, value: &str) {
        let Some(setting) = name.strip_prefix(PREFIX) else { return };
        if let Some(key) = KEYS.into_iter().find(|&key| variable(key) == name) {
            let origin = Origin::Variable(name.to_owned());
            self.entries.insert(key, Entry { raw: Raw::Text(value.to_owned()), origin });
        } else if !is_service_link(setting) && !OF_COMMANDS.contains(&setting) {
            let names = KEYS.map(variable);
            self.unknown(name, &names.each_ref().map(String::as_str), "setting", Origin::Variable(name.to_owned()));
        }
    }

    fn read_flags(&mut self, flags: &Flags) {
        let mut set = |key, value: String, flag| {
            self.entries.insert(key, Entry { raw: Raw::Text(value), origin: Origin::Flag(flag) });
        };
        for (key, flag, value) in [
            ("ingest.listen", "--listen", &flags.listen),
            ("admin.listen", "--admin-listen", &flags.admin_listen),
            ("sink.url", "--sink", &flags.sink),
        ] {
            if let Some(value) = value {
                set(key, value.clone(), flag);
            }
        }
        if flags.allow_insecure_listen {
            set("access.allow_insecure_listen", "true".to_owned(), "--allow-insecure-listen");
        }
        let Some(dir) = &flags.data_dir else { return };
        let under = |name| std::path::Path::new(dir).join(name).to_string_lossy().into_owned();
        set("journal.dir", if dir.is_empty() { String::new() } else { under("journal") }, "--data-dir");
        if !self.entries.contains_key("sink.url") {
            let (raw, origin) = (Raw::Text(format!("sqlite:{}", under("reports.db"))), Origin::Flag("--data-dir"));
            self.entries.insert("sink.url", Entry { raw, origin });
        }
    }

    fn set(&mut self, name: &str, raw: Raw, origin: Origin) {
        match KEYS.into_iter().find(|&key| key == name) {
            Some(key) => drop(self.entries.insert(key, Entry { raw, origin })),
            None => self.unknown(name, &KEYS, "key", origin),
        }
    }

    fn unknown(&mut self, name: &str, known: &[&str], what: &str, origin: Origin) {
        let problem = match values::nearest(name, known) {
            Some(near) => format!("there is no such {what}; did you mean {near}?"),
            None => format!("there is no such {what}"),
        };
        let origin = match origin {
            Origin::Variable(name) => Origin::Variable(shown_name(&name).to_owned()),
            origin => origin,
        };
        self.faults.push(Fault { key: Some(shown_name(name).to_owned()), value: None, problem, origin });
    }
}

/// The tables of the file.
const SECTIONS: [&str; 9] = ["ingest", "journal", "flush", "sink", "admin", "access", "shutdown", "log", "trace"];

/// The variable of a key: `FOREBAY_SINK__URL` for `sink.url`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Whether a variable is one that Kubernetes sets in every pod for a service named `forebay` or `forebay-…`.
fn is_service_link(setting: &str) -> bool {
    let Some(at) = setting.find("SERVICE_HOST").or(setting.find("SERVICE_PORT")).or(setting.find("PORT")) else {
        return false;
    };
    let (service, link) = setting.split_at(at);
    (service.is_empty() || service.ends_with('_'))
        && (matches!(link, "SERVICE_HOST" | "PORT")
            || link.starts_with("SERVICE_PORT")
            || link.starts_with("PORT_") && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| link.contains(protocol)))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::String(text.clone().into_owned()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("a number that is too large".into()),
        },
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts
                .collect::<Option<_>>()
                .map_or_else(|| Raw::Other("a list of other things than strings".into()), Raw::List)
        }
        DeValue::Float(_) => Raw::Other("a number with a fraction".into()),
        DeValue::Datetime(time) => Raw::Other(time.to_string()),
        DeValue::Table(_) => Raw::Other("a table".into()),
    }
}
