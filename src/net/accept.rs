//! Accepts connections for as long as there are places.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::caps::{AddressSlot, Caps, Full, Place};
use super::http::{SEALED, problem_body};
use super::reserve;

/// The first pause after a failed accept; it doubles up to [`MAX_ACCEPT_PAUSE`].
const MIN_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause after failed accepts.
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Connections over a cap that are told so at a time; further ones are just closed.
const MAX_REFUSALS: usize = 64;
/// How long a connection over a cap is served with its refusal.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// Who connects, by his address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A client, counted for this address.
    Client,
    /// A proxy, whose clients are counted once it has named them.
    Proxy,
    /// Nobody who may: only proxies may connect, and this is none.
    Stranger,
}

/// A connection that was accepted.
pub struct Accepted {
    /// The socket.
    pub socket: TcpStream,
    /// The address that it is from.
    pub peer: IpAddr,
    /// Who that is.
    pub caller: Caller,
    /// Its place, and what counts for its address.
    pub place: (Place, Option<AddressSlot>),
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A cap is reached.
    Full(Full),
    /// It is a [`Caller::Stranger`].
    Stranger,
}

/// Accepts for ever. Each connection that finds a place is given to `serve`; others are told why not, where `tell` says
/// that they would understand (who expects TLS would not), and counted by `refused`.
pub async fn accept_all(
    listener: &TcpListener,
    caps: &Arc<Caps>,
    who: impl Fn(IpAddr) -> Caller,
    tell: bool,
    tracker: &TaskTracker,
    mut serve: impl FnMut(Accepted),
    refused: impl Fn(),
) {
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut pause = MIN_ACCEPT_PAUSE;
    let mut failing = false;
    loop {
        let accepted = listener.accept().await;
        let (socket, peer) = match accepted.and_then(|(socket, peer)| Ok((reserve::leave(socket)?, peer))) {
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
        let caller = who(peer);
        match admit(caps, peer, caller) {
            Ok(place) => serve(Accepted { socket, peer, caller, place }),
            Err(refusal) => {
                refused();
                if tell && let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tracker.spawn(async move {
                        let _permit: OwnedSemaphorePermit = permit;
                        refuse(socket, refusal).await;
                    });
                }
            }
        }
    }
}

fn admit(caps: &Arc<Caps>, peer: IpAddr, caller: Caller) -> Result<(Place, Option<AddressSlot>), Refusal> {
    let place = caps.enter().map_err(Refusal::Full)?;
    match caller {
        Caller::Client => Ok((place, Some(caps.slot(peer).map_err(Refusal::Full)?))),
        Caller::Proxy if cfg!(forebay_plant = "count_the_proxy") => {
            Ok((place, Some(caps.slot(peer).map_err(Refusal::Full)?)))
        }
        // However many clients a proxy has, it is one address.
        Caller::Proxy => Ok((place, None)),
        Caller::Stranger => Err(Refusal::Stranger),
    }
}

/// Whether an error of `accept` is that of the connection that it would have given, and says nothing of the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Refusal {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Stranger => StatusCode::FORBIDDEN,
        }
    }

    /// What whoever is refused is told.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Full(Full::All) => "max_connections are open; try again later",
            Self::Full(Full::Address) => {
                "max_connections_per_address are open from this address; close some, or try again later"
            }
            Self::Stranger => {
                "only proxies connect to this listener (ingest.proxy), and this address is none of ingest.trusted_proxies"
            }
        }
    }

    /// When it may be worth another try, in seconds.
    pub fn retry_after(self) -> Option<u64> {
        matches!(self, Self::Full(_)).then_some(1)
    }
}

/// Tells a connection that is not served why.
pub async fn refuse(mut socket: impl AsyncRead + AsyncWrite + Unpin, refusal: Refusal) {
    let status = refusal.status();
    let reason = status.canonical_reason().unwrap_or("Error");
    let body = problem_body(status.as_u16(), reason, refusal.detail());
    let retry = refusal.retry_after().map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
    let line =
        |(name, value): (HeaderName, HeaderValue)| format!("{name}: {}\r\n", value.to_str().expect("it is ASCII"));
    let sealed = SEALED.map(line).concat();
    let response = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n{sealed}{retry}\
         connection: close\r\n\r\n{body}",
        status.as_u16(),
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
