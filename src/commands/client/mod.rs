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

pub use http::AskError;
pub use pages::Query;

/// Where a node's admin listener is unless it was moved.
const DEFAULT_ADMIN: &str = "http://127.0.0.1:7002";

/// Bytes of a token file; past it it is some other file.
const MAX_TOKEN_BYTES: u64 = 4096;

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
    /// How long to wait for each answer, such as 30s.
    #[arg(long, global = true, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Asks one node. Each question is a connection of its own.
#[derive(Clone)]
pub struct Client {
    /// Host and port, as the `Host` header has them.
    authority: String,
    /// What comes before `/api`, where a proxy puts the node below a path.
    prefix: String,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl Arguments {
    /// Reads the token.
    ///
    /// # Errors
    /// [`Failure::Configuration`] where the URL is none of a listener, or the token's file has no token.
    pub fn client(self) -> Result<Client, Failure> {
        let authority = authority(&self.admin).map_err(Failure::Configuration)?;
        let token = self.token_file.map(|path| {
            let context = || format!("cannot use the token file {}", path.display());
            token(&path).with_context(context).map_err(Failure::Configuration)
        });
        let prefix = self.admin.path().trim_end_matches('/').to_owned();
        Ok(Client { authority, prefix, token: token.transpose()?, timeout: self.timeout })
    }
}

/// Host and port of the URL.
fn authority(admin: &Uri) -> anyhow::Result<String> {
    let authority = admin.authority().filter(|authority| !authority.as_str().contains('@'));
    match (admin.scheme_str(), authority, admin.query()) {
        (Some("http"), Some(authority), None) => Ok(authority.to_string()),
        _ => anyhow::bail!("--admin must be a URL such as {DEFAULT_ADMIN}"),
    }
}

fn token(path: &std::path::Path) -> anyhow::Result<HeaderValue> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text)?;
    let token = text.trim();
    let is_token =
        !token.is_empty() && token.len() as u64 <= MAX_TOKEN_BYTES && token.bytes().all(|b| b.is_ascii_graphic());
    anyhow::ensure!(is_token, "it must hold one token and nothing else");
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).context("it holds no token")?;
    value.set_sensitive(true);
    Ok(value)
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
