//! A connection's bytes, plain or through TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::tls::Tls;

/// A connection after its TLS handshake, if there is one.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Makes a stream of a socket; `None` where the connection is lost, the TLS handshake fails or takes longer than
/// `limit`, or `stop` is cancelled: who has not said a word must not hold up the end of the node.
pub async fn open(socket: TcpStream, tls: Option<&Tls>, limit: Duration, stop: &CancellationToken) -> Option<Stream> {
    let opening = async {
        socket.set_nodelay(true)?;
        match tls {
            None => io::Result::Ok(Stream::Plain(socket)),
            Some(tls) => Ok(Stream::Tls(Box::new(tls.acceptor().accept(socket).await?))),
        }
    };
    let opened = tokio::select! {
        opened = timeout(limit, opening) => opened,
        () = stop.cancelled() => return None,
    };
    match opened {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "connection lost before its first request"),
        Err(_) => tracing::debug!(?limit, "no TLS handshake in time"),
    }
    None
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
                // An end without `close_notify` is the end that TCP has. Nothing is taken for whole by it: a frame and a
                // body say how long they are.
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
