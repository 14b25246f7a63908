//! `GET /metrics`, for Prometheus and what reads its formats.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;

use super::Node;
use crate::metrics::{Format, Reading};

/// `GET /metrics`: in Prometheus' text format, or in OpenMetrics where the client asks for it.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "node",
    responses((status = 200, description = "All metrics, as docs/metrics.md has them", content_type = "text/plain", body = String))
)]
pub(super) async fn page(State(node): State<Arc<Node>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    // It asks file systems.
    let page = tokio::task::spawn_blocking(move || {
        let reading = node.service.reading();
        let reading = Reading {
            version: env!("CARGO_PKG_VERSION"),
            node_id: node.node_id,
            ready: reading.ready && !node.stopping.is_cancelled(),
            connections: node.connections.load(Ordering::Relaxed) as u64,
            ..reading
        };
        node.service.metrics().page(reading, format)
    });
    ([(header::CONTENT_TYPE, format.content_type())], page.await.expect("a page is written without a panic"))
}

#[cfg(test)]
mod tests {
    use crate::metrics::Reasons;
    use crate::report::RefusalKind;

    #[test]
    fn every_refusal_has_its_count() {
        let refused = Reasons::default();
        RefusalKind::ALL.iter().for_each(|kind| refused.add(kind.name()));
        assert_eq!(refused.all(), RefusalKind::ALL.map(|kind| (kind.name(), 1)));
    }
}
