//! What all commands share that ask a running node: where its admin API is, the token, and questions that end in time.

mod http;
mod pages;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use hyper::header::HeaderValue;
use hyper::{Method, Uri};

use super::Failure;
use super::route::{CA_FLAG, Route, Trust, bearer};

pub use http::AskError;
pub use pages::{Paged, Query};

/// Where a node's admin listener is unless it was moved.
const DEFAULT_ADMIN: &str = "http://127.0.0.1:7002";

/// Flags of the commands that ask a running node.
#[derive(clap::Args)]
// Its name is that of the command's own group.
#[group(skip)]
pub struct Arguments {
    /// The admin listener of the node.
    #[arg(long, global = true, value_name = "URL", env = "FOREBAY_ADMIN_URL", default_value = DEFAULT_ADMIN)]
    admin: Uri,
    /// A file that holds the bearer token of the admin API.
    #[arg(long, global = true, value_name = "PATH", env = "FOREBAY_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// For https://: a file with the certificate that the node's is signed by (PEM) [default: the public authorities].
    #[arg(long, global = true, value_name = "PATH", env = "FOREBAY_ADMIN_CA")]
    ca: Option<PathBuf>,
    /// Show the token over http:// to another machine too, where whoever is on the way can read it.
    #[arg(long, global = true)]
    insecure_http: bool,
    /// How long to wait for each answer, such as 30s.
    #[arg(long, global = true, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Asks one node. Each question is a connection of its own.
#[derive(Clone)]
pub struct Client {
    route: Route,
    /// `http` or `https`.
    scheme: String,
    /// Host and port, as the `Host` header has them.
    authority: String,
    /// What comes before `/api`, where a proxy puts the node below a path.
    prefix: String,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl Arguments {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Failure::Configuration`] where the URL is none of a listener, a file is not what it should be, or others could
    /// read the token.
    pub fn client(self) -> Result<Client, Failure> {
        self.read().map_err(Failure::Configuration)
    }

    fn read(&self) -> anyhow::Result<Client> {
        let (scheme, authority) = listener(&self.admin)?;
        let token = self.token_file.as_deref().map(bearer).transpose()?;
        let trust =
            Trust { ca: self.ca.as_deref(), ca_name: CA_FLAG, token: token.is_some(), insecure: self.insecure_http };
        let route = Route::new(&self.admin, trust)?;
        let prefix = self.admin.path().trim_end_matches('/').to_owned();
        Ok(Client { route, scheme, authority, prefix, token, timeout: self.timeout })
    }
}

/// Scheme of the URL, and host and port.
fn listener(admin: &Uri) -> anyhow::Result<(String, String)> {
    let authority = admin.authority().filter(|authority| !authority.as_str().contains('@'));
    match (admin.scheme_str(), authority, admin.query()) {
        (Some(scheme @ ("http" | "https")), Some(authority), None) => Ok((scheme.to_owned(), authority.to_string())),
        _ => anyhow::bail!("--admin must be a URL such as {DEFAULT_ADMIN} or https://host:7002"),
    }
}

/// Runs one command's questions to their end, on this thread.
pub fn block_on<T>(asking: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the runtime")?.block_on(asking)?)
}

impl Client {
    /// `GET`: the JSON of the answer.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn get(&self, path: &str) -> Result<String, AskError> {
        self.ask(Method::GET, path).await
    }

    /// `POST` without a body.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn post(&self, path: &str) -> Result<String, AskError> {
        self.ask(Method::POST, path).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn delete(&self, path: &str) -> Result<String, AskError> {
        self.ask(Method::DELETE, path).await
    }
}

/// Whether there is a person who can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
