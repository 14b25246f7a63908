//! A collector of traces: an OTLP/HTTP receiver on a real socket, which reads requests with OpenTelemetry's own
//! messages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::wait::eventually;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    /// Empty where it has none.
    pub parent: Vec<u8>,
    pub started: u64,
    pub ended: u64,
    pub failed: bool,
    pub events: usize,
    pub attributes: BTreeMap<String, String>,
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// A number among the attributes.
    pub fn number(&self, name: &str) -> i64 {
        self.attributes[name].parse().expect("a number")
    }

    /// An attribute, or "".
    pub fn text(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// Whether it is directly within another, in time as well.
    pub fn is_within(&self, other: &Span) -> bool {
        self.parent == other.id
            && self.trace == other.trace
            && other.started <= self.started
            && self.started <= self.ended
            && self.ended <= other.ended
    }
}

/// Everything that was sent.
#[derive(Default)]
struct Taken {
    spans: Vec<Span>,
    bodies: Vec<u8>,
    authorization: Vec<String>,
}

/// A collector; gone when it is dropped.
pub struct Collector {
    /// Where it listens, or will.
    pub address: SocketAddr,
    status: Arc<AtomicU16>,
    taken: Arc<Mutex<Taken>>,
    /// Until it listens: nobody else gets the port, and who connects is refused.
    socket: Option<TcpSocket>,
    accepting: Option<AbortOnDropHandle<()>>,
}

/// A collector that says nothing.
const MUTE: u16 = 0;

impl Collector {
    /// One that takes everything.
    pub fn start() -> Self {
        let mut collector = Self::down();
        collector.listen(None);
        collector
    }

    /// One that takes everything through TLS.
    pub fn start_with(tls: TlsAcceptor) -> Self {
        let mut collector = Self::down();
        collector.listen(Some(tls));
        collector
    }

    /// One that accepts connections, reads requests, and never answers.
    pub fn mute() -> Self {
        let collector = Self::start();
        collector.answers_with(MUTE);
        collector
    }

    /// A port that refuses connections until [`Self::listen`].
    pub fn down() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let status = Arc::new(AtomicU16::new(200));
        Self { address, status, taken: Arc::default(), socket: Some(socket), accepting: None }
    }

    /// Begins to take.
    pub fn listen(&mut self, tls: Option<TlsAcceptor>) {
        let listener = self.socket.take().expect("it was down").listen(64).expect("it is bound");
        let accepting = accept(listener, tls, Arc::clone(&self.status), Arc::clone(&self.taken));
        self.accepting = Some(AbortOnDropHandle::new(tokio::spawn(accepting)));
    }

    /// The status of its answers from now on.
    pub fn answers_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.taken().spans.clone()
    }

    /// The spans of a name.
    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// Waits for so many spans of a name.
    pub async fn has(&self, name: &str, at_least: usize) {
        let arrived = eventually("spans", async || {
            let found = self.named(name).len();
            if found >= at_least { Ok(()) } else { Err(format!("{found} of {at_least} {name} arrived")) }
        });
        arrived.await;
    }

    /// Whether these bytes were anywhere in what was sent.
    pub fn saw(&self, text: &str) -> bool {
        self.taken().bodies.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The authorization headers, one a request.
    pub fn authorization(&self) -> Vec<String> {
        self.taken().authorization.clone()
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().expect("nobody panics with the lock")
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, status: Arc<AtomicU16>, taken: Arc<Mutex<Taken>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, status, taken) = (tls.clone(), Arc::clone(&status), Arc::clone(&taken));
        connections.spawn(async move {
            match tls {
                None => serve(socket, &status, &taken).await,
                // Who does not trust it goes away.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        serve(stream, &status, &taken).await;
                    }
                }
            }
        });
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, status: &AtomicU16, taken: &Mutex<Taken>) {
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let status = match status.load(Ordering::Relaxed) {
            MUTE => std::future::pending().await,
            status => status,
        };
        assert_eq!((&head.method, head.uri.path()), (&Method::POST, "/v1/traces"));
        assert_eq!(head.headers[CONTENT_TYPE], "application/x-protobuf");
        let mut taken = taken.lock().expect("nobody panics with the lock");
        if status == 200 {
            let request = ExportTraceServiceRequest::decode(&*body).expect("a request of OTLP");
            taken.spans.extend(spans(request));
            taken.bodies.extend_from_slice(&body);
        }
        let shown = head.headers.get(AUTHORIZATION).map_or("", |value| value.to_str().expect("text"));
        taken.authorization.push(shown.to_owned());
        let answer = Response::builder().status(status).body(Full::new(Bytes::new()));
        Ok::<_, Infallible>(answer.expect("a status"))
    });
    // A client may go away in the middle.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(of_resource.resource.expect("a resource").attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            found.push(Span {
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                started: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
                events: span.events.len(),
                attributes: texts(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    found
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |attribute: KeyValue| {
        let value = match attribute.value?.value? {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((attribute.key, value))
    };
    attributes.into_iter().filter_map(text).collect()
}
