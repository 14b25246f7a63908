//! The dashboard: one page for operators at `/`, and what it loads.
//!
//! Duty: serves the page's files, which are part of the program, as they are.
//!
//! Invariants:
//! 1. The page needs no other host, and its policy lets it reach none; no script of its own is inline.
//! 2. A browser asks whether a file has changed and gets it only if so: a new version of the program is a new page.
//!
//! Does not know: the service. The page asks the admin API like any other client, with the operator's token.

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;

/// What the page may do: load from here and ask here. `require-trusted-types-for` forbids scripts to write markup, so
/// that what a client said can only be text.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file with its path and media type.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    content: &'static [u8],
}

/// An asset of this folder, served under `assets/`.
macro_rules! asset {
    ($name:literal, $media_type:expr) => {
        Asset {
            path: concat!("/assets/", $name),
            media_type: $media_type,
            content: include_bytes!(concat!("assets/", $name)),
        }
    };
}

const PAGE: Asset =
    Asset { path: "/", media_type: "text/html; charset=utf-8", content: include_bytes!("assets/index.html") };

static ASSETS: [Asset; 20] = [
    PAGE,
    asset!("api.js", SCRIPT),
    asset!("app.js", SCRIPT),
    asset!("charts.js", SCRIPT),
    asset!("dead.js", SCRIPT),
    asset!("dialog.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("format.js", SCRIPT),
    asset!("icon.svg", "image/svg+xml"),
    asset!("latency.js", SCRIPT),
    asset!("live.js", SCRIPT),
    asset!("overview.js", SCRIPT),
    asset!("stream.js", SCRIPT),
    asset!("streams.js", SCRIPT),
    asset!("style.css", STYLE),
    asset!("table.js", SCRIPT),
    asset!("theme.js", SCRIPT),
    asset!("uPlot.LICENSE.txt", "text/plain; charset=utf-8"),
    asset!("uPlot.iife.min.js", SCRIPT),
    asset!("uPlot.min.css", STYLE),
];

/// `GET /` and `GET /assets/…`.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let add = |router: Router<S>, asset: &'static Asset| {
        router.route(asset.path, get(async move |headers: HeaderMap| asset.answer(&headers)))
    };
    ASSETS.iter().fold(Router::new(), add)
}

impl Asset {
    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = format!("\"{:08x}-{:x}\"", crc32fast::hash(self.content), self.content.len());
        let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
        let is_known = known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag));
        let headers = [
            (header::CONTENT_TYPE, self.media_type),
            (header::ETAG, tag.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if is_known {
            (StatusCode::NOT_MODIFIED, headers).into_response()
        } else {
            (headers, Bytes::from_static(self.content)).into_response()
        }
    }
}
