//! Accepts connections, within their limit, and owns every task that serves them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http;
use super::post::Bodies;
use super::presence::Presence;
use super::stall::Unstalled;
use crate::access::Access;
use crate::config::{Ingest, OnDisconnect, Settings};
use crate::engine::Engine;

/// The longest header of a request, in bytes; also the least that hyper can be told.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The first pause after a failed accept; it doubles up to [`MAX_ACCEPT_PAUSE`].
const MIN_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause after failed accepts.
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Connections over the limit that are told so at a time; further ones are just closed.
const MAX_REFUSALS: usize = 64;
/// How long a connection over the limit is served with its refusal.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// How long a request that is under way may still take once the node stops.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// How long all connections together may take to end once the node stops: grace, answers, close and some.
const STOP_WAIT: Duration = Duration::from_secs(12);

/// The ingest listener, bound and not yet serving.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    ingest: Ingest,
    on_disconnect: OnDisconnect,
    access: Arc<Access>,
    connections: Arc<AtomicUsize>,
}

/// What all connections share.
struct Shared<K = Engine> {
    ingest: Ingest,
    on_disconnect: OnDisconnect,
    access: Arc<Access>,
    engine: K,
    presence: Arc<Presence>,
    bodies: Bodies,
    stop: CancellationToken,
    tracker: TaskTracker,
    connections: Arc<AtomicUsize>,
}

/// One connection of a client; it counts for as long as this lives.
pub(super) struct Connection<K = Engine> {
    shared: Arc<Shared<K>>,
    peer: IpAddr,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<K> Connection<K> {
    /// A connection that no listener accepted.
    pub(super) fn alone(ingest: Ingest, engine: K, stop: CancellationToken) -> Self {
        let shared = Shared {
            bodies: Bodies::new(ingest.max_request_bytes),
            presence: Arc::default(),
            tracker: TaskTracker::new(),
            ingest,
            on_disconnect: OnDisconnect::Mark,
            access: Arc::default(),
            engine,
            stop,
            connections: Arc::new(AtomicUsize::new(1)),
        };
        Self { shared: Arc::new(shared), peer: Ipv4Addr::LOCALHOST.into(), _permit: None }
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    pub(super) fn ingest(&self) -> &Ingest {
        &self.shared.ingest
    }

    pub(super) fn on_disconnect(&self) -> OnDisconnect {
        self.shared.on_disconnect
    }

    pub(super) fn access(&self) -> &Access {
        &self.shared.access
    }

    pub(super) fn engine(&self) -> &K {
        &self.shared.engine
    }

    pub(super) fn presence(&self) -> Arc<Presence> {
        Arc::clone(&self.shared.presence)
    }

    pub(super) fn bodies(&self) -> &Bodies {
        &self.shared.bodies
    }

    /// Cancelled when the node stops.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }

    pub(super) fn tracker(&self) -> &TaskTracker {
        &self.shared.tracker
    }
}

impl<K> Drop for Connection<K> {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Binds `ingest.listen`; clients can connect from here on, and are served once [`Server::run`] runs, as far as
    /// `access` lets them.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(settings: &Settings, access: Arc<Access>) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.ingest.listen).await?;
        Ok(Self {
            local_addr: listener.local_addr()?,
            listener,
            ingest: settings.ingest.clone(),
            on_disconnect: settings.on_disconnect,
            access,
            connections: Arc::default(),
        })
    }

    /// The bound address, with the port that the system chose where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How many connections are open: a gauge that lives on while the server runs.
    pub fn connections(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.connections)
    }

    /// Serves until `stop` is cancelled, and then until every connection is answered and closed, for some seconds at
    /// most. The engine must not be shut down before this returns: connections leave their markers when they end.
    pub async fn run(self, engine: Engine, stop: CancellationToken) {
        let Self { listener, ingest, on_disconnect, access, connections, .. } = self;
        let shared = Arc::new(Shared {
            bodies: Bodies::new(ingest.max_request_bytes),
            presence: Arc::default(),
            tracker: TaskTracker::new(),
            ingest,
            on_disconnect,
            access,
            engine,
            stop,
            connections,
        });
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = accept_all(&listener, &shared) => {}
        }
        drop(listener);
        shared.tracker.close();
        if timeout(STOP_WAIT, shared.tracker.wait()).await.is_err() {
            let open = shared.connections.load(Ordering::Relaxed);
            tracing::warn!(open, after = ?STOP_WAIT, "connections did not end in time and are dropped");
        }
    }
}

async fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.ingest.max_connections));
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
        match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let peer = peer.ip().to_canonical();
                let connection = Arc::new(Connection { shared: Arc::clone(shared), peer, _permit: Some(permit) });
                shared.tracker.spawn(serve(socket, connection));
            }
            Err(_) => {
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    shared.tracker.spawn(refuse(socket, permit));
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

/// Serves the requests of one connection, until it ends or becomes a WebSocket.
async fn serve(socket: TcpStream, connection: Arc<Connection>) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "connection lost");
        return;
    }
    let limit = connection.ingest().handshake_timeout;
    let stop = connection.stop().clone();
    let service = service_fn(move |request| http::respond(request, Arc::clone(&connection)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(Unstalled::new(socket, limit)), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match timeout(REQUEST_WAIT, serving).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Tells a connection over the limit so.
async fn refuse(mut socket: TcpStream, _permit: OwnedSemaphorePermit) {
    let body = http::problem_body(503, "Service Unavailable", "max_connections are open; try again later");
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
