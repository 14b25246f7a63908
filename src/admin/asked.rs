//! What a request asks for, read so that each fault is a problem that names it.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Problem;

/// Entries on a page, unless asked for otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

/// A query. A key that is not known, or is there twice, is a fault.
pub(super) struct Asked<T>(pub(super) T);

/// The query of what takes none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The one variable part of a path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(asked)| Self(asked)).map_err(|error| Problem::bad_request(error.body_text()))
    }
}

impl<T: FromStr<Err: Display>, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
        name.parse()
            .map(Self)
            .map_err(|error| Problem::bad_request(format!("`{}` in the path {error}", name.escape_debug())))
    }
}

/// A value of a query, where it is there; the problem names its key.
pub(super) fn parsed<T: FromStr<Err: Display>>(key: &str, value: Option<&str>) -> Result<Option<T>, Problem> {
    let parse = |text: &str| {
        let fault = |error| Problem::bad_request(format!("`{key}`: `{}` {error}", text.escape_debug()));
        text.parse().map_err(fault)
    };
    value.map(parse).transpose()
}

/// How many entries a page has at the most.
pub(super) fn page_limit(limit: Option<&str>) -> Result<usize, Problem> {
    let Some(limit) = limit else { return Ok(PAGE) };
    let number = limit.parse().ok().filter(|number| (1..=MAX_PAGE).contains(number));
    number.ok_or_else(|| {
        Problem::bad_request(format!("`limit` is `{}`; it may be 1 to {MAX_PAGE}", limit.escape_debug()))
    })
}
