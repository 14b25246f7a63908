//! The body of an answer, and what it holds until it is written.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::budget::Hold;

/// Bytes that are handed over at a time. What writes them takes the next only when it has room again.
const PIECE: usize = 16 * 1024;

/// The body of an answer.
#[derive(Default)]
pub(super) struct Payload {
    rest: Bytes,
    held: Option<Held>,
}

/// Memory that is given back when all is handed over.
struct Held {
    hold: Hold,
    since: Instant,
    sent: usize,
}

/// The client took the answer slowly while others waited for its memory.
#[derive(Debug, thiserror::Error)]
#[error("the answer was taken slowly while others waited for memory")]
pub(super) struct Slow;

impl Payload {
    /// A body whose memory is `hold`'s.
    pub(super) fn held(bytes: Vec<u8>, hold: Hold) -> Self {
        Self { rest: bytes.into(), held: Some(Held { hold, since: Instant::now(), sent: 0 }) }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self { rest: bytes.into(), held: None }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Slow;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Slow>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            this.held = None;
            return Poll::Ready(None);
        }
        if let Some(Held { hold, since, sent }) = &mut this.held {
            // What writes it ends a connection that takes nothing at all.
            if hold.is_shared() && hold.budget().is_wanted_now(*since, *sent) {
                return Poll::Ready(Some(Err(Slow)));
            }
            *sent += PIECE;
        }
        let piece = this.rest.split_to(PIECE.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::super::budget::{Budget, FREE};
    use super::*;

    #[tokio::test]
    async fn an_answer_leaves_in_pieces_and_gives_its_memory_back() {
        let budget = Budget::new(PIECE);
        let mut hold = Hold::new(&budget);
        assert!(hold.try_fit(FREE + 1));
        let mut payload = Payload::held(vec![b'x'; PIECE + 1], hold);
        assert_eq!(payload.size_hint().exact(), Some(PIECE as u64 + 1));
        assert_eq!(payload.frame().await.expect("a piece").expect("no error").data_ref().map(Bytes::len), Some(PIECE));
        assert!(!Hold::new(&budget).try_fit(FREE + 1));
        assert_eq!(payload.frame().await.expect("a piece").expect("no error").data_ref().map(Bytes::len), Some(1));
        assert!(payload.is_end_stream() && payload.frame().await.is_none());
        assert!(Hold::new(&budget).try_fit(FREE + 1));
    }
}
