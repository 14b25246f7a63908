//! The routes of the ingest listener, and what is refused before a message is read.

use std::convert::Infallible;
use std::sync::Arc;

use fastwebsockets::upgrade;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONNECTION,
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE, VARY, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::listener::{Connection, Unheard};
use super::payload::Payload;
use super::{post, session};
use crate::access::{self, Denied, Origin, Scope};
use crate::net::{SEALED, problem_body, undecoded};

/// The answer to a request.
pub(super) type Answer = Response<Payload>;

/// Answers one request.
pub(super) async fn respond(request: Request<Incoming>, connection: Arc<Connection>) -> Result<Answer, Infallible> {
    let keep_alive = connection.ingest().keep_alive;
    let closes = request.version() != Version::HTTP_11 || says_close(request.headers());
    let mut answer = routed(request, connection).await;
    let status = answer.status();
    let headers = answer.headers_mut();
    for (name, value) in SEALED {
        headers.insert(name, value);
    }
    let closes = closes || headers.contains_key(CONNECTION);
    if !closes && status != StatusCode::SWITCHING_PROTOCOLS {
        let timeout = format!("timeout={}", keep_alive.as_secs());
        headers.insert("keep-alive", timeout.try_into().expect("a number is a header's value"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    Ok(answer)
}

/// Whether a request says that it is the last of its connection.
fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("close"))
}

async fn routed(request: Request<Incoming>, connection: Arc<Connection>) -> Answer {
    if let Some(refusal) = refused(&request, &connection) {
        return refusal;
    }
    let connection = match connection.of_request(request.headers()) {
        Ok(connection) => connection,
        Err(why) => return unheard(&why),
    };
    match (request.uri().path(), request.method()) {
        ("/ws", &Method::GET) => websocket(request, connection),
        ("/reports", &Method::POST | &Method::OPTIONS) => reports(request, &connection).await,
        ("/ws", _) => not_allowed("GET", "/ws is opened with GET, as a WebSocket"),
        ("/reports", _) => not_allowed("POST", "reports are sent with POST"),
        _ => problem(StatusCode::NOT_FOUND, "there are GET /ws and POST /reports"),
    }
}

/// What is refused whatever its path: bodies that would not be decoded, and hosts that are none of this listener's.
fn refused(request: &Request<Incoming>, connection: &Connection) -> Option<Answer> {
    if let Some((status, detail)) = undecoded(request.headers()) {
        return Some(problem(status, detail));
    }
    let asked = (request.uri(), request.version(), request.headers());
    let why = connection.hosts().check(asked, &connection.ingest().allowed_hosts, connection.access().wants_tokens());
    why.err().map(|why| {
        connection.intruders().foreign_host.add(1);
        problem(why.status(), &why.detail("ingest.allowed_hosts"))
    })
}

/// The answer to a request of whom is not known whom it is from, or who has too many already.
fn unheard(why: &Unheard) -> Answer {
    match why {
        Unheard::Unreadable(why) => problem(StatusCode::BAD_REQUEST, &why.to_string()),
        Unheard::Refused(why) => {
            let answer = problem(why.status(), why.detail());
            why.retry_after().into_iter().fold(answer, |answer, seconds| with(answer, RETRY_AFTER, seconds.into()))
        }
    }
}

async fn reports(request: Request<Incoming>, connection: &Connection) -> Answer {
    let listed = match access::origin(request.headers(), &connection.ingest().allowed_origins) {
        Origin::Foreign => return foreign(connection),
        Origin::Own => None,
        Origin::Listed(origin) => Some(origin.clone()),
    };
    let preflight = request.method() == Method::OPTIONS;
    let mut answer = match (&listed, preflight) {
        (None, true) => return not_allowed("POST", "reports are sent with POST"),
        (Some(_), true) => {
            let answer = plain(StatusCode::NO_CONTENT);
            let answer = with(answer, ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            with(
                answer,
                ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static("authorization, content-encoding, content-type"),
            )
        }
        (_, false) => match connection.access().check(request.headers(), Scope::Ingest) {
            Ok(grant) => post::take(request, connection, &grant).await,
            Err(why) => denied(why, connection),
        },
    };
    if let Some(origin) = listed {
        answer = with(answer, ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer = with(answer, VARY, HeaderValue::from_static("origin"));
    }
    answer
}

/// Upgrades to a WebSocket, after the checks that the library leaves to its user.
fn websocket(mut request: Request<Incoming>, connection: Arc<Connection>) -> Answer {
    if access::origin(request.headers(), &connection.ingest().allowed_origins) == Origin::Foreign {
        return foreign(&connection);
    }
    if request.version() != Version::HTTP_11 || !upgrade::is_upgrade_request(&request) {
        let answer = problem(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket: connect with ws:// or wss://");
        return with(answer, UPGRADE, HeaderValue::from_static("websocket"));
    }
    let headers = request.headers();
    // What comes behind the head would be taken for a body, or for frames, by when it comes.
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return closing(problem(
            StatusCode::BAD_REQUEST,
            "a WebSocket's handshake has no body, and says no length of one",
        ));
    }
    let events = request.uri().query().unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("events="));
    if events.is_some_and(|events| events != "dead") {
        return problem(StatusCode::BAD_REQUEST, "the parameter events may be dead");
    }
    let tells_dead = events.is_some();
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let answer = problem(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13");
        return with(answer, SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if !headers.get(SEC_WEBSOCKET_KEY).is_some_and(|key| is_websocket_key(key.as_bytes())) {
        return problem(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64");
    }
    let grant = match connection.access().check(headers, Scope::Ingest) {
        Ok(grant) => grant,
        Err(why) => return denied(why, &connection),
    };
    let named = access::offers_subprotocol(headers);
    match upgrade::upgrade(&mut request) {
        Ok((response, upgraded)) => {
            connection.tracker().clone().spawn(session::run(upgraded, connection, grant, tells_dead));
            let answer = response.map(|_| Payload::default());
            let name = HeaderValue::from_static(access::SUBPROTOCOL);
            if named { with(answer, SEC_WEBSOCKET_PROTOCOL, name) } else { answer }
        }
        Err(_) => problem(StatusCode::BAD_REQUEST, "the WebSocket handshake cannot be read"),
    }
}

/// The answer to a request whose token lets it write nothing.
fn denied(denied: Denied, connection: &Connection) -> Answer {
    denied.count(connection.intruders());
    let answer = problem(denied.status(), &denied.to_string());
    with(answer, WWW_AUTHENTICATE, HeaderValue::from_static(denied.challenge()))
}

fn foreign(connection: &Connection) -> Answer {
    connection.intruders().foreign_origin.add(1);
    problem(StatusCode::FORBIDDEN, "this Origin is not in ingest.allowed_origins")
}

fn not_allowed(allow: &'static str, detail: &str) -> Answer {
    with(problem(StatusCode::METHOD_NOT_ALLOWED, detail), ALLOW, HeaderValue::from_static(allow))
}

/// An error of HTTP itself, as RFC 9457 has it.
pub(super) fn problem(status: StatusCode, detail: &str) -> Answer {
    let body = problem_body(status.as_u16(), status.canonical_reason().unwrap_or("Error"), detail);
    json(status, "application/problem+json", body.into_bytes())
}

/// A body of JSON.
pub(super) fn json(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    answer(status, content_type, body.into())
}

/// An answer with a body.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: Payload) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, HeaderValue::from_static(content_type))
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Payload::default());
    *answer.status_mut() = status;
    answer
}

/// The same answer, as the last of its connection.
fn closing(answer: Answer) -> Answer {
    with(answer, CONNECTION, HeaderValue::from_static("close"))
}

/// The same answer with one header more.
pub(super) fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

/// Whether a `Sec-WebSocket-Key` is 16 bytes in base64 (RFC 6455 4.1): 22 digits and two signs of padding.
fn is_websocket_key(key: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(digit) && key.ends_with(b"==")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_websocket_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZ===", "dGhlIHNhbXBsZSBub25j!Q=="] {
            assert!(!is_websocket_key(bad.as_bytes()), "{bad}");
        }
    }
}
