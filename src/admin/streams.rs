//! Streams over HTTP: list, show, peek, flush, pause, resume.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::asked::{Asked, Named, Nothing, page_limit, parsed};
use super::view::{instant, raw_json, seconds};
use super::{Node, Problem};
use crate::engine::{Busy, Cursor, Listing, Order, Paused, StreamStatus};
use crate::journal::{JournalError, LastBatch, LastError, PauseError};
use crate::report::{Id, Key, Position, Report};

/// What the list takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// `backlog`, `oldest` or `id`.
    sort: Option<String>,
    /// Entries of the page.
    limit: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// What the ids begin with.
    prefix: Option<String>,
}

/// What a look into a backlog takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeekQuery {
    /// Entries of the page.
    limit: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
}

/// One id.
#[derive(Debug, Serialize)]
pub(super) struct StreamView {
    id: String,
    state: &'static str,
    /// Reports that are not in the sink.
    backlog: u64,
    /// Markers likewise.
    markers: u64,
    /// Bytes of both in the journal.
    bytes: u64,
    oldest_age_s: f64,
    last_batch: Option<BatchView>,
    last_error: Option<ErrorView>,
    /// Seconds until it is drained or tried again, where that is known.
    next_attempt_s: Option<f64>,
    paused: bool,
}

/// The last batch of an id.
#[derive(Debug, Serialize)]
pub(super) struct BatchView {
    at: String,
    reports: u64,
    stored: u64,
    duplicates: u64,
    dead: u64,
}

/// What the sink said.
#[derive(Debug, Serialize)]
pub(super) struct ErrorView {
    at: String,
    message: String,
    code: Option<u32>,
}

/// A page of streams.
#[derive(Debug, Serialize)]
pub(super) struct StreamsPage {
    streams: Vec<StreamView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
    /// All ids that have backlog or are paused, and begin with the prefix.
    total: u64,
}

/// A report that waits for the sink.
#[derive(Debug, Serialize)]
pub(super) struct QueuedView {
    key: String,
    position: u64,
    accepted_at: String,
    /// Seconds, as the client said.
    time: Option<f64>,
    code: i32,
    peer: Option<IpAddr>,
    /// As it was sent.
    data: Option<Box<RawValue>>,
}

/// A page of queued reports.
#[derive(Debug, Serialize)]
pub(super) struct QueuedPage {
    reports: Vec<QueuedView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
}

/// `GET /api/v1/streams?sort=&limit=&after=&prefix=`
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<StreamsPage>, Problem> {
    let order = match query.sort.as_deref() {
        None => Order::default(),
        Some(sort) => sort.parse().map_err(|()| {
            Problem::bad_request(format!("`sort` is `{}`; it may be backlog, oldest or id", sort.escape_debug()))
        })?,
    };
    let limit = page_limit(query.limit.as_deref())?;
    let after = parsed::<Cursor>("after", query.after.as_deref())?;
    if after.is_some_and(|after| after.order != order) {
        return Err(Problem::bad_request("`after` is of a list with another `sort`"));
    }
    let prefix = parsed::<Id>("prefix", query.prefix.as_deref().filter(|prefix| !prefix.is_empty()))?;
    let prefix = prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
    let listing = Listing { order, limit, after: after.map(|after| after.place), prefix };
    let page =
        node.engine.streams().list(listing).await.map_err(|busy: Busy| Problem::unavailable(busy.to_string()))?;
    let streams = page.streams.into_iter().map(StreamView::new).collect();
    Ok(Json(StreamsPage { streams, next: page.next.map(|next| next.to_string()), total: page.total }))
}

/// `GET /api/v1/streams/{id}`
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Json<StreamView> {
    Json(StreamView::new(node.engine.streams().get(&id)))
}

/// `GET /api/v1/streams/{id}/reports?limit=&after=`
pub(super) async fn reports(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(query): Asked<PeekQuery>,
) -> Result<Json<QueuedPage>, Problem> {
    let limit = page_limit(query.limit.as_deref())?;
    let after = parsed::<PositionText>("after", query.after.as_deref())?.map(|after| after.0);
    let peeked = node.engine.streams().peek(id, after, limit).await.map_err(unreadable)?;
    let reports = peeked.reports.iter().map(|(position, report)| QueuedView::new(id, *position, report)).collect();
    Ok(Json(QueuedPage { reports, next: peeked.next.map(|position| position.0.to_string()) }))
}

/// `POST /api/v1/streams/{id}/flush`
pub(super) async fn flush(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<StreamView>, Problem> {
    let flushed = node.engine.streams().flush(&id);
    let status = flushed.map_err(|paused: Paused| Problem::new(StatusCode::CONFLICT, paused.to_string()))?;
    Ok(Json(StreamView::new(status)))
}

/// `POST /api/v1/streams/{id}/pause`
pub(super) async fn pause(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<StreamView>, Problem> {
    set_paused(&node, id, true).await
}

/// `POST /api/v1/streams/{id}/resume`
pub(super) async fn resume(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<StreamView>, Problem> {
    set_paused(&node, id, false).await
}

async fn set_paused(node: &Node, id: Id, paused: bool) -> Result<Json<StreamView>, Problem> {
    let changed = node.engine.streams().set_paused(&id, paused).await;
    let status = changed.map_err(|error| {
        let status = match error {
            PauseError::TooMany => StatusCode::CONFLICT,
            PauseError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem::new(status, error.to_string())
    })?;
    Ok(Json(StreamView::new(status)))
}

/// A position as a client gives it back.
struct PositionText(Position);

impl std::str::FromStr for PositionText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = text.parse().map_err(|_| "is not what `next` of an earlier page had")?;
        Ok(Self(Position(position)))
    }
}

impl StreamView {
    fn new(status: StreamStatus) -> Self {
        let StreamStatus { id, state, reports, markers, bytes, .. } = status;
        Self {
            id: id.to_string(),
            state: state.name(),
            backlog: reports,
            markers,
            bytes,
            oldest_age_s: status.oldest_age.map_or(0.0, seconds),
            last_batch: status.last_batch.map(BatchView::new),
            last_error: status.last_error.map(ErrorView::new),
            next_attempt_s: status.next_attempt.map(seconds),
            paused: status.paused,
        }
    }
}

impl BatchView {
    fn new(LastBatch { at, reports, stored, duplicates, dead }: LastBatch) -> Self {
        Self { at: instant(at), reports, stored, duplicates, dead }
    }
}

impl ErrorView {
    fn new(LastError { at, message, code }: LastError) -> Self {
        Self { at: instant(at), message: message.into(), code }
    }
}

impl QueuedView {
    fn new(id: Id, position: Position, report: &Report) -> Self {
        Self {
            key: Key { id, number: report.number }.to_string(),
            position: position.0,
            accepted_at: instant(report.accepted_at),
            time: report.time.map(|micros| micros as f64 / 1e6),
            code: report.code,
            peer: report.peer,
            data: report.data.as_deref().and_then(raw_json),
        }
    }
}

fn unreadable(error: JournalError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
