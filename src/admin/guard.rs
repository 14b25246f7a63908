//! What every request passes before its route: the host that it names, the page that it comes from, its token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Node, Problem};
use crate::access::{Origin, Scope, origin};
use crate::net;

/// Refuses requests to another host, from a page of another site, or without the token that the route wants.
pub(super) async fn check(State(node): State<Arc<Node>>, mut request: Request, next: Next) -> Response {
    let intruders = &node.service.metrics().admin_intruders;
    if let Some((status, detail)) = net::undecoded(request.headers()) {
        return Problem::new(status, detail).into_response();
    }
    let asked = (request.uri(), request.version(), request.headers());
    if let Err(why) = node.hosts.check(asked, &node.allowed_hosts, node.access.wants_tokens()) {
        intruders.foreign_host.add(1);
        return Problem::new(why.status(), why.detail("admin.allowed_hosts")).into_response();
    }
    if origin(request.headers(), &[]) == Origin::Foreign {
        intruders.foreign_origin.add(1);
        let detail = "pages of other sites may not use the admin listener; this Origin is not its own";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    let Some(scope) = wanted(request.method(), request.uri().path()) else { return next.run(request).await };
    match node.access.check(request.headers(), scope) {
        Ok(grant) => {
            // For answers that outlast the check.
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        Err(denied) => {
            denied.count(intruders);
            let mut answer = Problem::new(denied.status(), denied.to_string()).into_response();
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(denied.challenge()));
            answer
        }
    }
}

/// Says of an answer that nobody may keep it (unless it says otherwise itself), guess at its type, or embed it.
pub(super) async fn sealed(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in net::SEALED {
        headers.entry(name).or_insert(value);
    }
    answer
}

/// What a token must be for; `None` where none is asked for: health, and the dashboard's own files, which say nothing
/// of this node.
fn wanted(method: &Method, path: &str) -> Option<Scope> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let open = matches!(path, "/healthz" | "/readyz" | "/" | "/favicon.ico") || path.starts_with("/assets/");
    match (reads, open) {
        (true, true) => None,
        (true, false) => Some(Scope::AdminRead),
        (false, _) => Some(Scope::AdminWrite),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_wants_a_token_to_read_and_what_changes_one_to_write() {
        for path in ["/healthz", "/readyz", "/", "/assets/app.js"] {
            assert_eq!(wanted(&Method::GET, path), None, "{path}");
            assert_eq!(wanted(&Method::POST, path), Some(Scope::AdminWrite), "{path}");
        }
        for path in ["/metrics", "/api/v1/status", "/api/v1/events", "/assets", "//", "/healthz/", "/x"] {
            assert_eq!(wanted(&Method::GET, path), Some(Scope::AdminRead), "{path}");
            assert_eq!(wanted(&Method::HEAD, path), Some(Scope::AdminRead), "{path}");
            assert_eq!(wanted(&Method::DELETE, path), Some(Scope::AdminWrite), "{path}");
        }
    }
}
