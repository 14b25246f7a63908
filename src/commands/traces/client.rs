//! The way to the collector: a connection for each export, as there is one in some seconds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Uri;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::EXPORT_WITHIN;
use super::export::State;
use crate::commands::route::Route;

/// Connecting, TLS included; the rest of [`EXPORT_WITHIN`] is for the answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of an answer: a collector has little to say.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The HTTP client of the exporter, whose own thread knows no runtime.
pub struct Client {
    route: Route,
    runtime: Handle,
    state: Arc<State>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(route: Route, runtime: Handle, state: Arc<State>) -> Self {
        Self { route, runtime, state }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let route = self.route.clone();
        // Within the runtime from its first line on: a timeout is made of its clock.
        let asking = async { timeout(EXPORT_WITHIN, exchange(route, request)).await };
        let asked = AbortOnDropHandle::new(self.runtime.spawn(asking)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(format!("no answer within {EXPORT_WITHIN:?}").into()),
            Err(_) => Err("the node stops".into()),
        };
        // The exporter keeps the error to itself.
        answer.inspect_err(|error| self.state.note(error.to_string()))
    }
}

async fn exchange(route: Route, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let connecting = timeout(CONNECT_WITHIN, route.connect()).await;
    let socket = connecting.map_err(|_| format!("no connection within {CONNECT_WITHIN:?}"))??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    // What goes wrong with the connection is said by the request on it.
    let _connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().ok_or("the URL names no host")?;
    parts.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    parts.uri = parts.uri.path_and_query().map_or(Uri::from_static("/"), |path| Uri::from(path.clone()));
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}
