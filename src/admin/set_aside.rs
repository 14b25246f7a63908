//! Setting a report aside over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::asked::{Asked, Named};
use super::dead_letters::LetterView;
use super::openapi::IdText;
use super::problem::{BadRequest, Conflict, Unavailable, Unreadable};
use super::{Node, Peer, Problem};
use crate::access::Grant;
use crate::report::Id;
use crate::service::{MAX_WHY_BYTES, SetAsideError};

/// What it takes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Why {
    /// Why, for whoever looks at the dead letter later; at most 400 bytes.
    #[param(min_length = 1, max_length = 100)]
    reason: String,
}

/// `POST /api/v1/streams/{id}/set-aside?reason=`: the first report that waits becomes a dead letter.
#[utoipa::path(
    post,
    path = "/api/v1/streams/{id}/set-aside",
    tag = "streams",
    operation_id = "set_aside",
    params(("id" = inline(IdText), Path, description = "The id"), Why),
    responses((status = 200, description = "The first report that waited is a dead letter, durably; without its data", body = LetterView), BadRequest, Conflict, Unreadable, Unavailable)
)]
pub(super) async fn set_aside(
    State(node): State<Arc<Node>>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(grant): Extension<Grant>,
    Named(id): Named<Id>,
    Asked(Why { reason }): Asked<Why>,
) -> Result<Json<LetterView>, Problem> {
    if reason.trim().is_empty() || reason.len() > MAX_WHY_BYTES {
        let length = reason.len();
        let detail = format!("`reason` has {length} bytes; it must say why, in 1 to {MAX_WHY_BYTES}");
        return Err(Problem::bad_request(detail));
    }
    let who = match grant.token_name() {
        Some(name) => format!("token {name:?} from {peer}"),
        None => format!("an operator at {peer}"),
    };
    let letter = node.service.streams().set_aside(&id, &who, &reason).await.map_err(|error| {
        let status = match error {
            SetAsideError::Nothing(_) => StatusCode::CONFLICT,
            SetAsideError::OnItsWay(_) | SetAsideError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            SetAsideError::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    })?;
    Ok(Json(LetterView::new(&letter, false)))
}
