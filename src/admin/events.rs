//! Server-sent events: one status a second, the same for all who listen, made only while anybody does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use super::asked::{Asked, Nothing};
use super::problem::{BadRequest, Unavailable};
use super::{Node, Problem};
use crate::access::Grant;

/// Who may listen at a time. Each costs a connection and the status that it has not read yet.
const MAX_SUBSCRIBERS: usize = 64;
/// Between two events.
const EVERY: Duration = Duration::from_secs(1);
/// Silence after which a comment goes out, so that whoever is between does not take the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The last status, as JSON, and who listens.
pub(super) struct Events {
    last: watch::Sender<Arc<str>>,
    free: Arc<Semaphore>,
    subscribed: Notify,
}

impl Default for Events {
    fn default() -> Self {
        let free = Arc::new(Semaphore::new(MAX_SUBSCRIBERS));
        Self { last: watch::Sender::new("".into()), free, subscribed: Notify::new() }
    }
}

/// One who listens.
struct Subscriber {
    node: Arc<Node>,
    grant: Grant,
    last: watch::Receiver<Arc<str>>,
    _place: OwnedSemaphorePermit,
}

/// `GET /api/v1/events`
#[utoipa::path(
    get,
    path = "/api/v1/events",
    tag = "node",
    responses(
        (status = 200, description = "`event: status`, with a Status as data, once a second until the node stops",
            content_type = "text/event-stream", body = String),
        BadRequest,
        Unavailable,
    )
)]
pub(super) async fn events(
    State(node): State<Arc<Node>>,
    Extension(grant): Extension<Grant>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = Arc::clone(&node.events.free).try_acquire_owned().map_err(|_| {
        Problem::unavailable(format!(
            "{MAX_SUBSCRIBERS} listen to events already, which is the most; ask for the status"
        ))
    })?;
    let subscriber = Subscriber { last: node.events.last.subscribe(), node, grant, _place: place };
    subscriber.node.events.subscribed.notify_one();
    Ok(Sse::new(unfold(subscriber, Subscriber::next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Subscriber {
    /// The next status; none when the listener ends, or the token is no longer what it was.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        tokio::select! {
            changed = self.last.changed() => changed.ok()?,
            () = self.node.stop.cancelled() => return None,
        }
        if !self.grant.is_in_force() {
            return None;
        }
        let status = Arc::clone(&self.last.borrow_and_update());
        Some((Ok(Event::default().event("status").data(&*status)), self))
    }
}

/// Makes the events while anybody listens. Never ends.
pub(super) async fn make(node: Arc<Node>) {
    let events = &node.events;
    let mut next = Instant::now();
    loop {
        while events.last.receiver_count() == 0 {
            events.subscribed.notified().await;
        }
        // Who comes back at once is told no sooner than a second after the last.
        sleep_until(next).await;
        next = Instant::now() + EVERY;
        let status = node.status().await;
        let status = serde_json::to_string(&status).expect("a status is texts and numbers");
        events.last.send_replace(status.into());
    }
}
