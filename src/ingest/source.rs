//! The reading half of a connection: what the handshake read too much first, then the socket; notes when it last heard
//! of the client, and counts what is under way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::{Duration, Instant};

use super::budget::{Budget, FREE, Hold, Taking};

/// Bytes that are thrown away at a time.
const DISCARD: usize = 4096;

/// When a client was last heard of.
#[derive(Clone)]
pub(super) struct Heard {
    start: Instant,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// When the last byte came, in microseconds after `start`.
    last: AtomicU64,
    /// Bytes of the message that is under way.
    under_way: AtomicUsize,
    /// It came slowly, and others waited for its memory.
    is_cut: AtomicBool,
}

impl Heard {
    fn new() -> Self {
        Self { start: Instant::now(), state: Arc::default() }
    }

    /// Notes a sign of life now.
    pub(super) fn touch(&self) {
        self.state.last.store(self.start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// When the last byte came.
    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_micros(self.state.last.load(Ordering::Relaxed))
    }
}

impl Heard {
    /// Notes that a frame was read to its end; of a message that has further ones, `bytes` are kept.
    pub(super) fn frame_ended(&self, bytes: usize) {
        self.state.under_way.store(bytes, Ordering::Relaxed);
    }

    /// Whether reading failed because the client was slow with a large message while others waited for memory.
    pub(super) fn is_cut(&self) -> bool {
        self.state.is_cut.load(Ordering::Relaxed)
    }
}

/// What a client sends.
pub(super) struct Source<R> {
    leftover: Bytes,
    half: R,
    heard: Heard,
    /// The memory of a large message that is under way, and when that began.
    hold: Hold,
    since: Option<Instant>,
    taking: Taking,
    wanted: Taking,
}

impl<R: AsyncRead + Unpin> Source<R> {
    /// A client whose large messages find their memory in `budget`.
    pub(super) fn new(leftover: Bytes, half: R, budget: &Arc<Budget>) -> Self {
        let hold = Hold::new(budget);
        let (taking, wanted) = (Taking::default(), Taking::default());
        Self { leftover, half, heard: Heard::new(), hold, since: None, taking, wanted }
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
        let under_way = this.heard.state.under_way.load(Ordering::Relaxed);
        if under_way + buf.remaining() > FREE || this.since.is_some() {
            return this.poll_large(under_way, cx, buf);
        }
        this.read(under_way, cx, buf)
    }
}

impl<R: AsyncRead + Unpin> Source<R> {
    fn read(&mut self, under_way: usize, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.half).poll_read(cx, buf))?;
        self.heard.touch();
        self.heard.state.under_way.store(under_way + buf.filled().len() - before, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Reads of a message that may be large: only what there is memory for, and not for ever while others wait for it.
    fn poll_large(&mut self, under_way: usize, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if under_way <= FREE {
            self.hold.shrink_to(under_way);
            self.since = None;
        }
        let most = (under_way + buf.remaining()).min((under_way + 1).next_multiple_of(FREE));
        let since = *self.since.get_or_insert_with(Instant::now);
        let ready = self.taking.poll_fit(&mut self.hold, most, cx);
        if ready.is_ready() {
            let mut some = ReadBuf::new(buf.initialize_unfilled_to(most - under_way));
            let read = self.read(under_way, cx, &mut some);
            let filled = some.filled().len();
            buf.advance(filled);
            if read.is_ready() {
                self.wanted.stop();
                return read;
            }
        }
        if self.hold.is_shared() && self.wanted.poll_wanted(&self.hold, since, under_way, cx).is_ready() {
            self.heard.state.is_cut.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other("a large message came slowly while others waited for memory")));
        }
        Poll::Pending
    }
}
