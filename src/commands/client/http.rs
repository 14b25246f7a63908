//! One question over HTTP/1.1, and what a person is told where it is not answered.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::super::route::RouteError;
use super::super::text::shown;
use super::Client;

/// How long a connection may take to come about, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of an answer that is read as a whole: a page of a thousand reports of the largest size fits.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;

/// Characters of an answer that a person is shown where it is not what it should be.
const MAX_SHOWN: usize = 60;

/// Bytes of a problem.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error(
        "cannot reach the node at {node}: {error}; is it running, and is that its admin.listen? \
         --admin or FOREBAY_ADMIN_URL say where it is"
    )]
    Unreachable { node: String, error: io::Error },
    /// It speaks no TLS, or is not known to be who it should.
    #[error("the node at {node} is not trusted: {why}")]
    Untrusted { node: String, why: String },
    /// It took too long.
    #[error("the node at {node} did not answer within {within:?}; --timeout gives it longer")]
    Late { node: String, within: Duration },
    /// The connection ended, or what came is no HTTP.
    #[error(
        "the node at {node} gave no whole answer: {error}; does it stop, {}or is it something else than Forebay?",
        if node.starts_with("http:") { "does it want https://, " } else { "" }
    )]
    Broken { node: String, error: String },
    /// What it answers is not what the admin API would.
    #[error("what listens at {node} is not Forebay's admin API, or of another version: it answers {what}")]
    Odd { node: String, what: String },
    /// A token is wanted and none was given, or another than that.
    #[error("{detail}; {} (401)", if *.given { "the token of --token-file is not taken" } else { "give --token-file" })]
    Unauthorized { detail: String, given: bool },
    /// It answered with an error.
    #[error("{detail} ({})", .status.as_u16())]
    Refused { status: StatusCode, detail: String },
}

/// An answer whose body is still to come, and the connection that brings it.
pub struct Answer {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Client {
    /// The whole body of a good answer.
    ///
    /// # Errors
    /// [`AskError`]
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<String, AskError> {
        self.in_time(async {
            let answer = self.answer(method, path).await?;
            let body = Limited::new(answer.response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| self.broken(error.to_string()))?.to_bytes();
            String::from_utf8(body.into()).map_err(|error| self.broken(error.to_string()))
        })
        .await
    }

    /// Gives the body of a good answer to `write` piece by piece, however long it is in all.
    ///
    /// # Errors
    /// [`AskError`], or what `write` says.
    pub async fn stream<E: From<AskError>>(
        &self,
        path: &str,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut answer = self.in_time(self.answer(Method::GET, path)).await?;
        let body = answer.response.body_mut();
        let mut next = async || {
            let broken = |error: hyper::Error| self.broken(error.to_string());
            self.in_time(async { body.frame().await.transpose().map_err(broken) }).await
        };
        while let Some(frame) = next().await? {
            if let Some(piece) = frame.data_ref() {
                write(piece)?;
            }
        }
        Ok(())
    }

    async fn in_time<T>(&self, asking: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
        let late = || AskError::Late { node: self.node(), within: self.timeout };
        timeout(self.timeout, asking).await.unwrap_or_else(|_| Err(late()))
    }

    async fn answer(&self, method: Method, path: &str) -> Result<Answer, AskError> {
        let connecting = timeout(CONNECT_WITHIN, self.route.connect()).await;
        let connected = connecting.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let socket = connected.map_err(|error| match error {
            RouteError::Io(error) => AskError::Unreachable { node: self.node(), error },
            RouteError::Untrusted(why) => AskError::Untrusted { node: self.node(), why: shown(&why) },
        })?;
        let broken = |error: hyper::Error| self.broken(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
        // What goes wrong with the connection is said by the request on it.
        let connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.prefix));
        request = request.header(HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| self.broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let answer = Answer { response, _connection: connection };
        if answer.response.status().is_success() { Ok(answer) } else { Err(self.refused(answer).await) }
    }

    async fn refused(&self, answer: Answer) -> AskError {
        #[derive(Deserialize)]
        struct Problem {
            detail: String,
        }
        let status = answer.response.status();
        let content_type = answer.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_problem = content_type.is_some_and(|value| value.starts_with("application/problem+json"));
        let body = Limited::new(answer.response.into_body(), MAX_PROBLEM_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let detail = match serde_json::from_slice::<Problem>(&body).ok().filter(|_| is_problem) {
            Some(problem) => shown(&problem.detail),
            None => format!("what listens at {} is not Forebay's admin API, or of another version", self.node()),
        };
        match status {
            StatusCode::UNAUTHORIZED => AskError::Unauthorized { detail, given: self.token.is_some() },
            status => AskError::Refused { status, detail },
        }
    }

    /// The URL of the node.
    pub fn node(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.prefix)
    }

    /// Reads an answer, or a part of one.
    ///
    /// # Errors
    /// [`AskError::Odd`]
    pub fn read<T: DeserializeOwned>(&self, json: &str) -> Result<T, AskError> {
        serde_json::from_str(json).map_err(|error| self.odd(&error, json))
    }

    pub(super) fn odd(&self, error: &serde_json::Error, json: &str) -> AskError {
        let what = if error.is_data() { "JSON of another kind" } else { "with something that is no JSON" };
        let shown_at = json.char_indices().nth(MAX_SHOWN).map_or(json.len(), |(at, _)| at);
        AskError::Odd { node: self.node(), what: format!("{what} (`{}`)", shown(&json[..shown_at])) }
    }

    pub(super) fn broken(&self, error: String) -> AskError {
        AskError::Broken { node: self.node(), error: shown(&error) }
    }
}
