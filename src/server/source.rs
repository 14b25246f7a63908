//! The reading half of a connection: what the handshake read too much first, then the socket; notes when it last heard
//! of the client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::{Duration, Instant};

/// Bytes that are thrown away at a time.
const DISCARD: usize = 4096;

/// When a client was last heard of.
#[derive(Clone)]
pub(super) struct Heard {
    start: Instant,
    /// Microseconds after `start`.
    last: Arc<AtomicU64>,
}

impl Heard {
    fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }

    /// Notes a sign of life now.
    pub(super) fn touch(&self) {
        self.last.store(self.start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// When the last byte came.
    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

/// What a client sends.
pub(super) struct Source<R> {
    leftover: Bytes,
    half: R,
    heard: Heard,
}

impl<R: AsyncRead + Unpin> Source<R> {
    pub(super) fn new(leftover: Bytes, half: R) -> Self {
        Self { leftover, half, heard: Heard::new() }
    }

    /// The clock of this source.
    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Throws away what still comes, until the client closes. A socket that is closed with unread bytes is reset, and
    /// a reset takes the last replies with it.
    pub(super) async fn discard(&mut self) {
        let mut bytes = vec![0; DISCARD];
        while matches!(self.half.read(&mut bytes).await, Ok(1..)) {}
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Source<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.leftover.is_empty() {
            let len = this.leftover.len().min(buf.remaining());
            buf.put_slice(&this.leftover[..len]);
            this.leftover.advance(len);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.half).poll_read(cx, buf))?;
        this.heard.touch();
        Poll::Ready(Ok(()))
    }
}
