//! Dead letters over HTTP: list, show, export, retry, discard.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::asked::{Asked, Named, Nothing, page_limit, parsed, parsed_or_empty};
use super::openapi::{AfterText, IdText, KeyText};
use super::problem::{BadRequest, Conflict, NotFound, Unavailable, Unreadable};
use super::view::{instant, raw_json};
use super::{Node, Problem};
use crate::journal::{DeadLetter, JournalError};
use crate::report::{Holder, Id, LetterKey, LetterKind};
use crate::service::{DeadLetters, Retried, RetryError};

/// Letters that an export reads at a time.
const EXPORT_PAGE: usize = 200;

/// What a list takes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Letters of this id alone.
    #[param(inline, value_type = Option<IdText>)]
    id: Option<String>,
    /// Letters of this kind alone: `refused`, `key_taken`, `no_table`, `set_aside` or `damaged`.
    #[param(pattern = "^(refused|key_taken|no_table|set_aside|damaged)$")]
    kind: Option<String>,
    /// Entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// `next` of the page before.
    #[param(inline, value_type = Option<AfterText>)]
    after: Option<String>,
}

/// What takes nothing but an id.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfId {
    /// Letters of this id alone.
    #[param(inline, value_type = Option<IdText>)]
    id: Option<String>,
}

/// A dead letter, for people and programs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(super) struct LetterView {
    key: String,
    id: String,
    source: u16,
    seq: u64,
    /// `refused`, `key_taken`, `no_table`, `set_aside` or `damaged`.
    kind: &'static str,
    error_code: Option<u32>,
    reason: String,
    dead_at: String,
    accepted_at: String,
    /// Seconds, as the client said.
    time: Option<f64>,
    code: i32,
    #[schema(value_type = Option<String>)]
    peer: Option<std::net::IpAddr>,
    data_bytes: usize,
    /// As it was sent; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Box<RawValue>>,
    /// What the sink has under its key, where that is why it is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<HolderView>,
}

/// A row of the sink, as its text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Holder)]
struct HolderView {
    time: Option<String>,
    code: Option<String>,
    accepted_at: Option<String>,
    data_bytes: u64,
    /// At most 4096 bytes of it.
    data: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetters)]
pub(super) struct Page {
    dead_letters: Vec<LetterView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
}

/// What became of a retry.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Retried)]
pub(super) struct RetriedView {
    stored: u64,
    duplicates: u64,
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_refusal: Option<RefusalView>,
}

/// How many letters were discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discarded {
    discarded: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Refusal)]
struct RefusalView {
    key: String,
    error_code: Option<u32>,
    reason: String,
}

/// `GET /api/v1/dead-letters?id=&kind=&limit=&after=`
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    tag = "dead letters",
    operation_id = "list_dead_letters",
    params(ListQuery),
    responses((status = 200, description = "A page of dead letters in order of key, without their data", body = Page), BadRequest, Unreadable)
)]
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    Asked(ListQuery { id, kind, limit, after }): Asked<ListQuery>,
) -> Result<Json<Page>, Problem> {
    let limit = page_limit(limit.as_deref())?;
    let after = parsed_or_empty::<LetterKey>("after", after.as_deref())?;
    let (id, kind) = (parsed::<Id>("id", id.as_deref())?, kind.as_deref().map(kind_named).transpose()?);
    let letters = node.service.dead_letters();
    let mut letters = letters.list(id, kind, after, limit + 1).await.map_err(unreadable)?;
    let has_more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| has_more).map(|last| last.key().to_string());
    Ok(Json(Page { dead_letters: letters.iter().map(|letter| LetterView::new(letter, false)).collect(), next }))
}

/// `GET /api/v1/dead-letters/export?id=`: all of them as NDJSON, one a line.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters/export",
    tag = "dead letters",
    operation_id = "export_dead_letters",
    params(OfId),
    responses((status = 200, description = "All of them, a DeadLetter with its data a line", content_type = "application/x-ndjson", body = String), BadRequest)
)]
pub(super) async fn export(
    State(node): State<Arc<Node>>,
    Asked(OfId { id }): Asked<OfId>,
) -> Result<Response, Problem> {
    let lines =
        Lines { letters: node.service.dead_letters().clone(), of: parsed::<Id>("id", id.as_deref())?, after: None };
    let stream = futures_util::stream::try_unfold(lines, Lines::next);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

/// `GET /api/v1/dead-letters/{key}`
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters/{key}",
    tag = "dead letters",
    operation_id = "show_dead_letter",
    params(("key" = inline(KeyText), Path, description = "`id~source~seq`")),
    responses((status = 200, description = "The letter with its data", body = LetterView), BadRequest, NotFound, Unreadable)
)]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Named(key): Named<LetterKey>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<LetterView>, Problem> {
    let letter = node.service.dead_letters().get(key).await.map_err(unreadable)?;
    let letter = letter.ok_or_else(|| not_there(key))?;
    Ok(Json(LetterView::new(&letter, true)))
}

/// `DELETE /api/v1/dead-letters/{key}`: discards it for good.
#[utoipa::path(
    delete,
    path = "/api/v1/dead-letters/{key}",
    tag = "dead letters",
    operation_id = "discard_dead_letter",
    params(("key" = inline(KeyText), Path, description = "`id~source~seq`")),
    responses((status = 200, description = "It is gone for good", body = Discarded), BadRequest, NotFound, Conflict, Unreadable, Unavailable)
)]
pub(super) async fn discard(
    State(node): State<Arc<Node>>,
    Named(key): Named<LetterKey>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<Discarded>, Problem> {
    let was_there = node.service.dead_letters().discard(key).await.map_err(not_tried)?;
    if was_there { Ok(Json(Discarded { discarded: 1 })) } else { Err(not_there(key)) }
}

/// `POST /api/v1/dead-letters/{key}/retry`: 409 where the sink refuses it again.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/{key}/retry",
    tag = "dead letters",
    operation_id = "retry_dead_letter",
    params(("key" = inline(KeyText), Path, description = "`id~source~seq`")),
    responses((status = 200, description = "It is in the sink", body = RetriedView), BadRequest, NotFound, Conflict, Unreadable, Unavailable)
)]
pub(super) async fn retry(
    State(node): State<Arc<Node>>,
    Named(key): Named<LetterKey>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<RetriedView>, Problem> {
    let retried = node.service.dead_letters().retry(key).await.map_err(not_tried)?;
    match retried.last_refusal {
        Some((_, error)) => Err(Problem::new(StatusCode::CONFLICT, format!("the sink refuses it again: {error}"))),
        None => Ok(Json(RetriedView::new(retried))),
    }
}

/// `POST /api/v1/dead-letters/retry?id=`
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/retry",
    tag = "dead letters",
    operation_id = "retry_dead_letters",
    params(OfId),
    responses((status = 200, description = "What became of them", body = RetriedView), BadRequest, Unreadable, Unavailable)
)]
pub(super) async fn retry_all(
    State(node): State<Arc<Node>>,
    Asked(OfId { id }): Asked<OfId>,
) -> Result<Json<RetriedView>, Problem> {
    let retried = node.service.dead_letters().retry_all(parsed::<Id>("id", id.as_deref())?).await.map_err(not_tried)?;
    Ok(Json(RetriedView::new(retried)))
}

/// An export that reads page by page, as fast as its reader takes them.
struct Lines {
    letters: DeadLetters,
    of: Option<Id>,
    after: Option<LetterKey>,
}

impl Lines {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, JournalError> {
        let letters = self.letters.list(self.of, None, self.after, EXPORT_PAGE).await?;
        let Some(last) = letters.last() else { return Ok(None) };
        self.after = Some(last.key());
        let mut lines = Vec::new();
        for letter in &letters {
            let line = serde_json::to_string(&LetterView::new(letter, true)).expect("a letter is JSON");
            // The data is as it was sent, line ends between its parts too; within texts JSON has them escaped.
            lines.extend(line.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            lines.push(b'\n');
        }
        Ok(Some((lines.into(), self)))
    }
}

impl LetterView {
    pub(super) fn new(letter: &DeadLetter, with_data: bool) -> Self {
        let DeadLetter { id, report, kind, holder, code, reason, dead_at, .. } = letter;
        let data = report.data.as_deref().filter(|_| with_data).and_then(raw_json);
        Self {
            key: letter.key().to_string(),
            id: id.to_string(),
            source: report.number.source,
            seq: report.number.seq,
            kind: kind.name(),
            error_code: *code,
            reason: reason.clone(),
            dead_at: instant(*dead_at),
            accepted_at: instant(report.accepted_at),
            time: report.time.map(|micros| micros as f64 / 1e6),
            code: report.code,
            peer: report.peer,
            data_bytes: report.data.as_ref().map_or(0, Bytes::len),
            data,
            holder: holder.as_deref().map(HolderView::new),
        }
    }
}

impl HolderView {
    fn new(holder: &Holder) -> Self {
        let Holder { time, code, data, data_bytes, accepted_at } = holder.clone();
        Self { time, code, accepted_at, data_bytes, data }
    }
}

impl RetriedView {
    fn new(retried: Retried) -> Self {
        let Retried { stored, duplicates, refused, last_refusal } = retried;
        let last_refusal = last_refusal.map(|(key, error)| RefusalView {
            key: key.to_string(),
            error_code: error.code,
            reason: error.message,
        });
        Self { stored, duplicates, refused, last_refusal }
    }
}

fn kind_named(name: &str) -> Result<LetterKind, Problem> {
    LetterKind::of_name(name).ok_or_else(|| {
        let names = LetterKind::ALL.map(LetterKind::name).join(", ");
        Problem::bad_request(format!("`kind` is `{}`; it may be one of {names}", name.escape_debug()))
    })
}

fn not_there(key: LetterKey) -> Problem {
    Problem::not_found(RetryError::Unknown(key).to_string())
}

fn unreadable(error: JournalError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn not_tried(error: RetryError) -> Problem {
    let status = match error {
        RetryError::Unknown(_) => StatusCode::NOT_FOUND,
        RetryError::InBacklog(_) => StatusCode::CONFLICT,
        RetryError::Sink { .. } | RetryError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        RetryError::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, error.to_string())
}
