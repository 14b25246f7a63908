//! A connection's bytes, plain or through TLS.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::preface::{self, PrefaceError};
use super::tls::Tls;

/// A connection after its TLS handshake, if there is one.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a listener wants of each connection before HTTP.
#[derive(Default)]
pub struct Opening {
    tls: Option<Arc<Tls>>,
    /// Whether the log has it that a proxy sends no header.
    is_said: AtomicBool,
}

impl Opening {
    /// Through TLS where there is a certificate.
    pub fn new(tls: Option<Arc<Tls>>) -> Self {
        Self { tls, is_said: AtomicBool::new(false) }
    }

    /// Whether clients speak no TLS.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// The header of a proxy; says once, until there is one again, that what came is none.
    async fn preface(&self, socket: &mut TcpStream) -> io::Result<Option<IpAddr>> {
        match preface::read(socket).await {
            Ok(client) => {
                self.is_said.store(false, Ordering::Relaxed);
                Ok(client)
            }
            Err(PrefaceError::Lost(error)) => Err(error),
            Err(PrefaceError::Other(why)) => {
                if !self.is_said.swap(true, Ordering::Relaxed) {
                    let proxy = socket.peer_addr().ok();
                    tracing::warn!(
                        ?proxy,
                        "a connection of a trusted proxy is not served, as {why}: does it send the PROXY protocol, as \
                         ingest.proxy says?"
                    );
                }
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }
}

/// Makes a stream of a socket, and says whom it is from where a proxy has to say that first (`has_preface`) and names
/// a client. `None` where the connection is lost, the header of the proxy is none, both it and the TLS handshake take
/// longer than `limit`, or `stop` is cancelled: who has not said a word must not hold up the end of the node.
pub async fn open(
    mut socket: TcpStream,
    opening: &Opening,
    has_preface: bool,
    limit: Duration,
    stop: &CancellationToken,
) -> Option<(Stream, Option<IpAddr>)> {
    let opening = async {
        socket.set_nodelay(true)?;
        let client = if has_preface { opening.preface(&mut socket).await? } else { None };
        let stream = match &opening.tls {
            None => Stream::Plain(socket),
            Some(tls) => Stream::Tls(Box::new(tls.acceptor().accept(socket).await?)),
        };
        io::Result::Ok((stream, client))
    };
    let opened = tokio::select! {
        opened = timeout(limit, opening) => opened,
        () = stop.cancelled() => return None,
    };
    match opened {
        Ok(Ok(opened)) => return Some(opened),
        Ok(Err(error)) => tracing::debug!(%error, "connection lost before its first request"),
        Err(_) => tracing::debug!(?limit, "no header of a proxy, or no TLS handshake, in time"),
    }
    None
}

impl Stream {
    /// Ready once the client writes no more. Nothing is taken of what it wrote: where some of that is unread, this
    /// waits for ever.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_over = match self {
            Self::Plain(stream) => {
                let mut byte = [0];
                ready!(stream.poll_peek(cx, &mut ReadBuf::new(&mut byte))).unwrap_or(0) == 0
            }
            Self::Tls(stream) => ready!(Pin::new(stream).poll_fill_buf(cx)).map_or(true, <[u8]>::is_empty),
        };
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // An end without `close_notify` is the end that TCP has. Nothing is taken for whole by it: a frame and
                // a body say how long they are.
                Poll::Ready(Err(error))
                    if error.kind() == io::ErrorKind::UnexpectedEof
                        && cfg!(not(forebay_plant = "end_with_tls_alone")) =>
                {
                    Poll::Ready(Ok(()))
                }
                read => read,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
