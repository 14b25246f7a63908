//! Dead letters over HTTP: list, show, export, retry, discard.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::asked::{Asked, Named, Nothing, page_limit, parsed};
use super::view::{instant, raw_json};
use super::{Node, Problem};
use crate::engine::{DeadLetters, Retried, RetryError};
use crate::journal::{DeadLetter, JournalError};
use crate::report::{Id, Key};

/// Letters that an export reads at a time.
const EXPORT_PAGE: usize = 200;

/// What a list takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Letters of this id alone.
    id: Option<String>,
    /// Entries of the page.
    limit: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
}

/// What takes nothing but an id.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfId {
    id: Option<String>,
}

/// A dead letter, for people and programs.
#[derive(Debug, Serialize)]
pub(super) struct LetterView {
    key: String,
    id: String,
    source: u16,
    seq: u64,
    error_code: Option<u32>,
    reason: String,
    dead_at: String,
    accepted_at: String,
    /// Seconds, as the client said.
    time: Option<f64>,
    code: i32,
    peer: Option<std::net::IpAddr>,
    data_bytes: usize,
    /// As it was sent; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    dead_letters: Vec<LetterView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
}

/// What became of a retry.
#[derive(Debug, Serialize)]
pub(super) struct RetriedView {
    stored: u64,
    duplicates: u64,
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_refusal: Option<RefusalView>,
}

#[derive(Debug, Serialize)]
struct RefusalView {
    key: String,
    error_code: Option<u32>,
    reason: String,
}

/// `GET /api/v1/dead-letters?id=&limit=&after=`
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    Asked(ListQuery { id, limit, after }): Asked<ListQuery>,
) -> Result<Json<Page>, Problem> {
    let limit = page_limit(limit.as_deref())?;
    let after = parsed::<Key>("after", after.as_deref())?;
    let letters = node.engine.dead_letters();
    let mut letters = letters.list(parsed::<Id>("id", id.as_deref())?, after, limit + 1).await.map_err(unreadable)?;
    let has_more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| has_more).map(|last| last.key().to_string());
    Ok(Json(Page { dead_letters: letters.iter().map(|letter| LetterView::new(letter, false)).collect(), next }))
}

/// `GET /api/v1/dead-letters/export?id=`: all of them as NDJSON, one a line.
pub(super) async fn export(
    State(node): State<Arc<Node>>,
    Asked(OfId { id }): Asked<OfId>,
) -> Result<Response, Problem> {
    let lines =
        Lines { letters: node.engine.dead_letters().clone(), of: parsed::<Id>("id", id.as_deref())?, after: None };
    let stream = futures_util::stream::try_unfold(lines, Lines::next);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

/// `GET /api/v1/dead-letters/{key}`
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Named(key): Named<Key>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<LetterView>, Problem> {
    let letter = node.engine.dead_letters().get(key).await.map_err(unreadable)?;
    let letter = letter.ok_or_else(|| not_there(key))?;
    Ok(Json(LetterView::new(&letter, true)))
}

/// `DELETE /api/v1/dead-letters/{key}`: discards it for good.
pub(super) async fn discard(
    State(node): State<Arc<Node>>,
    Named(key): Named<Key>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<serde_json::Value>, Problem> {
    let was_there = node.engine.dead_letters().discard(key).await.map_err(not_tried)?;
    if was_there { Ok(Json(serde_json::json!({"discarded": 1}))) } else { Err(not_there(key)) }
}

/// `POST /api/v1/dead-letters/{key}/retry`: 409 where the sink refuses it again.
pub(super) async fn retry(
    State(node): State<Arc<Node>>,
    Named(key): Named<Key>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<RetriedView>, Problem> {
    let retried = node.engine.dead_letters().retry(key).await.map_err(not_tried)?;
    match retried.last_refusal {
        Some((_, error)) => Err(Problem::new(StatusCode::CONFLICT, format!("the sink refuses it again: {error}"))),
        None => Ok(Json(RetriedView::new(retried))),
    }
}

/// `POST /api/v1/dead-letters/retry?id=`
pub(super) async fn retry_all(
    State(node): State<Arc<Node>>,
    Asked(OfId { id }): Asked<OfId>,
) -> Result<Json<RetriedView>, Problem> {
    let retried = node.engine.dead_letters().retry_all(parsed::<Id>("id", id.as_deref())?).await.map_err(not_tried)?;
    Ok(Json(RetriedView::new(retried)))
}

/// An export that reads page by page, as fast as its reader takes them.
struct Lines {
    letters: DeadLetters,
    of: Option<Id>,
    after: Option<Key>,
}

impl Lines {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, JournalError> {
        let letters = self.letters.list(self.of, self.after, EXPORT_PAGE).await?;
        let Some(last) = letters.last() else { return Ok(None) };
        self.after = Some(last.key());
        let mut lines = Vec::new();
        for letter in &letters {
            serde_json::to_writer(&mut lines, &LetterView::new(letter, true)).expect("writing to memory cannot fail");
            lines.push(b'\n');
        }
        Ok(Some((lines.into(), self)))
    }
}

impl LetterView {
    pub(super) fn new(letter: &DeadLetter, with_data: bool) -> Self {
        let DeadLetter { id, report, code, reason, dead_at } = letter;
        let data = report.data.as_deref().filter(|_| with_data).and_then(raw_json);
        Self {
            key: letter.key().to_string(),
            id: id.to_string(),
            source: report.number.source,
            seq: report.number.seq,
            error_code: *code,
            reason: reason.clone(),
            dead_at: instant(*dead_at),
            accepted_at: instant(report.accepted_at),
            time: report.time.map(|micros| micros as f64 / 1e6),
            code: report.code,
            peer: report.peer,
            data_bytes: report.data.as_ref().map_or(0, Bytes::len),
            data,
        }
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

fn not_there(key: Key) -> Problem {
    Problem::not_found(RetryError::Unknown(key).to_string())
}

fn unreadable(error: JournalError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn not_tried(error: RetryError) -> Problem {
    let status = match error {
        RetryError::Unknown(_) => StatusCode::NOT_FOUND,
        RetryError::Sink { .. } | RetryError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        RetryError::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, error.to_string())
}
