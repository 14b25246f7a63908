//! Accepts connections, within their limit, and owns every task that serves them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::dones::Dones;
use super::http;
use super::outbox::Outbox;
use super::presence::Presence;
use super::replies::{Slot, Weight};
use crate::access::{Access, Hosts};
use crate::config::{Ingest, OnDisconnect, Proxy, Settings};
use crate::metrics::{Intruders, Metrics};
use crate::net::{
    self, Accepted, AddressSlot, Caller, Caps, Departure, Opening, Place, Refusal, Terms, Tls, Unreadable,
};
use crate::service::Service;

/// How long all connections together may take to end once the node stops: grace, answers, close and some.
const STOP_WAIT: Duration = Duration::from_secs(12);

/// Bodies of the largest size that may be in memory at a time, over all connections; larger messages of WebSockets that
/// are under way share the bound.
const LARGEST_BODIES: usize = 4;

/// The ingest listener, bound and not yet serving.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    ingest: Arc<RwLock<Arc<Ingest>>>,
    caps: Arc<Caps>,
    on_disconnect: OnDisconnect,
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    connections: Arc<AtomicUsize>,
}

/// What all connections share.
struct Shared<K = Service> {
    on_disconnect: OnDisconnect,
    access: Arc<Access>,
    hosts: Hosts,
    opening: Opening,
    caps: Arc<Caps>,
    service: K,
    presence: Arc<Presence>,
    dones: Arc<Dones>,
    bodies: Arc<Budget>,
    turns: Semaphore,
    replies: Arc<Budget>,
    stop: CancellationToken,
    tracker: TaskTracker,
    connections: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// A connection, of a client or of a proxy; it counts for as long as this lives.
struct Counted<K> {
    shared: Arc<Shared<K>>,
    _place: Option<Place>,
}

/// One connection of a client, or one request of a client that came over a connection of a proxy.
pub(super) struct Connection<K = Service> {
    counted: Arc<Counted<K>>,
    /// As they were when it was accepted.
    ingest: Arc<Ingest>,
    peer: IpAddr,
    /// What counts for the peer's address, where that is a client's.
    slot: Option<AddressSlot>,
    departure: Departure,
}

/// Why a request is not served, for whom it is from.
pub(super) enum Unheard {
    /// It cannot be read.
    Unreadable(Unreadable),
    /// A cap is reached.
    Refused(Refusal),
}

impl<K> Connection<K> {
    /// A connection that no listener accepted.
    pub(super) fn alone(ingest: Ingest, service: K, stop: CancellationToken) -> Self {
        let shared = Shared {
            bodies: Budget::new(LARGEST_BODIES * ingest.max_request_bytes),
            turns: Semaphore::new(LARGEST_BODIES),
            replies: Budget::new(ingest.max_reply_bytes),
            presence: Presence::new(ingest.max_ids),
            dones: Dones::new(ingest.max_waiting_dones),
            tracker: TaskTracker::new(),
            on_disconnect: OnDisconnect::Mark,
            access: Arc::default(),
            hosts: Hosts::new(ingest.listen),
            opening: Opening::default(),
            caps: Caps::new(1, 1),
            service,
            stop,
            connections: Arc::new(AtomicUsize::new(1)),
            metrics: Arc::default(),
        };
        let counted = Arc::new(Counted { shared: Arc::new(shared), _place: None });
        let (ingest, peer) = (Arc::new(ingest), Ipv4Addr::LOCALHOST.into());
        Self { counted, ingest, peer, slot: None, departure: Departure::default() }
    }

    fn shared(&self) -> &Shared<K> {
        &self.counted.shared
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// This connection as it is for one request: that of the client whom a proxy names in these headers, if they are a
    /// trusted proxy's.
    ///
    /// # Errors
    /// Where the proxy says what cannot be read, or that client's address has all the connections that it may have.
    pub(super) fn of_request(self: Arc<Self>, headers: &HeaderMap) -> Result<Arc<Self>, Unheard> {
        let Ingest { proxy, trusted_proxies, .. } = self.ingest();
        let is_believed = self.ingest.trusts(self.peer) || cfg!(forebay_plant = "believe_anybody");
        if !net::is_by_header(*proxy) || !is_believed {
            return Ok(self);
        }
        let peer = net::client(*proxy, headers, trusted_proxies, self.peer).map_err(Unheard::Unreadable)?;
        let slot = self.slot(peer).map_err(Unheard::Refused)?;
        let (counted, ingest) = (Arc::clone(&self.counted), Arc::clone(&self.ingest));
        Ok(Arc::new(Self { counted, ingest, peer, slot, departure: self.departure.clone() }))
    }

    /// What counts for a client's address; a proxy counts for nothing.
    fn slot(&self, peer: IpAddr) -> Result<Option<AddressSlot>, Refusal> {
        if self.ingest.trusts(peer) {
            return Ok(None);
        }
        let slot = self.shared().caps.slot(peer).map(Some).map_err(Refusal::Full);
        slot.inspect_err(|_| self.shared().metrics.connections_refused.add(1))
    }

    pub(super) fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    pub(super) fn on_disconnect(&self) -> OnDisconnect {
        self.shared().on_disconnect
    }

    pub(super) fn access(&self) -> &Access {
        &self.shared().access
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.shared().hosts
    }

    pub(super) fn service(&self) -> &K {
        &self.shared().service
    }

    pub(super) fn presence(&self) -> Arc<Presence> {
        Arc::clone(&self.shared().presence)
    }

    /// The memory of request bodies and large messages.
    pub(super) fn bodies(&self) -> &Arc<Budget> {
        &self.shared().bodies
    }

    /// Where the replies of its WebSocket wait.
    pub(super) fn outbox(&self) -> Outbox {
        let Ingest { max_in_flight, max_reply_bytes_per_connection, .. } = *self.ingest;
        let window = Weight { messages: max_in_flight, bytes: max_reply_bytes_per_connection };
        Outbox::new(window, &self.shared().replies, &self.shared().dones)
    }

    /// All `done` messages whose event has not come.
    pub(super) fn dones(&self) -> &Arc<Dones> {
        &self.shared().dones
    }

    /// The turns of large bodies.
    pub(super) fn turns(&self) -> &Semaphore {
        &self.shared().turns
    }

    /// The memory of replies.
    pub(super) fn replies(&self) -> &Arc<Budget> {
        &self.shared().replies
    }

    /// Counts of requests that are refused for whom they come from.
    pub(super) fn intruders(&self) -> &Intruders {
        &self.shared().metrics.ingest_intruders
    }

    /// When the client writes no more.
    pub(super) fn departure(&self) -> &Departure {
        &self.departure
    }

    /// Cancelled when the node stops.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.shared().stop
    }

    pub(super) fn tracker(&self) -> &TaskTracker {
        &self.shared().tracker
    }

    /// Counts what was refused before the service saw it.
    pub(super) fn count_refused(&self, slots: &[Slot]) {
        slots
            .iter()
            .filter_map(Slot::refusal)
            .for_each(|refusal| self.shared().metrics.refused.add(refusal.kind.name()));
    }
}

impl<K> Drop for Counted<K> {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Binds `ingest.listen`; clients can connect from here on, and are served once [`Server::run`] runs, as far as
    /// `access` lets them; through TLS where there is a certificate.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(settings: &Settings, access: Arc<Access>, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let ingest = settings.ingest.clone();
        let listener = TcpListener::bind(ingest.listen).await?;
        Ok(Self {
            local_addr: listener.local_addr()?,
            listener,
            caps: Caps::new(ingest.max_connections, ingest.max_connections_per_address),
            ingest: Arc::new(RwLock::new(Arc::new(ingest))),
            on_disconnect: settings.on_disconnect,
            access,
            tls,
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

    /// What gives other limits to connections that come from here on. What all connections share
    /// stays as it is.
    pub fn changer(&self) -> impl Fn(&Ingest) + Send + use<> {
        let (current, caps) = (Arc::clone(&self.ingest), Arc::clone(&self.caps));
        move |ingest| {
            caps.change(ingest.max_connections, ingest.max_connections_per_address);
            *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ingest.clone());
        }
    }

    /// Serves until `stop` is cancelled, and then until every connection is answered and closed, for some seconds at
    /// most. The service must not be shut down before this returns: connections leave their markers when they end.
    pub async fn run(self, service: Service, stop: CancellationToken) {
        let Self { listener, local_addr, ingest, caps, on_disconnect, access, tls, connections } = self;
        let fixed = now(&ingest);
        let metrics = Arc::clone(service.metrics());
        let shared = Arc::new(Shared {
            bodies: Budget::new(LARGEST_BODIES * fixed.max_request_bytes),
            turns: Semaphore::new(LARGEST_BODIES),
            replies: Budget::new(fixed.max_reply_bytes),
            presence: Presence::new(fixed.max_ids),
            dones: Dones::new(fixed.max_waiting_dones),
            tracker: TaskTracker::new(),
            on_disconnect,
            access,
            hosts: Hosts::new(local_addr),
            opening: Opening::new(tls),
            caps,
            service,
            stop,
            connections,
            metrics,
        });
        let who = |peer| caller(&now(&ingest), peer);
        let serve = |accepted: Accepted| {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            shared.metrics.connections_accepted.add(1);
            let Accepted { socket, peer, caller, place: (place, slot) } = accepted;
            let counted = Arc::new(Counted { shared: Arc::clone(&shared), _place: Some(place) });
            let connection = Connection { counted, ingest: now(&ingest), peer, slot, departure: Departure::default() };
            shared.tracker.spawn(serve(socket, caller, connection));
        };
        let refused = || shared.metrics.connections_refused.add(1);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = net::accept_all(
                &listener,
                &shared.caps,
                who,
                shared.opening.is_plain(),
                &shared.tracker,
                serve,
                refused
            ) => {}
        }
        drop(listener);
        shared.tracker.close();
        if timeout(STOP_WAIT, shared.tracker.wait()).await.is_err() {
            let open = shared.connections.load(Ordering::Relaxed);
            tracing::warn!(open, after = ?STOP_WAIT, "connections did not end in time and are dropped");
        }
    }
}

/// The settings as they are now.
fn now(ingest: &RwLock<Arc<Ingest>>) -> Arc<Ingest> {
    Arc::clone(&ingest.read().unwrap_or_else(PoisonError::into_inner))
}

/// Who connects from an address. Where proxies name their clients by header, others may come without one, and their own
/// headers are not looked at; where they do so before all else, nobody comes who does not.
fn caller(ingest: &Ingest, peer: IpAddr) -> Caller {
    match ingest.proxy {
        Proxy::None => Caller::Client,
        _ if ingest.trusts(peer) => Caller::Proxy,
        Proxy::ProxyProtocol => Caller::Stranger,
        Proxy::Forwarded | Proxy::XForwardedFor => Caller::Client,
    }
}

/// Serves the requests of one connection, until it ends or becomes a WebSocket.
async fn serve(socket: TcpStream, caller: Caller, mut connection: Connection) {
    let Ingest { handshake_timeout: limit, keep_alive, .. } = *connection.ingest();
    let stop = connection.stop().clone();
    let has_preface = caller == Caller::Proxy
        && connection.ingest.proxy == Proxy::ProxyProtocol
        && cfg!(not(forebay_plant = "guess_the_proxy_header"));
    let opened = net::open(socket, &connection.shared().opening, has_preface, limit, &stop).await;
    let Some((stream, client)) = opened else { return };
    if let Some(client) = client {
        connection.peer = client;
        connection.slot = match connection.slot(client) {
            Ok(slot) => slot,
            Err(refusal) => return net::refuse(stream, refusal).await,
        };
    }
    let (max_body, half_close) = (connection.ingest().max_request_bytes as u64, Some(connection.departure.clone()));
    let connection = Arc::new(connection);
    let service = service_fn(move |request| http::respond(request, Arc::clone(&connection)));
    net::serve(stream, service, Terms { limit, keep_alive, max_body, half_close }, &stop).await;
}
