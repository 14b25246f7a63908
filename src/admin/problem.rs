//! Errors as `application/problem+json` (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// An error that a person or a program can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// A problem of its status alone (`type` is `about:blank`); `detail` says what happened and what to do.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// 400.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405; the `Allow` header is the router's.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method, see the Allow header")
    }

    /// 503.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

/// A problem on the wire.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemView {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[schema(value_type = String)]
    r#type: &'static str,
    /// The status in words.
    #[schema(value_type = String)]
    title: &'static str,
    /// The status code.
    status: u16,
    /// What happened, to what, and what to do.
    detail: String,
}

/// What every operation of the API may answer to a request that cannot be meant.
#[derive(IntoResponses)]
#[response(
    status = 400,
    description = "A value of path or query is not allowed, or a key of the query not known; `detail` names it",
    content_type = "application/problem+json"
)]
pub(super) struct BadRequest(#[expect(dead_code, reason = "describes only")] ProblemView);

/// There is no such thing.
#[derive(IntoResponses)]
#[response(status = 404, description = "There is no such dead letter", content_type = "application/problem+json")]
pub(super) struct NotFound(#[expect(dead_code, reason = "describes only")] ProblemView);

/// Not as things are.
#[derive(IntoResponses)]
#[response(
    status = 409,
    description = "Not as things are now; `detail` says why, and what would have to change",
    content_type = "application/problem+json"
)]
pub(super) struct Conflict(#[expect(dead_code, reason = "describes only")] ProblemView);

/// The disk.
#[derive(IntoResponses)]
#[response(status = 500, description = "The journal cannot be read", content_type = "application/problem+json")]
pub(super) struct Unreadable(#[expect(dead_code, reason = "describes only")] ProblemView);

/// Not now.
#[derive(IntoResponses)]
#[response(
    status = 503,
    description = "Not now: the node is stopping, the sink takes nothing, or too many ask at once",
    content_type = "application/problem+json"
)]
pub(super) struct Unavailable(#[expect(dead_code, reason = "describes only")] ProblemView);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let view = ProblemView { r#type: "about:blank", title, status: self.status.as_u16(), detail: self.detail };
        let body = serde_json::to_string(&view).expect("a problem is texts and a number");
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

/// What stands before every operation refuses: `guard` and `host`.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes only")]
pub(super) enum Barred {
    /// No token that is taken.
    #[response(
        status = 401,
        description = "The node wants a token (`access.tokens`) and the request has none, or another",
        content_type = "application/problem+json"
    )]
    Unauthorized(ProblemView),
    /// Not with this token, from this page, or for this host.
    #[response(
        status = 403,
        description = "The token is not for this, or the request comes from a page of another site or names another host",
        content_type = "application/problem+json"
    )]
    Forbidden(ProblemView),
}
