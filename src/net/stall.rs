//! A socket whose peer must take what is written to it within a bound, and claim no more than it may send.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::claims::Claims;
use super::departure::Departure;
use super::stream::Stream;

/// A socket that fails a write which the peer lets wait for longer than `limit`, and the read behind a chunk that
/// claims more than a body may have.
pub struct Unstalled {
    socket: Stream,
    claims: Claims,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Requests that were begun and ended, each one more: while the number is odd, what comes is no head.
    turns: Arc<AtomicU64>,
    /// The number when it was last looked at.
    seen: u64,
    /// When a head that is under way must be there: the first in time after the connection, each other after its first
    /// byte.
    head: Option<Pin<Box<Sleep>>>,
    /// Told once the peer writes no more.
    departure: Option<Departure>,
}

impl Unstalled {
    /// Bounds the writes to a stream, and the bodies of its requests, in bytes.
    pub fn new(socket: Stream, limit: Duration, max_body: u64, departure: Option<Departure>) -> Self {
        let (claims, turns) = (Claims::new(max_body), Arc::default());
        let head = Some(Box::pin(sleep_until(Instant::now() + limit)));
        Self { socket, claims, limit, waiting: None, turns, seen: 0, head, departure }
    }

    /// Where its user adds one when a request begins to be answered, and one when that has ended.
    pub(super) fn turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// Holds the head of a request to the limit; `came` says whether bytes came.
    fn poll_head(&mut self, came: Option<bool>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turns = self.turns.load(Ordering::Relaxed);
        if turns != self.seen {
            (self.seen, self.head) = (turns, None);
        }
        if turns.is_multiple_of(2) && came == Some(true) {
            let limit = self.limit;
            self.head.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        }
        match (&mut self.head, came) {
            (_, Some(_)) => Poll::Ready(Ok(())),
            (Some(head), None) => {
                ready!(head.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            (None, None) => Poll::Pending,
        }
    }

    /// The socket, which from here on waits for as long as its user does.
    pub fn into_inner(self) -> Stream {
        self.socket
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.claims.is_exceeded() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a chunk claims more than a body may have",
            )));
        }
        let before = buf.filled().len();
        let came = match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Ready(read) => {
                read?;
                self.claims.see(&mut buf.filled_mut()[before..]);
                Some(buf.filled().len() > before)
            }
            Poll::Pending => None,
        };
        self.poll_head(came, cx)
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.bounded(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.bounded(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // While a request is answered hyper reads nothing, but flushes whenever it is woken.
        if let Some(departure) = &this.departure
            && departure.is_awaited()
            && this.socket.poll_end(cx).is_ready()
        {
            departure.come();
        }
        let poll = Pin::new(&mut this.socket).poll_flush(cx);
        this.bounded(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS has a last word, which a peer that reads nothing would let wait for ever.
        let poll = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.bounded(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::time::timeout;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::net::{Certificate, Opening, Tls, open};

    const LIMIT: Duration = Duration::from_secs(10);

    /// A stream of the node's through TLS, and its peer, each with little room in between.
    async fn connected() -> (Stream, TlsStream<TcpStream>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        std::fs::write(&cert, made.cert.pem()).expect("a file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let opening =
            Opening::new(Some(Arc::new(Tls::new(Certificate::read(&cert, &key).expect("both belong together")))));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a size");
        let socket = socket.connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("connected");
        let (stop, name) = (CancellationToken::new(), ServerName::try_from("localhost").expect("a name"));
        let (ours, theirs) = tokio::join!(
            open(accepted, &opening, false, LIMIT, &stop),
            TlsConnector::from(Arc::new(config)).connect(name, socket)
        );
        (ours.expect("a handshake").0, theirs.expect("a handshake"))
    }

    /// TLS says a last word when it closes, which finds no room here.
    #[tokio::test]
    async fn a_tls_close_that_the_peer_never_takes_is_given_up() {
        let (stream, _peer) = connected().await;
        let mut stream = Unstalled::new(stream, LIMIT, 0, None);
        let piece = [0; 64 * 1024];
        let mut write = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &piece))).await;
        while write().await.is_ready() {}
        // From here on the clock goes on by itself when nothing else does.
        tokio::time::pause();
        let closed = timeout(LIMIT * 100, stream.shutdown()).await.expect("it is given up");
        assert_eq!(closed.expect_err("nobody takes it").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_tls_close_to_a_peer_that_is_gone_ends() {
        let (stream, peer) = connected().await;
        drop(peer);
        tokio::time::pause();
        // Whether it was still taken by the system makes no difference.
        let _ = timeout(LIMIT * 100, Unstalled::new(stream, LIMIT, 0, None).shutdown()).await.expect("it ends");
    }
}
