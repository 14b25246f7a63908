//! Accepts connections for as long as there are places.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::caps::{Caps, Full, Place};
use super::http::problem_body;

/// The first pause after a failed accept; it doubles up to [`MAX_ACCEPT_PAUSE`].
const MIN_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause after failed accepts.
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Connections over a cap that are told so at a time; further ones are just closed.
const MAX_REFUSALS: usize = 64;
/// How long a connection over a cap is served with its refusal.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// Accepts for ever. Each connection that finds a place is given to `serve`; others are told that there is none, where
/// `tell` says that they would understand (who expects TLS would not), and counted by `refused`.
pub async fn accept_all(
    listener: &TcpListener,
    caps: &Arc<Caps>,
    tell: bool,
    tracker: &TaskTracker,
    mut serve: impl FnMut(TcpStream, IpAddr, Place),
    refused: impl Fn(),
) {
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut pause = MIN_ACCEPT_PAUSE;
    let mut failing = false;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "connections cannot be accepted; trying on");
                }
                failing = true;
                sleep(pause).await;
                pause = (pause * 2).min(MAX_ACCEPT_PAUSE);
                continue;
            }
        };
        if failing {
            tracing::info!("connections are accepted again");
        }
        (failing, pause) = (false, MIN_ACCEPT_PAUSE);
        let peer = peer.ip().to_canonical();
        match caps.enter(peer) {
            Ok(place) => serve(socket, peer, place),
            Err(full) => {
                refused();
                if tell && let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tracker.spawn(refuse(socket, full, permit));
                }
            }
        }
    }
}

/// Whether an error of `accept` is that of the connection that it would have given, and says nothing of the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Tells a connection over a cap so.
async fn refuse(mut socket: TcpStream, full: Full, _permit: OwnedSemaphorePermit) {
    let detail = match full {
        Full::All => "max_connections are open; try again later",
        Full::Address => "max_connections_per_address are open from this address; close some, or try again later",
    };
    let body = problem_body(503, "Service Unavailable", detail);
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let telling = async {
        socket.write_all(response.as_bytes()).await?;
        socket.shutdown().await?;
        // Closed with the request unread, the socket would be reset and the answer lost.
        let mut request = [0; 1024];
        while socket.read(&mut request).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it was heard makes no difference.
    let _ = timeout(REFUSAL_LIMIT, telling).await;
}
