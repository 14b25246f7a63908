//! HTTP/1.1 over one connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::departure::Departure;
use super::stall::Unstalled;
use super::stream::Stream;

/// The longest head of a request, in bytes; also the least that hyper can be told.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How long a request that is under way may still take once the node stops.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// What each answer says: nobody may keep it, guess at its type or embed it.
pub const SEALED: [(HeaderName, HeaderValue); 3] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// What a listener allows its clients.
#[derive(Debug)]
pub struct Terms {
    /// How long the head of a request may take, and each piece of an answer.
    pub limit: Duration,
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// Bytes that a chunk of a body may claim.
    pub max_body: u64,
    /// A client that writes no more is answered all the same, and this told of it where it is waited for. Without it
    /// such a client has left, and what it asked for ends.
    pub half_close: Option<Departure>,
}

/// Serves the requests of a connection, until it ends or becomes something else than HTTP. The head of a request has
/// to come, and a piece of an answer to be taken, within the time of `terms`.
pub async fn serve<S, B>(stream: Stream, service: S, terms: Terms, stop: &CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let Terms { limit, keep_alive, max_body, half_close } = terms;
    let allows_half_close = half_close.is_some();
    let socket = Unstalled::new(stream, limit, max_body, half_close);
    let turns = socket.turns();
    let service = service_fn(move |request| {
        // Its head is there.
        turns.fetch_add(1, Ordering::Relaxed);
        let (answering, turns) = (service.call(request), Arc::clone(&turns));
        async move {
            let answer = answering.await;
            turns.fetch_add(1, Ordering::Relaxed);
            answer
        }
    });
    // hyper's bound begins when it waits for a request; that of a head, with its first byte, is the socket's.
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit.max(keep_alive))
        .max_buf_size(MAX_HEADER_BYTES)
        .half_close(allows_half_close)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match timeout(REQUEST_WAIT, serving).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// The answer to a request whose body is in an encoding of transfer that is not undone here: hyper undoes `chunked`,
/// and passes over what else is named before it.
pub fn undecoded(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = |encoding: &HeaderValue| encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let is_decoded = encodings.next().is_none_or(is_plain) && encodings.next().is_none();
    let is_decoded = is_decoded || cfg!(forebay_plant = "take_what_is_not_decoded");
    (!is_decoded).then_some((StatusCode::NOT_IMPLEMENTED, "Transfer-Encoding may be chunked and nothing else"))
}

/// The JSON of a problem (RFC 9457).
pub fn problem_body(status: u16, title: &str, detail: &str) -> String {
    serde_json::json!({ "type": "about:blank", "title": title, "status": status, "detail": detail }).to_string()
}
