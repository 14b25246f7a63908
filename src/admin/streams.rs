//! Streams over HTTP: list, show, peek, flush, pause, resume.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::asked::{Asked, Named, Nothing, page_limit, parsed_or_empty};
use super::openapi::IdText;
use super::problem::{BadRequest, Conflict, Unavailable, Unreadable};
use super::view::{instant, raw_json, seconds};
use super::{Node, Problem};
use crate::journal::{JournalError, LastBatch, LastError, PauseError};
use crate::report::{Id, Key, Position, Report};
use crate::service::{Busy, Cursor, Listing, Order, Paused, StreamStatus};

/// What the list takes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// `backlog`, `oldest` or `id`.
    #[param(pattern = "^(backlog|oldest|id)$")]
    sort: Option<String>,
    /// Entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// What the ids begin with.
    #[param(pattern = "^[A-Za-z0-9._:-]{0,64}$")]
    prefix: Option<String>,
}

/// What a look into a backlog takes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PeekQuery {
    /// Entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// `next` of the page before.
    #[param(pattern = "^[0-9]{0,16}$")]
    after: Option<String>,
}

/// One id.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stream)]
pub(super) struct StreamView {
    id: String,
    #[schema(value_type = String, pattern = "^(waiting|draining|retrying|paused|drained)$")]
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
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastBatch)]
pub(super) struct BatchView {
    at: String,
    reports: u64,
    stored: u64,
    duplicates: u64,
    dead: u64,
}

/// What the sink said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastError)]
pub(super) struct ErrorView {
    at: String,
    message: String,
    code: Option<u32>,
}

/// A page of streams.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Streams)]
pub(super) struct StreamsPage {
    streams: Vec<StreamView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
    /// All ids that have backlog or are paused, and begin with the prefix.
    total: u64,
}

/// A report that waits for the sink.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueuedReport)]
pub(super) struct QueuedView {
    key: String,
    position: u64,
    accepted_at: String,
    /// Seconds, as the client said.
    time: Option<f64>,
    code: i32,
    #[schema(value_type = Option<String>)]
    peer: Option<IpAddr>,
    /// As it was sent.
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Box<RawValue>>,
}

/// A page of queued reports.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueuedReports)]
pub(super) struct QueuedPage {
    reports: Vec<QueuedView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
}

/// `GET /api/v1/streams?sort=&limit=&after=&prefix=`
#[utoipa::path(
    get,
    path = "/api/v1/streams",
    tag = "streams",
    operation_id = "list_streams",
    params(ListQuery),
    responses((status = 200, description = "A page of the ids that have backlog or are paused", body = StreamsPage), BadRequest, Unavailable)
)]
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
    let after = parsed_or_empty::<Cursor>("after", query.after.as_deref())?;
    if after.is_some_and(|after| after.order != order) {
        return Err(Problem::bad_request("`after` is of a list with another `sort`"));
    }
    let prefix = parsed_or_empty::<Id>("prefix", query.prefix.as_deref())?;
    let prefix = prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
    let listing = Listing { order, limit, after: after.map(|after| after.place), prefix };
    let page =
        node.service.streams().list(listing).await.map_err(|busy: Busy| Problem::unavailable(busy.to_string()))?;
    let streams = page.streams.into_iter().map(StreamView::new).collect();
    Ok(Json(StreamsPage { streams, next: page.next.map(|next| next.to_string()), total: page.total }))
}

/// `GET /api/v1/streams/{id}`
#[utoipa::path(
    get,
    path = "/api/v1/streams/{id}",
    tag = "streams",
    operation_id = "show_stream",
    params(("id" = inline(IdText), Path, description = "The id")),
    responses((status = 200, description = "The id, with backlog or without", body = StreamView), BadRequest)
)]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Json<StreamView> {
    Json(StreamView::new(node.service.streams().get(&id)))
}

/// `GET /api/v1/streams/{id}/reports?limit=&after=`
#[utoipa::path(
    get,
    path = "/api/v1/streams/{id}/reports",
    tag = "streams",
    operation_id = "peek_stream",
    params(("id" = inline(IdText), Path, description = "The id"), PeekQuery),
    responses((status = 200, description = "A page of queued reports, oldest first, of at most 1 MiB of data (or one report)", body = QueuedPage), BadRequest, Unreadable)
)]
pub(super) async fn reports(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(query): Asked<PeekQuery>,
) -> Result<Json<QueuedPage>, Problem> {
    let limit = page_limit(query.limit.as_deref())?;
    let after = parsed_or_empty::<PositionText>("after", query.after.as_deref())?.map(|after| after.0);
    let peeked = node.service.streams().peek(id, after, limit).await.map_err(unreadable)?;
    let reports = peeked.reports.iter().map(|(position, report)| QueuedView::new(id, *position, report)).collect();
    Ok(Json(QueuedPage { reports, next: peeked.next.map(|position| position.0.to_string()) }))
}

/// `POST /api/v1/streams/{id}/flush`
#[utoipa::path(
    post,
    path = "/api/v1/streams/{id}/flush",
    tag = "streams",
    operation_id = "flush_stream",
    params(("id" = inline(IdText), Path, description = "The id")),
    responses((status = 200, description = "It is being drained", body = StreamView), BadRequest, Conflict)
)]
pub(super) async fn flush(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<StreamView>, Problem> {
    let flushed = node.service.streams().flush(&id);
    let status = flushed.map_err(|paused: Paused| Problem::new(StatusCode::CONFLICT, paused.to_string()))?;
    Ok(Json(StreamView::new(status)))
}

/// `POST /api/v1/streams/{id}/pause`
#[utoipa::path(
    post,
    path = "/api/v1/streams/{id}/pause",
    tag = "streams",
    operation_id = "pause_stream",
    params(("id" = inline(IdText), Path, description = "The id")),
    responses((status = 200, description = "It is paused, durably", body = StreamView), BadRequest, Conflict, Unavailable)
)]
pub(super) async fn pause(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<StreamView>, Problem> {
    set_paused(&node, id, true).await
}

/// `POST /api/v1/streams/{id}/resume`
#[utoipa::path(
    post,
    path = "/api/v1/streams/{id}/resume",
    tag = "streams",
    operation_id = "resume_stream",
    params(("id" = inline(IdText), Path, description = "The id")),
    responses((status = 200, description = "It is not paused, durably, and being drained", body = StreamView), BadRequest, Unavailable)
)]
pub(super) async fn resume(
    State(node): State<Arc<Node>>,
    Named(id): Named<Id>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<StreamView>, Problem> {
    set_paused(&node, id, false).await
}

async fn set_paused(node: &Node, id: Id, paused: bool) -> Result<Json<StreamView>, Problem> {
    let changed = node.service.streams().set_paused(&id, paused).await;
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
