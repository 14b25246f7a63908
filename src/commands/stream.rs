//! `forebay stream`.

use anyhow::anyhow;
use forebay::report::Id;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{self, Client, Query};
use super::dead_letters::Letter;
use super::streams::{LastBatch, PATH, Stream};
use super::text::{Column, Table, age, json_shown, number, shown, since, size};
use super::{Failure, finish, print_json, write_out};

/// Characters of a report's data in a table; `--json` has all of it.
const DATA_SHOWN: usize = 60;

/// Flags of `forebay stream`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    client: client::Arguments,
    /// The id.
    #[arg(value_parser = Id::new)]
    id: Id,
    /// What to do with it; nothing but to show it where this is left out.
    #[arg(value_enum)]
    action: Option<Action>,
    /// For set-aside: why, for whoever looks at the dead letter later; at most 400 bytes.
    #[arg(long, value_name = "TEXT", required_if_eq("action", "set-aside"))]
    reason: Option<String>,
    /// Show the first N reports that wait for the sink as well.
    #[arg(long, value_name = "N", conflicts_with = "action", value_parser = clap::value_parser!(u64).range(1..))]
    reports: Option<u64>,
    /// Print the JSON of the admin API; with --reports, a report a line and nothing else.
    #[arg(long)]
    json: bool,
}

/// What can be done with an id.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Drain what it has now, without waiting for a batch or the tick.
    Flush,
    /// Drain nothing of it until it is resumed, also over a restart.
    Pause,
    /// Drain it again.
    Resume,
    /// Make a dead letter of the first report that waits, so that those behind it go on; needs --reason.
    SetAside,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetAside => "set-aside",
        }
    }
}

/// A report that waits for the sink, as the admin API has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Queued {
    key: String,
    accepted_at: String,
    code: i32,
    data: Option<Box<RawValue>>,
}

/// Prints one id, after what is to be done with it.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { client, id, action, reason, reports, json } = arguments;
    let client = client.client()?;
    if reason.is_some() && action != Some(Action::SetAside) {
        return Err(Failure::Configuration(anyhow!("--reason is for set-aside alone")));
    }
    finish(client::block_on(async {
        let path = format!("{PATH}/{id}");
        if let (Some(limit), true) = (reports, json) {
            let path = format!("{path}/reports");
            client.list(&path, Query::default(), "reports", Some(limit), |report| print_json(report.get())).await?;
            return Ok(());
        }
        if let (Some(Action::SetAside), Some(reason)) = (action, &reason) {
            return set_aside(&client, &path, reason, json).await;
        }
        let text = match action {
            Some(action) => client.post(&format!("{path}/{}", action.name())).await?,
            None => client.get(&path).await?,
        };
        if json {
            return print_json(&text);
        }
        let stream: Stream = client.read(&text)?;
        write_out(stream.for_people().as_bytes())?;
        match reports {
            Some(limit) => print_reports(&client, &path, limit).await,
            None => Ok(()),
        }
    }))
}

async fn set_aside(client: &Client, path: &str, reason: &str, json: bool) -> anyhow::Result<()> {
    let query = Query::default().with("reason", Some(reason));
    let text = client.post(&format!("{path}/{}{}", Action::SetAside.name(), query.as_str())).await?;
    if json {
        return print_json(&text);
    }
    let letter: Letter = client.read(&text)?;
    let (key, reason) = (shown(&letter.key), shown(&letter.reason));
    write_out(format!("{key} is a dead letter now, {reason}\n").as_bytes())
}

async fn print_reports(client: &Client, path: &str, limit: u64) -> anyhow::Result<()> {
    use Column::{Left, Right};
    let mut table = Table::new(&[Left("KEY"), Right("AGE"), Right("SIZE"), Right("CODE"), Left("DATA")]);
    let take = |report: &RawValue| {
        let Queued { key, accepted_at, code, data } = client.read(report.get())?;
        let data = data.as_deref().map_or("", RawValue::get);
        let (begin, bytes) = (beginning(data), data.len() as u64);
        table.row(vec![shown(&key), since(&accepted_at), size(bytes), code.to_string(), begin]);
        Ok(())
    };
    let listed = client.list(&format!("{path}/reports"), Query::default(), "reports", Some(limit), take).await?;
    if listed.count == 0 {
        return Ok(());
    }
    let more = if listed.has_more { "and more wait behind them\n" } else { "" };
    write_out(format!("\n{table}{more}").as_bytes())
}

/// The first characters of a report's data, on one line.
fn beginning(json: &str) -> String {
    match json.char_indices().nth(DATA_SHOWN) {
        Some((end, _)) => format!("{}…", json_shown(&json[..end])),
        None => json_shown(json),
    }
}

impl Stream {
    fn for_people(&self) -> String {
        let Self { id, state, backlog, markers, bytes, oldest_age_s, last_batch, last_error, next_attempt_s, paused } =
            self;
        let paused = if *paused && state != "paused" { ", paused" } else { "" };
        let oldest = oldest_age_s.filter(|_| backlog + markers > 0).map_or_else(|| "-".to_owned(), age);
        let next = next_attempt_s.map_or_else(|| "-".to_owned(), |seconds| format!("in {}", age(seconds)));
        let none = || "none since start".to_owned();
        let batch = last_batch.as_ref().map_or_else(none, LastBatch::for_people);
        let error = last_error
            .as_ref()
            .map_or_else(none, |error| format!("{}, {} ago: {}", shown(&error.at), since(&error.at), self.error()));
        let lines = [
            ("id", shown(id)),
            ("state", format!("{}{paused}", shown(state))),
            ("backlog", format!("{} reports, {} markers, {}", number(*backlog), number(*markers), size(*bytes))),
            ("oldest", oldest),
            ("next attempt", next),
            ("last batch", batch),
            ("last error", error),
        ];
        lines.map(|(name, what)| format!("{name:<13} {what}\n")).concat()
    }
}

impl LastBatch {
    fn for_people(&self) -> String {
        let Self { at, reports, stored, duplicates, dead } = self;
        let [reports, stored, duplicates, dead] = [reports, stored, duplicates, dead].map(|n| number(*n));
        let ago = since(at);
        format!("{}, {ago} ago: {reports} reports = {stored} stored + {duplicates} duplicates + {dead} dead", shown(at))
    }
}
