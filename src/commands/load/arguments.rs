//! What a load is to be: the flags, and the plan that they make.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, ensure};
use forebay::report::Id;
use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;

use super::super::route::{CA_FLAG, Route, Trust, bearer};
use super::message::{MAX_SHARING, Template};

/// Flags of `forebay load`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where a node listens for reports.
    #[arg(default_value = "ws://127.0.0.1:7001/ws", conflicts_with = "verify_only")]
    pub url: String,
    /// WebSockets.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub connections: u64,
    /// Ids that the reports are for. Each connection has its own; where there are fewer ids, connections share them.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub ids: u64,
    /// Reports that a connection has unacknowledged at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub in_flight: u64,
    /// Reports of a message: 1 sends each alone, more sends arrays.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub array: u64,
    /// Reports a second over all connections, at even intervals; latency is then counted from the time at which a
    /// report was due. As fast as acks allow, if left out.
    #[arg(long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// Bytes of a report's message.
    #[arg(long, value_name = "BYTES", default_value_t = 300)]
    pub size: usize,
    /// How long to send, such as 30s [default: 10s].
    #[arg(long, value_name = "D", value_parser = duration, conflicts_with = "count")]
    pub duration: Option<Duration>,
    /// How many reports to send, over all connections, instead.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub count: Option<u64>,
    /// Who numbers the reports. Those that the client numbers are resent after a lost connection; what became of the
    /// others is then not known.
    #[arg(long, value_enum, value_name = "WHO", default_value = "client")]
    pub numbering: Numbering,
    /// What the ids begin with; one of its own for each load [default: load-, the time, -].
    #[arg(long, value_name = "P")]
    pub id_prefix: Option<String>,
    /// Threads of the client.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub threads: u64,
    /// How long a connection goes without an ack that it waits for before it gives up.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub patience: Duration,
    /// A file with the token that the node wants.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// For wss://: a file with the certificate that the node's is signed by (PEM) [default: the public authorities].
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Show the token over ws:// to another machine too, where whoever is on the way can read it.
    #[arg(long)]
    pub insecure_http: bool,
    /// Write what was sent and acknowledged here, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// When all is sent, hold the rows of this sink against the ledger: sqlite:PATH,
    /// mysql://user:password@host:3306/database, or `configured` for that of the configuration.
    #[arg(long, value_name = "SINK_URL")]
    pub verify: Option<String>,
    /// Send nothing; hold the sink against a ledger that was written earlier.
    #[arg(long, requires_all = ["verify", "ledger"])]
    pub verify_only: bool,
    /// How long the sink may go without a new row while some are missing.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub verify_timeout: Duration,
    /// The configuration file with the sink's table and timeout; ./forebay.toml is read if it exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Who numbers the reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numbering {
    /// The client, by `seq`.
    Client,
    /// The node.
    Server,
}

/// What the reports of a load look like: all that it takes to know the text of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Ids.
    pub ids: u64,
    /// What they begin with.
    pub id_prefix: String,
    /// Bytes of a message.
    pub size: usize,
    /// Who numbers them.
    pub numbering: Numbering,
}

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// After so many reports.
    Count(u64),
    /// After so long.
    Duration(Duration),
}

/// A load that can be run. Not `Debug`: the request may hold a token.
pub struct Plan {
    /// The way to the node.
    pub route: Route,
    /// The handshake.
    pub request: Request,
    /// Connections.
    pub connections: u64,
    /// Reports unacknowledged at a time, a connection.
    pub in_flight: usize,
    /// Reports of a message.
    pub array: usize,
    /// Reports a second, over all connections.
    pub rate: Option<f64>,
    /// What the reports look like.
    pub shape: Shape,
    /// Its message.
    pub template: Template,
    /// When it ends.
    pub end: End,
    /// Threads.
    pub threads: usize,
    /// How long without an ack.
    pub patience: Duration,
    /// The addresses that its connections are from.
    pub addresses: Mutex<BTreeSet<IpAddr>>,
}

impl Plan {
    /// Reads the flags.
    ///
    /// # Errors
    /// What a person must change.
    pub fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let Arguments { connections, ids, in_flight, array, rate, size, numbering, threads, patience, .. } = *arguments;
        ensure!(array <= in_flight, "--array {array} needs an --in-flight of at least {array}");
        let sharing = connections.div_ceil(ids);
        ensure!(sharing <= MAX_SHARING, "--ids {ids}: at most {MAX_SHARING} connections can share an id");
        let id_prefix = arguments.id_prefix.clone().unwrap_or_else(new_prefix);
        let shape = Shape { ids, id_prefix, size, numbering };
        shape.prefix().map_err(|fault| anyhow!(fault))?;
        let template = Template::new(&shape);
        let template =
            template.map_err(|least| anyhow!("--size {size}: a message of this load needs {least} bytes"))?;
        let end = match arguments.count {
            Some(count) => End::Count(count),
            None => End::Duration(arguments.duration.unwrap_or(Duration::from_secs(10))),
        };
        let (request, route) = reach(arguments)?;
        Ok(Self {
            route,
            request,
            connections,
            in_flight: in_flight as usize,
            array: array as usize,
            rate,
            shape,
            template,
            end,
            threads: threads as usize,
            addresses: Mutex::default(),
            patience,
        })
    }

    /// From the start until a connection's nth message is due, where there is a rate: the connections take turns.
    pub fn due(&self, connection: u64, message: u64) -> Option<Duration> {
        let turn = message as f64 * self.connections as f64 + connection as f64;
        Some(Duration::from_secs_f64(turn * self.array as f64 / self.rate?))
    }

    /// How many reports of a connection are due within that time.
    pub fn due_within(&self, connection: u64, time: Duration) -> Option<u64> {
        let turns = time.as_secs_f64() * self.rate? / self.array as f64;
        let messages = ((turns - connection as f64) / self.connections as f64).ceil().max(0.0);
        Some(messages as u64 * self.array as u64)
    }

    /// How many reports a connection is to send.
    pub fn reports(&self, connection: u64) -> u64 {
        match self.end {
            End::Count(count) => count / self.connections + u64::from(connection < count % self.connections),
            End::Duration(duration) => self.due_within(connection, duration).unwrap_or(u64::MAX),
        }
    }

    /// The URL, for people; without what stands before an `@`.
    pub fn url(&self) -> String {
        let uri = self.request.uri();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
    }
}

impl Shape {
    /// Reads a prefix that was checked when the plan was made, or stands in a ledger.
    ///
    /// # Errors
    /// Why it, or an id with it, is none.
    pub fn check(&self) -> anyhow::Result<(Id, Template)> {
        ensure!(self.ids > 0, "it has no ids");
        let prefix = self.prefix().map_err(|fault| anyhow!(fault))?;
        let template = Template::new(self).map_err(|least| anyhow!("its messages need {least} bytes"))?;
        Ok((prefix, template))
    }
}

/// The handshake, and the way to who is asked for it.
fn reach(arguments: &Arguments) -> anyhow::Result<(Request, Route)> {
    let request = arguments.url.as_str().into_client_request();
    let mut request = request.context("the URL cannot be read; it should be ws://host:port/ws")?;
    let is_known = matches!(request.uri().scheme_str(), Some("ws" | "wss"));
    ensure!(is_known, "the URL should be ws://host:port/ws or wss://host:port/ws");
    let token = arguments.token_file.as_deref().map(bearer).transpose()?;
    let trust = Trust {
        ca: arguments.ca.as_deref(),
        ca_name: CA_FLAG,
        token: token.is_some(),
        insecure: arguments.insecure_http,
    };
    let route = Route::new(request.uri(), trust)?;
    if let Some(token) = token {
        request.headers_mut().insert(AUTHORIZATION, token);
    }
    Ok((request, route))
}

/// A prefix that no load before had, unless two began in one millisecond.
fn new_prefix() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("load-{:x}-", since.as_millis())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("must be a number of reports a second, from 0.001 to 100000000".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_millis(1) && duration <= Duration::from_secs(366 * 86_400) => {
            Ok(duration)
        }
        Ok(_) => Err("must be from 1ms to 366days".to_owned()),
        Err(error) => Err(format!("{error}; write it like 30s, 500ms or 5m")),
    }
}
