//! The admin listener: health, readiness and figures, for operators and their tools.
//!
//! Duty: answers questions about the service over HTTP; every error is `application/problem+json` (RFC 9457).
//!
//! Invariants:
//! 1. A status and the audit in it come from one snapshot of the service.
//! 2. On a loopback address only requests whose `Host` is this machine's are served, so that a page of another site
//!    cannot ask through a name that it points here (DNS rebinding); beyond loopback those of `allowed_hosts`, and all
//!    where there are none and a token is asked for.
//! 3. A request from a page of another site is refused. Where a tokens file is set, everything but health and the
//!    dashboard's own files wants a token to read, and everything that changes something one to write.
//! 4. No answer but the dashboard's files is kept by a browser or a proxy, and none is taken for another type, or
//!    embedded by a page of another site.
//! 5. `/healthz` is 200 for as long as the process serves; `/readyz` is 503 with the reason while it takes no reports.
//!
//! Does not know: connections and sessions; their number is a gauge that it is given.

mod asked;
mod damaged;
mod dashboard;
mod dead_letters;
mod events;
mod guard;
mod metrics;
mod openapi;
mod problem;
mod set_aside;
mod status;
mod streams;
mod view;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, post};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Hosts};
use crate::config::{self, Settings};
use crate::net::{self, Accepted, Caller, Caps, Opening, Terms, Tls};
use crate::service::Service;

use problem::Problem;

pub use damaged::DamagedView;

/// How long a TLS handshake, the head of a request, or the client's taking of a piece of an answer may last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a body of the admin API may have, in bytes: no operation reads one.
const MAX_BODY_BYTES: u64 = 64 * 1024;

/// The admin listener, bound and not yet serving.
pub struct Admin {
    listener: TcpListener,
    local_addr: SocketAddr,
    node_id: u16,
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    caps: Arc<Caps>,
    allowed_hosts: Vec<String>,
}

/// The address that a request came from, among its extensions.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

/// What every handler knows.
pub(crate) struct Node {
    service: Service,
    node_id: u16,
    access: Arc<Access>,
    started: Instant,
    hosts: Hosts,
    allowed_hosts: Vec<String>,
    connections: Arc<AtomicUsize>,
    /// Cancelled when the node begins to stop, and when this listener ends.
    stopping: CancellationToken,
    stop: CancellationToken,
    events: events::Events,
}

impl Admin {
    /// Binds `admin.listen`, for whom `access` lets; through TLS where there is a certificate.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(settings: &Settings, access: Arc<Access>, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let admin = &settings.admin;
        let listener = TcpListener::bind(admin.listen).await?;
        // Operators and their tools are few, and may all come through one proxy.
        let caps = Caps::new(admin.max_connections, usize::MAX);
        let (local_addr, node_id) = (listener.local_addr()?, settings.node_id);
        Ok(Self { listener, local_addr, node_id, access, tls, caps, allowed_hosts: admin.allowed_hosts.clone() })
    }

    /// The bound address, with the port that the system chose where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What gives another `max_connections` to connections that come from here on.
    pub fn changer(&self) -> impl Fn(&config::Admin) + Send + use<> {
        let caps = Arc::clone(&self.caps);
        move |admin| caps.change(admin.max_connections, usize::MAX)
    }

    /// Serves until `stop` is cancelled. From the moment that `stopping` is, the node says that it is not ready;
    /// `connections` is the number of open ingest connections.
    pub async fn run(
        self,
        service: Service,
        connections: Arc<AtomicUsize>,
        stopping: CancellationToken,
        stop: CancellationToken,
    ) {
        let Self { listener, local_addr: listen, node_id, access, tls, caps, allowed_hosts } = self;
        let (started, events) = (Instant::now(), events::Events::default());
        let ending = stop.clone();
        let (hosts, metrics) = (Hosts::new(listen), Arc::clone(service.metrics()));
        let node =
            Node { service, node_id, access, started, hosts, allowed_hosts, connections, stopping, stop, events };
        let node = Arc::new(node);
        let service = TowerToHyperService::new(router(Arc::clone(&node)));
        let tracker = TaskTracker::new();
        let opening = Arc::new(Opening::new(tls));
        let serve = |accepted: Accepted| {
            let (service, opening, stop) = (service.clone(), Arc::clone(&opening), ending.clone());
            tracker.spawn(async move {
                let Accepted { socket, peer, place: _place, .. } = accepted;
                let opened = net::open(socket, &opening, false, REQUEST_TIMEOUT, &stop).await;
                let Some((stream, _)) = opened else { return };
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Peer(peer));
                    service.call(request)
                });
                let terms = Terms {
                    limit: REQUEST_TIMEOUT,
                    keep_alive: REQUEST_TIMEOUT,
                    max_body: MAX_BODY_BYTES,
                    half_close: None,
                };
                net::serve(stream, service, terms, &stop).await;
            });
        };
        let who = |_| Caller::Client;
        let refused = || metrics.admin_connections_refused.add(1);
        tokio::select! {
            () = ending.cancelled() => {}
            () = net::accept_all(&listener, &caps, who, opening.is_plain(), &tracker, serve, refused) => {}
            () = events::make(node) => unreachable!("events are made for as long as anybody listens"),
        }
        tracker.close();
        tracker.wait().await;
    }
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(status::healthy))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(metrics::page))
        .route("/api/openapi.json", get(openapi::describe))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/audit", get(status::audit))
        .route("/api/v1/damaged", get(damaged::list))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route("/api/v1/dead-letters/export", get(dead_letters::export))
        .route("/api/v1/dead-letters/retry", post(dead_letters::retry_all))
        .route("/api/v1/dead-letters/{key}", get(dead_letters::show).delete(dead_letters::discard))
        .route("/api/v1/dead-letters/{key}/retry", post(dead_letters::retry))
        .route("/api/v1/streams", get(streams::list))
        .route("/api/v1/streams/{id}", get(streams::show))
        .route("/api/v1/streams/{id}/reports", get(streams::reports))
        .route("/api/v1/streams/{id}/flush", post(streams::flush))
        .route("/api/v1/streams/{id}/pause", post(streams::pause))
        .route("/api/v1/streams/{id}/resume", post(streams::resume))
        .route("/api/v1/streams/{id}/set-aside", post(set_aside::set_aside))
        .merge(dashboard::routes())
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(&node), guard::check))
        .layer(map_response(guard::sealed))
        .with_state(node)
}
