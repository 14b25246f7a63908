//! How the node stands: readiness, status, audit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::{Node, Problem};
use crate::engine::{Audit, Status};

/// `GET /readyz`: 200 while reports are taken, else 503 and why not.
pub(super) async fn ready(State(node): State<Arc<Node>>) -> Result<&'static str, Problem> {
    match node.why_not_ready(&node.engine.status()) {
        None => Ok("ready\n"),
        Some(reason) => Err(Problem::unavailable(reason)),
    }
}

/// `GET /api/v1/status`
pub(super) async fn status(State(node): State<Arc<Node>>) -> Json<StatusView> {
    Json(StatusView::new(&node, node.engine.status()))
}

/// `GET /api/v1/audit`
pub(super) async fn audit(State(node): State<Arc<Node>>) -> Json<AuditView> {
    Json(AuditView::new(node.engine.status().audit))
}

impl Node {
    fn why_not_ready(&self, status: &Status) -> Option<String> {
        if self.stopping.is_cancelled() {
            return Some("the node is stopping".to_owned());
        }
        let unknown = || "the engine takes no reports".to_owned();
        (!status.ready).then(|| status.not_ready_because.clone().unwrap_or_else(unknown))
    }
}

/// What an operator sees first.
#[derive(Debug, Serialize)]
pub(super) struct StatusView {
    version: &'static str,
    node_id: u16,
    uptime_s: f64,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready_because: Option<String>,
    journal: JournalView,
    sink: SinkView,
    connections: usize,
    audit: AuditView,
}

#[derive(Debug, Serialize)]
struct JournalView {
    reports: u64,
    bytes: u64,
    streams: u64,
    oldest_age_s: f64,
    damaged: u64,
}

#[derive(Debug, Serialize)]
struct SinkView {
    state: &'static str,
    last_error: Option<String>,
    since: String,
}

/// The audit, and whether it balances.
#[derive(Debug, Serialize)]
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
        let not_ready_because = node.why_not_ready(&status);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            node_id: node.node_id,
            uptime_s: milliseconds(node.started.elapsed().as_secs_f64()),
            ready: not_ready_because.is_none(),
            not_ready_because,
            journal: JournalView {
                reports: status.reports,
                bytes: status.bytes,
                streams: status.streams,
                oldest_age_s: milliseconds(status.oldest_age_s),
                damaged: status.damaged,
            },
            sink: SinkView {
                state: status.sink_state,
                last_error: status.sink_last_error,
                since: humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(status.sink_since))
                    .to_string(),
            },
            connections: node.connections.load(Ordering::Relaxed),
            audit: AuditView::new(status.audit),
        }
    }
}

/// Seconds to three places: more says nothing.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
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
