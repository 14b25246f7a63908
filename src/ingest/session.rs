//! One WebSocket: from the upgrade to the last byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::upgrade::UpgradeFut;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::listener::Connection;
use super::outbox::Outbox;
use super::presence::Attendance;
use super::reader::{End, Reader};
use super::source::Source;
use super::write_half::WriteHalf;
use super::writer;
use crate::access::Grant;
use crate::config::{Ingest, OnDisconnect};
use crate::journal::{Append, Content};
use crate::net::{Stream, Unstalled};
use crate::report::Marker;

/// How long a connection that is closing waits for the answers to what it appended.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long the last bytes may take to leave, and then the client to close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Serves a connection whose upgrade was answered with 101.
pub(super) async fn run(upgrade: UpgradeFut, connection: Arc<Connection>, grant: Grant, tells_dead: bool) {
    let outbox = connection.outbox().telling_of_dead(tells_dead).granted(&grant);
    match raw(upgrade, connection.ingest().handshake_timeout).await {
        // Each half of a TCP socket works alone; those of TLS share a state, under a lock.
        Some((leftover, Stream::Plain(socket))) => {
            let (read, write) = socket.into_split();
            let line = Arc::new(write);
            let outbox = outbox.writing_to(Arc::clone(&line));
            serve(Source::new(leftover, read, connection.bodies()), outbox, WriteHalf(line), &connection, grant).await;
        }
        Some((leftover, stream @ Stream::Tls(_))) => {
            let (read, write) = tokio::io::split(stream);
            serve(Source::new(leftover, read, connection.bodies()), outbox, write, &connection, grant).await;
        }
        None => {}
    }
}

/// Serves one session whose bytes after the upgrade come from `read`, without a listener: `backend` gets what it
/// appends, and `stop` is the end of the node. For tests of sessions alone.
pub async fn alone<K: Backend>(
    ingest: Ingest,
    backend: K,
    stop: CancellationToken,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin + Send + 'static,
) {
    let connection = Connection::alone(ingest, backend, stop);
    let outbox = connection.outbox();
    serve(Source::new(Bytes::new(), read, connection.bodies()), outbox, write, &connection, Grant::everything()).await;
}

async fn serve<K: Backend>(
    mut source: Source<impl AsyncRead + Unpin>,
    outbox: Outbox,
    half: impl AsyncWrite + Unpin + Send + 'static,
    connection: &Connection<K>,
    grant: Grant,
) {
    tracing::debug!(peer = %connection.peer(), "client connected");
    let outbox = Arc::new(outbox);
    let over = connection.stop().child_token();
    let patience = connection.ingest().idle_timeout;
    let writing = connection.tracker().spawn(writer::run(Arc::clone(&outbox), half, patience, over.clone()));
    let reader = Reader::new(connection, grant, Arc::clone(&outbox), &over, source.heard());
    let (end, attendance) = reader.run(&mut source).await;
    tracing::debug!(peer = %connection.peer(), ?end, "client leaves");
    if end == End::Gone {
        outbox.abandon();
    }
    let answers_by = Instant::now() + ANSWER_WAIT;
    if timeout_at(answers_by, outbox.answered()).await.is_err() {
        outbox.assume_kept();
    }
    leave(connection, attendance);
    let closes = matches!(end, End::Close(_));
    match end {
        End::Close(close) => outbox.finish(Some(close)),
        End::Eof => outbox.finish(None),
        End::Gone => {}
    }
    settle(&outbox, writing, answers_by).await;
    if closes {
        // The client may take its time; it was told all that there is.
        let _ = timeout(CLOSE_WAIT, source.discard()).await;
    }
}

/// Takes the socket out from under the upgrade, and what was read of it beyond the handshake.
async fn raw(upgrade: UpgradeFut, limit: Duration) -> Option<(Bytes, Stream)> {
    let upgraded = match timeout(limit, upgrade).await {
        Ok(Ok(socket)) => socket.into_inner().into_inner(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "upgrade failed");
            return None;
        }
        Err(_) => return None,
    };
    let parts = upgraded.downcast::<TokioIo<Unstalled>>().expect("the listener serves nothing but this type");
    Some((parts.read_buf, parts.io.into_inner().into_inner()))
}

/// Appends the markers that the connection owes, after all that it appended itself is answered: what was refused
/// neither opens an id nor ends it.
fn leave<K: Backend>(connection: &Connection<K>, attendance: Attendance) {
    let mark = connection.on_disconnect() == OnDisconnect::Mark;
    attendance.leave(|ids| {
        if mark {
            let marker = |id| Append { id, content: Content::Marker(Marker::Disconnected), reply_to: None };
            // Not reserved for: the ids are in memory already, and `max_ids_per_connection` bounds them.
            connection.service().append(ids.iter().copied().map(marker).collect(), 0);
        }
    });
}

/// Waits, within bounds, until all is answered and written.
async fn settle(outbox: &Outbox, mut writing: JoinHandle<()>, answers_by: Instant) {
    if timeout_at(answers_by, &mut writing).await.is_ok() {
        return;
    }
    outbox.cut();
    if timeout(CLOSE_WAIT, &mut writing).await.is_err() {
        writing.abort();
        // Whoever holds the outbox must not hold the socket.
        outbox.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::super::budget::Budget;
    use super::super::dones::Dones;
    use super::super::replies::Weight;
    use super::*;

    /// A peer that never takes the last word of TLS.
    struct Deaf {
        /// Whoever has the other sees when the connection is given up.
        _there: Arc<()>,
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_that_the_peer_never_takes_is_given_up() {
        let window = Weight { messages: 1, bytes: 1 };
        let (outbox, there) = (Arc::new(Outbox::new(window, &Budget::new(1), &Dones::new(1))), Arc::new(()));
        outbox.finish(None);
        let patience = Duration::from_secs(300);
        let half = Deaf { _there: Arc::clone(&there) };
        let writing = tokio::spawn(writer::run(Arc::clone(&outbox), half, patience, CancellationToken::new()));
        settle(&outbox, writing, Instant::now() + ANSWER_WAIT).await;
        // An aborted task ends when it is polled next.
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&there), 1, "the connection is dropped");
    }
}
