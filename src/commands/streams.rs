//! `forebay streams`.

use forebay::report::Id;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{self, Query};
use super::text::{Column, Table, age, number, shown, size};
use super::{Failure, finish, print_json, write_out};

/// Where the admin API has them.
pub const PATH: &str = "/api/v1/streams";

/// Ids that a table shows unless asked for more.
const SHOWN: u64 = 100;

/// Flags of `forebay streams`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    client: client::Arguments,
    /// What comes first: the largest backlog, the oldest report, or by id.
    #[arg(long, value_enum, default_value_t = Sort::Backlog)]
    sort: Sort,
    /// How many; 100 in a table, all with --json.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only ids that begin so.
    #[arg(long, value_name = "TEXT", value_parser = Id::new)]
    prefix: Option<Id>,
    /// Print the JSON of the admin API, an id a line.
    #[arg(long)]
    json: bool,
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// The largest backlog first.
    Backlog,
    /// The oldest report first.
    Oldest,
    /// By id.
    Id,
}

impl Sort {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Oldest => "oldest",
            Self::Id => "id",
        }
    }
}

/// An id with backlog, or one that is paused, as the admin API has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Stream {
    pub id: String,
    pub state: String,
    pub backlog: u64,
    pub markers: u64,
    pub bytes: u64,
    pub oldest_age_s: Option<f64>,
    pub last_batch: Option<LastBatch>,
    pub last_error: Option<LastError>,
    pub next_attempt_s: Option<f64>,
    pub paused: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LastBatch {
    pub at: String,
    pub reports: u64,
    pub stored: u64,
    pub duplicates: u64,
    pub dead: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LastError {
    pub at: String,
    pub message: String,
    pub code: Option<u32>,
}

/// Prints the ids that have backlog.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { client, sort, limit, prefix, json } = arguments;
    let client = client.client()?;
    let query = Query::default().with("sort", Some(sort.name())).with("prefix", prefix.as_ref().map(Id::as_str));
    finish(client::block_on(async {
        if json {
            client.list(PATH, query, "streams", limit, |stream| print_json(stream.get())).await?;
            return Ok(());
        }
        let mut table = table();
        let take = |stream: &RawValue| {
            table.row(serde_json::from_str::<Stream>(stream.get())?.cells());
            Ok(())
        };
        let listed = client.list(PATH, query, "streams", Some(limit.unwrap_or(SHOWN)), take).await?;
        if listed.count == 0 {
            return write_out(b"no id has backlog\n");
        }
        write_out(format!("{table}{}\n", listed.footer("id")).as_bytes())
    }))
}

fn table() -> Table {
    use Column::{Left, Right};
    let numbers = [Right("BACKLOG"), Right("MARKERS"), Right("SIZE"), Right("OLDEST"), Right("NEXT")];
    Table::new(&[&[Left("ID"), Left("STATE")][..], &numbers, &[Left("LAST ERROR")]].concat())
}

impl Stream {
    /// The cells of [`table`].
    fn cells(&self) -> Vec<String> {
        let Self { id, state, backlog, markers, bytes, oldest_age_s, next_attempt_s, .. } = self;
        let span = |seconds: &Option<f64>| seconds.map_or_else(|| "-".to_owned(), age);
        vec![
            shown(id),
            shown(state),
            number(*backlog),
            number(*markers),
            size(*bytes),
            span(oldest_age_s),
            span(next_attempt_s),
            self.error(),
        ]
    }

    /// The last error, fit to be shown.
    pub fn error(&self) -> String {
        let code = |error: &LastError| error.code.map_or(String::new(), |code| format!(" ({code})"));
        self.last_error.as_ref().map_or(String::new(), |error| format!("{}{}", shown(&error.message), code(error)))
    }
}
