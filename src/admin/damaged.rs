//! What is damaged in the journal and was set aside, over HTTP.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asked::{Asked, page_limit, parsed_or_empty};
use super::problem::{BadRequest, Unreadable};
use super::view::instant;
use super::{Node, Problem};
use crate::journal::SetAside;

/// What a list takes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 512)]
    after: Option<String>,
}

/// Where a page begins, as a page before said it.
struct Key(String);

/// The text is none that a page ended with.
#[derive(Debug, thiserror::Error)]
#[error("is no `next` of a page")]
struct NoKey;

impl std::str::FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && text.len().is_multiple_of(2) && text.len() <= 512 { Ok(Self(text.to_owned())) } else { Err(NoKey) }
    }
}

/// Something that is damaged and was set aside, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Damaged)]
pub struct DamagedView {
    /// Where it was in the journal.
    place: String,
    /// Whose reports it had, as far as that is known; so with all that follows.
    id: Option<String>,
    /// The position of the first of them.
    first: Option<u64>,
    /// The position of the last.
    last: Option<u64>,
    /// Reports that are dead in the audit by it; none where they were not counted yet when it was found.
    reports: Option<u64>,
    /// Its length.
    bytes: u64,
    /// What is wrong with it.
    damage: String,
    /// When it was found.
    at: String,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DamagedPage)]
pub(super) struct Page {
    damaged: Vec<DamagedView>,
    /// What `after` takes for the next page; none on the last.
    next: Option<String>,
}

/// `GET /api/v1/damaged?limit=&after=`
#[utoipa::path(
    get,
    path = "/api/v1/damaged",
    tag = "journal",
    operation_id = "list_damaged",
    params(ListQuery),
    responses((status = 200, description = "A page of what was set aside as damaged", body = Page), BadRequest, Unreadable)
)]
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    Asked(ListQuery { limit, after }): Asked<ListQuery>,
) -> Result<Json<Page>, Problem> {
    let limit = page_limit(limit.as_deref())?;
    let after = parsed_or_empty::<Key>("after", after.as_deref())?.map(|Key(after)| after);
    let found = node.service.dead_letters().damaged(after, limit + 1).await;
    let mut found = found.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| last.key.clone());
    Ok(Json(Page { damaged: found.into_iter().map(DamagedView::of).collect(), next }))
}

impl DamagedView {
    /// How what was set aside is shown.
    pub fn of(aside: SetAside) -> Self {
        let SetAside { place, id, first, last, reports, bytes, damage, at, .. } = aside;
        let (first, last) = (first.map(|first| first.0), last.map(|last| last.0));
        Self { place, id: id.map(|id| id.to_string()), first, last, reports, bytes, damage, at: instant(at) }
    }
}

impl fmt::Display for DamagedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, id, first, last, reports, bytes, damage, at } = self;
        write!(f, "{place}, {bytes} bytes, at {at}: {damage}")?;
        id.iter().try_for_each(|id| write!(f, "; id {id}"))?;
        first.iter().try_for_each(|first| write!(f, "; from position {first}"))?;
        last.iter().try_for_each(|last| write!(f, "; through position {last}"))?;
        reports.iter().try_for_each(|reports| write!(f, "; {reports} reports"))
    }
}
