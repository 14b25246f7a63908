//! `forebay status`.

use std::fmt::Write as _;

use serde::Deserialize;

use super::client::{self, Client};
use super::text::{age, counted, number, shown, since, size};
use super::{Failure, finish, print_json, write_out};

/// Flags of `forebay status`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    client: client::Arguments,
    /// Print the JSON of the admin API.
    #[arg(long)]
    json: bool,
    /// Only ask whether reports are taken; needs no token.
    #[arg(long, conflicts_with = "json")]
    ready: bool,
}

/// What `/api/v1/status` says; what another version leaves out is empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub node_id: u16,
    pub uptime_s: f64,
    pub ready: bool,
    pub not_ready: Option<String>,
    pub journal: Journal,
    pub sink: Sink,
    pub connections: u64,
    pub audit: Audit,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Journal {
    pub reports: u64,
    pub bytes: u64,
    pub bytes_on_disk: u64,
    pub streams: u64,
    pub oldest_age_s: f64,
    pub damaged: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Sink {
    pub state: String,
    pub last_error: Option<String>,
    pub since: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Audit {
    pub recovered: u64,
    pub accepted: u64,
    pub stored: u64,
    pub duplicates: u64,
    pub dead: u64,
    pub discarded: u64,
    pub backlog: u64,
    pub balanced: bool,
}

/// Prints how the node stands; a node that takes no reports is a failure.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { client, json, ready } = arguments;
    let client = client.client()?;
    finish(client::block_on(async {
        if ready {
            return write_out(shown(client.get("/readyz").await?.trim_end()).as_bytes())
                .and_then(|()| write_out(b"\n"));
        }
        let (text, status) = ask(&client).await?;
        if json {
            print_json(&text)?
        } else {
            write_out(status.for_people().as_bytes())?
        }
        anyhow::ensure!(status.ready, "the node takes no reports: {}", status.why_not_ready());
        Ok(())
    }))
}

/// The status as the node said it, and read.
pub async fn ask(client: &Client) -> anyhow::Result<(String, Status)> {
    let text = client.get("/api/v1/status").await?;
    let status = client.read(&text)?;
    Ok((text, status))
}

impl Status {
    /// The reason, fit to be shown.
    pub fn why_not_ready(&self) -> String {
        self.not_ready.as_deref().map_or_else(|| "it does not say why".to_owned(), shown)
    }

    fn for_people(&self) -> String {
        let Self { version, node_id, uptime_s, ready, journal, sink, connections, audit, .. } = self;
        let mut text = format!("forebay {}, node {node_id}, up {}\n", shown(version), age(*uptime_s));
        let mut line = |name: &str, what: String| writeln!(text, "{name:<13} {what}").expect("a text can grow");
        line("ready", if *ready { "yes".to_owned() } else { format!("no: {}", self.why_not_ready()) });
        let error = sink.last_error.as_deref().map_or(String::new(), |error| format!(": {}", shown(error)));
        line("sink", format!("{} for {}{error}", shown(&sink.state), since(&sink.since)));
        let oldest =
            if journal.reports == 0 { String::new() } else { format!("; oldest {}", age(journal.oldest_age_s)) };
        let (reports, ids) = (counted(journal.reports, "report"), counted(journal.streams, "id"));
        line("backlog", format!("{reports} of {ids}, {}{oldest}", size(journal.bytes)));
        let damaged = match journal.damaged {
            0 => String::new(),
            damaged => format!("; {} set aside as damaged", number(damaged)),
        };
        line("journal", format!("{} on disk{damaged}", size(journal.bytes_on_disk)));
        line("dead letters", number(audit.dead));
        line("connections", number(*connections));
        line("audit", audit.for_people());
        text
    }
}

impl Audit {
    fn for_people(&self) -> String {
        let Self { recovered, accepted, stored, duplicates, dead, discarded, backlog, balanced } = self;
        let [recovered, accepted, stored] = [recovered, accepted, stored].map(|n| number(*n));
        let [duplicates, dead, discarded, backlog] = [duplicates, dead, discarded, backlog].map(|n| number(*n));
        let (sign, verdict) = if *balanced { ("=", "") } else { ("≠", ": NOT balanced, please report this") };
        format!(
            "{recovered} recovered + {accepted} accepted {sign} {stored} stored + {duplicates} duplicates + {dead} dead + \
             {discarded} discarded + {backlog} backlog{verdict}"
        )
    }
}
