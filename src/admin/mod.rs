//! The admin listener: health, readiness and figures, for operators and their tools.
//!
//! Duty: answers questions about the engine over HTTP; every error is `application/problem+json` (RFC 9457).
//!
//! Invariants:
//! 1. A status and the audit in it come from one snapshot of the engine.
//! 2. On a loopback address only requests whose `Host` is this machine's are served, so that a page of another site
//!    cannot ask through a name that it points here (DNS rebinding).
//! 3. A request from a page of another site is refused. Where a tokens file is set, everything but health and the
//!    dashboard's own files wants a token to read, and everything that changes something one to write.
//! 4. `/healthz` is 200 for as long as the process serves; `/readyz` is 503 with the reason while it takes no reports.
//!
//! Does not know: connections and sessions; their number is a gauge that it is given.

mod dead_letters;
mod guard;
mod host;
mod problem;
mod status;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::config::Settings;
use crate::engine::Engine;

use problem::Problem;

/// The admin listener, bound and not yet serving.
pub struct Admin {
    listener: TcpListener,
    local_addr: SocketAddr,
    node_id: u16,
    access: Arc<Access>,
}

/// What every handler knows.
pub(crate) struct Node {
    engine: Engine,
    node_id: u16,
    access: Arc<Access>,
    started: Instant,
    listen: SocketAddr,
    connections: Arc<AtomicUsize>,
    stopping: CancellationToken,
}

impl Admin {
    /// Binds `admin.listen`, for whom `access` lets.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(settings: &Settings, access: Arc<Access>) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.admin.listen).await?;
        Ok(Self { local_addr: listener.local_addr()?, listener, node_id: settings.node_id, access })
    }

    /// The bound address, with the port that the system chose where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` is cancelled. From the moment that `stopping` is, the node says that it is not ready;
    /// `connections` is the number of open ingest connections.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn run(
        self,
        engine: Engine,
        connections: Arc<AtomicUsize>,
        stopping: CancellationToken,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let Self { listener, local_addr: listen, node_id, access } = self;
        let node = Arc::new(Node { engine, node_id, access, started: Instant::now(), listen, connections, stopping });
        axum::serve(listener, router(node)).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(status::ready))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/audit", get(status::audit))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route("/api/v1/dead-letters/export", get(dead_letters::export))
        .route("/api/v1/dead-letters/retry", post(dead_letters::retry_all))
        .route("/api/v1/dead-letters/{key}", get(dead_letters::show).delete(dead_letters::discard))
        .route("/api/v1/dead-letters/{key}/retry", post(dead_letters::retry))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(&node), guard::check))
        .with_state(node)
}
