//! How the node stands: readiness, status, audit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::asked::{Asked, Nothing};
use super::problem::{BadRequest, Unavailable};
use super::view::{instant, seconds};
use super::{Node, Problem};
use crate::metrics::Audit;
use crate::service::Status;

/// `GET /healthz`: 200 while the process serves. Like `/readyz` it takes whatever query a prober adds.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "node",
    responses((status = 200, description = "The process serves", content_type = "text/plain", body = String))
)]
pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 200 while reports are taken, else 503 and why not.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "node",
    responses(
        (status = 200, description = "Reports are taken", content_type = "text/plain", body = String),
        Unavailable,
    )
)]
pub(super) async fn ready(State(node): State<Arc<Node>>) -> Result<&'static str, Problem> {
    match node.why_not_ready(node.service.not_ready()) {
        None => Ok("ready\n"),
        Some(reason) => Err(Problem::unavailable(reason)),
    }
}

/// `GET /api/v1/status`
#[utoipa::path(
    get,
    path = "/api/v1/status",
    tag = "node",
    responses((status = 200, description = "How the node stands", body = StatusView), BadRequest)
)]
pub(super) async fn status(State(node): State<Arc<Node>>, Asked(Nothing {}): Asked<Nothing>) -> Json<StatusView> {
    Json(node.status().await)
}

/// `GET /api/v1/audit`
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    tag = "node",
    responses((status = 200, description = "Where every report is, as one snapshot", body = AuditView), BadRequest)
)]
pub(super) async fn audit(State(node): State<Arc<Node>>, Asked(Nothing {}): Asked<Nothing>) -> Json<AuditView> {
    Json(AuditView::new(node.service.audit()))
}

impl Node {
    /// How the node stands. Looks at every id, so away from the tasks that must not wait.
    pub(super) async fn status(self: &Arc<Self>) -> StatusView {
        let node = Arc::clone(self);
        let view = move || StatusView::new(&node, node.service.status());
        tokio::task::spawn_blocking(view).await.expect("looking at the node does not panic")
    }

    fn why_not_ready(&self, service: Option<String>) -> Option<String> {
        if self.stopping.is_cancelled() { Some("the node is stopping".to_owned()) } else { service }
    }
}

/// What an operator sees first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub(super) struct StatusView {
    #[schema(value_type = String)]
    version: &'static str,
    node_id: u16,
    uptime_s: f64,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<String>,
    journal: JournalView,
    sink: SinkView,
    connections: usize,
    audit: AuditView,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Journal)]
struct JournalView {
    reports: u64,
    bytes: u64,
    bytes_on_disk: u64,
    streams: u64,
    oldest_age_s: f64,
    damaged: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sink)]
struct SinkView {
    #[schema(value_type = String, pattern = "^(up|down|blocked)$")]
    state: &'static str,
    last_error: Option<String>,
    since: String,
    /// By how many seconds the sink's clock is ahead of the node's; none for a file, or where it is not known yet.
    clock_skew_s: Option<f64>,
}

/// The audit, and whether it balances.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Audit)]
pub(super) struct AuditView {
    #[serde(flatten)]
    audit: Audit,
    balanced: bool,
}

impl AuditView {
    fn new(audit: Audit) -> Self {
        Self { audit, balanced: audit.balanced() }
    }
}

impl StatusView {
    fn new(node: &Node, status: Status) -> Self {
        let Status { not_ready, journal, sink, clock_skew, audit } = status;
        let not_ready = node.why_not_ready(not_ready);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            node_id: node.node_id,
            uptime_s: seconds(node.started.elapsed()),
            ready: not_ready.is_none(),
            not_ready,
            journal: JournalView {
                reports: audit.backlog,
                bytes: journal.bytes,
                bytes_on_disk: journal.bytes_on_disk,
                streams: journal.streams,
                oldest_age_s: journal.oldest_age.map_or(0.0, seconds),
                damaged: journal.damaged,
            },
            sink: SinkView {
                state: sink.state.name(),
                last_error: sink.last_error,
                since: instant(sink.since),
                clock_skew_s: clock_skew,
            },
            connections: node.connections.load(Ordering::Relaxed),
            audit: AuditView::new(audit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_says_whether_it_balances() {
        let mut audit = Audit { recovered: 1, accepted: 5, stored: 3, backlog: 2, dead: 1, ..Audit::default() };
        let json = |audit| serde_json::to_string(&AuditView::new(audit)).expect("numbers are JSON");
        assert_eq!(
            json(audit),
            r#"{"recovered":1,"accepted":5,"stored":3,"duplicates":0,"dead":1,"discarded":0,"backlog":2,"balanced":true}"#
        );
        audit.stored = 2;
        assert!(json(audit).ends_with(r#""balanced":false}"#));
    }
}
