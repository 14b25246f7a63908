//! The description of the admin API, made from the handlers.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use super::asked::{Asked, Nothing};
use super::problem::{BadRequest, Barred, ProblemView};
use super::{damaged, dead_letters, events, metrics, set_aside, status, streams};

/// An id.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9._:-]{1,64}$")]
pub(super) struct IdText(#[expect(dead_code, reason = "describes only")] String);

/// A key: id, source (0 to 65535) and seq.
#[derive(ToSchema)]
#[schema(
    pattern = "^[A-Za-z0-9._:-]{1,64}~([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])~[0-9]{1,16}(~[0-9a-f]{16})?$"
)]
pub(super) struct KeyText(#[expect(dead_code, reason = "describes only")] String);

/// The key that a page ended with, or nothing for the first page.
#[derive(ToSchema)]
#[schema(
    pattern = "^([A-Za-z0-9._:-]{1,64}~([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])~[0-9]{1,16}(~[0-9a-f]{16})?)?$"
)]
pub(super) struct AfterText(#[expect(dead_code, reason = "describes only")] String);

#[derive(OpenApi)]
#[openapi(
    info(title = "Forebay admin API", description = "What operators see and do. Errors are problems (RFC 9457)."),
    components(schemas(ProblemView)),
    modifiers(&Guarded),
    paths(
        status::healthy,
        status::ready,
        status::status,
        status::audit,
        events::events,
        metrics::page,
        streams::list,
        streams::show,
        streams::reports,
        streams::flush,
        streams::pause,
        streams::resume,
        damaged::list,
        set_aside::set_aside,
        dead_letters::list,
        dead_letters::export,
        dead_letters::retry_all,
        dead_letters::show,
        dead_letters::discard,
        dead_letters::retry,
        describe,
    )
)]
struct Api;

/// Adds what the guard before all operations wants and answers; see `guard` for the paths that want no token.
struct Guarded;

impl Modify for Guarded {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_default().add_security_scheme("token", bearer);
        for (path, item) in &mut api.paths.paths {
            let is_open = matches!(path.as_str(), "/healthz" | "/readyz");
            for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
                let barred = Barred::responses().into_iter().filter(|(status, _)| !is_open || status != "401");
                operation.responses.responses.extend(barred);
                if !is_open {
                    // A node without `access.tokens` wants none.
                    let token = SecurityRequirement::new("token", [] as [&str; 0]);
                    operation.security = Some(vec![SecurityRequirement::default(), token]);
                }
            }
        }
    }
}

/// Made once: it is the same for as long as the program runs.
static DESCRIPTION: LazyLock<String> =
    LazyLock::new(|| Api::openapi().to_json().expect("a description is texts and numbers"));

/// `GET /api/openapi.json`
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    tag = "node",
    responses((status = 200, description = "This description", content_type = "application/json", body = serde_json::Value), BadRequest)
)]
pub(super) async fn describe(Asked(Nothing {}): Asked<Nothing>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION.as_str()).into_response()
}
